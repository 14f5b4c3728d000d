package bootid

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxAncestors bounds the length of a chain of ancestors.
const maxAncestors = 64

// managers are the commands that start and outlive the programs of users. Like process 1, they adopt orphans.
// A lock never passes from a script to a manager.
var managers = map[string]bool{
	"systemd": true, "init": true, "(sd-pam)": true, "login": true, "sshd": true, "sshd-session": true, "dropbear": true,
	"tmux: server": true, "screen": true, "gdm-session-wor": true, "lightdm": true, "sddm-helper": true,
	"gnome-session-b": true, "gnome-terminal-": true, "dbus-daemon": true, "dbus-broker-lau": true,
	"containerd-shim": true, "conmon": true, "dumb-init": true, "tini": true, "docker-init": true, "catatonit": true,
	"runsv": true, "runsvdir": true, "s6-svscan": true, "s6-supervise": true, "supervisord": true,
	"cron": true, "crond": true, "atd": true, "inetd": true, "xinetd": true,
}

// manages reports whether the process is a kernel thread or one of managers.
func (s procStat) manages() bool { return s.flags&kernelThread != 0 || managers[s.command] }

// Ancestors implements [System]. The chain ends at a manager. A subreaper that is not in managers is recognised
// by a process of the chain that it has adopted.
func (h *Host) Ancestors(p Process) []Process {
	if h.blind {
		return nil
	}
	child, err := readStat(p.PID)
	if err != nil || child.startTime != p.StartTime {
		return nil
	}
	var chain []Process
	for pid := p.PID; len(chain) < maxAncestors; {
		parent, err := readStat(child.ppid)
		if err != nil || parent.startTime > child.startTime || parent.ended() ||
			parent.manages() || child.adopted(pid, parent) {
			break
		}
		status, err := readStatus(child.ppid)
		if err != nil || child.ppid == 1 {
			break
		}
		pid = child.ppid
		chain = append(chain, Process{
			BootID: h.boot.ID, PID: pid, StartTime: parent.startTime, PIDNamespace: pidNamespace(pid),
			NSPID: status.nspid(), UID: status.uid, Command: parent.command,
			Group: parent.group, Session: parent.ownSession(),
		})
		if child = parent; status.nspid() == 1 {
			break
		}
	}
	return chain
}

// Parent implements [System].
func (h *Host) Parent(p Process) (Process, error) {
	if h.blind {
		return Process{}, ErrHidden
	}
	stat, err := readStat(p.PID)
	if err != nil {
		return Process{}, err
	}
	if stat.startTime != p.StartTime || stat.ppid <= 0 {
		return Process{}, ErrNoProcess
	}
	parent, err := readStat(stat.ppid)
	if err != nil {
		return Process{}, err
	}
	return Process{BootID: h.boot.ID, PID: stat.ppid, StartTime: parent.startTime, Command: parent.command}, nil
}

// Exiting implements [System].
func (h *Host) Exiting(p Process) bool {
	stat, err := readStat(p.PID)
	if err != nil || stat.startTime != p.StartTime {
		return err == nil || hasEnded(p)
	}
	if stat.flags&exiting == 0 || stat.threads <= 1 {
		return stat.flags&exiting != 0
	}
	// The first thread may have exited long before the others.
	tasks := "/proc/" + strconv.Itoa(p.PID) + "/task/"
	names, err := os.ReadDir(tasks)
	if err != nil {
		return hasEnded(p)
	}
	for _, name := range names {
		text, err := os.ReadFile(tasks + name.Name() + "/stat")
		if err != nil {
			continue // the thread has exited
		}
		if thread, err := parseStat(text); err == nil && thread.flags&exiting == 0 {
			return false
		}
	}
	return true
}

// Doomed implements [System]. If a fatal signal is about to end a process, the kernel has made SIGKILL pending for each
// of its threads, unless the process dumps core first (complete_signal in kernel/signal.c).
func (h *Host) Doomed(p Process) bool {
	if h.Exiting(p) {
		return true
	}
	var buffer [procSize]byte
	text, err := readProc(p.PID, "status", buffer[:])
	if err != nil {
		return errors.Is(err, ErrNoProcess)
	}
	const killed = 1 << (unix.SIGKILL - 1)
	for line := range bytes.Lines(text) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && (string(key) == "SigPnd" || string(key) == "ShdPnd") {
			if pending, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64); err == nil && pending&killed != 0 {
				return true
			}
		}
	}
	return false
}
