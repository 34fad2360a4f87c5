package httpapi_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/httpapi"
)

func fail(w http.ResponseWriter, _ *http.Request, err error) {
	f, ok := errors.AsType[*httpapi.RequestError](err)
	if !ok {
		f = &httpapi.RequestError{Status: http.StatusInternalServerError, Detail: err.Error()}
	}
	httpapi.WriteProblem(w, f.Status, f.Detail, f.Fields)
}

// A page of another site sends its own name as Host after that name was made to resolve to this service (DNS rebinding).
func TestHostMustBeLoopbackOrListed(t *testing.T) {
	status := func(b *httpapi.Border, host string) int {
		b.Fail = fail
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		b.Enter(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })).ServeHTTP(w, r)
		return w.Code
	}
	checked := &httpapi.Border{CheckHost: true, Hosts: []string{"orders.example", "192.0.2.1"}}
	for _, host := range []string{"localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1", "127.1.2.3:8080", "[::1]:8080", "[::1]", "[::ffff:127.0.0.1]:1", "orders.example", "Orders.Example.:443", "192.0.2.1:80"} {
		require.Equal(t, http.StatusNoContent, status(checked, host), host)
	}
	for _, host := range []string{"", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "x.orders.example", "192.0.2.2", "[::2]:80", "0.0.0.0", "localhost@evil.example"} {
		require.Equal(t, http.StatusMisdirectedRequest, status(checked, host), host)
	}
	require.Equal(t, http.StatusNoContent, status(&httpapi.Border{CheckHost: true, Hosts: []string{"*"}}, "evil.example"))
	require.Equal(t, http.StatusNoContent, status(&httpapi.Border{}, "evil.example"), "with tokens it does not matter")
}

func TestForwardedHeadersCountFromTrustedProxiesOnly(t *testing.T) {
	b := &httpapi.Border{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	for name, c := range map[string]struct {
		peer, forwarded, proto string
		tls                    bool
		want                   httpapi.Client
	}{
		"no proxy":                   {"192.0.2.9:1", "", "", false, httpapi.Client{Addr: "192.0.2.9"}},
		"TLS":                        {"192.0.2.9:1", "", "", true, httpapi.Client{Addr: "192.0.2.9", HTTPS: true}},
		"a client that claims":       {"192.0.2.9:1", "198.51.100.1", "https", false, httpapi.Client{Addr: "192.0.2.9"}},
		"a proxy":                    {"10.0.0.1:1", "198.51.100.1", "https", false, httpapi.Client{Addr: "198.51.100.1", HTTPS: true}},
		"a proxy, plain":             {"10.0.0.1:1", "198.51.100.1", "http", false, httpapi.Client{Addr: "198.51.100.1"}},
		"a client that claims to it": {"10.0.0.1:1", "203.0.113.5, 198.51.100.1", "https, http", false, httpapi.Client{Addr: "198.51.100.1"}},
		"two proxies":                {"10.0.0.1:1", "198.51.100.1, 10.0.0.2", "https", false, httpapi.Client{Addr: "198.51.100.1", HTTPS: true}},
		"all are proxies":            {"10.0.0.1:1", "10.0.0.3, 10.0.0.2", "", false, httpapi.Client{Addr: "10.0.0.3"}},
		"no address":                 {"10.0.0.1:1", "unknown", "", false, httpapi.Client{Addr: "10.0.0.1"}},
		"IPv6":                       {"[::1]:1", "2001:db8::1", "https", false, httpapi.Client{Addr: "2001:db8::1", HTTPS: true}},
		"IPv4 in IPv6":               {"[::ffff:10.0.0.1]:1", "198.51.100.1", "", false, httpapi.Client{Addr: "198.51.100.1"}},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr, r.Host = c.peer, "orders.example"
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		var got httpapi.Client
		b.Enter(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = httpapi.ClientOf(r.Context()) })).ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, c.want, got, name)
	}
}

