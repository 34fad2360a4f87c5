package component

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

func received(t *testing.T, i *harness.Instance, sku string) int64 {
	t.Helper()
	var stock struct{ Received int64 }
	response := i.Do(http.MethodGet, "/v1/stock/"+sku, "")
	if response.Status == http.StatusNotFound {
		return 0
	}
	response.JSON(t, &stock)
	return stock.Received
}

// Every POST takes an Idempotency-Key; what it does and the record of the key are committed together.
func TestIdempotencyKeyOnEveryPost(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	settle := func(sku string, want int64) {
		t.Helper()
		kittest.Eventually(t, func() error {
			var outbox struct{ Pending int }
			i.Do(http.MethodGet, "/v1/outbox", "").JSON(t, &outbox)
			if got := received(t, i, sku); got != want || outbox.Pending > 0 {
				return fmt.Errorf("received %d, %d pending", got, outbox.Pending)
			}
			return nil
		})
	}
	receive := func(sku, body, key string) kittest.Response {
		return i.Do(http.MethodPost, "/v1/stock/"+sku+"/receipts", body, "Idempotency-Key", key)
	}

	t.Run("a repeated stock receipt does not double the stock", func(t *testing.T) {
		first := receive("ONE", `{"quantity":5}`, "k")
		require.Equal(t, http.StatusAccepted, first.Status, first.Body)
		require.Empty(t, first.Header.Get("Idempotency-Replayed"))
		again := receive("ONE", ` { "quantity" : 5 } `, "k")
		require.Equal(t, http.StatusAccepted, again.Status, again.Body)
		require.Equal(t, first.Body, again.Body)
		require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
		require.Equal(t, "application/json", again.Header.Get("Content-Type"))
		other := receive("ONE", `{"quantity":6}`, "k")
		require.Equal(t, http.StatusUnprocessableEntity, other.Status)
		require.Contains(t, other.Body, `"field":"Idempotency-Key"`)
		settle("ONE", 5)
	})
	t.Run("a key is one path's", func(t *testing.T) {
		require.Empty(t, receive("TWO", `{"quantity":5}`, "k").Header.Get("Idempotency-Replayed"))
		order := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "TWO"), "Idempotency-Key", "k")
		require.Equal(t, http.StatusAccepted, order.Status, order.Body)
		require.Empty(t, order.Header.Get("Idempotency-Replayed"))
		settle("TWO", 5)
	})
	t.Run("at the same time", func(t *testing.T) {
		var sending sync.WaitGroup
		for range 20 {
			sending.Go(func() {
				response, err := i.Try(http.MethodPost, "/v1/stock/THREE/receipts", `{"quantity":7}`, "Idempotency-Key", "same")
				if err != nil || response.Status != http.StatusAccepted {
					t.Errorf("%v %d %s", err, response.Status, response.Body)
				}
			})
		}
		sending.Wait()
		settle("THREE", 7)
	})
	t.Run("a refused request leaves its key free", func(t *testing.T) {
		require.Equal(t, http.StatusUnprocessableEntity, receive("FOUR", `{"quantity":0}`, "free").Status)
		require.Equal(t, http.StatusBadRequest, receive("FOUR", `{"quantity":1,"quantity":2}`, "free").Status)
		require.Equal(t, http.StatusAccepted, receive("FOUR", `{"quantity":4}`, "free").Status)
		saga := "/v1/sagas/01980000-0000-7000-8000-000000000000/retry"
		for range 2 {
			require.Equal(t, http.StatusNotFound, i.Do(http.MethodPost, saga, "", "Idempotency-Key", "saga").Status)
		}
		for _, key := range []string{strings.Repeat("x", 256), "a\tb"} {
			require.Equal(t, http.StatusBadRequest, receive("FOUR", `{"quantity":4}`, key).Status)
		}
		settle("FOUR", 4)
	})
	t.Run("a replay of a dead letter", func(t *testing.T) {
		repair := failOn(t, i, "receipts", "inventory/BAD", "%")
		require.Equal(t, http.StatusAccepted, i.Do(http.MethodPost, "/v1/stock/BAD/receipts", `{"quantity":3}`).Status)
		dead := findDeadLetter(t, i, "ReceiveStock")
		repair()
		first := i.Do(http.MethodPost, "/v1/dead-letters/"+dead.ID+"/redrive", "", "Idempotency-Key", "r")
		require.Equal(t, http.StatusAccepted, first.Status, first.Body)
		again := i.Do(http.MethodPost, "/v1/dead-letters/"+dead.ID+"/redrive", "", "Idempotency-Key", "r")
		require.Equal(t, http.StatusAccepted, again.Status, again.Body)
		require.Equal(t, first.Body, again.Body)
		require.Equal(t, http.StatusNotFound, i.Do(http.MethodPost, "/v1/dead-letters/"+dead.ID+"/redrive", "").Status)
		settle("BAD", 3)
	})
	t.Run("a cancellation", func(t *testing.T) {
		i.Stock(10, "MUG-01")
		i.SetFaults("payments", `{"latency":"1s"}`)
		id := i.Place("pm_ok", "MUG-01")
		first := i.Do(http.MethodPost, "/v1/orders/"+id+"/cancel", "", "Idempotency-Key", "c")
		require.Equal(t, http.StatusAccepted, first.Status, first.Body)
		again := i.Do(http.MethodPost, "/v1/orders/"+id+"/cancel", "", "Idempotency-Key", "c")
		require.Equal(t, http.StatusAccepted, again.Status, again.Body)
		require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
		require.Equal(t, "cancelled", i.Decided(id).Status)
		i.SetFaults("payments", `{"latency":"0s"}`)
	})
	t.Run("across a crash", func(t *testing.T) {
		i.Kill()
		i.Restart()
		require.Equal(t, "true", receive("ONE", `{"quantity":5}`, "k").Header.Get("Idempotency-Replayed"))
		settle("ONE", 5)
	})
}

