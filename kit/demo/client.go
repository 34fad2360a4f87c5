package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cli"
)

// Client calls the HTTP API of a service at URL with HTTP.
type Client struct {
	URL  string
	HTTP *http.Client
}

// Do sends a request. A body that is not nil is encoded as JSON; the answer is decoded from JSON unless answer is nil. The error of a response whose status
// is not 2xx wraps a *cli.StatusError.
func (c Client) Do(ctx context.Context, method, path string, headers map[string]string, body, answer any) error {
	var payload bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&payload).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, &payload)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	if answer == nil {
		answer = &json.RawMessage{}
	}
	return cli.Call(c.HTTP, request, answer)
}

// Get sends a GET request and decodes the answer.
func (c Client) Get(ctx context.Context, path string, answer any) error {
	return c.Do(ctx, http.MethodGet, path, nil, nil, answer)
}

// NotFound reports whether an error is a response with status 404.
func NotFound(err error) bool {
	status, ok := errors.AsType[*cli.StatusError](err)
	return ok && status.Status == http.StatusNotFound
}

// List reads all pages of a list. Field is the JSON name of the rows: List[order](ctx, c, "/v1/orders", "orders").
func List[T any](ctx context.Context, c Client, path, field string) (all []T, err error) {
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	for cursor := ""; ; {
		var page map[string]json.RawMessage
		if err := c.Get(ctx, path+separator+"limit=100&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return nil, err
		}
		var rows []T
		if err := json.Unmarshal(page[field], &rows); err != nil {
			return nil, err
		}
		all = append(all, rows...)
		next, more := page["next_cursor"]
		if !more {
			return all, nil
		}
		if err := json.Unmarshal(next, &cursor); err != nil {
			return nil, err
		}
	}
}

// ErrPatience is the error that Until returns when the time is over.
var ErrPatience = errors.New("it has not happened in time")

// Until calls done at the interval every until it returns true or an error. It returns ErrPatience after the time patience, and the error of ctx when ctx
// is done.
func Until(ctx context.Context, every, patience time.Duration, done func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; {
		if yes, err := done(); err != nil || yes {
			return err
		}
		if time.Now().After(deadline) {
			return ErrPatience
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}
