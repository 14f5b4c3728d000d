package lockstore

// Attributes change the rules for a lock. They depend on its name alone: they are the attributes of the lock
// patterns that match it.
type Attributes struct {
	// Opaque has the bytes of the lock ignored: its maker holds it.
	Opaque bool
	// Keep has the lock outlive its process: only its removal, its release or its age ends it.
	Keep bool
	// Close has a lock that was made with O_EXCL end when the descriptor it was made with is closed.
	Close bool
}

// Add returns the attributes that a or b has.
func (a Attributes) Add(b Attributes) Attributes {
	return Attributes{Opaque: a.Opaque || b.Opaque, Keep: a.Keep || b.Keep, Close: a.Close || b.Close}
}

// attributesOf returns the attributes of the lock at name.
func (s *Store) attributesOf(name string) Attributes {
	if s.attributes == nil {
		return Attributes{}
	}
	return s.attributes(name)
}
