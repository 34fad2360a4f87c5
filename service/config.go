// Package service puts the parts together: settings, the order of starting and stopping, and a file for each role. It is
// the only place that knows all the others.
package service

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/app/consumer"
	"github.com/millrace/millrace/app/elsewhere"
	"github.com/millrace/millrace/kit/identity"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/telemetry"
	"github.com/millrace/millrace/sagas"
)

// Config is every setting. .env.example says what each is for.
type Config struct {
	HTTPAddr     string
	OpsAddr      string         // of the listener for operators and probes; empty: there is one listener for all
	Hosts        []string       // names that requests may be sent to without tokens
	Proxies      []netip.Prefix // whose X-Forwarded-* headers count
	MaxStreams   int            // event streams of an instance
	PostgresDSN  string         // empty: the embedded one
	PostgresPool int
	PostgresWait time.Duration
	Migrate      bool
	Broker       Broker
	KafkaBrokers []string // empty: the embedded one
	Partitions   int32
	Debezium     bool // sends what is in the outbox
	DebeziumSlot string
	Serial       bool // one message of a partition at a time, by Watermill's own subscriber
	InstanceID   string
	Spread       Spread
	TopicPrefix  string
	Others       map[string]string // the prefixes of other services' topics, by the services
	Retention    postgres.Retention
	MaxMessage   int
	DataDir      string
	Roles        map[Role]bool
	PaymentsURL  string
	CarrierURL   string
	CourierURL   string
	Sandbox      bool // meant, even beyond loopback
	ClockOffset  time.Duration
	Auth         identity.Config
	NoAuth       bool   // meant, even beyond loopback
	Token        string // for the command line
	RateLimit    int
	KafkaAuth    kafka.Security
	Traces       string // none, otlp, console
	LogLevel     slog.Level
	LogFormat    string
}

// Broker is what carries messages.
type Broker string

// The brokers.
const (
	InKafka    Broker = "kafka"
	InPostgres Broker = "postgres" // for small installations: docs/brokers.md
)

// Spread says among whom work is divided.
type Spread string

// What work is spread over.
const (
	OverMachines  Spread = "machines" // of the instances on one, one works and the others stand by
	OverInstances Spread = "instances"
)

// Role is a part of the service that an instance can run.
type Role string

// The roles.
const (
	API    Role = "api"
	Worker Role = "worker"
	Relay  Role = "relay"
)

// SettingError is a setting that is wrong, by name.
type SettingError struct{ Name, Fault string }

func (e *SettingError) Error() string { return e.Name + ": " + e.Fault }

