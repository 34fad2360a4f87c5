package runner

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// limit is a resource that can run out. While it is exhausted, each loop of the service fails repeatedly.
type limit struct {
	signs []string // texts of errors that the limit causes
	began string
	over  string
	raise string // the setting that raises the limit
}

var limits = []*limit{
	{
		signs: []string{"(SQLSTATE 53300)", "no more connections allowed"}, // too_many_connections; PgBouncer
		began: "no PostgreSQL connection left: requests are refused and messages wait, retrying",
		over:  "PostgreSQL has connections again",
		raise: "max_connections of PostgreSQL or the CONNECTION LIMIT of the role or database, or lower POSTGRES_MAX_CONNS of the instances",
	},
	{
		signs: []string{"too many open files"}, // EMFILE, ENFILE
		began: "no file descriptor left: new connections wait, retrying",
		over:  "there are file descriptors again",
		raise: "the limit of open files (ulimit -n)",
	},
}

// overAfter is the time without an error of a limit after which the limit counts as no longer reached. Loops retry at least every two seconds.
const overAfter = 10 * time.Second

// exhaustion is a log handler for errors that repeat while a limit is reached. It logs one line when the limit is reached, which names the setting
// to raise, and one line when the limit is no longer reached. In between it drops the lines of the relay, the key queue, the listeners and other
// loops, because each loop would log one line a second. It keeps lines about a single message that is not retried.
type exhaustion struct {
	slog.Handler
	states *exhausted
}

// exhausted records which limits are reached.
type exhausted struct {
	mu     sync.Mutex
	since  map[*limit]time.Time
	last   map[*limit]*time.Timer
	hidden map[*limit]int
}

func newExhaustion(h slog.Handler) slog.Handler {
	return exhaustion{h, &exhausted{since: map[*limit]time.Time{}, last: map[*limit]*time.Timer{}, hidden: map[*limit]int{}}}
}

// WithAttrs implements slog.Handler.
func (e exhaustion) WithAttrs(attrs []slog.Attr) slog.Handler {
	return exhaustion{e.Handler.WithAttrs(attrs), e.states}
}

// WithGroup implements slog.Handler.
func (e exhaustion) WithGroup(name string) slog.Handler {
	return exhaustion{e.Handler.WithGroup(name), e.states}
}

// Handle implements slog.Handler.
func (e exhaustion) Handle(ctx context.Context, r slog.Record) error {
	l, text, final := limitOf(r)
	if l == nil {
		return e.Handler.Handle(ctx, r)
	}
	if began := e.states.note(l, !final, func(lasted time.Duration, hidden int) {
		over := slog.NewRecord(time.Now(), slog.LevelWarn, l.over, 0)
		over.AddAttrs(slog.Duration("lasted", lasted), slog.Int("lines_left_out", hidden))
		_ = e.Handler.Handle(context.Background(), over) // an error of the log is ignored, as for any line
	}); began {
		first := slog.NewRecord(r.Time, slog.LevelWarn, l.began, r.PC)
		first.AddAttrs(slog.String("raise", l.raise), slog.String("first", r.Message), slog.String("error", text))
		if err := e.Handler.Handle(ctx, first); err != nil {
			return err
		}
	}
	if final {
		return e.Handler.Handle(ctx, r)
	}
	return nil
}

// note records an error of a limit and reports whether it is the first one. It calls over when no error of the limit has occurred for overAfter.
func (s *exhausted) note(l *limit, hide bool, over func(lasted time.Duration, hidden int)) (began bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hide {
		s.hidden[l]++
	}
	if t := s.last[l]; t != nil && t.Reset(overAfter) {
		return false
	}
	s.since[l] = time.Now()
	s.last[l] = time.AfterFunc(overAfter, func() {
		s.mu.Lock()
		lasted, hidden := time.Since(s.since[l])-overAfter, s.hidden[l]
		delete(s.last, l)
		delete(s.hidden, l)
		s.mu.Unlock()
		over(lasted.Round(time.Second), hidden)
	})
	return true
}

// limitOf finds the limit that caused the error of a record, nil if no limit did. Final reports that the record is about a message that is not
// retried.
func limitOf(r slog.Record) (found *limit, text string, final bool) {
	if r.Level < slog.LevelWarn {
		return nil, "", false
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "message_id" || a.Key == "message" {
			final = r.Level >= slog.LevelError
		}
		var value string
		switch v := a.Value.Any().(type) {
		case error:
			value = v.Error()
		case string:
			value = v
		case fmt.Stringer:
			value = v.String()
		}
		for _, l := range limits {
			for _, sign := range l.signs {
				if found == nil && strings.Contains(value, sign) {
					found, text = l, value
				}
			}
		}
		return true
	})
	return found, text, final
}
