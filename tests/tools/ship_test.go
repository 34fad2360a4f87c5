package tools

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// Whoever builds a version gets the same bytes, wherever it is built, so that a binary can be held against its source.
func TestTheBinaryIsReproducible(t *testing.T) {
	takesMinutes(t)
	sum := func(m mine) map[string][sha256.Size]byte {
		m.must("make", "dist")
		sums := map[string][sha256.Size]byte{}
		for _, arch := range []string{"amd64", "arm64"} {
			binary, err := os.ReadFile(filepath.Join(m.dir, "dist", "millrace-linux-"+arch))
			require.NoError(t, err)
			require.NotContains(t, string(binary), m.dir, "it does not say where it was built")
			sums[arch] = sha256.Sum256(binary)
		}
		return sums
	}
	one, other := own(t), own(t)
	other.commitAs("somebody else")
	first := sum(one)
	require.Equal(t, first, sum(other))
	other.write("main.go", func(text string) string { return text + "\nfunc init() { println() }\n" })
	require.NotEqual(t, first, sum(other), "another source, another binary")
}

// What GitHub and GitLab run is the Makefile, so that it can be run anywhere else as well.
func TestPipelinesCallTheMakefile(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	read := func(path string, into any) {
		text, err := os.ReadFile(filepath.Join("../..", path))
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, into), path)
	}
	var github struct {
		Jobs map[string]struct {
			RunsOn string `yaml:"runs-on"`
			Steps  []struct{ Run, Uses string }
		}
	}
	read(".github/workflows/ci.yaml", &github)
	var gitlab map[string]struct{ Script []string }
	read(".gitlab-ci.yml", &gitlab)

	var scripts []string
	for name, job := range github.Jobs {
		require.NotEmpty(t, job.RunsOn, name)
		for _, step := range job.Steps {
			require.NotEqual(t, step.Run == "", step.Uses == "", "%s: a step runs something, or uses something", name)
			if step.Run != "" {
				scripts = append(scripts, step.Run)
			}
		}
	}
	for _, job := range gitlab {
		scripts = append(scripts, job.Script...)
	}
	require.NotEmpty(t, scripts)
	for _, script := range scripts {
		target, isMake := strings.CutPrefix(script, "make ")
		require.True(t, isMake, "%q is not in the Makefile", script)
		require.Regexp(t, `(?m)^`+regexp.QuoteMeta(target)+`:`, string(makefile))
	}
}