// What no column of text can hold is refused with the name of the field, whatever the door.
func TestTextThatCannotBeStoredIs400(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t, "AUTH_SECRET="+secret).Start()
	operator := []string{"Authorization", "Bearer " + token(t, "olga", "operator")}
	body := func(method string) string { return harness.OrderBody(method, "MUG-01") }
	for _, c := range []struct{ method, path, body, field string }{
		{"GET", "/v1/dead-letters/%00", "", "id"}, {"POST", "/v1/dead-letters/a%ff/redrive", "", "id"}, {"DELETE", "/v1/dead-letters/x?reason=%00", "", "reason"},
		{"GET", "/v1/orders/%00", "", "id"}, {"GET", "/v1/orders?cursor=%00", "", "cursor"}, {"GET", "/v1/orders?status=%ff", "", "status"},
		{"GET", "/v1/sagas/%ff", "", "id"}, {"GET", "/v1/stock/%00", "", "sku"}, {"GET", "/v1/%00", "", "path"}, {"GET", "/ui/orders/%00", "", "path"},
		{"GET", "/v1/orders?cursor=" + base64.RawURLEncoding.EncodeToString([]byte("2026-01-02T03:04:05Z a\xffb")), "", "cursor"},
		{"POST", "/v1/orders", strings.ReplaceAll(body("pm_ok"), "MUG-01", `a\u0000b`), "lines[0].sku"},
		{"POST", "/v1/orders", strings.ReplaceAll(body("pm_ok"), "MUG-01", "a\xffb"), "lines[0].sku"},
		{"POST", "/v1/orders", strings.Replace(body("pm_ok"), `"lines":`, `"lines":[{"sku":"A","quantity":1,"unit_price":1}],"lines":`, 1), "lines"},
		{"POST", "/v1/orders", strings.Replace(body("pm_ok"), `"lines"`, `"Lines"`, 1), "Lines"},
		{"POST", "/v1/sagas/01980000-0000-7000-8000-000000000000/resolve", `{"reason":"a\u0000b"}`, "reason"},
		{"PUT", "/v1/sandbox/payments", `{"down":false,"down":true}`, "down"}, {"PUT", "/v1/sandbox/payments", `{"Down":true}`, "Down"},
	} {
		response := i.Do(c.method, c.path, c.body, operator...)
		require.Equal(t, http.StatusBadRequest, response.Status, "%s %s: %s", c.method, c.path, response.Body)
		var p kittest.Problem
		response.JSON(t, &p)
		require.NotEmpty(t, p.Errors, response.Body)
		require.Equal(t, c.field, p.Errors[0].Field, c.path)
	}
	response := i.Do(http.MethodPost, "/v1/orders", body("pm_ok"), append(operator, "Idempotency-Key", "a\xffb")...)
	require.Equal(t, http.StatusBadRequest, response.Status, response.Body)
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded"} {
		response = i.Do(http.MethodPost, "/v1/orders", body("pm_ok"), append(operator, "Content-Type", kind)...)
		require.Equal(t, http.StatusUnsupportedMediaType, response.Status, response.Body)
	}
	nul, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "a\x00b", "role": "customer", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
	require.NoError(t, err)
	response = i.Do(http.MethodGet, "/v1/orders", "", "Authorization", "Bearer "+nul)
	require.Equal(t, http.StatusBadRequest, response.Status, response.Body)
	require.Contains(t, response.Body, `"field":"sub"`)
}

