// Package cli is the command line: what it understands, what it prints, and which exit code comes of it.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Exit codes.
const (
	ok     = 0
	failed = 1
	misuse = 2 // wrong arguments or settings
)

// ErrUsage marks errors of the one who typed.
var ErrUsage = errors.New("usage")

// App is what the commands act on.
type App struct {
	Stdout, Stderr io.Writer

	// URL is where an instance with these settings listens.
	URL string

	Serve       func(ctx context.Context) error
	ServeOwn    func(ctx context.Context) (url string, checkLog func(context.Context) ([]string, error), stop func() error, err error)
	Sandbox     func(ctx context.Context, addr string) error
	Migrate     func(ctx context.Context, action string) error
	Projections func(ctx context.Context) error
	Rebuild     func(ctx context.Context, name string, progress func(done float64, text string)) error
	Audit       func(ctx context.Context) (Audit, error)
	Diagram     func(name string) (string, error)
	AsyncAPI    func() ([]byte, error)
	Interactive bool // stderr is a terminal

	// Token is what the service is asked with; empty where it asks for none.
	Token func() string

	// Sign makes a token.
	Sign func(subject, role string, valid time.Duration) (string, error)
}

// client asks the service, with the token.
func (a App) client(timeout time.Duration, transport http.RoundTripper) *http.Client {
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

const help = `millrace: orders that are fulfilled by a saga

  serve                                      run everything (what no arguments do)
  demo [--orders N] [--url U] [--json] [--chaos]
                                             send orders of every outcome through it and prove the books
  sandbox [--addr A]                         the stand-ins of payment provider and carrier alone
  migrate up|down|status                     the database's schema
  sagas list [--status S] | show ID          look at sagas
  sagas retry ID | skip ID --reason R | resolve ID --reason R
                                             have a stuck saga go on
  sagas diagram NAME                         a definition as a Mermaid diagram
  deadletters list | show ID                 look at dead letters
  deadletters redrive ID… | --all            put their messages on their way again
  deadletters drop ID --reason R             give a message up
  projections list | rebuild NAME            read models; rebuild one from the event store, while the service runs
  audit [--json]                             check what is stored: streams, snapshots, sagas, suspended messages; exit 1
                                             if something is wrong, with the ids
  token --subject S --role R [--valid 1h]    a token for local use, signed with AUTH_SECRET; R is customer or operator
  asyncapi                                   the messages, described as AsyncAPI 3.0
  healthcheck                                exit 0 if the instance with these settings is alive

Settings come from the environment; .env.example lists them.
`

// Run carries out a command line and returns the exit code.
func (a App) Run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	commands := map[string]func(context.Context, []string) error{
		"serve": func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: serve takes no arguments, settings come from the environment", ErrUsage)
			}
			return a.Serve(ctx)
		},
		"demo": a.demo, "sandbox": a.sandbox, "migrate": a.migrate, "projections": a.projections, "audit": a.audit, "sagas": a.sagas, "deadletters": a.deadLetters, "healthcheck": a.healthcheck, "asyncapi": a.asyncapi, "token": a.token,
	}
	command, found := commands[args[0]]
	switch {
	case args[0] == "help" || args[0] == "-h" || args[0] == "--help":
		_, _ = fmt.Fprint(a.Stdout, help)
		return ok
	case !found:
		_, _ = fmt.Fprintf(a.Stderr, "millrace: there is no command %q\n\n%s", args[0], help)
		return misuse
	}
	err := command(ctx, args[1:])
	switch {
	case err == nil:
		return ok
	case errors.Is(err, flag.ErrHelp):
		return ok
	case errors.Is(err, ErrUsage):
		_, _ = fmt.Fprintln(a.Stderr, "millrace:", err)
		return misuse
	}
	_, _ = fmt.Fprintln(a.Stderr, "millrace:", err)
	return failed
}

// flags parses a command's flags; what is left are its arguments.
func (a App) flags(name string, args []string, define func(*flag.FlagSet)) ([]string, error) {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(a.Stderr)
	define(set)
	var positional []string
	for { // flags may stand behind arguments too
		if err := set.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %s: %w", ErrUsage, name, err)
		}
		if args = set.Args(); len(args) == 0 {
			return positional, nil
		}
		positional, args = append(positional, args[0]), args[1:]
	}
}

func (a App) sandbox(ctx context.Context, args []string) error {
	addr := "127.0.0.1:8090"
	rest, err := a.flags("sandbox", args, func(f *flag.FlagSet) { f.StringVar(&addr, "addr", addr, "where to listen, host:port") })
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: sandbox [--addr A]", ErrUsage)
	}
	return a.Sandbox(ctx, addr)
}

func (a App) migrate(ctx context.Context, args []string) error {
	if len(args) != 1 || (args[0] != "up" && args[0] != "down" && args[0] != "status") {
		return fmt.Errorf("%w: migrate up|down|status", ErrUsage)
	}
	return a.Migrate(ctx, args[0])
}

func (a App) token(_ context.Context, args []string) error {
	subject, role, valid := "", "", time.Hour
	rest, err := a.flags("token", args, func(f *flag.FlagSet) {
		f.StringVar(&subject, "subject", "", "who it is for")
		f.StringVar(&role, "role", "", "customer or operator")
		f.DurationVar(&valid, "valid", valid, "how long it is good")
	})
	if err != nil {
		return err
	}
	if len(rest) > 0 || subject == "" || (role != "customer" && role != "operator") || valid <= 0 {
		return fmt.Errorf("%w: token --subject S --role customer|operator [--valid 1h]", ErrUsage)
	}
	token, err := a.Sign(subject, role, valid)
	if err == nil {
		_, err = fmt.Fprintln(a.Stdout, token)
	}
	return err
}

func (a App) healthcheck(ctx context.Context, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return a.alive(ctx)
}

func (a App) alive(ctx context.Context) error {
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
