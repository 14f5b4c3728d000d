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
		Short: "Explain who holds each lock FILE, the proof, when it becomes free, and what to do",
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
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the details as JSON, one object for each FILE")
	return cmd
}

// whyCase is what latchfs knows about a name. It is the output of latchfs why --json.
type whyCase struct {
	File string `json:"file"`
	// Lock is the file with that name, or nil if there is none. Its verdict is "settled" if the file is not a lock.
	Lock *control.LockInfo `json:"lock"`
	// Last is the most recent lock with that name that was removed as stale, or nil if latchfs remembers none.
	Last   *control.LockInfo `json:"last_reclaimed,omitempty"`
	Status control.Status    `json:"status"`
}

// lookInto collects what latchfs knows about a file in a mount.
func lookInto(file string) (whyCase, error) {
	c := whyCase{File: file}
	root, name, err := inMount(file)
	if err != nil {
		return c, err
	}
	if err := readControl(root, "status", &c.Status); err != nil {
		return c, err
	}
	// The lookup makes latchfs judge the file.
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

// ruleWords explain why a process counts as the holder.
var ruleWords = map[verdict.Rule]string{
	verdict.RuleNamed:      "the lock file names that process",
	verdict.RuleCreator:    "that process made the lock file",
	verdict.RuleDescriptor: "the lock lasts until that descriptor is closed everywhere",
	verdict.RuleAncestor:   "that process ran the command that made the lock",
	verdict.RuleNobody:     "no process could be identified",
}

// explain returns the explanation for people, a paragraph.
func (c whyCase) explain(now time.Time) string {
	var sentences []string
	say := func(format string, args ...any) { sentences = append(sentences, fmt.Sprintf(format, args...)) }
	l := c.Lock
	if l == nil {
		say("%s is free: no lock with that name exists.", control.Printable(c.File))
	} else {
		c.explainLock(say, now)
	}
	if l != nil {
		for _, k := range l.LockedBy {
			say("%s", kernelLockWords(k))
		}
	}
	if c.Last != nil {
		say("A lock with that name, held by process %s, was removed %s ago: %s (%s).", processWords(c.Last.Holder), age(now.Sub(*c.Last.ReclaimedAt)),
			verdict.Reason(c.Last.Reason).Means(), c.Last.Reason)
	}
	return strings.Join(sentences, "\n") + "\n"
}

// explainLock explains the verdict of the lock, or why the file is not a lock.
func (c whyCase) explainLock(say func(format string, args ...any), now time.Time) {
	file, l := control.Printable(c.File), c.Lock
	holder, held, evidence := processWords(l.Holder), age(now.Sub(l.Made)), control.Printable(l.Evidence)
	since := l.Made.Local().Format(time.DateTime)
	switch {
	case l.Verdict == "settled":
		say("%s is not a lock for latchfs but an ordinary file (%s), last changed %s ago.", file, l.Payload, held)
		say("latchfs neither protects nor removes it. If a program treats the file as a lock, that program or you (rm) must remove it.")
	case l.Verdict == verdict.Live.String() && l.HolderEnded:
		say("%s is held by a descriptor, for %s (since %s). Its creator, process %s, has ended.", file, held, since, holder)
		say("The proof: %s; %s.", evidence, ruleWords[verdict.Rule(l.Rule)])
		say("%s", descriptorWords(l.OpenedBy))
		say("To release the lock anyway: latchfs release --force %s.", file)
	case l.Verdict == verdict.Live.String():
		say("%s is held by process %s, for %s (since %s).", file, holder, held, since)
		say("The proof: %s; %s.", evidence, ruleWords[verdict.Rule(l.Rule)])
		say("The lock becomes free when that process removes it or ends. If the process hangs, end it (kill %d).", l.Holder.PID)
		say("To release the lock while the process runs, without its knowledge: latchfs release --force %s.", file)
	case l.Verdict == verdict.Stale.String():
		say("%s is stale: %s (%s; %s).", file, verdict.Reason(l.Reason).Means(), l.Reason, evidence)
		say("latchfs removes a stale file at once. If a process has it open, and may have locked it with flock(2), latchfs waits until it is closed.")
	case l.Reason == string(verdict.Left):
		say("%s was left by process %s: it ended with status 0 and did not remove the lock (%s; %s).", file, holder, l.Reason, evidence)
		say("Commands that take a lock for another program do this on purpose. If you know that nothing needs the lock, remove it (rm).")
		say("It becomes stale %s, unless it is written or touched again.", c.staleIn(now))
	default:
		say("%s exists, and its holder is not known for certain: %s.", file, evidence)
		say("It was made %s ago and becomes stale %s, unless a process that may need it runs then.", held, c.staleIn(now))
		say("If you know that its holder has ended: latchfs release %s.", file)
	}
}

// kernelLockWords describes a flock(2) or fcntl(2) lock on the content of the file.
func kernelLockWords(k control.KernelLock) string {
	access := strings.ToLower(k.Access)
	if len(k.OpenedBy) > 0 {
		return fmt.Sprintf("Process %d took a %s lock on its content (%s) and no longer has the file open. %s", k.PID, access, k.Type, descriptorWords(k.OpenedBy))
	}
	verb := "has"
	if k.Waiting {
		verb = "waits for"
	}
	return fmt.Sprintf("Process %d (%s) %s a %s lock on its content (%s).", k.PID, control.Printable(k.Command), verb, access, k.Type)
}

// staleIn tells when an unknown lock becomes stale by its age.
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

// descriptorWords names the processes that have the descriptor that holds a lock.
func descriptorWords(openedBy []control.ProcessInfo) string {
	if len(openedBy) == 0 {
		return "No visible process has the descriptor: it may be in transit in a socket, or open in a container. The lock becomes free when the descriptor is closed."
	}
	names := make([]string, len(openedBy))
	for i, p := range openedBy {
		names[i] = processWords(p)
	}
	return fmt.Sprintf("The descriptor is open in process %s. The lock becomes free when it is closed there.", strings.Join(names, " and process "))
}

func processWords(p control.ProcessInfo) string {
	if p.PID == 0 {
		return "0 (unknown)"
	}
	return fmt.Sprintf("%d (%s) of user %s", p.PID, control.Printable(p.Command), userNames{}.of(p.UID))
}
