//go:build linux

package filesystem

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) {
	harness.Main(m, map[string]func(){
		"table":  func() { operations("table") },
		"random": func() { operations("random") },
	})
}
