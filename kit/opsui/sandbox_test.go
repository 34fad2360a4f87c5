package opsui

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/sandbox"
)

func TestSandboxPage(t *testing.T) {
	box, err := sandbox.Open(t.TempDir(), sandbox.New("printer", func(struct{}) string { return "" }, []string{"printed"}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = box.Close() })
	do := func(method, path, form string) (int, string) {
		s := newServer(t)
		s.Sandbox = box
		w := serve(t, s, method, path, form)
		return w.Code, w.Body.String()
	}
	status, page := do(http.MethodGet, "/ui/sandbox", "")
	require.Equal(t, http.StatusOK, status)
	for _, text := range []string{`href="/ui/sandbox"`, "Ledger of printer", "<dt>printed</dt>", "<dt>repeats</dt>"} {
		require.Contains(t, page, text)
	}
	status, _ = do(http.MethodPost, "/ui/sandbox/printer", "down=yes&failure_rate=50&refusal_rate=0&latency=20")
	require.Equal(t, http.StatusSeeOther, status)
	require.Equal(t, sandbox.Faults{Down: true, FailureRate: .5, Latency: sandbox.Duration(20 * time.Millisecond)}, box.Service("printer").Faults())
	for _, form := range []string{"failure_rate=101&refusal_rate=0&latency=0", "failure_rate=0&refusal_rate=0&latency=-1"} {
		status, _ = do(http.MethodPost, "/ui/sandbox/printer", form)
		require.Equal(t, http.StatusUnprocessableEntity, status)
	}
	status, _ = do(http.MethodPost, "/ui/sandbox/oracle", "down=yes&failure_rate=0&refusal_rate=0&latency=0")
	require.Equal(t, http.StatusNotFound, status)
}

func TestNoSandboxPageWithoutSandbox(t *testing.T) {
	require.NotContains(t, serve(t, newServer(t), http.MethodGet, "/ui/", "").Body.String(), "andbox")
	require.Equal(t, http.StatusNotFound, serve(t, newServer(t), http.MethodGet, "/ui/sandbox", "").Code)
	require.Equal(t, http.StatusNotFound, serve(t, newServer(t), http.MethodPost, "/ui/sandbox/printer", "down=yes").Code)
}
