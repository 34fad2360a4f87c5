package runner

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/identity"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/settings"
	"github.com/millrace/millrace/kit/telemetry"
)

// Config is the settings of a service. .env.example describes each setting.
type Config struct {
	HTTPAddr         string
	OpsAddr          string         // a second listener, for operators and probes; empty: one listener serves everything
	Hosts            []string       // host names that requests without tokens may be sent to
	Proxies          []netip.Prefix // trusted for X-Forwarded-* headers
	MaxStreams       int            // limit of event streams of an instance
	PostgresDSN      string         // empty: the embedded PostgreSQL
	PostgresPool     int
	PostgresWait     time.Duration
	Migrate          bool
	Broker           Broker
	KafkaBrokers     []string // empty: the embedded Kafka
	Partitions       int32
	Debezium         bool // Debezium sends the messages of the outbox, not the relay
	DebeziumSlot     string
	InstanceID       string
	LoadDistribution LoadDistribution
	TopicPrefix      string
	LocalDelivery    bool              // the relay hands commands of the service to itself over to consumers in its process where possible
	SagaEvents       bool              // events of sagas are published, also if nothing in the service consumes them
	ExternalPrefixes map[string]string // the topic prefixes of external services, by service
	Retention        postgres.Retention
	MaxMessage       int
	DataDir          string
	Gateways         map[string]string // URLs of external services by the names of their gateways; empty: not set
	SandboxMeant     bool              // SANDBOX=on
	Own              map[string]any    // values of Service.Settings by their names
	Roles            map[Role]bool
	ClockOffset      time.Duration
	Auth             identity.Config
	NoAuth           bool   // AUTH_MODE=none: no authentication, even on addresses that other hosts can reach
	Token            string // of the command line's requests
	RateLimit        int
	KafkaAuth        kafka.Security
	Traces           string // none, otlp, console
	LogLevel         slog.Level
	LogFormat        string
}

// Broker is the kind of message broker.
type Broker string

// The values of BROKER.
const (
	InKafka    Broker = "kafka"
	InPostgres Broker = "postgres" // for small installations: docs/brokers.md
)

// LoadDistribution says whether partitions and shards of the outbox are distributed over hosts or over instances.
type LoadDistribution string

// The values of LOAD_DISTRIBUTION.
const (
	OverHosts     LoadDistribution = "hosts" // of the instances on one host, one is active and the rest are on standby
	OverInstances LoadDistribution = "instances"
)

// Role is a part of the service that an instance can run.
type Role string

// The roles.
const (
	API    Role = "api"
	Worker Role = "worker"
	Relay  Role = "relay"
)

// removedSettings has the reason why each removed setting is ignored.
var removedSettings = map[string]string{
	"KAFKA_SERIAL": "every Kafka consumer handles many messages of a partition at once, those of one key in order",
}

// renamedSettings has the current name of each renamed setting by its former name, and the current values by the former ones. Former names still
// work.
var renamedSettings = map[string]struct {
	name   string
	values map[string]string
}{
	"SPREAD": {"LOAD_DISTRIBUTION", map[string]string{"machines": string(OverHosts)}},
}

// withRenamed wraps getenv so that a setting that is set only by its former name is found by its current name.
func withRenamed(getenv func(string) string) func(string) string {
	return func(name string) string {
		if text := getenv(name); text != "" {
			return text
		}
		for former, now := range renamedSettings {
			if text := getenv(former); now.name == name && text != "" {
				return cmp.Or(now.values[text], text)
			}
		}
		return ""
	}
}

// warnOfFormer logs a line for each setting that was removed or renamed and is still set.
func warnOfFormer(getenv func(string) string, log *slog.Logger) {
	for former, now := range renamedSettings {
		if getenv(former) != "" {
			log.Warn("setting was renamed", "setting", former, "use", now.name)
		}
	}
	for name, why := range removedSettings {
		if getenv(name) != "" {
			log.Warn("setting was removed and is ignored", "setting", name, "reason", why)
		}
	}
}

// reader reads the settings of the kit.
type reader struct{ *settings.Reader }

