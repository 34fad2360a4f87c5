//go:build !noembedded

package embedded

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCopyTree(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	require.NoError(t, os.MkdirAll(filepath.Join(from, "bin"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(from, "bin", "postgres"), []byte("program"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(from, "text"), []byte("text"), 0o600))
	require.NoError(t, os.Symlink("../text", filepath.Join(from, "bin", "link")))
	require.NoError(t, copyTree(from, to))
	for path, mode := range map[string]os.FileMode{"bin": 0o755, "bin/postgres": 0o744, "text": 0o644} {
		info, err := os.Stat(filepath.Join(to, path))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	text, err := os.ReadFile(filepath.Join(to, "bin", "link"))
	require.NoError(t, err)
	require.Equal(t, "text", string(text))

	for _, points := range []string{"../../secret", "/etc/passwd"} {
		link := filepath.Join(from, "bin", "out")
		require.NoError(t, os.Symlink(points, link))
		require.ErrorContains(t, copyTree(from, filepath.Join(t.TempDir(), "to")), "points out of")
		require.NoError(t, os.Remove(link))
	}
	require.Error(t, copyTree(filepath.Join(from, "none"), filepath.Join(t.TempDir(), "to")))
}
