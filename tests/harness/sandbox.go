package harness

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
)

// Sandbox starts the stand-ins in a process of their own, for all instances of the world to share. They outlive the instances.
func (w *Environment) Sandbox() Client {
	w.t.Helper()
	addr := kittest.FreeAddr(w.t)
	command := exec.Command(kittest.Binary(w.t), "sandbox", "--addr", addr) // ended by the clean-up
	command.Env = append(os.Environ(), "DATA_DIR="+filepath.Join(w.DataDir, "stand-ins"), "HTTP_ADDR=127.0.0.1:0")
	require.NoError(w.t, command.Start())
	w.t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	client := NewClient(w.t, "http://"+addr)
	kittest.Eventually(w.t, func() error {
		status, _, err := client.Get("/v1/sandbox/payments")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	w.sandbox = client.URL
	for name, path := range outside {
		w.Set(name, client.URL+path)
	}
	return client
}

// SandboxURL is where the stand-ins are, if they have a process of their own.
func (w *Environment) SandboxURL() string { return w.sandbox }
