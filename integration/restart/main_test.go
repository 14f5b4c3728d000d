//go:build linux

package restart

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m, map[string]func(){"hog": hog, "worker": work}) }
