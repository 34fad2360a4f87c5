// Package cli is the command line of a service: the commands of this library, and the commands that the service adds. The exit code is 0 for success,
// 1 for a failure, and 2 for wrong arguments or settings.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	ok     = 0
	failed = 1
	misuse = 2
)

// ErrUsage is wrapped by errors about wrong arguments or settings. Run then returns the exit code 2.
var ErrUsage = errors.New("usage")

// App has the functions and values that the commands use.
type App struct {
	Name, Summary  string // of the service: the name of the binary, and one line about the service
	Stdout, Stderr io.Writer

	// URL is the address of the instance that has these settings.
	URL string

	Serve       func(ctx context.Context) error
	Migrate     func(ctx context.Context, action string) error
	Projections func(ctx context.Context) error
	Rebuild     func(ctx context.Context, name string, progress func(done float64, text string)) error
	Audit       func(ctx context.Context) (Audit, error)
	Diagram     func(name string) (string, error)
	AsyncAPI    func() ([]byte, error)
	Interactive bool // stderr is a terminal

	// Token returns the bearer token of requests to the service; empty if none is needed.
	Token func() string

	// Sign makes a token that is valid for a duration from now.
	Sign func(subject, role string, valid time.Duration) (string, error)

	// Commands are the service's own commands. Optional.
	Commands []*cobra.Command
}

// Run executes a command line, without the program's name, and returns the exit code. It prints an error to Stderr.
func (a *App) Run(ctx context.Context, args []string) int {
	root := a.root()
	if args == nil {
		args = []string{} // cobra would use os.Args for nil
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ok
	}
	_, _ = fmt.Fprintf(a.Stderr, "%s: %v\n", a.Name, err)
	if errors.Is(err, ErrUsage) {
		return misuse
	}
	return failed
}

func (a *App) root() *cobra.Command {
	serve := &cobra.Command{
		Use: "serve", Short: "Run everything; this is what no arguments do", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.Serve(c.Context()) },
	}
	root := &cobra.Command{
		Use: a.Name, Short: a.Summary, Long: a.Summary + ".\n\nSettings come from the environment; .env.example lists them.",
		SilenceErrors: true, SilenceUsage: true, RunE: serve.RunE,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fmt.Errorf("%w: there is no command %q; %s help lists them", ErrUsage, args[0], a.Name)
		},
	}
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: %s: %w", ErrUsage, c.CommandPath(), err)
	})
	root.AddCommand(serve, a.migrate(), a.sagas(), a.deadLetters(), a.projections(), a.audit(), a.token(), a.asyncapi(), a.healthcheck())
	root.AddCommand(a.Commands...)
	return root
}

// noArgs is cobra.NoArgs with an error that shows how to use the command.
func noArgs(c *cobra.Command, args []string) error { return Args(0)(c, args) }

// Args returns a check that a command has exactly n arguments. The error wraps ErrUsage.
func Args(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%w: %s", ErrUsage, c.UseLine())
		}
		return nil
	}
}

// group makes a command that only has subcommands.
func group(c *cobra.Command, below ...*cobra.Command) *cobra.Command {
	c.AddCommand(below...)
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("%w: there is no command %q; %s --help lists them", ErrUsage, args[0], c.CommandPath())
		}
		return fmt.Errorf("%w: %s --help lists what it does", ErrUsage, c.CommandPath())
	}
	return c
}

func (a *App) migrate() *cobra.Command {
	below := func(action, short string) *cobra.Command {
		return &cobra.Command{Use: action, Short: short, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return a.Migrate(c.Context(), action) }}
	}
	return group(&cobra.Command{Use: "migrate", Short: "Change the schema of the database"},
		below("up", "Bring the schema to this program's version"),
		below("down", "Revert the newest migration; the data of its tables is lost"),
		below("status", "List the versions"))
}

func (a *App) token() *cobra.Command {
	subject, role, valid := "", "", time.Hour
	c := &cobra.Command{Use: "token --subject S --role customer|operator", Short: "Sign a token for local use with AUTH_SECRET", Args: noArgs}
	c.Flags().StringVar(&subject, "subject", "", "the subject of the token")
	c.Flags().StringVar(&role, "role", "", "customer or operator")
	c.Flags().DurationVar(&valid, "valid", valid, "how long the token is valid")
	c.RunE = func(*cobra.Command, []string) error {
		if subject == "" || (role != "customer" && role != "operator") || valid <= 0 {
			return fmt.Errorf("%w: token --subject S --role customer|operator [--valid 1h]", ErrUsage)
		}
		token, err := a.Sign(subject, role, valid)
		if err == nil {
			_, err = fmt.Fprintln(a.Stdout, token)
		}
		return err
	}
	return c
}

func (a *App) asyncapi() *cobra.Command {
	return &cobra.Command{Use: "asyncapi", Short: "Print the description of the messages, as AsyncAPI 3.0", Args: noArgs, RunE: func(*cobra.Command, []string) error {
		text, err := a.AsyncAPI()
		if err == nil {
			_, err = a.Stdout.Write(text)
		}
		return err
	}}
}

func (a *App) healthcheck() *cobra.Command {
	return &cobra.Command{Use: "healthcheck", Short: "Exit with 0 if the instance with these settings is alive", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
		defer cancel()
		return a.Alive(ctx)
	}}
}

// Alive returns an error if no instance answers GET /healthz at URL with status 200.
func (a *App) Alive(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL+"/healthz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // nothing is read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/healthz answers %s", a.URL, response.Status)
	}
	return nil
}

// Client makes an HTTP client whose requests carry the token. If transport is nil, it uses http.DefaultTransport.
func (a *App) Client(timeout time.Duration, transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &http.Client{Timeout: timeout, Transport: bearer{a.Token(), transport}}
}

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

// StatusError is the error for a response with a status other than 2xx.
type StatusError struct {
	Status int
	Text   string
}

func (e *StatusError) Error() string { return e.Text }

// Call sends a request and decodes the JSON of the response into v. A response with a status other than 2xx is a *StatusError; its text has the
// detail of the problem response, if any.
func Call(client *http.Client, request *http.Request, v any) error {
	response, err := client.Do(request) //nolint:gosec // the URL is that of the settings or of --url
	if err != nil {
		return fmt.Errorf("no answer; is the service running? %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		var problem struct{ Detail string }
		if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
			return &StatusError{response.StatusCode, response.Status + ": " + problem.Detail}
		}
		return &StatusError{response.StatusCode, fmt.Sprintf("%s %s: %s", request.Method, request.URL, response.Status)}
	}
	return json.Unmarshal(body, v)
}