func TestPanicIsAnsweredCountedAndLoggedWithItsStack(t *testing.T) {
	var log strings.Builder
	panics := 0
	b := &httpapi.Border{Log: slog.New(slog.NewTextHandler(&log, nil)), OnPanic: func() { panics++ }}
	w := httptest.NewRecorder()
	b.Recover(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("out of paper") })).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/print", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.NotContains(t, w.Body.String(), "paper")
	require.Equal(t, 1, panics)
	require.Contains(t, log.String(), "out of paper")
	require.Contains(t, log.String(), "border_test.go", "the stack")
	require.Panics(t, func() {
		b.Recover(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	})
	require.Equal(t, 1, panics, "net/http's own way to abort is none")
}

func TestStreamsAreBounded(t *testing.T) {
	streams := &httpapi.Streams{Max: 2}
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream, done, err := streams.Begin(w, r)
		if err != nil {
			fail(w, r, err)
			return
		}
		if stream == nil {
			return
		}
		defer done()
		_ = stream.Send("change", "7", "a\nb\r")
		<-release
	}))
	defer server.Close()
	get := func(method string) *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		return response
	}
	for range 2 {
		response := get(http.MethodGet)
		require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
		require.Equal(t, "no", response.Header.Get("X-Accel-Buffering"))
		lines := bufio.NewScanner(response.Body)
		for _, want := range []string{"event: change", "id: 7", "data: a", "data: b", ""} {
			require.True(t, lines.Scan())
			require.Equal(t, want, lines.Text())
		}
	}
	full := get(http.MethodGet)
	require.Equal(t, http.StatusServiceUnavailable, full.StatusCode)
	close(release)
	require.Eventually(t, func() bool { return streams.Open() == 0 }, 10*time.Second, time.Millisecond)
	head := get(http.MethodHead)
	require.Equal(t, http.StatusOK, head.StatusCode, "HEAD does not open a stream")
	require.Equal(t, "text/event-stream", head.Header.Get("Content-Type"))
	require.Zero(t, streams.Open())
}

// A client that reads nothing must not hold a stream for ever.
func TestStreamEndsWhenItsClientAcceptsNothing(t *testing.T) {
	ended := make(chan error, 1)
	streams := &httpapi.Streams{WriteWithin: 200 * time.Millisecond}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream, done, err := streams.Begin(w, r)
		if err != nil {
			ended <- err
			return
		}
		defer done()
		for err == nil {
			err = stream.Send("", "", strings.Repeat("x", 1<<16))
		}
		ended <- err
	}))
	defer server.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // and the client reads nothing
	require.NoError(t, err)
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "timeout")
	case <-time.After(60 * time.Second):
		t.Fatal("it still writes")
	}
	require.Eventually(t, func() bool { return streams.Open() == 0 }, 10*time.Second, time.Millisecond)
}

func TestTextOfARequestNamesTheField(t *testing.T) {
	for target, want := range map[string]string{
		"/?reason=%00": "reason", "/?reason=a%ffb": "reason", "/?%ff=1": "\uFFFD", "/?a=%zz": "query", "/%00": "path", "/%ff": "path",
		"/?reason=" + strings.Repeat("x", 5000): "reason",
	} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		_, field := fault(t, httpapi.CheckText(r, nil))
		require.Equal(t, want, field, target)
	}
	r := httptest.NewRequest(http.MethodGet, "/%00", nil)
	_, field := fault(t, httpapi.CheckText(r, map[string]string{"id": "\x00"}))
	require.Equal(t, "id", field)
	_, field = fault(t, httpapi.CheckText(httptest.NewRequest(http.MethodGet, "/", nil), map[string]string{"id": strings.Repeat("x", 6000)}))
	require.Equal(t, "id", field)
	r = httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Idempotency-Key", "a\xffb")
	_, field = fault(t, httpapi.CheckText(r, nil))
	require.Equal(t, "Idempotency-Key", field)
	require.NoError(t, httpapi.CheckText(httptest.NewRequest(http.MethodGet, "/%C3%A4?a=%C3%A4&b=", nil), map[string]string{"id": "ä"}))
}