// send sends a request with a Host of its own.
func send(t *testing.T, i *harness.Instance, base, method, path, host string) kittest.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
	require.NoError(t, err)
	request.Host = host
	response, err := i.HTTP().Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return kittest.Response{Status: response.StatusCode, Header: response.Header, Body: string(body)}
}

func TestDNSRebindingIsRefused(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w := harness.NewEnvironment(t, "HTTP_HOSTS=orders.example")
	i := w.Start()
	for _, path := range []string{"/", "/ui/", "/ui/orders", "/v1/orders", "/v1/outbox", "/healthz", "/readyz", "/metrics", "/docs/", "/sandbox/payments/voids", "/nothing"} {
		require.Equal(t, http.StatusMisdirectedRequest, send(t, i, i.URL, http.MethodGet, path, "evil.example").Status, path)
		require.NotEqual(t, http.StatusMisdirectedRequest, send(t, i, i.URL, http.MethodGet, path, "orders.example").Status, path)
	}
	require.Equal(t, http.StatusMisdirectedRequest, send(t, i, i.URL, http.MethodPost, "/ui/orders", "evil.example:8080").Status)
	refused := send(t, i, i.URL, http.MethodGet, "/v1/orders", "evil.example")
	require.Contains(t, refused.Header.Get("Content-Type"), "application/problem+json")
	require.Contains(t, refused.Body, "HTTP_HOSTS")
}

// OPS_ADDR takes operators, probes and metrics away from the address that clients reach.
func TestOperationsOnAListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, at once
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	i := harness.NewEnvironment(t, "OPS_ADDR="+addr).Launch()
	ops := "http://" + addr
	kittest.Eventually(t, func() error {
		response, err := i.HTTP().Get(ops + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%d", response.StatusCode)
		}
		return nil
	})
	for path, want := range map[string][2]int{
		"/healthz": {200, 200}, "/readyz": {404, 200}, "/metrics": {404, 200}, "/ui/": {404, 200}, "/v1/sagas": {404, 200}, "/v1/dead-letters": {404, 200},
		"/v1/orders": {200, 200}, "/docs/": {200, 200}, "/openapi.yaml": {200, 200},
	} {
		require.Equal(t, want[0], i.Do(http.MethodGet, path, "").Status, path)
		require.Equal(t, want[1], send(t, i, ops, http.MethodGet, path, addr).Status, path)
	}
	require.Contains(t, i.Output(), ops+"/ui/", "the banner says where the pages are")
	output, code := run(t, []string{"OPS_ADDR=" + addr}, "sagas", "list")
	require.Zero(t, code, output)
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	output, code = run(t, []string{"OPS_ADDR=0.0.0.0:" + port}, "serve")
	require.Equal(t, 2, code)
	require.Contains(t, output, "OPS_ADDR: 0.0.0.0:"+port+" is beyond loopback")
}

