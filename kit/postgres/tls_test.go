package postgres_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
)

// The DSN says whether connections are encrypted, and whom we trust.
func TestTLSByTheDSN(t *testing.T) {
	dir := t.TempDir()
	server, err := embedded.StartPostgres(t.Context(), dir, func(string) {})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	pair, authority := kittest.Certificate(t)
	certificate, err := os.ReadFile(authority)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)

	plain, err := postgres.Open(server.DSN, 1)
	require.NoError(t, err)
	defer plain.Close()
	var cluster string
	require.NoError(t, plain.Get(&cluster, `SHOW data_directory`))
	info, err := os.Stat(cluster)
	require.NoError(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	for name, content := range map[string][]byte{"server.crt": certificate, "server.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		file := filepath.Join(cluster, name)
		require.NoError(t, os.WriteFile(file, content, 0o600))
		require.NoError(t, os.Chown(file, int(owner.Uid), int(owner.Gid)))
	}
	_, err = plain.Exec(`ALTER SYSTEM SET ssl = on`)
	require.NoError(t, err)
	_, err = plain.Exec(`SELECT pg_reload_conf()`)
	require.NoError(t, err)

	encrypted := func(mode string) (on bool, err error) {
		db, err := postgres.Open(strings.Replace(server.DSN, "sslmode=disable", mode, 1), 1)
		require.NoError(t, err)
		defer db.Close()
		err = db.Get(&on, `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`)
		return on, err
	}
	kittest.Eventually(t, func() error {
		_, err := encrypted("sslmode=verify-full&sslrootcert=" + authority)
		return err
	})
	on, err := encrypted("sslmode=verify-full&sslrootcert=" + authority)
	require.NoError(t, err)
	require.True(t, on)
	_, err = encrypted("sslmode=verify-full") // by the system's authorities, which do not know it
	require.ErrorContains(t, err, "certificate")
	on, err = encrypted("sslmode=disable")
	require.NoError(t, err)
	require.False(t, on)
}
