// Package sandbox plays the services outside, a payment provider and two carriers, with knobs to break them and ledgers to
// check them. Each takes effect once a key, however often it is called, and remembers what it did on disk.
package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Knobs break a service.
type Knobs struct {
	Down        bool     `json:"down"`         // every call answers 503 and does nothing
	FailureRate float64  `json:"failure_rate"` // part of the calls that answer 500, half of them after doing the work
	RefusalRate float64  `json:"refusal_rate"` // part of the requests that are refused
	Latency     Duration `json:"latency"`      // before each answer, after the work is done
	Twice       bool     `json:"twice"`        // every call is carried out twice
}

// Duration is a time.Duration that JSON shows as "1.5s".
type Duration time.Duration

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("latency: a duration is text like \"250ms\"")
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("latency: %q is no duration like \"250ms\"", s)
	}
	*d = Duration(v)
	return nil
}

// Validate names the knob that is out of range.
func (k Knobs) Validate() error {
	for name, rate := range map[string]float64{"failure_rate": k.FailureRate, "refusal_rate": k.RefusalRate} {
		if rate < 0 || rate > 1 {
			return fmt.Errorf("%s: %g is not from 0 to 1", name, rate)
		}
	}
	return nil
}

// Sandbox is all of them.
type Sandbox struct {
	Payments *Payments
	Carrier  *Carrier
	Courier  *Carrier // stands in for the carrier
}

// Open reads the ledgers below dir, and keeps them there.
func Open(dir string) (*Sandbox, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	payments, carrier, courier := newPayments(), newCarrier("carrier"), newCarrier("courier")
	for name, s := range map[string]*service{"payments": &payments.service, "carrier": &carrier.service, "courier": &courier.service} {
		if err := s.open(filepath.Join(dir, name+".jsonl")); err != nil {
			return nil, fmt.Errorf("sandbox %s: %w", name, err)
		}
	}
	return &Sandbox{payments, carrier, courier}, nil
}

// Close closes the ledgers.
func (s *Sandbox) Close() error {
	return errors.Join(s.Payments.journal.Close(), s.Carrier.journal.Close(), s.Courier.journal.Close())
}

// Handler serves /payments/…, /carrier/… and /courier/… as the services do.
func (s *Sandbox) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/payments/", http.StripPrefix("/payments", s.Payments.handler()))
	mux.Handle("/carrier/", http.StripPrefix("/carrier", s.Carrier.handler()))
	mux.Handle("/courier/", http.StripPrefix("/courier", s.Courier.handler()))
	return mux
}

// entry is one call: a line of the journal. Effects are computed from the entries alone, at the call and at a restart.
type entry struct {
	Op       string `json:"op"`
	ID       string `json:"id"`
	Amount   int64  `json:"amount,omitempty"`
	Currency string `json:"currency,omitempty"`
	Refused  string `json:"refused,omitempty"`
	At       string `json:"at"`
}

// answer is what a call gets.
type answer struct {
	Reference string `json:"reference,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// service is what both have: knobs, a journal, a lock.
type service struct {
	mu      sync.Mutex
	knobs   Knobs
	journal *os.File
	calls   int64
	repeats int64
	apply   func(entry) // effect of an entry, under the lock
}

func (s *service) open(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640) //nolint:gosec // the data directory is the operator's choice
	if err != nil {
		return err
	}
	end := int64(0)
	for decoder := json.NewDecoder(file); decoder.More(); end = decoder.InputOffset() {
		var e entry
		if decoder.Decode(&e) != nil {
			break // the torn last line of a process that was killed; nobody was answered on it
		}
		s.calls++
		s.apply(e)
	}
	s.journal = file
	if err := file.Truncate(end); err != nil {
		return err
	}
	if end > 0 {
		_, err = file.WriteString("\n") // the decoder's offset is before it
	}
	return err
}

// record writes an entry and applies it.
func (s *service) record(e entry) error {
	e.At = time.Now().UTC().Format(time.RFC3339Nano)
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := s.journal.Write(append(line, '\n')); err != nil {
		return err
	}
	s.calls++
	s.apply(e)
	return nil
}

// Knobs returns the knobs.
func (s *service) Knobs() Knobs {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.knobs
}

// Turn sets the knobs.
func (s *service) Turn(k Knobs) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.knobs = k
}

// serve wraps a decision with what the knobs do to it. The decision runs under the lock; refuse says that it should say no.
func (s *service) serve(decide func(request *http.Request, refuse bool) (answer, int, time.Duration, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		knobs := s.Knobs()
		fails := rand.Float64() < knobs.FailureRate //nolint:gosec // chance, not secrecy
		if knobs.Down {
			respond(w, http.StatusServiceUnavailable, answer{Reason: "the sandbox is down"})
			return
		}
		if fails && rand.IntN(2) == 0 { //nolint:gosec // chance, not secrecy
			respond(w, http.StatusInternalServerError, answer{Reason: "failed before doing anything"})
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			respond(w, http.StatusBadRequest, answer{Reason: err.Error()})
			return
		}
		refuse := rand.Float64() < knobs.RefusalRate //nolint:gosec // chance, not secrecy
		carryOut := func() (answer, int, time.Duration, error) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			return decide(r, refuse)
		}
		s.mu.Lock()
		reply, status, delay, err := carryOut()
		if knobs.Twice && err == nil {
			reply, status, delay, err = carryOut()
		}
		s.mu.Unlock()
		if err != nil {
			respond(w, http.StatusInternalServerError, answer{Reason: err.Error()})
			return
		}
		if delay += time.Duration(knobs.Latency); delay > 0 {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(delay):
			}
		}
		if fails {
			reply, status = answer{Reason: "failed after doing it"}, http.StatusInternalServerError
		}
		respond(w, status, reply)
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller is gone if this fails
}
