package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	latch "latchfs/fs"
	"latchfs/lockstore"
)

func whyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why FILE",
		Short: "Say who holds the lock FILE, how that is known, what would free it, and what to do",
		Args:  checkArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lookInto(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), c)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), c.explain(time.Now()))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what is known as JSON")
	return cmd
}

// whyCase is what is known of a name.
type whyCase struct {
	File string `json:"file"`
	// Lock is what lies there; its verdict is "unmanaged" if it is no lock. Nil is nothing.
	Lock *latch.LockInfo `json:"lock"`
	// Last is the last lock of that name that was removed as stale; nil if none is remembered.
	Last   *latch.LockInfo `json:"last_reclaimed,omitempty"`
	Status latch.Status    `json:"status"`
}

// lookInto finds out about a file in a mount.
func lookInto(file string) (whyCase, error) {
	c := whyCase{File: file}
	root, name, err := inMount(file)
	if err != nil {
		return c, err
	}
	if err := readControl(root, "status", &c.Status); err != nil {
		return c, err
	}
	// Looking at it has it judged.
	info, err := os.Lstat(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if info != nil {
		var lock latch.LockInfo
		if _, err := os.Stat(filepath.Join(root, controlDir, "lock", name)); err != nil {
			lock = unmanaged(file, name, info)
		} else if err := readControl(root, filepath.Join("lock", name), &lock); err != nil {
			return c, err
		}
		lock.LockedBy = readKernelLocks().on(info)
		c.Lock = &lock
	}
	for l, err := range readLocks(root) {
		if err != nil {
			return c, err
		}
		if l.ReclaimedAt == nil {
			break
		}
		if l.Name == name {
			c.Last = &l
		}
	}
	return c, nil
}

// ruleWords are why a process counts as the holder.
var ruleWords = map[string]string{
	string(lockstore.RuleNamed):      "the lock file names that process",
	string(lockstore.RuleCreator):    "that process made the lock file",
	string(lockstore.RuleDescriptor): "the process that made it has ended, and another has inherited its open file",
	string(lockstore.RuleAncestor):   "that process ran the command which made the lock",
	string(lockstore.RuleNobody):     "nobody could be identified",
}

// reasonWords are what the reasons of stale locks mean.
var reasonWords = map[string]string{
	string(lockstore.BootIDMismatch):   "it was made before the machine was last started",
	string(lockstore.DeadPID):          "its holder has ended",
	string(lockstore.RecycledPID):      "its holder has ended, and another process has got the same number",
	string(lockstore.BeforeBoot):       "it was last changed before the machine was last started",
	string(lockstore.MissingPID):       "it names no process, and is too old",
	string(lockstore.InvalidCreatedAt): "it names no process, the time it gives is none, and it is too old",
	string(lockstore.TooOld):           "nothing can be proven of its holder, and it is too old",
}

// explain says it in a paragraph.
func (c whyCase) explain(now time.Time) string {
	var sentences []string
	say := func(format string, args ...any) { sentences = append(sentences, fmt.Sprintf(format, args...)) }
	file, l := latch.Printable(c.File), c.Lock
	switch {
	case l == nil:
		say("%s is free: there is no lock of that name.", file)
	case l.Verdict == "unmanaged":
		say("%s is no lock to latchfs but an ordinary file (%s), last changed %s ago.", file, l.Payload, age(now.Sub(l.Made)))
		say("latchfs neither protects nor removes it. A program that takes its existence for a lock has to remove it, or you (rm).")
	case l.Verdict == lockstore.Live.String():
		say("%s is held by process %s, for %s (since %s).", file, processWords(l.Holder), age(now.Sub(l.Made)), l.Made.Local().Format(time.DateTime))
		say("That is proven: %s; %s.", latch.Printable(l.Evidence), ruleWords[l.Rule])
		say("It is free the moment that process removes it or ends. If it hangs, end it (kill %d): the lock goes with it.", l.Holder.PID)
		say("To take the lock away while it goes on, not knowing: latchfs release --force %s.", file)
	case l.Verdict == lockstore.Stale.String():
		say("%s is stale: %s (%s; %s).", file, reasonWords[l.Reason], l.Reason, latch.Printable(l.Evidence))
		say("latchfs removes such a file at once, unless somebody has it open who may have locked it with flock(2): then it goes with the last of them.")
	default:
		say("%s is there, and nothing can be proven of its holder: %s.", file, latch.Printable(l.Evidence))
		say("It was made %s ago, and counts as stale %s.", age(now.Sub(l.Made)), c.staleIn(now))
		say("If you know that its holder is gone: latchfs release %s.", file)
	}
	if l != nil {
		for _, k := range l.LockedBy {
			verb := "has"
			if k.Waiting {
				verb = "waits for"
			}
			say("Process %d (%s) %s a %s lock on its content (%s).", k.PID, latch.Printable(k.Command), verb, strings.ToLower(k.Access), k.Type)
		}
	}
	if c.Last != nil {
		say("A lock of that name, of process %s, was removed %s ago: %s (%s).", processWords(c.Last.Holder), age(now.Sub(*c.Last.ReclaimedAt)),
			reasonWords[c.Last.Reason], c.Last.Reason)
	}
	return strings.Join(sentences, "\n") + "\n"
}

// staleIn is when an unknown lock will be stale by its age.
func (c whyCase) staleIn(now time.Time) string {
	limit := time.Duration(c.Status.StaleAfter) * time.Second
	switch left := limit - now.Sub(c.Lock.Made); {
	case limit == 0:
		return "never (--stale-after 0)"
	case left > 0:
		return "in " + age(left)
	}
	return "now"
}

func processWords(p latch.ProcessInfo) string {
	if p.PID == 0 {
		return "nobody knows which"
	}
	return fmt.Sprintf("%d (%s) of user %s", p.PID, latch.Printable(p.Command), userNames{}.of(p.UID))
}
