//go:build linux

package vm

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }
