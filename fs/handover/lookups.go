//go:build linux

package handover

// CountLookup records that a lookup of node was counted for a request. The caller has counted it before.
func (t *Tables) CountLookup(unique, node uint64) {
	row := &t.lookups[(t.Head.lookupsMade.Add(1)-1)%lookupRows]
	row.unique.Store(0)
	row.node.Store(node)
	row.unique.Store(unique)
}

// UncountLookup strikes out the record of a lookup of node for a request, so that the caller can take the lookup back.
// Node 0 stands for any node. It returns the node, 0 if there is no such record.
func (t *Tables) UncountLookup(unique, node uint64) uint64 {
	made := t.Head.lookupsMade.Load()
	for i := range min(made, lookupRows) {
		row := &t.lookups[(made-1-i)%lookupRows]
		if row.unique.Load() != unique {
			continue
		}
		if found := row.node.Load(); node == 0 || found == node {
			row.unique.Store(0)
			return found
		}
	}
	return 0
}
