package runner

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/postgres/sagawaits"
)

// mountPages serves /ui/.
func (s *Instance) mountPages() ([]httpapi.Mount, error) {
	letters := deadletter.New(s.db)
	server := &opsui.Server{
		Name: s.def.Title, Instance: cmp.Or(s.config.InstanceID, s.URL), Queries: s.core.queries, DeadLetters: letters, Log: s.log, Operate: s.operate, Signal: s.signal,
		Watch: s.watch.Streams, Wake: func() { s.core.wake(); s.core.keyQueue.Wake() }, Breakers: s.breakerList, Outbox: s.backlog, Ready: s.ready,
		Stopping: s.stopping, Streams: s.streams, Registered: s.registered(), Totals: func() opsui.Totals { return opsui.Totals(s.telemetry.Totals()) },
		Counts: func(ctx context.Context) (c opsui.Counts, err error) {
			if c.Sagas, err = readmodel.NewSagas(s.db).Count(ctx, opsui.MaxCount+1); err != nil {
				return c, err
			}
			if c.DeadLetters, err = letters.Count(ctx); err != nil {
				return c, err
			}
			c.Unmatched, err = sagawaits.List(ctx, s.db, opsui.MaxUnmatched)
			return c, err
		},
	}
	if s.verifier != nil {
		server.Verify = s.verifier.Verify
	}
	server.Sandbox = s.sandbox
	if s.def.Pages != nil {
		server.Extension = s.def.Pages(&s.kit)
	}
	handler, err := server.Handler()
	home := http.RedirectHandler("/ui/", http.StatusSeeOther)
	return []httpapi.Mount{
		{Pattern: "/ui/*", Handler: handler, Operators: true}, {Pattern: "/ui", Handler: home, Operators: true}, {Pattern: "/", Handler: home, Operators: true},
	}, err
}

// registered describes what the service has registered.
func (s *Instance) registered() opsui.Registered {
	reg := opsui.Registered{Sagas: s.core.sagas}
	for _, h := range s.core.handlers {
		prefix := s.config.TopicPrefix
		if h.Service != "" {
			prefix = s.config.ExternalPrefixes[h.Service]
		}
		reg.Commands = append(reg.Commands, opsui.NewMessage(h.Type, messaging.CommandTopic(prefix, h.Destination), h.Call != nil))
	}
	for category, types := range s.def.types() {
		for _, t := range types.All() {
			reg.Events = append(reg.Events, opsui.NewMessage(t, messaging.EventTopic(s.config.TopicPrefix, category), false))
		}
	}
	for _, r := range s.def.heard(&s.kit) {
		for _, on := range r.On {
			reg.Consumed = append(reg.Consumed, opsui.NewMessage(on.Type, messaging.EventTopic(s.config.ExternalPrefixes[r.From], r.Category), false))
		}
	}
	byTopic := func(a, b opsui.Message) int { return strings.Compare(a.Topic+" "+a.Name, b.Topic+" "+b.Name) }
	slices.SortFunc(reg.Commands, byTopic)
	slices.SortFunc(reg.Events, byTopic)
	for _, p := range s.def.readModels() {
		projection := opsui.Projection{Name: p.Name, Table: p.Table, Inline: p.Inline}
		for _, h := range p.On {
			projection.Events = append(projection.Events, h.Type.String())
		}
		reg.Projections = append(reg.Projections, projection)
	}
	return reg
}