// ReadConfig reads the settings of a service. Getenv is a function like os.Getenv. The error joins a *settings.Error for each wrong setting.
func ReadConfig(d *Service, getenv func(string) string) (Config, error) {
	s := reader{settings.NewReader(withRenamed(getenv))}
	c := Config{
		HTTPAddr:         s.Text("HTTP_ADDR", "127.0.0.1:8080"),
		OpsAddr:          s.Text("OPS_ADDR", ""),
		Hosts:            s.Hosts("HTTP_HOSTS"),
		Proxies:          s.Prefixes("TRUSTED_PROXIES"),
		MaxStreams:       s.Number("MAX_STREAMS", 1000, 1, 1_000_000),
		PostgresDSN:      s.Text("POSTGRES_DSN", ""),
		PostgresPool:     s.Number("POSTGRES_MAX_CONNS", 40, postgres.MinConns, 1000),
		PostgresWait:     s.Duration("POSTGRES_WAIT", 30*time.Second),
		Migrate:          s.OnOff("MIGRATE", true),
		Broker:           Broker(s.Text("BROKER", string(InKafka))),
		KafkaBrokers:     s.List("KAFKA_BROKERS"),
		Partitions:       int32(s.Number("KAFKA_PARTITIONS", 4, 1, 1000)), //nolint:gosec // at most 1000
		Debezium:         s.OnOff("DEBEZIUM", false),
		DebeziumSlot:     s.Text("DEBEZIUM_SLOT", "millrace_outbox"),
		InstanceID:       s.Text("INSTANCE_ID", ""),
		LoadDistribution: LoadDistribution(s.Text("LOAD_DISTRIBUTION", string(OverHosts))),
		TopicPrefix:      s.Topics("TOPIC_PREFIX", d.Name),
		LocalDelivery:    s.OnOff("LOCAL_DELIVERY", true),
		SagaEvents:       s.OnOff("PUBLISH_SAGA_EVENTS", false),
		ExternalPrefixes: map[string]string{},
		Retention: postgres.Retention{
			Inbox: s.Duration("INBOX_RETENTION", 14*24*time.Hour), Idempotency: s.Duration("IDEMPOTENCY_RETENTION", 7*24*time.Hour), SagaEvents: s.Duration("SAGA_EVENT_RETENTION", 90*24*time.Hour),
			Dropped: s.Duration("DROPPED_RETENTION", 90*24*time.Hour), Topics: s.Duration("TOPIC_RETENTION", 7*24*time.Hour),
		},
		MaxMessage:  s.Number("MAX_MESSAGE_BYTES", 1_000_000, 10_000, 100_000_000),
		DataDir:     s.Text("DATA_DIR", "data"),
		Roles:       s.roles(),
		ClockOffset: s.Offset("CLOCK_OFFSET"),
		Auth: identity.Config{
			JWKSURL: s.URL("AUTH_JWKS_URL"), Secret: s.Text("AUTH_SECRET", ""), Issuer: s.Text("AUTH_ISSUER", ""), Audience: s.Text("AUTH_AUDIENCE", ""),
		},
		Token: s.Text("AUTH_TOKEN", ""),
		KafkaAuth: kafka.Security{
			TLS: s.OnOff("KAFKA_TLS", false), CAFile: s.Text("KAFKA_CA_FILE", ""), CertFile: s.Text("KAFKA_CERT_FILE", ""), KeyFile: s.Text("KAFKA_KEY_FILE", ""),
			SASL: strings.ToUpper(s.Text("KAFKA_SASL", "")), User: s.Text("KAFKA_USER", ""), Password: s.Text("KAFKA_PASSWORD", ""),
		},
		LogFormat: s.Text("LOG_FORMAT", "text"),
	}
	s.Check("LOG_LEVEL", c.LogLevel.UnmarshalText([]byte(s.Text("LOG_LEVEL", "info"))), "must be debug, info, warn or error")
	if c.LogFormat != "text" && c.LogFormat != "json" {
		s.Fault("LOG_FORMAT", "must be text or json")
	}
	for name, addr := range map[string]string{"HTTP_ADDR": c.HTTPAddr, "OPS_ADDR": c.OpsAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil && addr != "" {
			s.Fault(name, fmt.Sprintf("%q is not host:port", addr))
		}
	}
	if c.PostgresDSN != "" {
		if db, err := postgres.Open(c.PostgresDSN, 1); err != nil {
			s.Fault("POSTGRES_DSN", "is not a connection string of PostgreSQL") // the value may contain a password, so it is not shown
		} else {
			_ = db.Close() // it was never connected
		}
	}
	for _, n := range d.External {
		c.ExternalPrefixes[n.Service] = s.Topics(strings.ToUpper(n.Service)+"_TOPICS", n.Service)
	}
	switch {
	case c.Broker != InKafka && c.Broker != InPostgres:
		s.Fault("BROKER", fmt.Sprintf("%q is neither kafka nor postgres", c.Broker))
	case c.LoadDistribution != OverHosts && c.LoadDistribution != OverInstances:
		s.Fault("LOAD_DISTRIBUTION", fmt.Sprintf("%q is neither hosts nor instances", c.LoadDistribution))
	case c.Debezium && (c.PostgresDSN == "" || len(c.KafkaBrokers) == 0):
		s.Fault("DEBEZIUM", "needs POSTGRES_DSN and KAFKA_BROKERS, which it reads from and sends to")
	case c.Broker == InPostgres && len(c.KafkaBrokers) > 0:
		s.Fault("BROKER", "postgres contradicts KAFKA_BROKERS")
	}
	for _, broker := range c.KafkaBrokers {
		if _, port, err := net.SplitHostPort(broker); err != nil || port == "" {
			s.Fault("KAFKA_BROKERS", fmt.Sprintf("%q is not host:port", broker))
		}
	}
	for _, r := range d.consumers(&Kit{}) {
		c.ExternalPrefixes[r.From] = s.Topics(strings.ToUpper(r.From)+"_TOPICS", r.From)
	}
	c.Traces = s.traces()
	s.gateways(&c, d.Gateways)
	s.checkAuth(&c)
	if setting, err := c.KafkaAuth.Check(); err != nil {
		s.Fault("KAFKA_"+setting, err.Error())
	}
	s.checkRetention(c, d.Sagas)
	if dir, err := filepath.Abs(c.DataDir); err == nil {
		c.DataDir = dir
	}
	c.Own = map[string]any{}
	for _, own := range d.Settings {
		c.Own[own.Name] = own.Read(s.Reader)
	}
	if d.CheckSettings != nil {
		d.CheckSettings(s.Reader, c)
	}
	return c, s.Err()
}

