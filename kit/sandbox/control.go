package sandbox

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// ControlPath is the path below which Control serves each stand-in by its name.
const ControlPath = "/v1/sandbox/"

// Control serves GET and PUT /v1/sandbox/{service}. Both answer with the fault settings and the ledger of a stand-in; PUT changes the fault settings
// that its JSON body names.
func (b *Sandbox) Control() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := b.Service(strings.TrimPrefix(r.URL.Path, ControlPath))
		if s == nil {
			detail := "the sandbox has " + strings.Join(b.names(), ", ") + ", not " + r.URL.Path
			httpapi.WriteProblem(w, http.StatusNotFound, detail, []httpapi.FieldError{{Field: "service", Message: detail}})
			return
		}
		if r.Method == http.MethodPut {
			faults := s.Faults() // settings that the body does not name keep their values
			err := httpapi.Decode(w, r, &faults)
			if err == nil {
				err = faults.Validate()
			}
			if err != nil {
				refuse(w, err)
				return
			}
			s.SetFaults(faults)
		}
		out, err := s.document()
		if err != nil {
			httpapi.WriteProblem(w, http.StatusInternalServerError, err.Error(), nil)
			return
		}
		httpapi.Respond(w, http.StatusOK, out)
	})
}

// refuse answers an invalid request with 400, or with the status of the error.
func refuse(w http.ResponseWriter, err error) {
	problem := &httpapi.RequestError{Status: http.StatusBadRequest, Detail: err.Error()}
	if text, ok := errors.AsType[*cqrs.TextError](err); ok {
		problem.Fields = []httpapi.FieldError{{Field: text.Field, Message: text.Reason}}
	}
	_ = errors.As(err, &problem)
	httpapi.WriteProblem(w, problem.Status, problem.Detail, problem.Fields)
}

func (b *Sandbox) names() (names []string) {
	for _, s := range b.services {
		names = append(names, s.name)
	}
	return slices.Sorted(slices.Values(names))
}

// document has the fault settings and the ledger in one object each, and also all their fields at the top level.
func (s *Service) document() (map[string]any, error) {
	out, faults, ledger := map[string]any{}, s.Faults(), s.Ledger()
	text, err := json.Marshal(faults)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	for name, n := range ledger {
		out[name] = n
	}
	out["knobs"], out["ledger"] = faults, ledger
	return out, err
}
