package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Control serves GET and PUT /v1/sandbox/{payments,carrier,courier}: knobs and ledger.
func (s *Sandbox) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/sandbox/payments", control(&s.Payments.service, s.Payments.Ledger))
	mux.HandleFunc("/v1/sandbox/carrier", control(&s.Carrier.service, s.Carrier.Ledger))
	mux.HandleFunc("/v1/sandbox/courier", control(&s.Courier.service, s.Courier.Ledger))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, "the sandbox has payments, carrier and courier, not "+r.URL.Path, "service")
	})
	return mux
}

func control[L any](s *service, ledger func() L) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			knobs := s.Knobs() // what is not named stays
			decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
			decoder.DisallowUnknownFields()
			err := decoder.Decode(&knobs)
			if err == nil {
				err = knobs.Validate()
			}
			if err != nil {
				problem(w, http.StatusBadRequest, fmt.Sprint(err), "")
				return
			}
			s.Turn(knobs)
		}
		// Knobs and ledger stand side by side, and once more each in an object of its own.
		out := map[string]any{"knobs": s.Knobs(), "ledger": ledger()}
		for _, part := range []any{s.Knobs(), ledger()} {
			text, err := json.Marshal(part)
			if err == nil {
				err = json.Unmarshal(text, &out)
			}
			if err != nil {
				problem(w, http.StatusInternalServerError, err.Error(), "")
				return
			}
		}
		respond(w, http.StatusOK, out)
	}
}

func problem(w http.ResponseWriter, status int, detail, field string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	body := map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail}
	if field != "" {
		body["errors"] = []map[string]string{{"field": field, "message": detail}}
	}
	_ = json.NewEncoder(w).Encode(body) // the caller is gone if this fails
}
