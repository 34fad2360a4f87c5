package httpclienttest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/httpclient"
	"github.com/millrace/millrace/kit/httpclient/httpclienttest"
)

func TestServiceAcceptsAndRefuses(t *testing.T) {
	s := httpclienttest.NewService(t)
	s.Answer = func(path, _ string) string {
		if path == "/hold" {
			return "no room is free"
		}
		return ""
	}
	client := httpclient.New(s.URL)
	answer, err := client.Post(t.Context(), "/hold", "1", nil, false)
	require.NoError(t, err)
	require.Equal(t, "no room is free", answer.Refused)
	answer, err = client.Post(t.Context(), "/release", "1", nil, true)
	require.NoError(t, err)
	require.Equal(t, "release/1", answer.Reference)
	require.Equal(t, []string{"/hold", "/release"}, s.Calls())
	answer, err = httpclient.New(httpclienttest.Accepting(t, "/release")).Post(t.Context(), "/release", "1", nil, true)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Reference)
}