// ReadConfig reads the settings from a function like os.Getenv. The error joins a *SettingError for each that is wrong.
func ReadConfig(getenv func(string) string) (Config, error) {
	s := settings{getenv: getenv}
	c := Config{
		HTTPAddr:     s.text("HTTP_ADDR", "127.0.0.1:8080"),
		OpsAddr:      s.text("OPS_ADDR", ""),
		Hosts:        s.hosts("HTTP_HOSTS"),
		Proxies:      s.prefixes("TRUSTED_PROXIES"),
		MaxStreams:   s.number("MAX_STREAMS", 1000, 1, 1_000_000),
		PostgresDSN:  s.text("POSTGRES_DSN", ""),
		PostgresPool: s.number("POSTGRES_MAX_CONNS", 40, postgres.MinConns, 1000),
		PostgresWait: s.duration("POSTGRES_WAIT", 30*time.Second),
		Migrate:      s.onOff("MIGRATE", true),
		Broker:       Broker(s.text("BROKER", string(InKafka))),
		KafkaBrokers: s.list("KAFKA_BROKERS"),
		Partitions:   int32(s.number("KAFKA_PARTITIONS", 4, 1, 1000)), //nolint:gosec // at most 1000
		Debezium:     s.onOff("DEBEZIUM", false),
		DebeziumSlot: s.text("DEBEZIUM_SLOT", "millrace_outbox"),
		Serial:       s.onOff("KAFKA_SERIAL", false),
		InstanceID:   s.text("INSTANCE_ID", ""),
		Spread:       Spread(s.text("SPREAD", string(OverMachines))),
		TopicPrefix:  s.topics("TOPIC_PREFIX", "millrace"),
		Others:       map[string]string{},
		Retention: postgres.Retention{
			Inbox: s.duration("INBOX_RETENTION", 14*24*time.Hour), Idempotency: s.duration("IDEMPOTENCY_RETENTION", 7*24*time.Hour),
			Dropped: s.duration("DROPPED_RETENTION", 90*24*time.Hour), Topics: s.duration("TOPIC_RETENTION", 7*24*time.Hour),
		},
		MaxMessage:  s.number("MAX_MESSAGE_BYTES", 1_000_000, 10_000, 100_000_000),
		DataDir:     s.text("DATA_DIR", "data"),
		Roles:       s.roles(),
		PaymentsURL: s.url("PAYMENTS_URL"),
		CarrierURL:  s.url("CARRIER_URL"),
		CourierURL:  s.url("COURIER_URL"),
		Sandbox:     s.onOff("SANDBOX", false),
		ClockOffset: s.offset("CLOCK_OFFSET"),
		Auth: identity.Config{
			JWKSURL: s.url("AUTH_JWKS_URL"), Secret: s.text("AUTH_SECRET", ""), Issuer: s.text("AUTH_ISSUER", ""), Audience: s.text("AUTH_AUDIENCE", ""),
		},
		Token: s.text("AUTH_TOKEN", ""),
		KafkaAuth: kafka.Security{
			TLS: s.onOff("KAFKA_TLS", false), CAFile: s.text("KAFKA_CA_FILE", ""), CertFile: s.text("KAFKA_CERT_FILE", ""), KeyFile: s.text("KAFKA_KEY_FILE", ""),
			SASL: strings.ToUpper(s.text("KAFKA_SASL", "")), User: s.text("KAFKA_USER", ""), Password: s.text("KAFKA_PASSWORD", ""),
		},
		LogFormat: s.text("LOG_FORMAT", "text"),
	}
	s.check("LOG_LEVEL", c.LogLevel.UnmarshalText([]byte(s.text("LOG_LEVEL", "info"))), "must be debug, info, warn or error")
	if c.LogFormat != "text" && c.LogFormat != "json" {
		s.fault("LOG_FORMAT", "must be text or json")
	}
	for name, addr := range map[string]string{"HTTP_ADDR": c.HTTPAddr, "OPS_ADDR": c.OpsAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil && addr != "" {
			s.fault(name, fmt.Sprintf("%q is not host:port", addr))
		}
	}
	if c.PostgresDSN != "" {
		if db, err := postgres.Open(c.PostgresDSN, 1); err != nil {
			s.fault("POSTGRES_DSN", "is not a connection string of PostgreSQL") // which may hold a password, so it is not shown
		} else {
			_ = db.Close() // it was never connected
		}
	}
	for _, n := range elsewhere.All() {
		c.Others[n.Service] = s.topics(strings.ToUpper(n.Service)+"_TOPICS", n.Service)
	}
	switch {
	case c.Broker != InKafka && c.Broker != InPostgres:
		s.fault("BROKER", fmt.Sprintf("%q is neither kafka nor postgres", c.Broker))
	case c.Spread != OverMachines && c.Spread != OverInstances:
		s.fault("SPREAD", fmt.Sprintf("%q is neither machines nor instances", c.Spread))
	case c.Debezium && (c.PostgresDSN == "" || len(c.KafkaBrokers) == 0):
		s.fault("DEBEZIUM", "needs POSTGRES_DSN and KAFKA_BROKERS, which it reads from and sends to")
	case c.Broker == InPostgres && len(c.KafkaBrokers) > 0:
		s.fault("BROKER", "postgres contradicts KAFKA_BROKERS")
	}
	for _, broker := range c.KafkaBrokers {
		if _, port, err := net.SplitHostPort(broker); err != nil || port == "" {
			s.fault("KAFKA_BROKERS", fmt.Sprintf("%q is not host:port", broker))
		}
	}
	for _, r := range consumer.All(consumer.Deps{}) {
		c.Others[r.From] = s.topics(strings.ToUpper(r.From)+"_TOPICS", r.From)
	}
	c.Traces = s.traces()
	s.checkSandbox(c)
	s.checkAuth(&c)
	if setting, err := c.KafkaAuth.Check(); err != nil {
		s.fault("KAFKA_"+setting, err.Error())
	}
	s.checkRetention(c, sagas.All())
	if dir, err := filepath.Abs(c.DataDir); err == nil {
		c.DataDir = dir
	}
	return c, errors.Join(s.faults...)
}

