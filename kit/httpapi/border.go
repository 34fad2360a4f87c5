package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
)

// Border has middleware that checks every request before it is routed: Enter checks the Host and finds the client's address behind trusted proxies,
// Recover handles panics.
type Border struct {
	// Hosts are the names that a request may have as Host, in addition to loopback names; "*" allows any name. They are checked if CheckHost is set,
	// which is for services that need no tokens: without the check, a page of another site could resolve its own name to this service (DNS rebinding)
	// and operate the service through the browser of a visitor.
	Hosts     []string
	CheckHost bool

	// Proxies are the addresses of trusted proxies, whose X-Forwarded-For and X-Forwarded-Proto are used.
	Proxies []netip.Prefix

	Log     *slog.Logger
	OnPanic func() // optional

	// Fail answers a request with an error. Required.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// Client is the origin of a request.
type Client struct {
	Addr     string // IP address; a trusted proxy may have reported it
	HTTPS    bool   // the client uses TLS, to this service or to a trusted proxy
	Loopback bool   // the Host of the request is a loopback name
}

type clientKey struct{}

// ClientOf returns the origin of the request of ctx, which Border.Enter has stored. Without it, the Client is the zero value.
func ClientOf(ctx context.Context) Client {
	c, _ := ctx.Value(clientKey{}).(Client)
	return c
}

// Recover is middleware. When a handler panics it answers 500, calls OnPanic and logs the stack. It does not recover http.ErrAbortHandler.
func (b *Border) Recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			if value == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
				panic(value)
			}
			if b.OnPanic != nil {
				b.OnPanic()
			}
			b.Log.ErrorContext(r.Context(), "HTTP handler panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
			WriteProblem(w, http.StatusInternalServerError, "this is our fault; the log says more", nil)
		}()
		next.ServeHTTP(w, r)
	})
}

// Enter is middleware. It finds the client of a request (see ClientOf), and answers 421 through Fail if the Host is not a name of this service.
func (b *Border) Enter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := HostName(r.Host)
		if b.CheckHost && !isLoopback(host) && !slices.ContainsFunc(b.Hosts, func(name string) bool { return name == "*" || HostName(name) == host }) {
			b.Fail(w, r, &RequestError{
				Status: http.StatusMisdirectedRequest,
				Detail: fmt.Sprintf("Host: %.100q is none of the names of this service; without tokens only loopback names are accepted, and those that HTTP_HOSTS lists", r.Host),
				Fields: []FieldError{{Field: "Host", Message: "is none of the names of this service"}},
			})
			return
		}
		client := Client{Addr: b.addr(r), HTTPS: r.TLS != nil, Loopback: isLoopback(host)}
		if proto := last(r.Header.Values("X-Forwarded-Proto")); proto != "" && b.trusts(peer(r)) {
			client.HTTPS = strings.EqualFold(proto, "https")
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clientKey{}, client)))
	})
}

// addr is the last address in X-Forwarded-For that is not a trusted proxy, because a client can only write addresses before it.
func (b *Border) addr(r *http.Request) string {
	at := peer(r)
	var hops []string
	for _, value := range r.Header.Values("X-Forwarded-For") {
		hops = append(hops, strings.Split(value, ",")...)
	}
	for _, hop := range slices.Backward(hops) {
		if !b.trusts(at) {
			break
		}
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = next.Unmap()
	}
	if !at.IsValid() {
		return r.RemoteAddr
	}
	return at.String()
}

func (b *Border) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(b.Proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// peer is the address at the other end of the connection, or the zero Addr if RemoteAddr is no address.
func peer(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// last is the last element of a header's list, which the nearest proxy has written.
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	parts := strings.Split(values[len(values)-1], ",")
	return strings.TrimSpace(parts[len(parts)-1])
}

// HostName returns the name in a Host header in lower case, without the port, the brackets of IPv6 and a final dot.
func HostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
}

// maxText limits a query parameter and a header, in bytes.
const maxText = 4096

// readHeaders are the headers that this package reads and that may reach the database.
var readHeaders = []string{"Idempotency-Key", "Prefer", "Last-Event-Id", "Content-Type", "X-Request-Id"}

// CheckText checks the text of a request: the parameters of its path (by their names), the path, the query, and the headers that this package reads.
// The error is a *cqrs.TextError that names the field, or a *RequestError if the query cannot be parsed.
func CheckText(r *http.Request, path map[string]string) error {
	for name, value := range path {
		if err := cqrs.CheckText(name, value, cqrs.MaxKey); err != nil {
			return err
		}
	}
	if err := cqrs.CheckText("path", r.URL.Path, 0); err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Invalid(http.StatusBadRequest, "query", "cannot be read: "+err.Error())
	}
	for name, values := range query {
		for _, text := range append(values, name) {
			if err := cqrs.CheckText(strings.ToValidUTF8(name, "\uFFFD"), text, maxText); err != nil {
				return err
			}
		}
	}
	for _, name := range readHeaders {
		for _, value := range r.Header.Values(name) {
			if err := cqrs.CheckText(name, value, maxText); err != nil {
				return err
			}
		}
	}
	return nil
}
