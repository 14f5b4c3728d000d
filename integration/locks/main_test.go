//go:build linux

package locks

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m, map[string]func(){"hammer": hammer}) }
