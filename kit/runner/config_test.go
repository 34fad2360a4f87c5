package runner

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/settings"
)

func TestEverySettingIsWrongByName(t *testing.T) {
	for _, name := range []string{
		"HTTP_ADDR", "POSTGRES_DSN", "POSTGRES_MAX_CONNS", "POSTGRES_WAIT", "MIGRATE", "BROKER", "KAFKA_BROKERS",
		"KAFKA_PARTITIONS", "LOAD_DISTRIBUTION", "TOPIC_PREFIX", "PUBLISH_SAGA_EVENTS", "LOCAL_DELIVERY", "MAX_MESSAGE_BYTES", "ROLES",
		"OPS_ADDR", "HTTP_HOSTS", "TRUSTED_PROXIES", "MAX_STREAMS", "LOG_LEVEL", "LOG_FORMAT", "INBOX_RETENTION", "IDEMPOTENCY_RETENTION", "SAGA_EVENT_RETENTION",
	} {
		_, err := ReadConfig(&Service{Name: "millrace"}, func(asked string) string {
			if asked == name {
				return "not at all right"
			}
			return ""
		})
		require.ErrorContains(t, err, name+":")
	}
}

// A provider signs tokens for many services: a token without an audience must not be accepted.
func TestJWKSNeedsIssuerAudienceAndHTTPS(t *testing.T) {
	read := func(settings map[string]string) error {
		_, err := ReadConfig(&Service{Name: "millrace"}, func(name string) string { return settings[name] })
		return err
	}
	require.NoError(t, read(map[string]string{"AUTH_JWKS_URL": "https://id.example/k", "AUTH_ISSUER": "i", "AUTH_AUDIENCE": "a"}))
	for _, loopback := range []string{"http://127.0.0.1:9/k", "http://localhost:9/k", "http://[::1]/k"} {
		require.NoError(t, read(map[string]string{"AUTH_JWKS_URL": loopback, "AUTH_ISSUER": "i", "AUTH_AUDIENCE": "a"}))
	}
	require.EqualError(t, read(map[string]string{"AUTH_JWKS_URL": "http://id.example/k", "AUTH_ISSUER": "i", "AUTH_AUDIENCE": "a"}),
		`AUTH_JWKS_URL: "http://id.example/k" is plain http, so an attacker could replace the keys: use https`)
	err := read(map[string]string{"AUTH_JWKS_URL": "https://id.example/k"})
	require.ErrorContains(t, err, "AUTH_AUDIENCE: ")
	require.ErrorContains(t, err, "AUTH_ISSUER: ")
}

// With fewer connections, units of work that hold their own transactions or wait for locks could use up the pool and then need one more connection.
func TestPoolMustBeLargeEnough(t *testing.T) {
	_, err := ReadConfig(&Service{Name: "millrace"}, func(name string) string {
		if name == "POSTGRES_MAX_CONNS" {
			return "4"
		}
		return ""
	})
	require.EqualError(t, err, `POSTGRES_MAX_CONNS: "4" is not a whole number from 8 to 1000`)
}

func TestRemovedSettingIsIgnoredWithAWarning(t *testing.T) {
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	warnOfFormer(getenv, log)
	require.Empty(t, out.String())
	env["KAFKA_SERIAL"] = "on"
	_, err := ReadConfig(&Service{Name: "millrace"}, getenv)
	require.NoError(t, err)
	warnOfFormer(getenv, log)
	require.Contains(t, out.String(), `level=WARN msg="setting was removed and is ignored" setting=KAFKA_SERIAL reason=`)
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
}

func TestRenamedSettingIsReadWithAWarning(t *testing.T) {
	env := map[string]string{"SPREAD": "machines"}
	getenv := func(name string) string { return env[name] }
	c, err := ReadConfig(&Service{Name: "millrace"}, getenv)
	require.NoError(t, err)
	require.Equal(t, OverHosts, c.LoadDistribution)
	env["SPREAD"] = "instances"
	c, err = ReadConfig(&Service{Name: "millrace"}, getenv)
	require.NoError(t, err)
	require.Equal(t, OverInstances, c.LoadDistribution)
	var out strings.Builder
	warnOfFormer(getenv, slog.New(slog.NewTextHandler(&out, nil)))
	require.Contains(t, out.String(), `level=WARN msg="setting was renamed" setting=SPREAD use=LOAD_DISTRIBUTION`)

	env["LOAD_DISTRIBUTION"] = "hosts"
	c, err = ReadConfig(&Service{Name: "millrace"}, getenv)
	require.NoError(t, err)
	require.Equal(t, OverHosts, c.LoadDistribution, "the setting's name now comes first")
	env["LOAD_DISTRIBUTION"], env["SPREAD"] = "", "planets"
	_, err = ReadConfig(&Service{Name: "millrace"}, getenv)
	require.EqualError(t, err, `LOAD_DISTRIBUTION: "planets" is neither hosts nor instances`)
}

func TestRetentionShorterThanASagaMayRunIsRefused(t *testing.T) {
	long := saga.New(saga.Definition[struct{}]{Name: "subscription", Steps: []saga.Step[struct{}]{{Name: "await payment", Timeout: 30 * 24 * time.Hour}}})
	kept := postgres.Retention{Inbox: 14 * 24 * time.Hour, Idempotency: time.Hour}
	s := reader{settings.NewReader(nil)}
	s.checkRetention(Config{Retention: kept}, []*saga.Saga{long})
	require.EqualError(t, s.Err(), `INBOX_RETENTION: 336h0m0s is shorter than the saga subscription may run: its step "await payment" may take 720h0m0s`)
	kept.Inbox = 31 * 24 * time.Hour
	s = reader{settings.NewReader(nil)}
	s.checkRetention(Config{Retention: kept}, []*saga.Saga{long})
	require.NoError(t, s.Err())
}
