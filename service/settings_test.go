package service

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/runner"
)

// .env.example lists every setting that the service reads and no other setting, each with its default.
func TestTheExampleListsEverySetting(t *testing.T) {
	service := New()
	file, err := os.Open("../.env.example")
	require.NoError(t, err)
	defer file.Close()
	example := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), "="); found && !strings.HasPrefix(name, "#") {
			example[name] = value
		}
	}
	read := map[string]bool{}
	defaults, err := runner.ReadConfig(&service, func(name string) string { read[name] = true; return "" })
	require.NoError(t, err)
	delete(read, "SPREAD") // the former name of LOAD_DISTRIBUTION
	for name := range read {
		require.Contains(t, example, name)
	}
	for name := range example {
		require.Contains(t, read, name)
	}
	fromExample, err := runner.ReadConfig(&service, func(name string) string { return example[name] })
	require.NoError(t, err)
	require.Equal(t, defaults, fromExample)
}

func TestEverySettingIsWrongByName(t *testing.T) {
	for _, name := range []string{"PAYMENTS_URL", "CARRIER_URL", "COURIER_URL", "SANDBOX"} {
		service := New()
		_, err := runner.ReadConfig(&service, func(asked string) string {
			if asked == name {
				return "not at all right"
			}
			return ""
		})
		require.ErrorContains(t, err, name+":")
	}
}
