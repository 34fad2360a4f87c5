package component

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

const secret = "a-secret-of-more-than-32-characters-for-tests"

func token(t *testing.T, subject, role string) string {
	t.Helper()
	output, code := run(t, []string{"AUTH_SECRET=" + secret}, "token", "--subject", subject, "--role", role)
	require.Zero(t, code, output)
	return strings.TrimSpace(output)
}

// Nobody gets in without a token; customers see their own orders only; operators see all and operate.
func TestAccessByRole(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t, "AUTH_SECRET="+secret, "RATE_LIMIT=0", "LOG_LEVEL=debug").Start()
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	ada, bob, op := bearer(token(t, "ada", "customer")), bearer(token(t, "bob", "customer")), bearer(token(t, "olga", "operator"))
	status := func(method, path, body string, who []string) int {
		t.Helper()
		return i.Do(method, path, body, who...).Status
	}

	for _, path := range []string{"/v1/orders", "/v1/sagas", "/v1/dead-letters", "/v1/outbox", "/v1/breakers", "/v1/stock/MUG-01", "/v1/sandbox/payments", "/v1/nothing"} {
		none := i.Do(http.MethodGet, path, "")
		require.Equal(t, http.StatusUnauthorized, none.Status, path)
		require.Contains(t, none.Header.Get("WWW-Authenticate"), "Bearer")
		require.Contains(t, none.Header.Get("Content-Type"), "application/problem+json")
		require.Equal(t, http.StatusUnauthorized, status(http.MethodGet, path, "", bearer("x.y.z")), path)
		require.Equal(t, http.StatusUnauthorized, status(http.MethodGet, path, "", []string{"Authorization", "Basic YWRhOng="}), path)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.yaml"} {
		require.Equal(t, http.StatusOK, status(http.MethodGet, path, "", nil), path)
	}

	place := func(who []string) string {
		response := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), who...)
		require.Equal(t, http.StatusAccepted, response.Status, response.Body)
		var order harness.Order
		response.JSON(t, &order)
		return order.ID
	}
	hers := place(ada)
	place(bob)
	unknown := i.Do(http.MethodGet, "/v1/orders/01980000-0000-7000-8000-000000000000", "", bob...)
	for _, foreign := range []kittest.Response{
		i.Do(http.MethodGet, "/v1/orders/"+hers, "", bob...), i.Do(http.MethodGet, "/v1/orders/"+hers+"/history", "", bob...),
		i.Do(http.MethodGet, "/v1/orders/"+hers+"/stream", "", bob...), i.Do(http.MethodPost, "/v1/orders/"+hers+"/cancel", "", bob...),
	} {
		require.Equal(t, http.StatusNotFound, foreign.Status, foreign.Body)
		require.Equal(t, unknown.Body, strings.ReplaceAll(foreign.Body, hers, "01980000-0000-7000-8000-000000000000"), "as if it were not there")
	}
	var mine harness.Order
	i.Do(http.MethodGet, "/v1/orders/"+hers, "", ada...).JSON(t, &mine)
	require.Equal(t, "ada", mine.CustomerID)
	require.Equal(t, http.StatusOK, status(http.MethodGet, "/v1/orders/"+hers+"/history", "", ada))
	require.Equal(t, http.StatusOK, status(http.MethodGet, "/v1/orders/"+hers, "", op))
	customers := func(who []string) (found []string) {
		var page struct{ Orders []harness.Order }
		i.Do(http.MethodGet, "/v1/orders", "", who...).JSON(t, &page)
		for _, o := range page.Orders {
			found = append(found, o.CustomerID)
		}
		return found
	}
	kittest.Eventually(t, func() error { // the list is a read model
		if all := customers(op); len(all) != 2 {
			return fmt.Errorf("the operator sees %v", all)
		}
		return nil
	})
	require.Equal(t, []string{"ada"}, customers(ada))
	require.Equal(t, []string{"bob"}, customers(bob))

	for _, call := range []struct{ method, path, body string }{
		{"GET", "/v1/sagas", ""}, {"GET", "/v1/dead-letters", ""}, {"GET", "/v1/outbox", ""}, {"GET", "/v1/breakers", ""}, {"GET", "/v1/sandbox/payments", ""},
		{"PUT", "/v1/sandbox/payments", `{"down":true}`}, {"POST", "/v1/stock/MUG-01/receipts", `{"quantity":1}`},
		{"POST", "/v1/sagas/01980000-0000-7000-8000-000000000000/retry", ""}, {"DELETE", "/v1/dead-letters/x?reason=r", ""},
	} {
		require.Equal(t, http.StatusForbidden, status(call.method, call.path, call.body, ada), call.path)
		require.NotEqual(t, http.StatusForbidden, status(call.method, call.path, call.body, op), call.path)
	}
	require.Equal(t, http.StatusOK, status(http.MethodPut, "/v1/sandbox/payments", `{"down":false}`, op))
	kittest.Eventually(t, func() error { // the receipt above is on its way
		if got := status(http.MethodGet, "/v1/stock/MUG-01", "", ada); got != http.StatusOK {
			return fmt.Errorf("a customer sees the stock: %d", got)
		}
		return nil
	})

	// The same key of two customers is two keys.
	key := func(who []string) string {
		response := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), append([]string{"Idempotency-Key", "k"}, who...)...)
		require.Equal(t, http.StatusAccepted, response.Status, response.Body)
		require.Empty(t, response.Header.Get("Idempotency-Replayed"))
		var accepted harness.Order
		require.NoError(t, json.Unmarshal([]byte(response.Body), &accepted))
		return accepted.ID
	}
	require.NotEqual(t, key(ada), key(bob))

	output, code := run(t, nil, "sagas", "list", "--url", i.URL)
	require.Equal(t, 1, code)
	require.Contains(t, output, "401")
	output, code = run(t, []string{"AUTH_SECRET=" + secret}, "sagas", "list", "--url", i.URL)
	require.Zero(t, code, output)
	output, code = run(t, []string{"AUTH_TOKEN=" + strings.TrimPrefix(ada[1], "Bearer ")}, "sagas", "list", "--url", i.URL)
	require.Equal(t, 1, code)
	require.Contains(t, output, "this is for operators")
	output, code = run(t, nil, "token", "--subject", "ada", "--role", "customer")
	require.Equal(t, 2, code)
	require.Contains(t, output, "AUTH_SECRET: is not set")

	for _, kept := range []string{secret, strings.TrimPrefix(ada[1], "Bearer "), strings.TrimPrefix(op[1], "Bearer ")} {
		require.NotContains(t, i.Output(), kept, "secrets are in no log, at any level")
	}
}

func TestBrowsersAndCrowdsAreKeptInBounds(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t, "AUTH_SECRET="+secret, "RATE_LIMIT=20").Start()
	one, other := []string{"Authorization", "Bearer " + token(t, "one", "customer")}, []string{"Authorization", "Bearer " + token(t, "other", "customer")}
	limited := kittest.Response{}
	for range 100 {
		if response := i.Do(http.MethodGet, "/v1/orders", "", one...); response.Status == http.StatusTooManyRequests {
			limited = response
			break
		}
	}
	require.Equal(t, http.StatusTooManyRequests, limited.Status)
	require.Equal(t, "1", limited.Header.Get("Retry-After"))
	require.Contains(t, limited.Header.Get("Content-Type"), "application/problem+json")
	require.Equal(t, http.StatusOK, i.Do(http.MethodGet, "/v1/orders", "", other...).Status, "others are not limited by it")

	response := i.Do(http.MethodGet, "/healthz", "")
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	} {
		require.Equal(t, want, response.Header.Get(name))
	}
	foreign := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), append([]string{"Sec-Fetch-Site", "cross-site"}, other...)...)
	require.Equal(t, http.StatusForbidden, foreign.Status)
	require.Contains(t, foreign.Body, "pages of other sites")
}
