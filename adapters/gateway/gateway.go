// Package gateway calls the services outside, the payment provider and the carrier, over HTTP.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/command"
)

// Timeout is how long a call may take, all in all.
const Timeout = 2 * time.Second

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// client is what both gateways share.
type client struct {
	base string
	http *http.Client
}

func newClient(base string) client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 256 // as many as there are calls at once: dialling costs more than calling
	return client{strings.TrimRight(base, "/"), &http.Client{Timeout: Timeout, Transport: transport}}
}

// post calls with an idempotency key: what and for which id, the same for every attempt. Status 402, 409 and 422 are
// refusals; whatever is neither these nor 2xx may pass, and wraps app.ErrDown.
func (c client) post(ctx context.Context, path, id string, body any) (answer command.Answer, err error) {
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
	return c.call(ctx, path, id, body)
}

func (c client) call(ctx context.Context, path, id string, body any) (command.Answer, error) {
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
		return command.Answer{}, fmt.Errorf("%w: %w", app.ErrDown, err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end, or given up
	var answer struct {
		Reference string `json:"reference"`
		Reason    string `json:"reason"`
	}
	decodeErr := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer)
	switch {
	case response.StatusCode == http.StatusPaymentRequired, response.StatusCode == http.StatusConflict,
		response.StatusCode == http.StatusUnprocessableEntity:
		if answer.Reason == "" {
			answer.Reason = "refused without a reason"
		}
		return command.Answer{Refused: answer.Reason}, nil
	case response.StatusCode/100 != 2:
		return command.Answer{}, fmt.Errorf("%w: %s%s answers %s", app.ErrDown, c.base, path, response.Status)
	case decodeErr != nil:
		return command.Answer{}, fmt.Errorf("%w: %s%s: unreadable answer: %w", app.ErrDown, c.base, path, decodeErr)
	}
	return command.Answer{Reference: answer.Reference}, nil
}

// must turns a refusal where none is possible into an error.
func must(a command.Answer, err error, doing string) error {
	if err == nil && a.Refused != "" {
		return fmt.Errorf("%s: refused: %s", doing, a.Refused)
	}
	return err
}
