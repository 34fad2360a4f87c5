package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/adapters/sandbox"
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
