package component

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// run carries out a command line with settings and nothing else of our environment.
func run(t *testing.T, settings []string, args ...string) (output string, code int) {
	t.Helper()
	command := exec.Command(kittest.Binary(t), args...) // ends by itself
	command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, settings...)
	out, err := command.CombinedOutput()
	if err != nil {
		_, exited := err.(*exec.ExitError) //nolint:errorlint // exec returns it unwrapped
		require.True(t, exited, err)
	}
	return string(out), command.ProcessState.ExitCode()
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"HTTP_ADDR=8080":                                              `HTTP_ADDR: "8080" is not host:port`,
		"HTTP_ADDR=0.0.0.0:8080|AUTH_MODE=none":                       "SANDBOX: without PAYMENTS_URL and CARRIER_URL",
		"HTTP_ADDR=0.0.0.0:8080|SANDBOX=on":                           "HTTP_ADDR: 0.0.0.0:8080 is beyond loopback, and without AUTH_SECRET or AUTH_JWKS_URL",
		"INBOX_RETENTION=10s":                                         "INBOX_RETENTION: must be at least 1m",
		"INBOX_RETENTION=100h":                                        "INBOX_RETENTION: 100h0m0s is shorter than the saga order-return may run",
		"INBOX_RETENTION=400h|TOPIC_RETENTION=500h|BROKER=postgres":   "INBOX_RETENTION: 400h0m0s is shorter than TOPIC_RETENTION",
		"AUTH_SECRET=short":                                           "AUTH_SECRET: must have at least 32 characters",
		"AUTH_MODE=some":                                              `AUTH_MODE: "some" is not none`,
		"AUTH_MODE=none|AUTH_SECRET=0123456789abcdef0123456789abcdef": "AUTH_MODE: none contradicts",
		"AUTH_JWKS_URL=https://x/k|AUTH_ISSUER=https://x":             "AUTH_AUDIENCE: must be set with AUTH_JWKS_URL",
		"AUTH_JWKS_URL=https://x/k|AUTH_AUDIENCE=orders":              "AUTH_ISSUER: must be set with AUTH_JWKS_URL",
		"AUTH_JWKS_URL=http://x/k|AUTH_ISSUER=i|AUTH_AUDIENCE=orders": `AUTH_JWKS_URL: "http://x/k" is plain http`,
		"AUTH_JWKS_URL=keys|AUTH_ISSUER=i|AUTH_AUDIENCE=a":            `AUTH_JWKS_URL: "keys" is not a URL`,
		"RATE_LIMIT=fast":                                             `RATE_LIMIT: "fast" is not a whole number`,
		"KAFKA_SASL=GSSAPI":                                           "KAFKA_SASL: must be SCRAM-SHA-512 or PLAIN",
		"KAFKA_SASL=plain|KAFKA_USER=u|KAFKA_PASSWORD=p":              "KAFKA_SASL: PLAIN would send the password unencrypted",
		"KAFKA_SASL=SCRAM-SHA-512":                                    "KAFKA_USER: and KAFKA_PASSWORD must be set",
		"KAFKA_TLS=on|KAFKA_CA_FILE=/nowhere":                         "KAFKA_CA_FILE: open /nowhere",
		"KAFKA_CA_FILE=/nowhere":                                      "KAFKA_TLS: must be on",
		"POSTGRES_DSN=nonsense at all":                                "POSTGRES_DSN: is not a connection string",
		"POSTGRES_MAX_CONNS=many":                                     `POSTGRES_MAX_CONNS: "many" is not a whole number`,
		"POSTGRES_MAX_CONNS=4":                                        `POSTGRES_MAX_CONNS: "4" is not a whole number from 8 to 1000`,
		"POSTGRES_WAIT=soon":                                          "POSTGRES_WAIT:",
		"KAFKA_BROKERS=broker":                                        `KAFKA_BROKERS: "broker" is not host:port`,
		"BROKER=rabbit":                                               `BROKER: "rabbit" is neither kafka nor postgres`,
		"BROKER=postgres|KAFKA_BROKERS=a:1":                           "BROKER: postgres contradicts KAFKA_BROKERS",
		"DEBEZIUM=on":                                                 "DEBEZIUM: needs POSTGRES_DSN and KAFKA_BROKERS",
		"KAFKA_PARTITIONS=0":                                          `KAFKA_PARTITIONS: "0" is not`,
		"ROLES=api,cook":                                              `ROLES: "cook" is none of`,
		"CARRIER_URL=http://x|PAYMENTS_URL=ftp://x":                   `PAYMENTS_URL: "ftp://x" is not a URL`,
		"PAYMENTS_URL=http://127.0.0.1:1/x":                           "PAYMENTS_URL: and CARRIER_URL are set together",
		"TOPIC_PREFIX=a b":                                            "TOPIC_PREFIX:",
		"LOG_LEVEL=loud":                                              "LOG_LEVEL:",
		"LOG_FORMAT=xml":                                              "LOG_FORMAT:",
		"MIGRATE=perhaps":                                             "MIGRATE:",
		"MAX_MESSAGE_BYTES=1":                                         "MAX_MESSAGE_BYTES:",
	} {
		output, code := run(t, strings.Split(setting, "|"), "serve")
		require.Equal(t, 2, code, "%s: %s", setting, output)
		require.Contains(t, output, want, setting)
		require.Equal(t, 1, strings.Count(output, "\n"), "one line: %s", output)
	}
	output, code := run(t, []string{"ROLES=cook", "LOG_LEVEL=loud"}, "serve")
	require.Equal(t, 2, code)
	require.Equal(t, 2, strings.Count(output, "\n"), "a line each: %s", output)
}

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"dance", "serve now", "demo --orders 0", "demo --orders x", "demo please", "migrate", "migrate sideways", "sagas", "sagas dance", "sagas show", "sagas diagram dance", "deadletters", "sandbox here"} {
		output, code := run(t, nil, strings.Fields(args)...)
		require.Equal(t, 2, code, "%s: %s", args, output)
	}
	output, code := run(t, nil, "help")
	require.Zero(t, code)
	require.Contains(t, output, "migrate     Change the schema of the database")
	output, code = run(t, []string{"HTTP_ADDR=127.0.0.1:1"}, "sagas", "list")
	require.Equal(t, 1, code)
	require.Contains(t, output, "is the service running?")
	_, code = run(t, []string{"HTTP_ADDR=127.0.0.1:1"}, "healthcheck")
	require.Equal(t, 1, code)
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, at once
	require.NoError(t, err)
	defer l.Close() // nothing was sent
	output, code := run(t, []string{"HTTP_ADDR=" + l.Addr().String(), "DATA_DIR=" + t.TempDir()}, "serve")
	require.Equal(t, 1, code)
	require.Contains(t, output, "HTTP_ADDR: "+l.Addr().String()+" is in use")
}

