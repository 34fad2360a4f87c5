package runner

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
)

// listener logs when no connection can be accepted because no file descriptor is left. The HTTP server tries again by itself, and logs that
// below our level.
type listener struct {
	net.Listener
	log *slog.Logger
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		l.log.Warn("cannot accept HTTP connections", "error", err) // once, by exhaustion
	}
	return conn, err
}