// checkEmbedded returns a *settings.Error for each setting that must be set because this binary was built without the embedded parts.
func (c Config) checkEmbedded() error {
	var faults []error
	if embedded.Available {
		return nil
	}
	if c.PostgresDSN == "" {
		faults = append(faults, &settings.Error{Name: "POSTGRES_DSN", Fault: "must be set: this binary was built without the embedded PostgreSQL (build tag noembedded)"})
	}
	if len(c.KafkaBrokers) == 0 && c.Broker == InKafka {
		faults = append(faults, &settings.Error{Name: "KAFKA_BROKERS", Fault: "must be set: this binary was built without the embedded Kafka (build tag noembedded)"})
	}
	return errors.Join(faults...)
}

// checkRetention reports settings with which ids of processed messages are deleted while the messages can still be redelivered.
func (s reader) checkRetention(c Config, all []*saga.Saga) {
	if c.Retention.Idempotency < time.Minute {
		s.Fault("IDEMPOTENCY_RETENTION", "must be at least 1m")
	}
	kept := c.Retention.Inbox
	switch step, saga, longest := longestWait(all); {
	case kept == 0: // for ever
	case kept < time.Minute:
		s.Fault("INBOX_RETENTION", "must be at least 1m, or 0, which keeps message ids for ever")
	case kept < longest:
		s.Fault("INBOX_RETENTION", fmt.Sprintf("%s is shorter than the saga %s may run: its step %q may take %s", kept, saga, step, longest))
	case c.Broker == InPostgres && (c.Retention.Topics == 0 || kept < c.Retention.Topics):
		s.Fault("INBOX_RETENTION", fmt.Sprintf("%s is shorter than TOPIC_RETENTION, so that a message could be handled twice", kept))
	}
}

// longestWait finds the step with the longest timeout of all sagas.
func longestWait(all []*saga.Saga) (step, name string, longest time.Duration) {
	for _, each := range all {
		if st, d := each.LongestWait(); d > longest {
			step, name, longest = st, each.Name(), d
		}
	}
	return step, name, longest
}