func TestHEADWorksWhereGETDoes(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.yaml", "/asyncapi.yaml", "/docs/", "/ui/", "/ui/sagas", "/ui/static/ui.css", "/v1/orders", "/v1/outbox"} {
		response := i.Do(http.MethodHead, path, "")
		require.Equal(t, http.StatusOK, response.Status, path)
		require.Empty(t, response.Body)
		require.Equal(t, i.Do(http.MethodGet, path, "").Header.Get("Content-Type"), response.Header.Get("Content-Type"), path)
	}
}

// The operator's cookie is taken over TLS alone, except on loopback, where there is none.
func TestOperatorsCookie(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t, "AUTH_SECRET="+secret, "TRUSTED_PROXIES=127.0.0.1").Start()
	login := func(host, proto string) (*http.Response, string) {
		form := url.Values{"token": {token(t, "olga", "operator")}, "next": {"/ui/sagas"}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.URL+"/ui/login", strings.NewReader(form.Encode()))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if host != "" {
			request.Host = host
		}
		if proto != "" {
			request.Header.Set("X-Forwarded-Proto", proto)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response, string(body)
	}
	response, _ := login("orders.example", "https")
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	cookies := response.Cookies()
	require.Len(t, cookies, 1)
	require.Equal(t, "__Host-millrace_token", cookies[0].Name)
	require.True(t, cookies[0].Secure && cookies[0].HttpOnly)
	require.Equal(t, "/", cookies[0].Path)
	require.Empty(t, cookies[0].Domain)
	require.Equal(t, http.SameSiteStrictMode, cookies[0].SameSite)

	response, body := login("orders.example", "http")
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	require.Contains(t, body, "Sign in over https")
	require.Empty(t, response.Cookies())

	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	response, _ = login("", "")
	require.Equal(t, "millrace_token", response.Cookies()[0].Name)
	here, err := url.Parse(i.URL + "/ui/login")
	require.NoError(t, err)
	jar.SetCookies(here, response.Cookies())
	browser := &http.Client{Jar: jar}
	page, err := browser.Get(i.URL + "/ui/sagas")
	require.NoError(t, err)
	defer page.Body.Close()
	require.Equal(t, "/ui/sagas", page.Request.URL.Path, "signed in")
}