// checkRetention refuses to forget which messages were handled while they can be delivered again.
func (s *settings) checkRetention(c Config, all []*saga.Saga) {
	if c.Retention.Idempotency < time.Minute {
		s.fault("IDEMPOTENCY_RETENTION", "must be at least 1m")
	}
	kept := c.Retention.Inbox
	switch step, saga, longest := longestWait(all); {
	case kept == 0: // for ever
	case kept < time.Minute:
		s.fault("INBOX_RETENTION", "must be at least 1m, or 0, which keeps message ids for ever")
	case kept < longest:
		s.fault("INBOX_RETENTION", fmt.Sprintf("%s is shorter than the saga %s may run: its step %q may take %s", kept, saga, step, longest))
	case c.Broker == InPostgres && (c.Retention.Topics == 0 || kept < c.Retention.Topics):
		s.fault("INBOX_RETENTION", fmt.Sprintf("%s is shorter than TOPIC_RETENTION, so that a message could be handled twice", kept))
	}
}

// longestWait is the step of a saga that may take longest.
func longestWait(all []*saga.Saga) (step, name string, longest time.Duration) {
	for _, each := range all {
		if st, d := each.LongestWait(); d > longest {
			step, name, longest = st, each.Name(), d
		}
	}
	return step, name, longest
}

// checkSandbox refuses stand-ins for real services where strangers could take them for real.
func (s *settings) checkSandbox(c Config) {
	if (c.PaymentsURL == "") != (c.CarrierURL == "") {
		s.fault("PAYMENTS_URL", "and CARRIER_URL are set together, or neither")
	}
	if c.PaymentsURL == "" && !c.Sandbox && !loopback(c.HTTPAddr) {
		s.fault("SANDBOX", fmt.Sprintf("without PAYMENTS_URL and CARRIER_URL the sandbox would stand in for them, and HTTP_ADDR %s is beyond loopback: set SANDBOX=on if that is meant", c.HTTPAddr))
	}
}

// traces chooses the exporter: none, unless an endpoint or an exporter is set.
func (s *settings) traces() string {
	otherwise := telemetry.NoTraces
	if s.text("OTEL_EXPORTER_OTLP_ENDPOINT", "")+s.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "") != "" {
		otherwise = telemetry.OTLP
	}
	exporter := s.text("OTEL_TRACES_EXPORTER", otherwise)
	if exporter != telemetry.NoTraces && exporter != telemetry.OTLP && exporter != telemetry.Console {
		s.fault("OTEL_TRACES_EXPORTER", fmt.Sprintf("%q is none of otlp, console, none", exporter))
	}
	if protocol := s.text("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"); exporter == telemetry.OTLP && protocol != "http/protobuf" {
		s.fault("OTEL_EXPORTER_OTLP_PROTOCOL", fmt.Sprintf("%q is not http/protobuf, the only one that is built in", protocol))
	}
	if s.onOff("OTEL_SDK_DISABLED", false) {
		return telemetry.NoTraces
	}
	return exporter
}

