package runner

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// logText is a writer that holds the logged text.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSuffix(l.text.String(), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// While connections or file descriptors have run out, loops that fail log one line at the beginning, which names the setting to raise, and one at the
// end. Other errors are logged as usual.
func TestExhaustedLimitsAreLoggedOnce(t *testing.T) {
	refused := fmt.Errorf("lease blocked keys: %w", &pgconn.PgError{Severity: "FATAL", Code: "53300", Message: "sorry, too many clients already"})
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	for name, c := range map[string]struct {
		err   error
		raise string
	}{"connections of PostgreSQL": {refused, "POSTGRES_MAX_CONNS"}, "file descriptors": {dial, "ulimit -n"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := &logText{}
				log := newLog(Config{}, out)
				relay := log.With("part", "relay")
				for range 30 {
					relay.Warn("relay: sending failed, retrying", "error", c.err)
					log.Warn("key queue: read failed, retrying", "error", c.err)
					log.Error("Cannot read messages yet", "err", c.err)
					time.Sleep(time.Second)
				}
				require.Len(t, out.lines(), 1, out.lines())
				require.Contains(t, out.lines()[0], "level=WARN")
				require.Contains(t, out.lines()[0], c.raise)
				require.Contains(t, out.lines()[0], "relay: sending failed, retrying")
				require.Contains(t, out.lines()[0], "too many")
				log.Warn("relay: sending failed, retrying", "error", errors.New("another one"))
				log.Error("dead letter", "message_id", "m-1", "reason", c.err.Error())
				require.Len(t, out.lines(), 3)
				time.Sleep(2 * overAfter)
				require.Len(t, out.lines(), 4)
				require.Contains(t, out.lines()[3], "again")
				require.Contains(t, out.lines()[3], "lines_left_out=90")
				log.Warn("relay: sending failed, retrying", "error", c.err)
				require.Len(t, out.lines(), 5, "it begins anew")
				time.Sleep(2 * overAfter)
				require.Len(t, out.lines(), 6)
			})
		})
	}
}

// The HTTP listener retries by itself when no file descriptor is left.
func TestListenerLogsThatNoFileDescriptorIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &logText{}
		l := &listener{Listener: failing{}, log: newLog(Config{}, out)}
		for range 20 {
			_, err := l.Accept()
			require.ErrorIs(t, err, syscall.EMFILE)
			time.Sleep(time.Second)
		}
		require.Len(t, out.lines(), 1)
		require.Contains(t, out.lines()[0], "no file descriptor left")
		time.Sleep(2 * overAfter)
		require.Len(t, out.lines(), 2)
	})
}

// failing is a listener without file descriptors.
type failing struct{ io.Closer }

func (failing) Accept() (net.Conn, error) { return nil, os.NewSyscallError("accept4", syscall.EMFILE) }

func (failing) Addr() net.Addr { return nil }
