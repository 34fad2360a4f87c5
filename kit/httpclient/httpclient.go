// Package httpclient is the HTTP client of gateways to external services. Each call has an idempotency key, so that it takes effect once, and each
// response is checked.
package httpclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/kit/cqrs"
)

// Timeout limits a call, including reading the response.
const Timeout = 2 * time.Second

// maxAnswer limits how much of a response is read, in bytes.
const maxAnswer = 64 << 10

// Maximum lengths of the texts of a response that are kept, in bytes.
const (
	maxReference = 255
	maxReason    = 500
)

// Client calls one external service. The zero Client refuses every call. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// New makes a client of the service at a base URL. If base is empty, the client refuses every call.
func New(base string) Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 256 // enough idle connections for all concurrent calls, because dialling is expensive
	return Client{strings.TrimRight(base, "/"), &http.Client{Timeout: Timeout, Transport: transport, CheckRedirect: refuseRedirect}}
}

// refuseRedirect returns a redirect as the response. Following it would turn the POST into a GET, and the status 200 of that GET would count as
// success.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// None tells whether the client has no base URL, and therefore refuses every call.
func (c Client) None() bool { return c.base == "" }

// Post sends a POST request with the JSON of body. The header Idempotency-Key is made of path and id, so all attempts of a call have the same key.
// The body of a response is JSON: {"reference": "…"} or {"reason": "…"}.
//
// Status 402, 409 and 422 are refusals: Post returns the reason in CallResult.Refused and a nil error. A client without a base URL refuses every
// call. A status 2xx counts as success only with a reference, or, if noContent is true, as a 204.
//
// Every other response is an error. The error wraps cqrs.ErrUnavailable, so that the call is retried and counted by the circuit breaker, unless the
// status says that this request is wrong (400, 413, 414, 431). If ctx is done, Post returns the error of ctx.
func (c Client) Post(ctx context.Context, path, id string, body any, noContent bool) (answer cqrs.CallResult, err error) {
	if c.base == "" {
		return cqrs.CallResult{Refused: "there is no such service"}, nil
	}
	ctx, span := otel.Tracer("millrace").Start(ctx, "POST "+path, trace.WithSpanKind(trace.SpanKindClient))
	defer func() {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}()
	return c.call(ctx, path, id, body, noContent)
}

func (c Client) call(ctx context.Context, path, id string, body any, noContent bool) (cqrs.CallResult, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return cqrs.CallResult{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(payload))
	if err != nil {
		return cqrs.CallResult{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", strings.TrimPrefix(path, "/")+"/"+id)
	otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(request.Header))
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return cqrs.CallResult{}, ctx.Err()
		}
		return cqrs.CallResult{}, fmt.Errorf("%w: %w", cqrs.ErrUnavailable, err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end, or given up
	fault := func(what string) (cqrs.CallResult, error) {
		return cqrs.CallResult{}, fmt.Errorf("%w: %s%s answers %s: %s", cqrs.ErrUnavailable, c.base, path, response.Status, what)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fault(err.Error())
	}
	var answer struct {
		Reference string `json:"reference"`
		Reason    string `json:"reason"`
	}
	decodeErr := json.Unmarshal(text, &answer)
	switch status := response.StatusCode; {
	case status == http.StatusPaymentRequired, status == http.StatusConflict, status == http.StatusUnprocessableEntity:
		return cqrs.CallResult{Refused: cmp.Or(clean(answer.Reason), "refused without a reason")}, nil
	case aboutTheRequest[status]:
		return cqrs.CallResult{}, fmt.Errorf("%s%s answers %s: it cannot take this request", c.base, path, response.Status)
	case status/100 == 3:
		return fault("redirects are refused; set the URL that it redirects to")
	case status/100 != 2:
		return fault("no answer to the request")
	case status == http.StatusNoContent && noContent:
		return cqrs.CallResult{}, nil
	case !utf8.Valid(text):
		return fault("the body is not UTF-8")
	case decodeErr != nil:
		return fault("the body is not JSON: " + decodeErr.Error())
	case answer.Reference == "":
		return fault("the body has no reference, so it does not say that anything was done")
	}
	if err := cqrs.CheckText("reference", answer.Reference, maxReference); err != nil {
		return fault(err.Error())
	}
	return cqrs.CallResult{Reference: answer.Reference}, nil
}

// aboutTheRequest has the statuses which mean that one request is wrong. They say nothing about other requests, so the circuit breaker does not count
// them, and the message becomes a dead letter after a few attempts.
var aboutTheRequest = map[int]bool{
	http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusRequestURITooLong: true, http.StatusRequestHeaderFieldsTooLarge: true,
}

// clean makes a refusal's reason storable: valid text of limited length. A refusal counts whatever its reason contains.
func clean(reason string) string {
	reason = strings.ReplaceAll(strings.ToValidUTF8(reason, "\uFFFD"), "\x00", "\uFFFD")
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// Accepted returns an error if the call failed or was refused. Use it for calls that the external service must not refuse.
func Accepted(a cqrs.CallResult, err error, doing string) error {
	if err == nil && a.Refused != "" {
		return fmt.Errorf("%s: refused: %s", doing, a.Refused)
	}
	return err
}