func TestStreamGoesOnAfterLastEventID(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t, "MAX_STREAMS=2").Start()
	i.Stock(1000, "MUG-01")
	id := i.Place("pm_ok", "MUG-01")
	i.Decided(id)
	whole := i.Do(http.MethodGet, "/v1/orders/"+id+"/stream", "")
	require.Equal(t, http.StatusOK, whole.Status)
	require.Equal(t, "no", whole.Header.Get("X-Accel-Buffering"))
	var ids []string
	for line := range strings.SplitSeq(whole.Body, "\n") {
		if event, ok := strings.CutPrefix(line, "id: "); ok {
			ids = append(ids, event)
		}
	}
	require.NotEmpty(t, ids)
	rest := i.Do(http.MethodGet, "/v1/orders/"+id+"/stream", "", "Last-Event-ID", ids[len(ids)-1])
	require.Equal(t, http.StatusNoContent, rest.Status, "nothing came after it, and nothing will: a browser does not connect again")
	rest = i.Do(http.MethodGet, "/v1/orders/"+id+"/stream", "", "Last-Event-ID", "1-"+strings.SplitN(ids[len(ids)-1], "-", 2)[1])
	require.Contains(t, rest.Body, "event: order")
	require.NotContains(t, rest.Body, "event: saga", "it was seen")
	all := i.Do(http.MethodGet, "/v1/orders/"+id+"/stream", "", "Last-Event-ID", "from elsewhere").Body
	require.Contains(t, all, "event: order")
	require.Contains(t, all, "event: saga")

	// More streams than MAX_STREAMS are refused, and can be opened later.
	i.SetFaults("payments", `{"latency":"30s"}`)
	slow := i.Place("pm_ok", "MUG-01")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.URL+"/v1/orders/"+slow+"/stream", nil)
		require.NoError(t, err)
		response, err := i.HTTP().Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	refused := i.Do(http.MethodGet, "/v1/orders/"+slow+"/stream", "")
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))
	require.Contains(t, refused.Body, "MAX_STREAMS")
	page := i.Do(http.MethodGet, "/ui/", "", "Accept", "text/event-stream")
	require.Equal(t, http.StatusServiceUnavailable, page.Status, "pages count too")
	cancel()
	kittest.Eventually(t, func() error {
		if response := i.Do(http.MethodHead, "/v1/orders/"+slow+"/stream", ""); response.Status != http.StatusOK {
			return fmt.Errorf("%d", response.Status)
		}
		return nil
	})
	i.SetFaults("payments", `{"latency":"0s"}`)
}

// Events arrive while they happen, through a proxy with its default settings.
func TestStreamThroughNginxWithItsDefaults(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		nginx = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(nginx); err != nil {
		t.Skip("nginx is not installed: apt-get install nginx")
	}
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, at once
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
		events {}
		http { access_log off; server { listen %[2]s; location / { proxy_pass %[3]s; } } }`, dir, addr, i.URL), 0o600))
	proxy := exec.Command(nginx, "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", config) // ended below
	require.NoError(t, proxy.Start())
	t.Cleanup(func() {
		_ = proxy.Process.Signal(syscall.SIGTERM)
		_ = proxy.Wait()
	})
	i.SetFaults("payments", `{"latency":"30s"}`)
	id := i.Place("pm_ok", "MUG-01")
	for _, path := range []string{"/v1/orders/" + id + "/stream", "/ui/orders/" + id} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var response *http.Response
		kittest.Eventually(t, func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
			if err != nil {
				return err
			}
			request.Header.Set("Accept", "text/event-stream")
			response, err = http.DefaultClient.Do(request)
			return err
		})
		require.Equal(t, http.StatusOK, response.StatusCode, path)
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 1<<20)
		found := false
		for !found && lines.Scan() {
			found = strings.Contains(lines.Text(), "authorise payment")
		}
		require.True(t, found, "%s: an event comes while the step is under way: %v", path, lines.Err())
		cancel()
		require.NoError(t, response.Body.Close())
	}
	i.SetFaults("payments", `{"latency":"0s"}`)
}

// What scrapers ask for every few seconds must not take the longer the more waits.
func TestMetricsOfABacklogAreBounded(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	db := kittest.OpenDB(t, i.DSN())
	_, err := db.ExecContext(t.Context(), `INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at)
		SELECT 'm' || n, 't', 'k' || n, n % 16, '', '{}', now() + interval '1 day' FROM generate_series(1, 30000) n`)
	require.NoError(t, err)
	kittest.Eventually(t, func() error {
		var outbox struct{ Delayed int }
		i.Do(http.MethodGet, "/v1/outbox", "").JSON(t, &outbox)
		if outbox.Delayed != 10_000 {
			return fmt.Errorf("%d", outbox.Delayed)
		}
		return nil
	})
	require.Regexp(t, `(?m)^millrace_outbox_delayed 10000$`, i.Do(http.MethodGet, "/metrics", "").Body)
	require.Equal(t, http.StatusOK, i.Do(http.MethodGet, "/readyz", "").Status)
}
