package payload

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// forms are texts in which programs name the process that has the lock, N being its pid.
var forms = []struct {
	text string
	weak bool
}{
	{"N", false}, {"N\n", false}, {"      N\n", false}, {"N\nhost\n", false},
	{`{"pid":N}`, false}, {` {"pid": N, "createdAt": "2026-11-28T03:00:00Z"} ` + "\n", false},
	{`{"pid":N,"starttime":99,"bootId":"ABC","hostname":"box"}`, false},
	{"box:N", false}, {"box/f0000000:N\n", false}, {"127.0.1.1:+N", false}, {"my-box.example.org-N", false},
	{"me@box.example.org.N:1764000000", false}, {"me@box.N", false}, {"/a/x.lock|box|N|99", false},
	{`{"processId":N}`, false}, {`{"owner_pid":N}`, false}, {`{"holder":N}`, true}, {`{"owner":{"pid":N}}`, false}, {`{"PID":N}`, false},
	{`{"pID":N}`, false}, {`{"pid":"N"}`, false}, {`[N,"host"]`, true}, {"pid=N", false}, {"PID: N", false},
	{"name: x\npid: N\nhost: box\n", false}, {"N:host:1764000000", true}, {"host:N:1764000000", true},
	{"1f0e8c1c-8a0e-4d54-9d1f-0c6f6ad4a5a1 N", true}, {"host\nN", true}, {"N 1764000000", false}, {"N\thost", false}, {"0xHEX", true},
	{"2026-11-28T03:00:00Z N", true}, {"2026-11-28T03:00:00.123+01:00\nN\n", true}, {"root@host (N)", true},
	{"host N 1764000000 839201", false}, {"host N 1764000000", false}, {"this session is in use by process N, please wait.\n", true},
	{"N\x00", false}, {"N@box", true}, {"box.N", true}, {"box_N", true}, {"host=box pid=N time=1764000000", false}, {"10.0.0.5:N", false},
	{strings.Repeat("/a/long/path", 40) + "\npid=N\n", false}, {"N\n/var/lib/data" + strings.Repeat("/x", 200) + "\n5432\n", false},
}

const pid = 4711

func fill(form string) string {
	return strings.NewReplacer("N", fmt.Sprint(pid), "HEX", fmt.Sprintf("%x", pid)).Replace(form)
}

// is is the family of one process.
func is(pid int) func(Claim) bool { return func(c Claim) bool { return c.PID == pid } }

func nobody(Claim) bool { return false }

func TestEveryFormNamesItsWriter(t *testing.T) {
	for _, form := range forms {
		text := fill(form.text)
		if c := Read([]byte(text), "x.lock", is(pid)); c.Class != Naming || c.PID != pid || c.Weak != form.weak {
			t.Errorf("%.60q: %+v", text, c)
		}
		if c := Read([]byte(text), "x.lock", nobody); c.Class != Data {
			t.Errorf("%.60q of another process: %+v", text, c)
		}
	}
}

// TestNoPartOfANumberIsAPID: versions, times, ids and parts of longer numbers are no pids, nor is a
// number of a table.
func TestNoPartOfANumberIsAPID(t *testing.T) {
	for _, text := range []string{
		"version 1.4711", "4711.2", "v4711.0.1", "at 4711-01-01", "x4711", "4711x", "14711", "47110", "sha512-a4711b",
		"00004711-0000-4711-4711-000000000000", "4711 100 200 300 400 500", "0x14711", "04711 x",
		"4711 " + strings.Repeat("x", Limit), "4711\x00x",
	} {
		if c := Read([]byte(text), "x.lock", is(pid)); c.Class != Data {
			t.Errorf("%.60q: %+v", text, c)
		}
	}
	for _, small := range []int{7, 18} {
		for _, text := range []string{fmt.Sprintf(`{"version":%d}`, small), fmt.Sprintf("lockfileVersion: %d", small), fmt.Sprintf("a %d b", small)} {
			if c := Read([]byte(text), fmt.Sprintf("x-%d.lock", small), is(small)); c.Class != Data {
				t.Errorf("%q of process %d: %+v", text, small, c)
			}
		}
	}
}

