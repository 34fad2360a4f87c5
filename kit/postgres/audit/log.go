package audit

import (
	"cmp"
	"fmt"
	"slices"
)

// Logged checks that a broker's topics hold every stored event at least once, and those of each stream in order. When partitions are added to a topic, the later
// events of a stream may be in another partition than those before; the order holds in each.
type Logged struct {
	seen map[string]map[int32][]versions
}

// versions are consecutive, both ends included, in the order in which they came.
type versions struct{ first, last int }

// Saw records a message of a stream by its version and its partition, in the order of each partition. With the same number for all partitions, the events of a stream must be in one.
// Duplicates are allowed; a version after a later one is not.
func (l *Logged) Saw(partition int32, stream string, version int) error {
	if l.seen == nil {
		l.seen = map[string]map[int32][]versions{}
	}
	if l.seen[stream] == nil {
		l.seen[stream] = map[int32][]versions{}
	}
	ranges := l.seen[stream][partition]
	latest := len(ranges) - 1
	switch {
	case latest >= 0 && version == ranges[latest].last+1:
		ranges[latest].last++
	case latest < 0 || version > ranges[latest].last:
		l.seen[stream][partition] = append(ranges, versions{version, version})
	case !slices.ContainsFunc(ranges, func(r versions) bool { return r.first <= version && version <= r.last }):
		return fmt.Errorf("topics: event %d of %s came after event %d", version, stream, ranges[latest].last)
	}
	return nil
}

// Missing compares with what is stored: the number of events of each stream.
func (l *Logged) Missing(stored map[string]int) (faults []string) {
	for stream, events := range stored {
		if has := l.complete(stream); has < events {
			faults = append(faults, fmt.Sprintf("topics: %s has %d events, the topics only the first %d, and maybe later ones", stream, events, has))
		}
	}
	return faults
}

// complete is the version up to which the topics have all events of a stream.
func (l *Logged) complete(stream string) (version int) {
	var all []versions
	for _, ranges := range l.seen[stream] {
		all = append(all, ranges...)
	}
	slices.SortFunc(all, func(a, b versions) int { return cmp.Compare(a.first, b.first) })
	for _, r := range all {
		if r.first <= version+1 {
			version = max(version, r.last)
		}
	}
	return version
}
