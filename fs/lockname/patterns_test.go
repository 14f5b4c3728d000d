package lockname

import (
	"reflect"
	"strings"
	"testing"

	"latchfs/lockstore"
)

// TestPatternsMatch: a name is a lock name if a pattern matches it and no exception does.
func TestPatternsMatch(t *testing.T) {
	for _, c := range []struct {
		given    []string
		locks    string
		ordinary string
	}{
		{[]string{"*.lock"}, "x.lock .lock yarn.lock", "x.lock.bak lock x.LOCK x"},
		{[]string{"*.lock", "Singleton*", "*.pi?", `*\*`}, `x.lock SingletonLock x.pid x.pi? x* x\*`, "x.lock.bak x.pi x"},
		{[]string{"*.lock,keep,opaque", "*.pid,close"}, "x.lock x.pid", "x.lock,keep x.pid,close"},
		{[]string{"*.lock", "!yarn.lock"}, "x.lock", "yarn.lock"},
		{[]string{"!yarn.lock", "*.lock"}, "x.lock", "yarn.lock"},
		{[]string{"!*.b.lock", "!a*", "*.lock", "*.pid"}, "x.lock x.pid", "x.b.lock ax.lock a.pid"},
		{[]string{"!*.lock", "x.lock"}, "", "x.lock y.lock"},
		{[]string{"!yarn.lock"}, "x.lock", "yarn.lock x"},
		{[]string{"!x.pid"}, "x.lock", "x.pid"},
		{nil, "x.lock", "x.pid"},
		{[]string{`\!x`, "[!]y"}, "!x !y", "x y x.lock"},
	} {
		p, err := Parse(c.given)
		if err != nil || !reflect.DeepEqual(p.Strings(), c.given) {
			t.Errorf("%q: %q %v", c.given, p.Strings(), err)
		}
		for _, name := range strings.Fields(c.locks) {
			if !p.Match(name) {
				t.Errorf("%q: %s is no lock", c.given, name)
			}
		}
		for _, name := range strings.Fields(c.ordinary) {
			if p.Match(name) || p.Attributes(name) != (lockstore.Attributes{}) {
				t.Errorf("%q: %s is a lock, or has the attributes %+v", c.given, name, p.Attributes(name))
			}
		}
	}
	if (Patterns{}).Match("x.lock") {
		t.Error("no patterns match x.lock")
	}
}

// TestAttributesAddUp: a lock has the attributes of all patterns that match it.
func TestAttributesAddUp(t *testing.T) {
	p, err := Parse([]string{"*.lock", ".~lock.*#,opaque", "*.keep.lock,keep", "a*,close", "*.all,close,opaque,keep,keep", "!*.no.lock"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]lockstore.Attributes{
		"x.lock": {}, ".~lock.x.odt#": {Opaque: true}, "x.keep.lock": {Keep: true}, "a.lock": {Close: true},
		"a.keep.lock": {Keep: true, Close: true}, "x.all": {Opaque: true, Keep: true, Close: true}, "a.no.lock": {}, "x": {},
	} {
		if got := p.Attributes(name); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// TestBadPatterns: a bad pattern is refused with an error that lists what is allowed.
func TestBadPatterns(t *testing.T) {
	const bad = `syntax error in pattern; allowed are names with *, ? and [a-z], and \ before a character that stands for itself`
	const comma = ", and a pattern cannot contain a comma"
	for text, says := range map[string]string{
		"*.lock,opaqe": `unknown attribute "opaqe"; allowed are opaque, keep and close` + comma,
		"*.lock,keep,": `unknown attribute ""; allowed are opaque, keep and close` + comma,
		"*.lock,Keep":  `unknown attribute "Keep"; allowed are opaque, keep and close` + comma,
		"[a,b]":        `unknown attribute "b]"; allowed are opaque, keep and close` + comma,
		"!*.lock,keep": `!PATTERN takes no attributes` + comma,
		"a/b":          "it is matched against names, which have no slash",
		"!a/b":         "it is matched against names, which have no slash",
		"[":            bad, "": bad, "!": bad, ",keep": bad, "![": bad,
	} {
		_, err := Parse([]string{"*.pid", text})
		if want := `lock pattern "` + text + `": ` + says; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestPatternsAllocateNothing: every request matches names several times.
func TestPatternsAllocateNothing(t *testing.T) {
	p, err := Parse([]string{"*.lock,keep", "Singleton*,opaque", "!*.no.lock", "!yarn.loc?"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x.lock", "SingletonLock", "x.no.lock", "yarn.lock", "ordinary"} {
		if n := testing.AllocsPerRun(100, func() { p.Match(name); p.Attributes(name) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
