package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// projections makes the commands that list the read models and rebuild a read model.
func (a *App) projections() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the read models", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return a.Projections(c.Context()) }}
	rebuild := &cobra.Command{Use: "rebuild NAME", Short: "Rebuild a read model from the event store, while the service runs", Args: Args(1), RunE: func(c *cobra.Command, args []string) error {
		err := a.Rebuild(c.Context(), args[0], a.bar)
		if a.Interactive {
			_, _ = fmt.Fprint(a.Stderr, "\r\033[K")
		}
		return err
	}}
	return group(&cobra.Command{Use: "projections", Short: "List and rebuild read models"}, list, rebuild)
}
