package cli

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

const shipping = `{
	"saga_id": "s-1", "definition": "shipping", "definition_version": 1, "subject": "o-1", "status": "stuck", "parent": {"saga_id": "s-0", "step": "sell"}, "started_at": "2026-01-02T03:04:05Z",
	"steps": [
		{"name": "pay", "status": "completed", "attempts": 1},
		{"name": "send parcel", "status": "in_progress", "attempts": 0, "stuck": true, "started_at": "2026-01-02T03:04:06Z",
			"items": {"completed": 936, "in_progress": 64},
			"in_flight": [
				{"name": "send parcel#3", "status": "in_progress", "attempts": 2, "stuck": true, "reason": "locked", "deadline": "2026-01-02T03:05:05Z"},
				{"name": "send parcel#5", "status": "in_progress", "attempts": 1}
			]},
		{"name": "send by bike", "status": "waiting", "attempts": 0, "instead_of": "send parcel", "items": {"waiting": 1000}},
		{"name": "wait for receipt", "status": "in_progress", "attempts": 1, "event": "shop.Received", "event_key": "o-1"}
	]}`

// A step that runs for each item shows the number of items by status, with its items in flight below it.
func TestShowSagaWithItems(t *testing.T) {
	var asked []string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.Path+" "+string(body))
		_, _ = io.WriteString(w, shipping)
	}))
	t.Cleanup(service.Close)
	var out bytes.Buffer
	a := &App{Name: "shop", Stdout: &out, Stderr: &out, URL: service.URL, Token: func() string { return "" }}

	require.Zero(t, a.Run(t.Context(), []string{"sagas", "show", "s-1"}), out.String())
	require.Contains(t, out.String(), "child of    saga s-0, step sell")
	require.Contains(t, out.String(), `
STEP                                              STATUS                                ATTEMPTS  STARTED               TOOK                      REASON
pay                                               completed                             1                                                         
send parcel (for each)                            936 completed, 64 in_progress, stuck            2026-01-02T03:04:06Z                            
  send parcel#3                                   in_progress, stuck                    2                               due 2026-01-02T03:05:05Z  locked
  send parcel#5                                   in_progress                           1                                                         
  … and 62 more in flight                                                                                                                         
send by bike (for each) (instead of send parcel)  1000 waiting                                                                                    
wait for receipt                                  waits for event shop.Received of o-1  1                                                         
`)

	out.Reset()
	require.Zero(t, a.Run(t.Context(), []string{"sagas", "retry", "s-1", "--step", "send parcel#3"}), out.String())
	require.Equal(t, `POST /v1/sagas/s-1/retry {"step":"send parcel#3"}`, asked[1])
}
