package runner

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
)

// listener logs when it cannot accept a connection because no file descriptor is left. The HTTP server retries by itself, but logs this below
// our level.
type listener struct {
	net.Listener
	log *slog.Logger
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		l.log.Warn("cannot accept HTTP connections", "error", err) // exhaustion keeps only the first of these lines
	}
	return conn, err
}
