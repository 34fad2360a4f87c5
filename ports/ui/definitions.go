package ui

import (
	"fmt"
	"net/http"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Known is what the running service was built from.
type Known struct {
	Sagas       []*saga.Saga
	Commands    []KnownMessage
	Events      []KnownMessage
	Projections []KnownProjection
	Heard       []KnownMessage // of other services
}

// KnownMessage is a type of message, and where it goes.
type KnownMessage struct {
	Name, Topic string
	Schema      int
	Fields      []string // "order_id string"
	Outside     bool     // handling it asks a service outside
}

// KnownProjection is a read model.
type KnownProjection struct {
	Name, Table string
	Events      []string
	Inline      bool // written with the events, not by way of Kafka
}

// definitionData is the page of a saga's definition.
type definitionData struct {
	Saga    *saga.Saga
	Outline []saga.Outline
	Picture picture
}

func (d definitionData) title() string {
	return fmt.Sprintf("%s, version %d", d.Saga.Name(), d.Saga.Version())
}

func (s *Server) definitions() page {
	return page{title: "Definitions", nav: "definitions", template: "definitions", load: func(*http.Request) (any, error) {
		type data struct {
			Known
			Pictures []definitionData
		}
		d := data{Known: s.Known}
		for _, sg := range s.Known.Sagas {
			d.Pictures = append(d.Pictures, definitionData{sg, sg.Outline(), drawSaga(sg.Name(), sg.Outline(), nil)})
		}
		return d, nil
	}}
}

func (s *Server) definition() page {
	return page{title: "Definition", nav: "definitions", template: "definition", load: func(r *http.Request) (any, error) {
		for _, sg := range s.Known.Sagas {
			if fmt.Sprintf("%s.v%d", sg.Name(), sg.Version()) == r.PathValue("name") {
				return definitionData{sg, sg.Outline(), drawSaga(sg.Name(), sg.Outline(), nil)}, nil
			}
		}
		return nil, fmt.Errorf("there is no definition %q: %w", r.PathValue("name"), cqrs.ErrNotFound)
	}}
}
