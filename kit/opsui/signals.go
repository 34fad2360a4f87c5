package opsui

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// awaited is a signal that a saga waits for, with the fields of its form.
type awaited struct {
	Name, Step string
	Roles      []string
	Deadline   *time.Time
	Fields     []field
}

// field is an input of a form, for a field of a payload.
type field struct {
	Name  string
	Check bool // a checkbox
	Type  string
}

// awaits lists the signals that an instance waits for.
func (v *SagaView) awaits(definition *saga.Saga) (all []awaited) {
	for _, g := range definition.Signals() {
		st := v.State.Step(g.Step)
		if st == nil || st.Status != saga.StepStatusInProgress {
			continue
		}
		a := awaited{Name: g.Name, Step: g.Step, Roles: g.Roles}
		if st.Deadline != nil {
			end, _ := v.deadline(g.Step, st.Attempts, *st.Deadline)
			a.Deadline = &end
		}
		for f := range g.Type.Fields() {
			if name, ok := jsonName(f); ok {
				a.Fields = append(a.Fields, field{Name: name, Check: f.Type.Kind() == reflect.Bool, Type: inputType(f.Type)})
			}
		}
		all = append(all, a)
	}
	return all
}

func inputType(t reflect.Type) string {
	if t == reflect.TypeFor[time.Time]() {
		return "datetime-local"
	}
	if t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 {
		return "number"
	}
	return "text"
}

// jsonName returns the JSON name of a field, and reports whether a form can fill the field: a text, a number, a boolean or a time.
func jsonName(f reflect.StructField) (string, bool) {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	kind := f.Type.Kind()
	simple := f.Type == reflect.TypeFor[time.Time]() || kind == reflect.String || kind == reflect.Bool || kind >= reflect.Int && kind <= reflect.Int64
	return cmp.Or(name, f.Name), f.IsExported() && name != "-" && simple
}

// formTime is the layout of the value of <input type="datetime-local">.
const formTime = "2006-01-02T15:04"

// fill sets the fields of a payload from a form.
func fill(payload any, form url.Values) error {
	v := reflect.ValueOf(payload).Elem()
	for i := range v.NumField() {
		name, ok := jsonName(v.Type().Field(i))
		if !ok {
			continue
		}
		switch text := form.Get(name); v.Field(i).Kind() {
		case reflect.Struct:
			at, err := time.Parse(formTime, strings.TrimSpace(text))
			if err != nil {
				return Invalid(name, "must be a time, in UTC")
			}
			v.Field(i).Set(reflect.ValueOf(at))
		case reflect.Bool:
			v.Field(i).SetBool(text != "")
		case reflect.String:
			v.Field(i).SetString(strings.TrimSpace(text))
		default:
			n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil || v.Field(i).OverflowInt(n) {
				return Invalid(name, "must be a whole number")
			}
			v.Field(i).SetInt(n)
		}
	}
	return nil
}

// signal is the action of the form of a signal.
func (s *Server) signal() Action {
	return Action{
		Irreversible: true,
		Confirm: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Send the signal %s to saga %s?", r.PathValue("name"), Short(r.PathValue("id"))), "Send the signal"
		},
		Do: func(r *http.Request) (string, string, error) {
			id, form := r.PathValue("id"), r.PostForm
			err := s.Signal(r.Context(), id, r.PathValue("name"), func(payload any) error { return fill(payload, form) })
			if errors.Is(err, manager.ErrRole) {
				err = &httpapi.RequestError{Status: http.StatusForbidden, Detail: err.Error()}
			}
			return "The signal is sent.", "/ui/sagas/" + url.PathEscape(id), err
		},
	}
}
