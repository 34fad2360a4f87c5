package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"time"

	"github.com/millrace/millrace/adapters/sandbox"
	"github.com/millrace/millrace/ports/api"
	"github.com/millrace/millrace/ports/ui"
)

// startSandbox plays the services outside, if no others are set.
func (s *Service) startSandbox(ctx context.Context, _ func(string)) error {
	if s.config.PaymentsURL != "" {
		return nil
	}
	box, err := sandbox.Open(filepath.Join(s.config.DataDir, "sandbox"))
	if err != nil {
		return err
	}
	s.sandbox = box
	s.onStop(func(context.Context) error { return box.Close() })
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	s.sandURL = "http://" + listener.Addr().String()
	server := &http.Server{Handler: box.Handler(), ReadHeaderTimeout: 5 * time.Second}
	s.onStop(func(context.Context) error { return server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("sandbox: %w", err)
		}
	}()
	return nil
}

// outside is a service's URL, or the sandbox's; empty if the others are set and this one is not.
func (s *Service) outside(url, path string) string {
	if url != "" || s.sandbox == nil {
		return url
	}
	return s.sandURL + path
}

// mountSandbox lets other instances share the sandbox of this one.
func (s *Service) mountSandbox() []api.Mount {
	if s.sandbox == nil {
		return nil
	}
	return []api.Mount{{Pattern: "/sandbox/*", Handler: http.StripPrefix("/sandbox", s.sandbox.Handler())}}
}

func knobs(box *sandbox.Sandbox) []ui.SandboxService {
	service := func(name string, get func() sandbox.Knobs, turn func(sandbox.Knobs), ledger func() []ui.Entry) ui.SandboxService {
		return ui.SandboxService{
			Name: name, Ledger: ledger,
			Knobs: func() ui.Knobs {
				k := get()
				return ui.Knobs{Down: k.Down, FailureRate: k.FailureRate, RefusalRate: k.RefusalRate, Latency: time.Duration(k.Latency)}
			},
			Turn: func(k ui.Knobs) {
				turn(sandbox.Knobs{Down: k.Down, FailureRate: k.FailureRate, RefusalRate: k.RefusalRate, Latency: sandbox.Duration(k.Latency), Twice: get().Twice})
			},
		}
	}
	return []ui.SandboxService{
		service("payments", box.Payments.Knobs, box.Payments.Turn, func() []ui.Entry { return entries(box.Payments.Ledger()) }),
		service("carrier", box.Carrier.Knobs, box.Carrier.Turn, func() []ui.Entry { return entries(box.Carrier.Ledger()) }),
		service("courier", box.Courier.Knobs, box.Courier.Turn, func() []ui.Entry { return entries(box.Courier.Ledger()) }),
	}
}

// entries are the fields of a ledger, by their names in JSON.
func entries(ledger any) (out []ui.Entry) {
	v := reflect.ValueOf(ledger)
	for i := range v.NumField() {
		if n, ok := reflect.TypeAssert[int64](v.Field(i)); ok {
			out = append(out, ui.Entry{Name: tagged(v.Type().Field(i)), Value: n})
		}
	}
	return out
}

// sandbox runs the stand-ins alone.
func (p program) sandbox(ctx context.Context, addr string) error {
	box, err := sandbox.Open(filepath.Join(p.config.DataDir, "sandbox"))
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("--addr: %w", err), box.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/sandbox/", box.Control())
	mux.Handle("/", box.Handler())
	base := "http://" + reachableAddr(listener.Addr().String())
	_, _ = fmt.Fprintf(p.stdout, "PAYMENTS_URL=%s/payments\nCARRIER_URL=%s/carrier\nCOURIER_URL=%s/courier\n", base, base, base)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close() // slow answers are not waited for
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, box.Close())
	}
	return box.Close()
}
