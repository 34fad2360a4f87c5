package service

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/runner"
)

// The parts of docs/ that are generated from the code are current. With WRITE_DOCUMENTS the test writes them: make generate.
func TestDocumentsAreCurrent(t *testing.T) {
	service := New()
	config, err := runner.ReadConfig(&service, func(string) string { return "" })
	require.NoError(t, err)
	described, err := service.AsyncAPI(config)
	require.NoError(t, err)
	current := map[string]string{"../docs/asyncapi.yaml": string(described)}
	for _, s := range slices.Backward(service.Sagas) { // the newest version is first
		current["../docs/"+s.Name()+".mmd"] = s.Diagram()
	}
	for path, want := range current {
		if os.Getenv("WRITE_DOCUMENTS") != "" {
			require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		}
		got, _ := os.ReadFile(path) // a missing file is not current
		if string(got) != want {
			t.Errorf("%s is not current: make generate", strings.TrimPrefix(path, "../"))
		}
	}
}
