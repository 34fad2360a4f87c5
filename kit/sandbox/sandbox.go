// Package sandbox has stand-ins for external HTTP services. They are for tests, and for running a service while the URLs of the real services are not
// set. A stand-in has a list of operations. Each operation takes effect once for an id, however often it is called, and the effects are stored on disk.
// Fault settings make a stand-in slow, unreliable or unavailable. Its ledger counts the effects, so that a test can compare them with the data of the
// service.
//
// The answers have the form that kit/httpclient reads: {"reference": "…"} for an effect, {"reason": "…"} with status 402, 409 or 422 for a refusal.
package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
)

// Sandbox is a set of stand-ins that store their data below one directory. Open makes it.
type Sandbox struct{ services []*Service }

// Open reads the journals of the stand-ins below dir, restores their effects, and appends further effects to the journals. It creates dir if it does not
// exist. The caller must call Close.
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

// Close closes the journals. The stand-ins must not be called afterwards.
func (b *Sandbox) Close() (err error) {
	for _, s := range b.services {
		err = errors.Join(err, s.journal.Close())
	}
	return err
}

// Services returns the stand-ins.
func (b *Sandbox) Services() []*Service { return b.services }

// Service returns the stand-in of this name, nil if there is none.
func (b *Sandbox) Service(name string) *Service {
	if at := slices.IndexFunc(b.services, func(s *Service) bool { return s.name == name }); at >= 0 {
		return b.services[at]
	}
	return nil
}

// Handler serves each stand-in below its name, such as POST /payments/captures.
func (b *Sandbox) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, s := range b.services {
		mux.Handle("/"+s.name+"/", http.StripPrefix("/"+s.name, s.Handler()))
	}
	return mux
}
