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

	"latchfs/fs/control"
	"latchfs/lockstore/verdict"
)

func whyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why FILE...",
		Short: "Say who holds each lock FILE, how that is known, what would free it, and what to do",
		Args:  checkArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var failed []error
			between := ""
			for _, file := range args {
				c, err := lookInto(file)
				switch {
				case err != nil:
				case asJSON:
					err = printJSON(cmd.OutOrStdout(), c)
				default:
					_, err = fmt.Fprint(cmd.OutOrStdout(), between, c.explain(time.Now()))
					between = "\n"
				}
				failed = append(failed, err)
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what is known as JSON, an object for each FILE")
	return cmd
}

// whyCase is what is known of a name.
type whyCase struct {
	File string `json:"file"`
	// Lock is what lies there; its verdict is "settled" if it is no lock. Nil is nothing.
	Lock *control.LockInfo `json:"lock"`
	// Last is the last lock of that name that was removed as stale; nil if none is remembered.
	Last   *control.LockInfo `json:"last_reclaimed,omitempty"`
	Status control.Status    `json:"status"`
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
		var lock control.LockInfo
		if at, err := os.Stat(filepath.Join(root, controlDir, "lock", name)); err != nil || at.IsDir() {
			lock = settled(file, name, info)
		} else if err := readControl(root, filepath.Join("lock", name), &lock); err != nil {
			return c, err
		}
		lock.LockedBy = readKernelLocks().on(file, info)
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
var ruleWords = map[verdict.Rule]string{
	verdict.RuleNamed:      "the lock file names that process",
	verdict.RuleCreator:    "that process made the lock file",
	verdict.RuleDescriptor: "the process that made it has ended, and its open file has not been closed everywhere",
	verdict.RuleAncestor:   "that process ran the command which made the lock",
	verdict.RuleNobody:     "nobody could be identified",
}

// explain says it in a paragraph.
func (c whyCase) explain(now time.Time) string {
	var sentences []string
	say := func(format string, args ...any) { sentences = append(sentences, fmt.Sprintf(format, args...)) }
	file, l := control.Printable(c.File), c.Lock
	switch {
	case l == nil:
		say("%s is free: there is no lock of that name.", file)
	case l.Verdict == "settled":
		say("%s is no lock to latchfs but an ordinary file (%s), last changed %s ago.", file, l.Payload, age(now.Sub(l.Made)))
		say("latchfs neither protects nor removes it. A program that takes its existence for a lock has to remove it, or you (rm).")
	case l.Verdict == verdict.Live.String() && l.HolderEnded:
		say("%s is held by a descriptor, for %s (since %s). Process %s, which made it, has ended.", file, age(now.Sub(l.Made)),
			l.Made.Local().Format(time.DateTime), processWords(l.Holder))
		say("That is proven: %s; %s.", control.Printable(l.Evidence), ruleWords[verdict.Rule(l.Rule)])
		say("%s", descriptorWords(l.OpenedBy))
		say("To take the lock away all the same: latchfs release --force %s.", file)
	case l.Verdict == verdict.Live.String():
		say("%s is held by process %s, for %s (since %s).", file, processWords(l.Holder), age(now.Sub(l.Made)), l.Made.Local().Format(time.DateTime))
		say("That is proven: %s; %s.", control.Printable(l.Evidence), ruleWords[verdict.Rule(l.Rule)])
		say("It is free the moment that process removes it or ends. If it hangs, end it (kill %d): the lock goes with it.", l.Holder.PID)
		say("To take the lock away while it goes on, not knowing: latchfs release --force %s.", file)
	case l.Verdict == verdict.Stale.String():
		say("%s is stale: %s (%s; %s).", file, verdict.Reason(l.Reason).Means(), l.Reason, control.Printable(l.Evidence))
		say("latchfs removes such a file at once, unless somebody has it open who may have locked it with flock(2): then it goes with the last of them.")
	case l.Reason == string(verdict.Left):
		say("%s was left by process %s: it ended with status 0 and did not remove the lock (%s; %s).", file, processWords(l.Holder), l.Reason, control.Printable(l.Evidence))
		say("Commands that take a lock for somebody else do that on purpose. Whoever knows that it is not needed may remove it (rm).")
		say("It counts as stale %s, unless it is written or touched again.", c.staleIn(now))
	default:
		say("%s is there, and nothing can be proven of its holder: %s.", file, control.Printable(l.Evidence))
		say("It was made %s ago, and counts as stale %s, unless a process that may need it runs then.", age(now.Sub(l.Made)), c.staleIn(now))
		say("If you know that its holder is gone: latchfs release %s.", file)
	}
	if l != nil {
		for _, k := range l.LockedBy {
			verb := "has"
			if k.Waiting {
				verb = "waits for"
			}
			if len(k.OpenedBy) > 0 {
				say("A %s lock on its content (%s) was taken by process %d, which does not have the file open any more. %s",
					strings.ToLower(k.Access), k.Type, k.PID, descriptorWords(k.OpenedBy))
				continue
			}
			say("Process %d (%s) %s a %s lock on its content (%s).", k.PID, control.Printable(k.Command), verb, strings.ToLower(k.Access), k.Type)
		}
	}
	if c.Last != nil {
		say("A lock of that name, of process %s, was removed %s ago: %s (%s).", processWords(c.Last.Holder), age(now.Sub(*c.Last.ReclaimedAt)),
			verdict.Reason(c.Last.Reason).Means(), c.Last.Reason)
	}
	return strings.Join(sentences, "\n") + "\n"
}

// staleIn is when an unknown lock will be stale by its age.
func (c whyCase) staleIn(now time.Time) string {
	limit := time.Duration(c.Status.StaleAfter) * time.Second
	since := c.Lock.Made
	if c.Lock.Since != nil {
		since = *c.Lock.Since
	}
	switch left := limit - now.Sub(since); {
	case limit == 0:
		return "never (--stale-after 0)"
	case left > 0:
		return "in " + age(left)
	}
	return "now"
}

// descriptorWords are about the processes that have a descriptor on which a lock depends.
func descriptorWords(openedBy []control.ProcessInfo) string {
	if len(openedBy) == 0 {
		return "No process that can be seen has the descriptor: it may be on its way from one to another in a socket, or in a container. The lock is free when it is closed."
	}
	names := make([]string, len(openedBy))
	for i, p := range openedBy {
		names[i] = processWords(p)
	}
	return fmt.Sprintf("The descriptor is open in process %s. The lock is free when it is closed there.", strings.Join(names, " and process "))
}

func processWords(p control.ProcessInfo) string {
	if p.PID == 0 {
		return "nobody knows which"
	}
	return fmt.Sprintf("%d (%s) of user %s", p.PID, control.Printable(p.Command), userNames{}.of(p.UID))
}
