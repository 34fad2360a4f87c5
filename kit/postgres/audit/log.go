package audit

import "fmt"

// Logged checks that a broker's topics hold every stored event at least once, and those of each stream in order.
type Logged struct{ seen map[string]int }

// Saw records a message of a stream by its version. Duplicates are allowed; a version before its predecessor is not.
func (l *Logged) Saw(stream string, version int) error {
	if l.seen == nil {
		l.seen = map[string]int{}
	}
	last := l.seen[stream]
	if version > last+1 {
		return fmt.Errorf("topics: event %d of %s came after event %d", version, stream, last)
	}
	l.seen[stream] = max(last, version)
	return nil
}

// Missing compares with what is stored: the number of events of each stream.
func (l *Logged) Missing(stored map[string]int) (faults []string) {
	for stream, events := range stored {
		if l.seen[stream] < events {
			faults = append(faults, fmt.Sprintf("topics: %s has %d events, the topics only %d", stream, events, l.seen[stream]))
		}
	}
	return faults
}
