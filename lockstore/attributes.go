package lockstore

// Attributes are what a lock pattern says of the locks it matches.
type Attributes struct {
	// Opaque: the bytes of the lock say nothing of a process; its maker holds it, whatever they are.
	Opaque bool
	// Keep: the lock outlives its process. Only removal, release or age ends it.
	Keep bool
	// Close: the lock, if it was made with O_EXCL, ends when the descriptor it was made with is
	// closed.
	Close bool
}

func noAttributes(string) Attributes { return Attributes{} }
