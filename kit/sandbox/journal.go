package sandbox

import (
	"encoding/json"
	"os"
	"strings"
	"time"
)

// entry is one call, which is a line of the journal. Effects are computed only from the entries, so that they are the same after a restart.
type entry struct {
	Op      string `json:"op"` // the name of the operation; "authorise, never capture" if capture will be refused later
	ID      string `json:"id"`
	Amount  int64  `json:"amount,omitempty"`
	Refused string `json:"refused,omitempty"`
	At      string `json:"at"`
}

const separator = ", never "

func newEntry(operation, id string, d Decision) entry {
	if d.Never != "" {
		operation += separator + d.Never
	}
	return entry{operation, id, d.Amount, d.Refused, time.Now().UTC().Format(time.RFC3339Nano)}
}

func (e entry) operation() (name, never string) {
	name, never, _ = strings.Cut(e.Op, separator)
	return name, never
}

// journal is a file with one entry in each line.
type journal struct{ *os.File }

// openJournal calls apply for each entry of a journal. It cuts off an incomplete last line, which a process leaves that was killed while it wrote the
// line, before it answered.
func openJournal(path string, apply func(entry) error) (journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640) //nolint:gosec // the data directory is the operator's choice
	if err != nil {
		return journal{}, err
	}
	end := int64(0)
	for decoder := json.NewDecoder(file); decoder.More(); end = decoder.InputOffset() {
		var e entry
		if decoder.Decode(&e) != nil {
			break
		}
		if err := apply(e); err != nil {
			_ = file.Close() // no data was written
			return journal{}, err
		}
	}
	if err := file.Truncate(end); err != nil {
		return journal{}, err
	}
	if end > 0 {
		_, err = file.WriteString("\n") // the offset of the decoder is before the line break
	}
	return journal{file}, err
}

func (j journal) append(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = j.Write(append(line, '\n'))
	return err
}

func (s *Service) open(path string) (err error) {
	s.journal, err = openJournal(path, func(e entry) error {
		_, _, err := s.apply(e)
		return err
	})
	return err
}