func TestNameOfTheFileNamesItsMaker(t *testing.T) {
	for name, names := range map[string]bool{"inuse.4711.lock": true, "host-4711.lock": true, "a4711.lock": false, "14711.lock": false, "1.4711.lock": false} {
		for _, text := range []string{"", "some words"} {
			if c := Read([]byte(text), name, is(pid)); (c.Class == Naming && !c.Weak) != names {
				t.Errorf("%s, %q: %+v", name, text, c)
			}
		}
	}
}

func TestClassesOfKnownWriters(t *testing.T) {
	for text, want := range map[string]Class{
		"": Empty, " \n": Empty, "0": Empty, "0\n": Empty,
		`{"createdAt":"2026-11-28T03:00:00Z"}`: Empty, `{"createdAt":"x","hostname":"b","sessionId":"s","reason":"r"}`: Empty,
		`{"pid":0}`: Empty, `{"pid":null,"createdAt":"x"}`: Empty,
		`{"acquired_at":1764000000,"agentId":"a"}`:                    Empty,
		`{"hostname":"box"}`:                                          Data, // says nothing of when
		`{"version":1,"createdAt":"2026-11-28T03:00:00Z","hash":"a"}`: Data,
		`{"createdAt":"2026-11-28T03:00:00Z","packages":{}}`:          Data,
		`{"createdAt":"2026-11-28T03:00:00Z","files":["a"]}`:          Data,
		`{}`: Data, `[]`: Data, `{"createdAt":`: Data, "yarn lockfile v1": Data, "\x00\x01": Data, "-1": Data, "99999": Data,
		`{"pid":99999,"kp":1.5}`: Data, `{"pid":0,"model":"x"}`: Data,
	} {
		if c := Read([]byte(text), "x.lock", nobody); c.Class != want {
			t.Errorf("%q: %+v", text, c)
		}
	}
}

func TestTextThatNamesAnother(t *testing.T) {
	for text, other := range map[string]bool{
		"99999": true, `{"pid":99999}`: true, "99999 1764000000": true, "box:99999": true, "pid: 99999": true,
		"a few words": false, "3 apples": false, "": false, `{"createdAt":"2026-11-28T03:00:00Z"}`: false, "name: x\n": false,
	} {
		if c := Read([]byte(text), "", nobody); c.Other != other {
			t.Errorf("%q: %+v", text, c)
		}
	}
}