// traces reads the exporter of traces. The default is none, or otlp if an endpoint is set.
func (s reader) traces() string {
	otherwise := telemetry.NoTraces
	if s.Text("OTEL_EXPORTER_OTLP_ENDPOINT", "")+s.Text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "") != "" {
		otherwise = telemetry.OTLP
	}
	exporter := s.Text("OTEL_TRACES_EXPORTER", otherwise)
	if exporter != telemetry.NoTraces && exporter != telemetry.OTLP && exporter != telemetry.Console {
		s.Fault("OTEL_TRACES_EXPORTER", fmt.Sprintf("%q is none of otlp, console, none", exporter))
	}
	if protocol := s.Text("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"); exporter == telemetry.OTLP && protocol != "http/protobuf" {
		s.Fault("OTEL_EXPORTER_OTLP_PROTOCOL", fmt.Sprintf("%q is not http/protobuf, the only one that is built in", protocol))
	}
	if s.OnOff("OTEL_SDK_DISABLED", false) {
		return telemetry.NoTraces
	}
	return exporter
}

// checkAuth reports an address that other hosts can reach if authentication is off.
func (s reader) checkAuth(c *Config) {
	switch mode := s.Text("AUTH_MODE", ""); mode {
	case "", "none":
		c.NoAuth = mode == "none"
	default:
		s.Fault("AUTH_MODE", fmt.Sprintf("%q is not none, the only value beside nothing", mode))
	}
	switch secret := c.Auth.Secret; {
	case secret != "" && c.Auth.JWKSURL != "":
		s.Fault("AUTH_SECRET", "and AUTH_JWKS_URL exclude each other")
	case secret != "" && len(secret) < 32:
		s.Fault("AUTH_SECRET", "must have at least 32 characters; openssl rand -hex 32 makes one") // the value is a secret, so it is not shown
	case c.Auth.On() && c.NoAuth:
		s.Fault("AUTH_MODE", "none contradicts AUTH_SECRET and AUTH_JWKS_URL")
	case !c.Auth.On() && !c.NoAuth && c.OpsAddr != "" && !settings.Loopback(c.OpsAddr):
		s.Fault("OPS_ADDR", fmt.Sprintf("%s is beyond loopback, and without AUTH_SECRET or AUTH_JWKS_URL everybody there could operate: set one of them, or AUTH_MODE=none if that is meant", c.OpsAddr))
	case !c.Auth.On() && !c.NoAuth && !settings.Loopback(c.HTTPAddr):
		s.Fault("HTTP_ADDR", fmt.Sprintf("%s is beyond loopback, and without AUTH_SECRET or AUTH_JWKS_URL everybody there could operate: set one of them, or AUTH_MODE=none if that is meant", c.HTTPAddr))
	}
	if keys := c.Auth.JWKSURL; keys != "" {
		// Without issuer and audience this service would accept tokens that the provider made for another service or for another tenant.
		if c.Auth.Audience == "" {
			s.Fault("AUTH_AUDIENCE", "must be set with AUTH_JWKS_URL: else every token of that provider is good here, whatever service it was made for")
		}
		if c.Auth.Issuer == "" {
			s.Fault("AUTH_ISSUER", "must be set with AUTH_JWKS_URL: else a token of any issuer that shares these keys is good here")
		}
		if u, err := url.Parse(keys); err == nil && u.Scheme == "http" && !settings.Loopback(net.JoinHostPort(u.Hostname(), "80")) {
			s.Fault("AUTH_JWKS_URL", fmt.Sprintf("%q is plain http, so an attacker could replace the keys: use https", keys))
		}
	}
	limit := 0
	if c.Auth.On() {
		limit = 50
	}
	c.RateLimit = s.Number("RATE_LIMIT", limit, 0, 1_000_000)
}

func (s reader) roles() map[Role]bool {
	all := []Role{API, Worker, Relay}
	names := s.List("ROLES")
	if len(names) == 0 {
		names = []string{string(API), string(Worker), string(Relay)}
	}
	roles := map[Role]bool{}
	for _, name := range names {
		if !slices.Contains(all, Role(name)) {
			s.Fault("ROLES", fmt.Sprintf("%q is none of api, worker, relay", name))
		}
		roles[Role(name)] = true
	}
	return roles
}
