package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/sagawaits"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// handlers are the HTTP handlers of the two listeners, HTTP_ADDR and, if it is set, OPS_ADDR. Instances without the role api serve probes and
// metrics only.
func (s *Instance) handlers() (public, ops http.Handler, err error) {
	s.gauges()
	server := &httpapi.Server{
		Commands: s.core.commands, UnitOfWork: s.core.uow, Queries: s.core.queries, Idempotency: postgres.NewIdempotency(s.db),
		DeadLetters: deadletter.New(s.db), Log: s.log, Operate: s.operate, Signal: s.signal, Unmatched: s.unmatched, Watch: s.watch.Streams, Breakers: s.breakerList, Wake: func() { s.core.wake(); s.core.keyQueue.Wake() },
		Outbox: s.backlog, Ready: s.ready, Metrics: promhttp.HandlerFor(s.telemetry.Registry, promhttp.HandlerOpts{}), Stopping: s.stopping, RateLimit: s.config.RateLimit,
		OnRequest: s.telemetry.Request, AsyncAPI: s.core.asyncAPI, Hosts: s.hosts(), Proxies: s.config.Proxies, Streams: s.streams, OnPanic: s.telemetry.Panicked,
	}
	if s.verifier != nil {
		server.Verify = s.verifier.Verify
	}
	if s.sandbox != nil {
		server.Sandbox = s.sandbox.Control()
	}
	if s.def.Routes != nil {
		server.Service = s.def.Routes(&s.kit)
	}
	all := httpapi.Everything
	if !s.config.Roles[API] {
		all = httpapi.Serves{Probes: true}
	}
	pages, err := s.mountPages()
	if err != nil {
		return nil, nil, err
	}
	open := []func() []httpapi.Mount{func() []httpapi.Mount {
		mounts := s.mountSandbox()
		if s.def.Mounts != nil {
			mounts = append(mounts, s.def.Mounts(&s.kit)...)
		}
		return mounts
	}}
	whole := append(open, func() []httpapi.Mount { return pages })
	if s.config.OpsAddr == "" {
		public, err = server.Handler(all, whole...)
		return public, nil, err
	}
	if ops, err = server.Handler(all, whole...); err != nil {
		return nil, nil, err
	}
	public, err = server.Handler(httpapi.Serves{API: s.config.Roles[API]}, open...)
	return public, ops, err
}

// hosts are the host names that requests without tokens may be sent to: the names in HTTP_HOSTS and the host names of the listeners.
func (s *Instance) hosts() []string {
	hosts := s.config.Hosts
	for _, addr := range []string{s.config.HTTPAddr, s.config.OpsAddr} {
		if host, _, err := net.SplitHostPort(addr); err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func (s *Instance) operate(ctx context.Context, sagaID string, in saga.Input) error {
	return s.core.uow.Within(ctx, func(ctx context.Context) error { return s.core.manager.Operate(ctx, sagaID, in) })
}

func (s *Instance) signal(ctx context.Context, sagaID, name string, decode func(payload any) error) error {
	return s.core.uow.Within(ctx, func(ctx context.Context) error { return s.core.manager.Signal(ctx, sagaID, name, decode) })
}

func (s *Instance) unmatched(ctx context.Context, atMost int) ([]manager.UnmatchedEvent, error) {
	return sagawaits.List(ctx, s.db, atMost)
}

// saga returns the newest version of a definition, nil if the service has no saga of that name.
func (s *Instance) saga(name string) *saga.Saga {
	var newest *saga.Saga
	for _, sg := range s.core.sagas {
		if sg.Name() == name && (newest == nil || sg.Version() > newest.Version()) {
			newest = sg
		}
	}
	return newest
}

func (s *Instance) breakerList() []cqrs.Breaker {
	list := make([]cqrs.Breaker, 0, len(s.breakers))
	for _, b := range s.breakers {
		at := b.Snapshot()
		out := cqrs.Breaker{Name: at.Name, State: at.State, Requests: at.Requests, Failures: at.Failures, OpenedAt: at.OpenedAt}
		for _, c := range slices.Backward(at.Changes) {
			out.Changes = append(out.Changes, cqrs.BreakerChange(c))
		}
		list = append(list, out)
	}
	slices.SortFunc(list, func(a, b cqrs.Breaker) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// backlog counts the messages in the outbox.
func (s *Instance) backlog(ctx context.Context) (cqrs.Backlog, error) {
	b, err := outbox.LoadBacklog(ctx, s.db)
	if err != nil {
		return cqrs.Backlog{}, err
	}
	topics, err := outbox.SuspendedTopics(ctx, s.db)
	out := cqrs.Backlog{Pending: b.Pending, Delayed: b.Delayed, Blocked: b.Blocked, Oldest: b.Oldest, Suspended: b.Suspended}
	for _, t := range topics {
		out.Topics = append(out.Topics, cqrs.SuspendedTopic(t))
	}
	return out, err
}

// suspended returns an error that names the suspended topics, nil if no topic is suspended.
func (s *Instance) suspended(ctx context.Context) error {
	topics, err := outbox.SuspendedTopics(ctx, s.db)
	for _, t := range topics {
		err = errors.Join(err, fmt.Errorf("topic %s is suspended since %s: %s", t.Topic, t.Since.UTC().Format(time.RFC3339), t.Reason))
	}
	return err
}

// missing returns an error that names the topics of external services that this instance consumes and that do not exist. Consumers of other
// topics work in the meantime.
func (s *Instance) missing(ctx context.Context) error {
	if !s.config.Roles[Worker] {
		return nil
	}
	missing, err := s.broker.Missing(ctx, slices.Compact(slices.Sorted(slices.Values(s.core.consumedTopics))))
	for _, topic := range missing {
		err = errors.Join(err, fmt.Errorf("topic %s of an external service does not exist, or may not be read: its consumers begin when it can be", topic))
	}
	return err
}

// ready checks the parts that the roles of this instance need. Without Kafka an instance with the role api is still ready, because it accepts
// requests, but an instance without that role is not. The parts are checked at most once a second, whatever the number of probes.
func (s *Instance) ready(ctx context.Context) []cqrs.Check {
	return s.checks.get(func() []cqrs.Check {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		return s.check(ctx)
	})
}

// checkTimeout limits one check of the parts.
const checkTimeout = 3 * time.Second

func (s *Instance) check(ctx context.Context) []cqrs.Check {
	checks := []cqrs.Check{{Part: "postgres", Err: s.db.PingContext(ctx), Fatal: true}}
	type answer struct{ ping, missing error }
	answers := make(chan answer, 1)
	go func() {
		var a answer
		if a.ping = s.broker.Ping(ctx); a.ping == nil {
			a.missing = s.missing(ctx)
		}
		answers <- a
	}()
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		a.ping = ctx.Err()
	}
	checks = append(checks, cqrs.Check{Part: s.broker.Name(), Err: a.ping, Fatal: !s.config.Roles[API]})
	if checks[0].Err == nil {
		checks = append(checks, cqrs.Check{Part: "topics", Err: errors.Join(s.suspended(ctx), a.missing)})
	}
	if s.config.Roles[Worker] {
		worker := cqrs.Check{Part: "worker", Fatal: !s.config.Roles[API]}
		if waiting := s.workerOK.Load(); waiting != nil {
			worker.Err = errors.New("waiting " + *waiting)
		}
		checks = append(checks, worker)
	}
	if missing := s.versions.Load(); missing != nil {
		checks = append(checks, cqrs.Check{Part: "sagas", Err: *missing})
	}
	return checks
}
