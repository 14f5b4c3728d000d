//go:build linux

package channel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// requestOf returns the header of a request of a user, with the number n.
func requestOf(opcode, uid uint32, n uint64) []byte {
	request := make([]byte, bodyAt)
	binary.NativeEndian.PutUint32(request[opcodeAt:], opcode)
	binary.NativeEndian.PutUint32(request[uidAt:], uid)
	binary.NativeEndian.PutUint64(request[uniqueAt:], n)
	return request
}

func drain(q *fairQueue) (order []string) {
	for request := q.next(); request != nil; request = q.next() {
		uid, n := binary.NativeEndian.Uint32(request[uidAt:]), binary.NativeEndian.Uint64(request[uniqueAt:])
		order = append(order, fmt.Sprintf("%d:%d", uid, n))
		q.done(request)
	}
	return order
}

// TestUsersHaveTurns: a user with many requests delays each request of another user by one, and each user's requests
// stay in order.
func TestUsersHaveTurns(t *testing.T) {
	var q fairQueue
	for round := range 3 { // the buffers are reused
		for n := range uint64(5) {
			q.add(requestOf(opcodeLookup, 1000, n))
		}
		q.add(requestOf(opcodeCreate, 1001, 5))
		q.add(requestOf(opcodeCreate, 0, 6))
		q.add(requestOf(opcodeUnlink, 1001, 7))
		want := []string{"1000:0", "1001:5", "0:6", "1000:1", "1001:7", "1000:2", "1000:3", "1000:4"}
		if got := drain(&q); !slices.Equal(got, want) {
			t.Errorf("round %d: %v, not %v", round, got, want)
		}
		if q.n.Load() != 0 || q.bytes != 0 || len(q.users) != 0 {
			t.Errorf("round %d: %d requests of %d bytes and %d users are left", round, q.n.Load(), q.bytes, len(q.users))
		}
	}
}

// TestFilesAreClosedAsFastAsTheyAreOpened: RELEASE has its turn after each user's.
func TestFilesAreClosedAsFastAsTheyAreOpened(t *testing.T) {
	var q fairQueue
	for n := range uint64(3) {
		for uid := range uint32(4) {
			q.add(requestOf(opcodeOpen, uid, n))
			q.add(requestOf(opcodeRelease, 0, 100))
		}
	}
	closed := 0
	for i, what := range drain(&q) {
		if what == "0:100" {
			closed++
		}
		if opened := i + 1 - closed; opened-closed > 1 {
			t.Fatalf("after %d turns %d were opened and %d closed", i+1, opened, closed)
		}
	}
	if closed != 12 {
		t.Errorf("%d were closed", closed)
	}
}

// TestQueueIsBounded: beyond maxQueuedBytes there is no room, and a long request comes out whole.
func TestQueueIsBounded(t *testing.T) {
	var q fairQueue
	long := append(requestOf(opcodeWrite, 1000, 1), bytes.Repeat([]byte("x"), 1<<20)...)
	added := 0
	for q.add(long) {
		added++
	}
	if added != maxQueuedBytes/(1<<20)-1 {
		t.Errorf("%d were added", added)
	}
	if request := q.next(); !bytes.Equal(request, long) {
		t.Error("the request has changed")
	}
	if !q.add(requestOf(opcodeLookup, 0, 0)) {
		t.Error("there is still no room")
	}
}