func TestDatabaseNotReachable(t *testing.T) {
	t.Parallel()
	output, code := run(t, []string{"POSTGRES_DSN=postgres://x:secret@127.0.0.1:1/x", "POSTGRES_WAIT=2s", "HTTP_ADDR=127.0.0.1:0", "DATA_DIR=" + t.TempDir()}, "serve")
	require.Equal(t, 1, code)
	require.Contains(t, output, "waiting for PostgreSQL")
	require.Contains(t, output, "PostgreSQL did not answer within 2s")
	require.NotContains(t, output, "secret")
}

func TestOneInstanceADataDirectory(t *testing.T) {
	t.Parallel()
	w := harness.NewEnvironment(t)
	w.Start()
	if kittest.Real() {
		t.Skip("the data directory holds no database here")
	}
	output, code := run(t, []string{"HTTP_ADDR=127.0.0.1:0", "DATA_DIR=" + w.DataDir}, "serve")
	require.Equal(t, 1, code)
	require.Contains(t, output, "an instance is running on "+w.DataDir)
	for _, action := range []string{"up", "down"} {
		output, code = run(t, []string{"DATA_DIR=" + w.DataDir}, "migrate", action)
		require.Equal(t, 1, code, output)
	}
	output, code = run(t, []string{"DATA_DIR=" + w.DataDir}, "migrate", "status") // it changes nothing
	require.Zero(t, code, output)
	require.Contains(t, output, "1  applied")
}

func TestSchema(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	settings := []string{"POSTGRES_DSN=" + i.DSN(), "HTTP_ADDR=127.0.0.1:0", "DATA_DIR=" + t.TempDir(), "KAFKA_BROKERS=" + i.Brokers()[0]}
	output, code := run(t, settings, "migrate", "status")
	require.Zero(t, code, output)
	require.Contains(t, output, "1  applied")

	db := kittest.OpenDB(t, i.DSN())
	_, err := db.ExecContext(t.Context(), `INSERT INTO kit_migrations (version_id, is_applied) VALUES (99, true)`)
	require.NoError(t, err)
	output, code = run(t, settings, "serve")
	require.Equal(t, 1, code)
	require.Contains(t, output, "the database's schema is newer than this program: it is at version 99")
	_, err = db.ExecContext(t.Context(), `DELETE FROM kit_migrations WHERE version_id = 99`)
	require.NoError(t, err)

	if kittest.Real() { // on the embedded default the running instance would miss its tables
		i.Terminate()
		output, code = run(t, settings, "migrate", "down")
		require.Zero(t, code, output)
		output, code = run(t, append(settings, "MIGRATE=off"), "serve")
		require.Equal(t, 1, code)
		require.Contains(t, output, "run `migrate up`")
		output, code = run(t, settings, "migrate", "up")
		require.Zero(t, code, output)
	}
}
