//go:build mutation

package lockstore

import "os"

// mutation is a fault that is put in on purpose, so that tests can show that they would find it:
// "steals" takes live locks for stale, "deaf" takes the dead for living, "forgets" loses all
// records when a server is started, "unguarded" lets everybody remove a live lock.
var mutation = os.Getenv("LATCHFS_MUTATION")

func mutated(fault string) bool { return mutation == fault }
