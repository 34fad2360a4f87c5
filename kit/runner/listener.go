package runner

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// sayAgain is after how long something that goes on is said again.
const sayAgain = time.Minute

// listener says when no connection can be accepted because no file descriptor is left. The HTTP server tries again by itself, and says
// nothing of it at our log level.
type listener struct {
	net.Listener
	log  *slog.Logger
	mu   sync.Mutex
	said time.Time
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if time.Since(l.said) > sayAgain {
			l.said = time.Now()
			l.log.Warn("HTTP: no file descriptor is left for new connections, which wait; raise the limit (ulimit -n) if it stays so", "error", err)
		}
	}
	return conn, err
}
