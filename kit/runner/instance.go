package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/breaker"
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/identity"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/sandbox"
	"github.com/millrace/millrace/kit/telemetry"
)

// Instance is a running instance of a service. Start makes it.
type Instance struct {
	// URL is the address of the HTTP API, OpsURL the address for operators, which is the same unless OPS_ADDR is set. DSN and Brokers are the
	// database and the brokers that the instance uses, including embedded ones.
	URL     string
	OpsURL  string
	DSN     string
	Brokers []string

	def       *Service
	config    Config
	log       *slog.Logger
	watermill watermill.LoggerAdapter
	telemetry *telemetry.Telemetry
	clock     cqrs.Clock

	brokerClock cqrs.Clock
	host        string    // ID of the host; empty: the instance counts as a host of its own
	since       time.Time // start of the instance

	postgres *embedded.Postgres // nil if POSTGRES_DSN is set
	broker   broker.Broker
	verifier *identity.Verifier // nil: authentication is off

	streams *httpapi.Streams
	checks  cached[[]cqrs.Check]
	figures cached[figures]

	kit    Kit
	locked bool // the data directory is locked

	sandbox    *sandbox.Sandbox // nil if the sandbox does not run in this instance
	sandboxURL string

	announced [][2]string // lines of the banner: a part and its address
	db        *sqlx.DB
	watch     *postgres.Watch
	core      core
	limit     atomic.Int64                // max.message.bytes of the topics
	breakers  map[string]*breaker.Breaker // by their names
	guards    map[string]*breaker.Breaker // by the destination of the commands that they guard
	relay     *outbox.Relay
	router    *messaging.Router
	workerOK  atomic.Pointer[string] // text that says what the worker waits for; nil if the worker runs
	versions  atomic.Pointer[error]  // versions of active sagas that are not registered; nil if there are none

	stopping chan struct{}
	cleanups []func(context.Context) error // called by Stop in reverse order
	stopOnce sync.Once
	stopErr  error
	failed   chan error
}

// Start builds and starts an instance of a service and returns when it serves HTTP. Logf receives progress messages for a terminal. If a part fails
// to start, Start stops the parts that it has started and returns the error.
func Start(ctx context.Context, d *Service, c Config, log *slog.Logger, logf func(string)) (*Instance, error) {
	s := &Instance{
		def: d, config: c, log: log, telemetry: telemetry.New(log), clock: time.Now, brokerClock: time.Now, watch: postgres.NewWatch(), breakers: map[string]*breaker.Breaker{},
		guards:   map[string]*breaker.Breaker{},
		stopping: make(chan struct{}), failed: make(chan error, 8), streams: &httpapi.Streams{Max: c.MaxStreams},
		watermill: messaging.NewLogger(log), host: hostID(c.LoadDistribution), since: time.Now(),
	}
	s.kit.instance = s
	s.limit.Store(kafka.DefaultLimit)
	listeners, err := s.listen(ctx)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, func(string)) error{s.startTraces, s.startAuth, s.lockEmbedded, s.startStorage, s.startBroker, s.startSandbox, s.prepare, s.build, s.startRelay, s.startWorker, s.serve(listeners)} {
		if err := step(ctx, logf); err != nil {
			closeAll(listeners) // no request was served
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return nil, errors.Join(err, s.Stop(stopCtx))
		}
	}
	return s, nil
}

// listen opens the ports before anything else is started, so that a port in use is reported at once.
func (s *Instance) listen(ctx context.Context) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, at := range []struct {
		setting, addr string
		url           *string
	}{{"HTTP_ADDR", s.config.HTTPAddr, &s.URL}, {"OPS_ADDR", s.config.OpsAddr, &s.OpsURL}} {
		if at.addr == "" {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.addr)
		if err != nil {
			closeAll(listeners)
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("%s: %s is in use: stop what listens there, or set %s to another address", at.setting, at.addr, at.setting)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: cannot listen on %s: %w", at.setting, at.addr, err)
		}
		*at.url = "http://" + listener.Addr().String()
		listeners = append(listeners, listener)
	}
	s.OpsURL = cmp.Or(s.OpsURL, s.URL)
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

func (s *Instance) startTraces(ctx context.Context, _ func(string)) error {
	instance := s.config.InstanceID
	if instance == "" {
		instance = s.URL
	}
	stop, err := telemetry.StartTracing(ctx, s.config.Traces, s.config.TopicPrefix, instance, os.Stderr, s.log)
	if err == nil {
		s.onStop(stop)
	}
	return err
}

func (s *Instance) startAuth(ctx context.Context, _ func(string)) (err error) {
	if !s.config.Auth.On() {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.onStop(func(context.Context) error { cancel(); return nil })
	config := s.config.Auth
	config.Clock = func() time.Time { return s.clock() } // the clock of the database, which is set later
	s.verifier, err = identity.NewVerifier(ctx, config, func(err error) { s.log.Warn("cannot fetch the keys of tokens", "error", err) })
	return err
}

// lockEmbedded locks the data directory if an embedded part stores its data there.
func (s *Instance) lockEmbedded(context.Context, func(string)) error {
	if s.config.PostgresDSN != "" && (len(s.config.KafkaBrokers) > 0 || s.config.Broker == InPostgres) {
		return nil
	}
	return s.lockData()
}

// prepare starts the service's own parts.
func (s *Instance) prepare(ctx context.Context, _ func(string)) error {
	if s.def.Prepare == nil {
		return nil
	}
	return s.def.Prepare(ctx, &s.kit)
}

func (s *Instance) onStop(f func(context.Context) error) { s.cleanups = append(s.cleanups, f) }

// Failed returns a channel that receives the error of a part that has ended by itself. The caller should then call Stop.
func (s *Instance) Failed() <-chan error { return s.failed }

// stopGrace is how long Stop still waits for each part once its context is done: the embedded PostgreSQL must be stopped even if another part hangs.
const stopGrace = 2 * time.Second

// Stop accepts no new requests, finishes messages in flight, leaves the consumer groups and closes the parts in the reverse order of the start. When
// ctx is done, Stop waits for at most two more seconds for each part that hangs. The error joins the errors of all parts. Further calls return the
// same error.
func (s *Instance) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() {
		close(s.stopping)
		for _, stop := range slices.Backward(s.cleanups) {
			s.stopErr = errors.Join(s.stopErr, stopPart(ctx, stop))
		}
	})
	return s.stopErr
}

func stopPart(ctx context.Context, stop func(context.Context) error) error {
	stopped := make(chan error, 1)
	go func() { stopped <- cqrs.Protect(func() error { return stop(ctx) }) }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-stopped:
		return err
	case <-time.After(stopGrace):
		return fmt.Errorf("%s did not end in time", runtime.FuncForPC(reflect.ValueOf(stop).Pointer()).Name())
	}
}

// serve serves HTTP on the listeners of HTTP_ADDR and, if it is set, OPS_ADDR.
func (s *Instance) serve(listeners []net.Listener) func(context.Context, func(string)) error {
	return func(context.Context, func(string)) error {
		public, ops, err := s.handlers()
		if err != nil {
			return err
		}
		for i, handler := range []http.Handler{public, ops}[:len(listeners)] {
			server := &http.Server{
				Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second,
				IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
			}
			s.onStop(server.Shutdown)
			go func() {
				if err := server.Serve(&listener{Listener: listeners[i], log: s.log}); !errors.Is(err, http.ErrServerClosed) {
					s.failed <- fmt.Errorf("HTTP: %w", err)
				}
			}()
		}
		return nil
	}
}
