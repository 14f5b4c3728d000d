//go:build linux

package bench

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }
