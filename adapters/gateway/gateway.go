// Package gateway calls the services outside, the payment provider and the carrier, over HTTP.
package gateway

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

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/kit/cqrs"
)

// Timeout is how long a call may take, all in all.
const Timeout = 2 * time.Second

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// Bounds of the texts that are kept of an answer, in bytes.
const (
	maxReference = 255
	maxReason    = 500
)

// client is what both gateways share.
type client struct {
	base string
	http *http.Client
}

func newClient(base string) client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 256 // as many as there are calls at once: dialling costs more than calling
	return client{strings.TrimRight(base, "/"), &http.Client{Timeout: Timeout, Transport: transport, CheckRedirect: refuseRedirect}}
}

// refuseRedirect returns a redirect as the answer. Following it would turn the POST into a GET, and the 200 of that GET would count as
// a payment.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// post calls with an idempotency key: operation and id, the same for every attempt. Status 402, 409 and 422 are refusals. A status of
// 2xx counts only with the provider's reference, or, if noContent is allowed, as a 204. Every other answer is an error. It wraps cqrs.ErrDown,
// so that it is tried again and the breaker counts it, unless it is about this request only.
func (c client) post(ctx context.Context, path, id string, body any, noContent bool) (answer command.Answer, err error) {
	if c.base == "" {
		return command.Answer{Refused: "there is no such service"}, nil
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

func (c client) call(ctx context.Context, path, id string, body any, noContent bool) (command.Answer, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return command.Answer{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(payload))
	if err != nil {
		return command.Answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", strings.TrimPrefix(path, "/")+"/"+id)
	otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(request.Header))
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return command.Answer{}, ctx.Err()
		}
		return command.Answer{}, fmt.Errorf("%w: %w", cqrs.ErrDown, err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end, or given up
	fault := func(what string) (command.Answer, error) {
		return command.Answer{}, fmt.Errorf("%w: %s%s answers %s: %s", cqrs.ErrDown, c.base, path, response.Status, what)
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
		return command.Answer{Refused: cmp.Or(clean(answer.Reason), "refused without a reason")}, nil
	case aboutTheRequest[status]:
		return command.Answer{}, fmt.Errorf("%s%s answers %s: it cannot take this request", c.base, path, response.Status)
	case status/100 == 3:
		return fault("redirects are refused; set the URL that it redirects to")
	case status/100 != 2:
		return fault("no answer to the request")
	case status == http.StatusNoContent && noContent:
		return command.Answer{}, nil
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
	return command.Answer{Reference: answer.Reference}, nil
}

// aboutTheRequest are the answers that say that one request is wrong. They say nothing of others: the breaker does not count them, and the
// message becomes a dead letter after a few attempts.
var aboutTheRequest = map[int]bool{
	http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusRequestURITooLong: true, http.StatusRequestHeaderFieldsTooLarge: true,
}

// clean makes a refusal's reason storable. The refusal counts whatever its reason holds.
func clean(reason string) string {
	reason = strings.ReplaceAll(strings.ToValidUTF8(reason, "\uFFFD"), "\x00", "\uFFFD")
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// must turns a refusal where none is possible into an error.
func must(a command.Answer, err error, doing string) error {
	if err == nil && a.Refused != "" {
		return fmt.Errorf("%s: refused: %s", doing, a.Refused)
	}
	return err
}
