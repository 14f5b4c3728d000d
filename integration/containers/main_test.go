//go:build linux

package containers

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }
