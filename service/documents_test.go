package service

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/sagas"
)

// What docs/ shows of the code is what the code is. With WRITE_DOCUMENTS it is written: make generate.
func TestDocumentsAreCurrent(t *testing.T) {
	config, err := ReadConfig(func(string) string { return "" })
	require.NoError(t, err)
	described, err := program{config: config}.printAsyncAPI()
	require.NoError(t, err)
	current := map[string]string{"../docs/asyncapi.yaml": string(described)}
	for _, s := range sagas.All() {
		diagram, err := diagram(s.Name()) // of its newest version
		require.NoError(t, err)
		current["../docs/"+s.Name()+".mmd"] = diagram
	}
	for path, want := range current {
		if os.Getenv("WRITE_DOCUMENTS") != "" {
			require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		}
		got, _ := os.ReadFile(path) // one that is not there is not current either
		if string(got) != want {
			t.Errorf("%s is not current: make generate", strings.TrimPrefix(path, "../"))
		}
	}
}
