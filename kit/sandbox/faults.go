package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// Faults are the fault settings of a stand-in. The zero value means no faults.
type Faults struct {
	Down        bool     `json:"down"`         // every call answers 503 and has no effect
	FailureRate float64  `json:"failure_rate"` // share of the calls that answer 500, from 0 to 1; half of them have their effect before
	RefusalRate float64  `json:"refusal_rate"` // share of the requests that are refused, from 0 to 1
	Latency     Duration `json:"latency"`      // delay of each answer, after the effect
	Twice       bool     `json:"twice"`        // every call is executed twice
}

// Duration is a time.Duration that is a string in JSON, such as "1.5s". It must not be negative.
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

// Validate returns an error that names a setting that is out of range.
func (f Faults) Validate() error {
	for name, rate := range map[string]float64{"failure_rate": f.FailureRate, "refusal_rate": f.RefusalRate} {
		if rate < 0 || rate > 1 {
			return fmt.Errorf("%s: %g is not from 0 to 1", name, rate)
		}
	}
	return nil
}

// Faults returns the current fault settings.
func (s *Service) Faults() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// SetFaults replaces the fault settings. They apply to calls that begin afterwards. They are not stored on disk.
func (s *Service) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// answer is the JSON body of an answer.
type answer struct {
	Reference string `json:"reference,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// reply is an answer with its status and its delay.
type reply struct {
	status int
	body   answer
	delay  time.Duration
}

// Handler serves the operations of this stand-in at their paths.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, o := range s.operations {
		mux.HandleFunc("POST "+o.path, s.serve(o))
	}
	return mux
}

// serve handles the requests of an operation and applies the fault settings.
func (s *Service) serve(o operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		faults := s.Faults()
		fails := rand.Float64() < faults.FailureRate  //nolint:gosec // chance, not secrecy
		refuse := rand.Float64() < faults.RefusalRate //nolint:gosec // chance, not secrecy
		if faults.Down {
			respond(w, reply{status: http.StatusServiceUnavailable, body: answer{Reason: "the sandbox is down"}})
			return
		}
		if fails && rand.IntN(2) == 0 { //nolint:gosec // chance, not secrecy
			respond(w, reply{status: http.StatusInternalServerError, body: answer{Reason: "failed before doing anything"}})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			respond(w, reply{status: http.StatusBadRequest, body: answer{Reason: err.Error()}})
			return
		}
		out := s.call(o, body, refuse)
		if faults.Twice && out.status < http.StatusInternalServerError {
			out = s.call(o, body, refuse)
		}
		if delay := out.delay + time.Duration(faults.Latency); delay > 0 {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(delay):
			}
		}
		if fails {
			out = reply{status: http.StatusInternalServerError, body: answer{Reason: "failed after doing it"}}
		}
		respond(w, out)
	}
}

// call decides about a request, writes the decision into the journal, and applies the decision.
func (s *Service) call(o operation, body []byte, refuse bool) reply {
	id, decide, err := o.read(body)
	if err != nil {
		return reply{status: http.StatusBadRequest, body: answer{Reason: err.Error()}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := decide(Effects{s.byName, s.states[id]})
	if d.Status != 0 {
		return reply{d.Status, answer{Reason: d.Refused}, d.Delay}
	}
	if refuse && d.Refused == "" && o.undoes < 0 {
		d.Refused = o.refusal
	}
	e := newEntry(o.name, id, d)
	if err := s.journal.append(e); err != nil {
		return reply{status: http.StatusInternalServerError, body: answer{Reason: err.Error()}}
	}
	_, now, err := s.apply(e)
	switch {
	case err != nil:
		return reply{status: http.StatusInternalServerError, body: answer{Reason: err.Error()}}
	case now.stage == refused:
		return reply{o.status, answer{Reason: now.reason}, d.Delay}
	}
	return reply{http.StatusOK, answer{Reference: o.reference + id}, d.Delay}
}

func respond(w http.ResponseWriter, r reply) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	_ = json.NewEncoder(w).Encode(r.body) // an error means that the client is gone
}
