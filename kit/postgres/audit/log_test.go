package audit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/postgres/audit"
)

func TestLoggedFollowsTheOrderOfEachPartition(t *testing.T) {
	type seen struct {
		partition int32
		version   int
	}
	for name, c := range map[string]struct {
		seen    []seen
		fault   string // of the last one
		missing string
	}{
		"in order":                         {seen: []seen{{0, 1}, {0, 2}, {0, 3}}},
		"duplicates":                       {seen: []seen{{0, 1}, {0, 2}, {0, 1}, {0, 2}, {0, 3}}},
		"moved, the later ones read last":  {seen: []seen{{0, 1}, {0, 2}, {4, 3}}},
		"moved, the later ones read first": {seen: []seen{{4, 3}, {0, 1}, {0, 2}}},
		"moved to and fro":                 {seen: []seen{{0, 1}, {0, 3}, {4, 2}}},
		"sent again where it has moved":    {seen: []seen{{0, 1}, {0, 2}, {4, 2}, {4, 3}}},
		"out of order":                     {seen: []seen{{0, 1}, {0, 3}, {0, 2}}, fault: "topics: event 2 of s came after event 3"},
		"out of order after a move":        {seen: []seen{{0, 1}, {4, 3}, {4, 2}}, fault: "topics: event 2 of s came after event 3"},
		"one is missing":                   {seen: []seen{{0, 1}, {0, 3}}, missing: "topics: s has 3 events, the topics only the first 1, and maybe later ones"},
		"the last is missing":              {seen: []seen{{0, 1}, {4, 2}}, missing: "topics: s has 3 events, the topics only the first 2, and maybe later ones"},
		"none is there":                    {missing: "topics: s has 3 events, the topics only the first 0, and maybe later ones"},
	} {
		t.Run(name, func(t *testing.T) {
			var l audit.Logged
			for i, s := range c.seen {
				err := l.Saw(s.partition, "s", s.version)
				if c.fault != "" && i == len(c.seen)-1 {
					require.EqualError(t, err, c.fault)
					return
				}
				require.NoError(t, err)
			}
			missing := l.Missing(map[string]int{"s": 3})
			if c.missing == "" {
				require.Empty(t, missing)
				return
			}
			require.Equal(t, []string{c.missing}, missing)
		})
	}
}