// checkAuth refuses to serve strangers without asking who they are.
func (s *settings) checkAuth(c *Config) {
	switch mode := s.text("AUTH_MODE", ""); mode {
	case "", "none":
		c.NoAuth = mode == "none"
	default:
		s.fault("AUTH_MODE", fmt.Sprintf("%q is not none, the only value beside nothing", mode))
	}
	switch secret := c.Auth.Secret; {
	case secret != "" && c.Auth.JWKSURL != "":
		s.fault("AUTH_SECRET", "and AUTH_JWKS_URL exclude each other")
	case secret != "" && len(secret) < 32:
		s.fault("AUTH_SECRET", "must have at least 32 characters; openssl rand -hex 32 makes one") // it is not shown
	case c.Auth.On() && c.NoAuth:
		s.fault("AUTH_MODE", "none contradicts AUTH_SECRET and AUTH_JWKS_URL")
	case !c.Auth.On() && !c.NoAuth && c.OpsAddr != "" && !loopback(c.OpsAddr):
		s.fault("OPS_ADDR", fmt.Sprintf("%s is beyond loopback, and without AUTH_SECRET or AUTH_JWKS_URL everybody there could operate: set one of them, or AUTH_MODE=none if that is meant", c.OpsAddr))
	case !c.Auth.On() && !c.NoAuth && !loopback(c.HTTPAddr):
		s.fault("HTTP_ADDR", fmt.Sprintf("%s is beyond loopback, and without AUTH_SECRET or AUTH_JWKS_URL everybody there could operate: set one of them, or AUTH_MODE=none if that is meant", c.HTTPAddr))
	}
	if keys := c.Auth.JWKSURL; keys != "" {
		// Without these a token that the provider made for another service, or for one of its other tenants, would be good here.
		if c.Auth.Audience == "" {
			s.fault("AUTH_AUDIENCE", "must be set with AUTH_JWKS_URL: else every token of that provider is good here, whatever service it was made for")
		}
		if c.Auth.Issuer == "" {
			s.fault("AUTH_ISSUER", "must be set with AUTH_JWKS_URL: else a token of any issuer that shares these keys is good here")
		}
		if u, err := url.Parse(keys); err == nil && u.Scheme == "http" && !loopback(net.JoinHostPort(u.Hostname(), "80")) {
			s.fault("AUTH_JWKS_URL", fmt.Sprintf("%q is plain http, so anybody on the way could put in keys of their own: use https", keys))
		}
	}
	limit := 0
	if c.Auth.On() {
		limit = 50
	}
	c.RateLimit = s.number("RATE_LIMIT", limit, 0, 1_000_000)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // said already
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

type settings struct {
	getenv func(string) string
	faults []error
}

func (s *settings) fault(name, what string) { s.faults = append(s.faults, &SettingError{name, what}) }

func (s *settings) check(name string, err error, what string) {
	if err != nil {
		s.fault(name, what)
	}
}

func (s *settings) text(name, otherwise string) string {
	if v := strings.TrimSpace(s.getenv(name)); v != "" {
		return v
	}
	return otherwise
}

// topics is what the names of topics begin with.
func (s *settings) topics(name, otherwise string) string {
	text := s.text(name, otherwise)
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`).MatchString(text) {
		s.fault(name, fmt.Sprintf("%q must be letters, digits, dots, dashes and underscores", text))
	}
	return text
}

func (s *settings) list(name string) (out []string) {
	for part := range strings.SplitSeq(s.getenv(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// hosts are names of this service, or *.
func (s *settings) hosts(name string) []string {
	hosts := s.list(name)
	for _, host := range hosts {
		if host != "*" && !regexp.MustCompile(`^[a-zA-Z0-9._:\[\]-]+$`).MatchString(host) {
			s.fault(name, fmt.Sprintf("%q is neither a host's name nor *", host))
		}
	}
	return hosts
}

// prefixes are networks, or single addresses.
func (s *settings) prefixes(name string) (out []netip.Prefix) {
	for _, text := range s.list(name) {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil {
			prefix, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		if err != nil {
			s.fault(name, fmt.Sprintf("%q is neither an IP address nor a network like 10.0.0.0/8", text))
			continue
		}
		out = append(out, prefix.Masked())
	}
	return out
}

func (s *settings) number(name string, otherwise, least, most int) int {
	text := s.text(name, strconv.Itoa(otherwise))
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		s.fault(name, fmt.Sprintf("%q is not a whole number from %d to %d", text, least, most))
	}
	return n
}

func (s *settings) duration(name string, otherwise time.Duration) time.Duration {
	text := s.text(name, otherwise.String())
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		s.fault(name, fmt.Sprintf("%q is not a duration like 30s", text))
	}
	return d
}

// offset is a duration that may be negative.
func (s *settings) offset(name string) time.Duration {
	text := s.text(name, "0s")
	d, err := time.ParseDuration(text)
	if err != nil {
		s.fault(name, fmt.Sprintf("%q is not a duration like -5m", text))
	}
	return d
}

func (s *settings) onOff(name string, otherwise bool) bool {
	switch v := strings.ToLower(s.text(name, "")); v {
	case "":
		return otherwise
	case "on", "true", "1", "yes":
		return true
	case "off", "false", "0", "no":
		return false
	default:
		s.fault(name, fmt.Sprintf("%q is neither on nor off", v))
		return otherwise
	}
}

func (s *settings) url(name string) string {
	text := s.text(name, "")
	u, err := url.Parse(text)
	if text != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		s.fault(name, fmt.Sprintf("%q is not a URL of http or https", text))
	}
	return text
}

func (s *settings) roles() map[Role]bool {
	all := []Role{API, Worker, Relay}
	names := s.list("ROLES")
	if len(names) == 0 {
		names = []string{string(API), string(Worker), string(Relay)}
	}
	roles := map[Role]bool{}
	for _, name := range names {
		if !slices.Contains(all, Role(name)) {
			s.fault("ROLES", fmt.Sprintf("%q is none of api, worker, relay", name))
		}
		roles[Role(name)] = true
	}
	return roles
}
