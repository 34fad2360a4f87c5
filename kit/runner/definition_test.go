package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/saga"
)

// Events of sagas are published if the settings ask for it, or if a projection consumes them from the broker. A projection that is written with the
// events does not count.
func TestSagaEventsArePublishedWhereTheyAreConsumed(t *testing.T) {
	of := func(inline bool) *Service {
		return &Service{Projections: []readmodel.Model{{Projection: cqrs.Projection{Name: "own", Category: saga.Category, Inline: inline}}}}
	}
	for name, c := range map[string]struct {
		service *Service
		config  Config
		want    bool
	}{
		"nobody":                  {&Service{}, Config{}, false},
		"setting":                 {&Service{}, Config{SagaEvents: true}, true},
		"projection":              {of(false), Config{}, true},
		"projection, with events": {of(true), Config{}, false},
	} {
		_, published := c.service.published(c.config)[saga.Category]
		require.Equal(t, c.want, published, name)
	}
}
