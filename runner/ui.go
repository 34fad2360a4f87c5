package runner

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/ports/api"
	"github.com/millrace/millrace/ports/ui"
)

// mountPages serves /ui/.
func (s *Instance) mountPages() []api.Mount {
	letters := deadletter.New(s.db)
	server := &ui.Server{
		Commands: s.core.commands, Queries: s.core.queries, Letters: letters, Log: s.log, Operate: s.operate,
		Saga: s.definition, Subject: s.def.Subject, Watch: s.watch.Streams,
		Wake: func() { s.core.wake(); s.core.keyQueue.Wake() }, Breakers: s.breakerList, Outbox: s.backlog, Ready: s.ready, Stopping: s.stopping, Streams: s.streams, Known: s.known(),
		Totals: func() ui.Totals { return ui.Totals(s.telemetry.Totals()) },
		Counts: func(ctx context.Context) (c ui.Counts, err error) {
			if s.def.Counts != nil {
				if c.Own, err = s.def.Counts(ctx, &s.kit); err != nil {
					return c, err
				}
			}
			if c.Sagas, err = readmodel.NewSagas(s.db).Count(ctx, ui.Most+1); err != nil {
				return c, err
			}
			c.DeadLetters, err = letters.Count(ctx)
			return c, err
		},
	}
	if s.verifier != nil {
		server.Verify = s.verifier.Verify
	}
	if s.def.Pages != nil {
		s.def.Pages(&s.kit, server)
	}
	home := http.RedirectHandler("/ui/", http.StatusSeeOther)
	return []api.Mount{
		{Pattern: "/ui/*", Handler: server.Handler(), Operators: true}, {Pattern: "/ui", Handler: home, Operators: true}, {Pattern: "/", Handler: home, Operators: true},
	}
}

// definition finds one version of a saga; nil if it is not listed.
func (s *Instance) definition(name string, version int) *saga.Saga {
	for _, sg := range s.core.sagas {
		if sg.Name() == name && sg.Version() == version {
			return sg
		}
	}
	return nil
}

func tagged(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// known is what was registered.
func (s *Instance) known() ui.Known {
	k := ui.Known{Sagas: s.core.sagas}
	for _, h := range s.core.handlers {
		prefix := s.config.TopicPrefix
		if h.Service != "" {
			prefix = s.config.Others[h.Service]
		}
		k.Commands = append(k.Commands, knownMessage(h.Type, messaging.CommandTopic(prefix, h.Destination), h.Ask != nil))
	}
	for category, types := range s.def.types() {
		for _, t := range types.All() {
			k.Events = append(k.Events, knownMessage(t, messaging.EventTopic(s.config.TopicPrefix, category), false))
		}
	}
	for _, r := range s.core.reactions {
		for _, on := range r.On {
			k.Heard = append(k.Heard, knownMessage(on.Type, messaging.EventTopic(s.config.Others[r.From], r.Category), false))
		}
	}
	byPlace := func(a, b ui.KnownMessage) int { return strings.Compare(a.Topic+" "+a.Name, b.Topic+" "+b.Name) }
	slices.SortFunc(k.Commands, byPlace)
	slices.SortFunc(k.Events, byPlace)
	for _, p := range s.def.readModels() {
		known := ui.KnownProjection{Name: p.Name, Table: p.Table, Inline: p.Inline}
		for _, h := range p.On {
			known.Events = append(known.Events, h.Type.String())
		}
		k.Projections = append(k.Projections, known)
	}
	return k
}

func knownMessage(t aggregate.Type, topic string, outside bool) ui.KnownMessage {
	m := ui.KnownMessage{Name: t.Name, Topic: topic, Schema: t.Schema, Outside: outside}
	goType := reflect.TypeOf(t.New()).Elem()
	for f := range goType.Fields() {
		m.Fields = append(m.Fields, fmt.Sprintf("%s %s", tagged(f), f.Type))
	}
	return m
}
