package opsui

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Registered has everything that the running service has registered.
type Registered struct {
	Sagas       []*saga.Saga
	Commands    []Message
	Events      []Message
	Consumed    []Message // events of other services
	Projections []Projection
}

// Message describes a type of message and its topic.
type Message struct {
	Name, Topic string
	Schema      int
	Fields      []string // the JSON name and the Go type, such as "order_id string"
	External    bool     // the handler of the message calls an external service
}

// NewMessage describes a type of message. The names of its fields are the JSON names.
func NewMessage(t aggregate.Type, topic string, external bool) Message {
	m := Message{Name: t.Name, Topic: topic, Schema: t.Schema, External: external}
	for f := range reflect.TypeOf(t.New()).Elem().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		m.Fields = append(m.Fields, fmt.Sprintf("%s %s", name, f.Type))
	}
	return m
}

// Projection describes a read model.
type Projection struct {
	Name, Table string
	Events      []string
	Inline      bool // written in the transaction that appends the events, not from Kafka
}

// definitionData is the data of the page of a saga's definition.
type definitionData struct {
	Saga    *saga.Saga
	Outline []saga.Outline
	Diagram diagram
}

// Title implements the title of a page.
func (d definitionData) Title() string {
	return fmt.Sprintf("%s, version %d", d.Saga.Name(), d.Saga.Version())
}

func newDefinitionData(sg *saga.Saga) definitionData {
	return definitionData{sg, sg.Outline(), drawSaga(sg.Name(), sg.Outline(), nil)}
}

func (s *Server) definitions() Page {
	return Page{Path: "/ui/definitions", Title: "Definitions", Nav: "/ui/definitions", Template: "definitions", Load: func(*http.Request) (any, error) {
		type data struct {
			Registered
			Diagrams []definitionData
		}
		d := data{Registered: s.Registered}
		for _, sg := range s.Registered.Sagas {
			d.Diagrams = append(d.Diagrams, newDefinitionData(sg))
		}
		return d, nil
	}}
}

func (s *Server) definition() Page {
	return Page{Path: "/ui/definitions/{name}", Title: "Definition", Nav: "/ui/definitions", Template: "definition", Load: func(r *http.Request) (any, error) {
		for _, sg := range s.Registered.Sagas {
			if fmt.Sprintf("%s.v%d", sg.Name(), sg.Version()) == r.PathValue("name") {
				return newDefinitionData(sg), nil
			}
		}
		return nil, fmt.Errorf("there is no definition %q: %w", r.PathValue("name"), cqrs.ErrNotFound)
	}}
}
