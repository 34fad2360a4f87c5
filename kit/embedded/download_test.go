//go:build !noembedded

package embedded

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDownloadReportsProgress(t *testing.T) {
	content := bytes.Repeat([]byte("postgres"), 500_000)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/maven2/a.jar" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}))
	defer upstream.Close()
	var said []string
	address, stop, err := watched(t.Context(), upstream.URL+"/maven2", func(line string) { said = append(said, line) })
	require.NoError(t, err)
	defer stop()
	answer, err := http.Get(address + "/a.jar")
	require.NoError(t, err)
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, content, got)
	require.NotEmpty(t, said)
	require.Equal(t, "  100 % of 4 MB", said[len(said)-1])
	missing, err := http.Get(address + "/b.jar")
	require.NoError(t, err)
	defer missing.Body.Close()
	require.Equal(t, http.StatusNotFound, missing.StatusCode)
}