func TestFound(t *testing.T) {
	for text, want := range map[string]Claim{
		"": {Class: Empty}, "0\n": {Class: Empty},
		"1": {Class: Naming, PID: 1}, "4711\n": {Class: Naming, PID: 4711}, "      4711\n": {Class: Naming, PID: 4711},
		"4711\nhost\n": {Class: Naming, PID: 4711}, "4194304": {Class: Naming, PID: 4194304},
		"4711\na\nb\n": {Class: Data}, "4194305": {Class: Data}, "-1": {Class: Data}, "+1": {Class: Data}, "007": {Class: Data},
		"12 34": {Class: Data}, "1.5": {Class: Data}, "0x10": {Class: Data}, "version 4": {Class: Data}, "\x001": {Class: Data}, "1\xff": {Class: Data},
		"pid: 4711": {Class: Data}, `[4711]`: {Class: Data}, `{"nodes":{"pid":4711}}`: {Class: Data}, `{"cupid":4711}`: {Class: Data},
		`{"pid":4711}`: {Class: Naming, PID: 4711}, `{"ownerPid":"4711"}`: {Class: Naming, PID: 4711},
		`{"pid":4711,"createdAt":"x"}`:                                {Class: Naming, PID: 4711, Facts: Facts{BadCreatedAt: true}},
		`{"pid":4711,"starttime":99,"bootId":"ABC","hostname":"box"}`: {Class: Naming, PID: 4711, Facts: Facts{Start: 99, BootID: "abc", Host: "box"}},
		`{"pid":1,"pid":2}`:                                           {Class: Naming, PID: 2},
		`{"pid":0}`:                                                   {Class: Naming}, `{"pid":-1}`: {Class: Naming}, `{"pid":null}`: {Class: Naming}, `{"pid":0,"model":"x"}`: {Class: Data},
		`{"pid":0,"createdAt":"yesterday"}`:                         {Class: Naming, Facts: Facts{BadCreatedAt: true}},
		`{"createdAt":"2026-01-01T00:00:00Z"}`:                      {Class: Naming, Facts: Facts{Created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}},
		`{"createdAt":"2026-01-01T00:00:00Z","packages":{"a":"1"}}`: {Class: Data},
		"box:4711":           {Class: Naming, PID: 4711, Facts: Facts{Host: "box"}},
		"box-4711":           {Class: Naming, PID: 4711, Weak: true, Facts: Facts{Host: "box"}},
		"me@box.4711:17":     {Class: Naming, PID: 4711, Facts: Facts{Host: "box"}},
		"/a/x.lock|box|12|9": {Class: Naming, PID: 12, Facts: Facts{Host: "box"}},
		"box:0":              {Class: Data}, "box-99999999": {Class: Data}, "box 4711": {Class: Data}, "two\nlines-12": {Class: Data},
		`{"pid":4711`: {Class: Data}, `{"pid":4711} x`: {Class: Data}, `{}`: {Class: Data}, strings.Repeat("[", Limit): {Class: Data},
		`{"pid":1,"x":"` + strings.Repeat("x", Limit) + `"}`: {Class: Data},
	} {
		if got := Found([]byte(text)); got != want {
			t.Errorf("%.60q: %+v, want %+v", text, got, want)
		}
	}
}

func TestFactsContradictAnotherProcess(t *testing.T) {
	started := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	for text, contradict := range map[string]bool{
		`{"pid":1}`: false, `{"pid":1,"starttime":500}`: false, `{"pid":1,"starttime":501}`: true,
		`{"pid":1,"startTime":"2026-11-28T03:00:00Z"}`:               false,
		`{"pid":1,"startTime":"2026-11-28T02:00:00Z"}`:               true,
		fmt.Sprintf(`{"pid":1,"startTime":%d}`, started.UnixMilli()): false,
		fmt.Sprintf(`{"pid":1,"start_time":%d.25}`, started.Unix()):  false,
		fmt.Sprintf(`{"pid":1,"startTime":%d}`, started.Unix()-3600): true,
		`{"pid":1,"createdAt":"2026-11-28T03:00:30Z"}`:               false,
		`{"pid":1,"createdAt":"2026-11-27T03:00:30Z"}`:               true,
		"pid: 1\nstarttime: 501\n":                                   true,
		"pid: 1\ncreated_at: 2026-11-27T03:00:30Z\n":                 true,
	} {
		c := Read([]byte(text), "", is(1))
		if c.PID != 1 || c.Contradict(500, started) != contradict {
			t.Errorf("%s: %+v", text, c)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, form := range forms {
		f.Add([]byte(fill(form.text)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		found, read := Found(text), Read(text, "x.lock", is(pid))
		if found.PID < 0 || found.PID > maxPID || found.Class != Naming && found.PID != 0 || len(text) > Limit && found.Class != Data {
			t.Errorf("%q: found %+v", text, found)
		}
		if (read.Class == Naming) != (read.PID == pid) || len(text) > Limit && read.Class != Data {
			t.Errorf("%q: read %+v", text, read)
		}
		if c := Read(text, "x.lock", nobody); c.Class == Naming {
			t.Errorf("%q: names nobody of the family, and %+v", text, c)
		}
	})
}
