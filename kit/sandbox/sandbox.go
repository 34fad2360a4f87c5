// Package sandbox stands in for external HTTP services: while a service has no URL of the real one, or in a test. A stand-in is a list of
// operations. Each takes effect once for an id, however often it is called, and the effects are kept on disk. Fault settings make it slow, unreliable
// or unavailable; its ledger counts the effects, so that a test can compare them with what the service believes.
//
// The answers are those that kit/httpclient reads: {"reference": "…"} for an effect, {"reason": "…"} with status 402, 409 or 422 for a refusal.
package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
)

// Sandbox is a set of stand-ins that keep their data below one directory.
type Sandbox struct{ services []*Service }

// Open reads what the stand-ins have done from their journals below dir, and appends to these from now on.
func Open(dir string, services ...*Service) (*Sandbox, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	box := &Sandbox{}
	for _, s := range services {
		if err := s.open(filepath.Join(dir, s.name+".jsonl")); err != nil {
			return nil, errors.Join(fmt.Errorf("sandbox %s: %w", s.name, err), box.Close())
		}
		box.services = append(box.services, s)
	}
	return box, nil
}

// Close closes the journals.
func (b *Sandbox) Close() (err error) {
	for _, s := range b.services {
		err = errors.Join(err, s.journal.Close())
	}
	return err
}

// Services are the stand-ins.
func (b *Sandbox) Services() []*Service { return b.services }

// Service is the stand-in of this name, nil if there is none.
func (b *Sandbox) Service(name string) *Service {
	if at := slices.IndexFunc(b.services, func(s *Service) bool { return s.name == name }); at >= 0 {
		return b.services[at]
	}
	return nil
}

// Handler serves each stand-in below its name: POST /payments/captures.
func (b *Sandbox) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, s := range b.services {
		mux.Handle("/"+s.name+"/", http.StripPrefix("/"+s.name, s.Handler()))
	}
	return mux
}
