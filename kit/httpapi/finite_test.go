package httpapi

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A request that changes something does not wait for ever for other requests that change the same data. A request that only reads has no limit, because
// it may be a stream.
func TestRequestsThatChangeSomethingAreLimited(t *testing.T) {
	for method, limited := range map[string]bool{http.MethodGet: false, http.MethodHead: false, http.MethodPost: true, http.MethodPut: true, http.MethodDelete: true} {
		called, limit, ok := false, time.Time{}, false
		finite(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			called = true
			limit, ok = r.Context().Deadline()
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/", nil))
		require.True(t, called)
		require.Equal(t, limited, ok, method)
		if limited {
			require.WithinDuration(t, time.Now().Add(changeWithin), limit, 5*time.Second)
		}
	}
}
