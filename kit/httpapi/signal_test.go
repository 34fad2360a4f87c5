package httpapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// A signal's payload is decoded strictly, as often as the unit of work runs; its refusals have their own status.
func TestSignalSaga(t *testing.T) {
	const path = "/v1/sagas/01980000-0000-7000-8000-000000000000/signals/inspection"
	var got struct {
		Damaged bool `json:"damaged"`
	}
	var fault error
	s := things()
	s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("SagaByID", func(context.Context, manager.ByID) (saga.State, error) {
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		return saga.State{Status: saga.StatusRunning, Signals: map[string]string{"inspect parcel": "inspection"}, Steps: []saga.StepState{{Name: "inspect parcel", Status: saga.StepStatusInProgress, Stage: 2, Stuck: true, Deadline: &at}}}, nil
	})})
	s.Signal = func(_ context.Context, _, name string, decode func(any) error) error {
		require.Equal(t, "inspection", name)
		if fault != nil {
			return fault
		}
		if err := decode(&got); err != nil {
			return err
		}
		return decode(&got) // the unit of work is run again after a conflict
	}
	post := func(body, contentType string) *httptest.ResponseRecorder {
		handler, err := s.Handler(Everything)
		require.NoError(t, err)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
		r.Host = "localhost"
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	answer := post(`{"damaged":true}`, "application/json")
	require.Equal(t, http.StatusAccepted, answer.Code, answer.Body)
	require.True(t, got.Damaged)
	for _, text := range []string{`"signal":"inspection"`, `"stage":2`, `"stuck":true`} {
		require.Contains(t, answer.Body.String(), text)
	}
	require.Equal(t, http.StatusBadRequest, post(`{"damage":true}`, "application/json").Code)
	require.Equal(t, http.StatusBadRequest, post(``, "application/json").Code)
	require.Equal(t, http.StatusUnsupportedMediaType, post(`{}`, "text/plain").Code)
	for err, status := range map[error]int{manager.ErrRole: http.StatusForbidden, saga.ErrNotAwaited: http.StatusConflict, cqrs.ErrNotFound: http.StatusNotFound} {
		fault = err
		require.Equal(t, status, post(`{}`, "application/json").Code, err)
	}
}
