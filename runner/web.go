package runner

import (
	"context"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/ports/api"
	"github.com/millrace/millrace/ports/ui"
)

// Web is what a service registers for HTTP.
type Web struct {
	// API completes the HTTP server and returns what is served beside the API. Optional.
	API func(k *Kit, s *api.Server) []api.Mount

	// Pages completes the pages. Optional.
	Pages func(k *Kit, s *ui.Server)

	// Subject is what a saga is about, and the address of its page. Optional.
	Subject func(state saga.State) (noun, address string)

	// Counts are what the first page shows of what the service is about. Optional.
	Counts func(ctx context.Context, k *Kit) ([]ui.Group, error)
}
