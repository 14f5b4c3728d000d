//go:build linux

package cli

import (
	"testing"

	"latchfs/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }
