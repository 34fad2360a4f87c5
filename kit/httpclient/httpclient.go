// Package httpclient is the HTTP client of gateways to external services: calls that take effect once, with checked responses.
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

// Timeout limits a call.
const Timeout = 2 * time.Second

// maxAnswer limits how much of a response is read, in bytes.
const maxAnswer = 64 << 10

// Bounds of the texts that are kept of an answer, in bytes.
const (
	maxReference = 255
	maxReason    = 500
)

// Client calls one external service. The zero Client refuses every call.
type Client struct {
	base string
	http *http.Client
}

// New makes a client of the service at a base URL. Without one, the client refuses every call.
func New(base string) Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 256 // as many as there are calls at once: dialling costs more than calling
	return Client{strings.TrimRight(base, "/"), &http.Client{Timeout: Timeout, Transport: transport, CheckRedirect: refuseRedirect}}
}

// refuseRedirect returns a redirect as the answer. Following it would turn the POST into a GET, and the 200 of that GET would count as
// a payment.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// None tells whether the client has no service to call.
func (c Client) None() bool { return c.base == "" }

// Post sends a request with an idempotency key, which is made of path and id, so that all attempts have the same one. Status 402, 409 and 422 are
// refusals. A status of 2xx counts only with the service's reference, or, if noContent is allowed, as a 204. Every other answer is an error. It
// wraps cqrs.ErrUnavailable, so that the call is retried and counts for the breaker, unless it is about this request only. The body of an answer is
// JSON: {"reference": "…"} or {"reason": "…"}.
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

// aboutTheRequest are the statuses that mean that one request is wrong. They mean nothing for other requests: the breaker does not count them,
// and the message becomes a dead letter after a few attempts.
var aboutTheRequest = map[int]bool{
	http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusRequestURITooLong: true, http.StatusRequestHeaderFieldsTooLarge: true,
}

// clean makes a refusal's reason storable. The refusal counts whatever its reason contains.
func clean(reason string) string {
	reason = strings.ReplaceAll(strings.ToValidUTF8(reason, "\uFFFD"), "\x00", "\uFFFD")
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// Accepted turns a refusal into an error, for calls that cannot be refused.
func Accepted(a cqrs.CallResult, err error, doing string) error {
	if err == nil && a.Refused != "" {
		return fmt.Errorf("%s: refused: %s", doing, a.Refused)
	}
	return err
}
