package kittest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Client sends HTTP requests to an instance. NewClient makes it.
type Client struct {
	URL  string
	t    *testing.T
	http *http.Client
}

// NewClient makes a client for a base URL. Its time limit is 45 seconds for a request.
func NewClient(t *testing.T, url string) Client {
	return Client{url, t, &http.Client{Timeout: 45 * time.Second}}
}

// Response is a response with its whole body.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// JSON decodes the body into v.
func (r Response) JSON(t *testing.T, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.Body), v), "%d: %s", r.Status, r.Body)
}

// Problem is the JSON body of an error response (RFC 9457).
type Problem struct {
	Type, Title, Detail string
	Status              int
	Errors              []struct{ Field, Message string }
}

// Try sends a request and returns an error if there is no response. Headers are alternately names and values. A request with a body has the Content-Type of
// JSON.
func (c Client) Try(method, path, body string, headers ...string) (Response, error) {
	request, err := http.NewRequest(method, c.URL+path, bytes.NewBufferString(body)) // the client has a time limit
	if err != nil {
		return Response{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Response{}, err
	}
	defer response.Body.Close() // read to its end
	content, err := io.ReadAll(response.Body)
	return Response{response.StatusCode, response.Header, string(content)}, err
}

// Do sends a request and fails the test if there is no response.
func (c Client) Do(method, path, body string, headers ...string) Response {
	c.t.Helper()
	response, err := c.Try(method, path, body, headers...)
	require.NoError(c.t, err)
	return response
}

// Get sends a GET request. It returns an error instead of failing the test, so it is suited to polling.
func (c Client) Get(path string) (status int, body string, err error) {
	response, err := c.Try(http.MethodGet, path, "")
	return response.Status, response.Body, err
}

// Saga is a saga as the API shows it.
type Saga struct {
	ID      string `json:"saga_id"`
	Subject string `json:"subject"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Steps   []Step `json:"steps"`
}

// Step is a step of a saga.
type Step struct {
	Name     string `json:"name"`
	Status   string `json:"status"`
	Attempts int    `json:"attempts"`
	Reason   string `json:"reason"`
	Stuck    bool   `json:"stuck"`

	// Items has the numbers of a for-each step's items by status, InFlight its items in flight.
	Items    map[string]int `json:"items"`
	InFlight []Step         `json:"in_flight"`
}

// Statuses returns the statuses of the steps and of their items in flight, by name.
func (s Saga) Statuses() map[string]string {
	statuses := map[string]string{}
	for _, step := range s.Steps {
		statuses[step.Name] = step.Status
		for _, item := range step.InFlight {
			statuses[item.Name] = item.Status
		}
	}
	return statuses
}

// Saga reads a saga and fails the test if there is none with this id.
func (c Client) Saga(id string) (saga Saga) {
	c.t.Helper()
	response := c.Do(http.MethodGet, "/v1/sagas/"+id, "")
	require.Equal(c.t, http.StatusOK, response.Status, response.Body)
	response.JSON(c.t, &saga)
	return saga
}
