package lines_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/adapters/postgres/deadletter"
	"github.com/millrace/millrace/adapters/postgres/lines"
	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// consumer is a consumer of one key on a real database; the partition is a slice.
type consumer struct {
	t         *rapid.T
	db        *sqlx.DB
	lines     *lines.Lines
	place     app.Place
	partition []string
	handled   []string
}

func (c *consumer) no(err error) {
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *consumer) message(id string) *message.Message {
	msg := message.NewMessage(id, []byte(id))
	msg.Metadata[app.HeaderKey] = c.place.Line
	msg.SetContext(context.Background())
	return msg
}

// deliver takes the next message, and then does with it what outcome says.
func (c *consumer) deliver(outcome string) {
	id := c.partition[0]
	ctx, msg := context.Background(), c.message(id)
	if rapid.Bool().Draw(c.t, "announced") {
		for _, waiting := range c.partition[1:] {
			c.lines.Expect(c.place, waiting)
		}
	}
	turn, _, err := c.lines.Join(ctx, c.place, "topic", msg)
	c.no(err)
	if outcome == "crash before" || turn == app.Behind {
		if turn == app.Behind {
			c.partition = c.partition[1:]
		}
		return
	}
	if slices.Contains(c.handled, id) {
		outcome = "ok" // the inbox knows it
	}
	switch outcome {
	case "later":
		c.no(c.lines.Later(ctx, c.place, "topic", msg, time.Now().Add(-time.Second)))
	case "dead":
		tx, err := c.db.BeginTxx(ctx, nil)
		c.no(err)
		defer tx.Rollback() // nothing after a commit
		c.no(c.lines.Bury(txn.With(ctx, tx), c.place, app.DeadLetter{
			ID: "letter of " + id, Consumer: c.place.Consumer, MessageID: id, Topic: "topic", Key: c.place.Line,
			Headers: map[string]string{}, First: time.Now(), Last: time.Now(), Attempts: 1,
		}, true, func(context.Context) error { return nil }))
		c.no(tx.Commit())
	default:
		c.handle(id)
		if outcome == "crash after" {
			return
		}
		c.partition = c.partition[1:]
		for turn == app.Head {
			next, err := c.lines.Done(ctx, c.place, id)
			c.no(err)
			if next == nil {
				return
			}
			switch id = next.UUID; outcome {
			case "crash in between": // it comes again when its time is over, which it is at once here
				_, err := c.db.Exec(`UPDATE outbox SET due_at = now() WHERE message_id = $1 AND line = $2 AND due_at IS NOT NULL`, id, c.place.Line)
				c.no(err)
				return
			case "release":
				c.no(c.lines.Release(ctx, c.place, id))
				return
			}
			c.handle(id)
		}
		return
	}
	c.partition = c.partition[1:]
}

func (c *consumer) handle(id string) {
	if !slices.Contains(c.handled, id) {
		c.handled = append(c.handled, id)
	}
}

// relay brings back what is due.
func (c *consumer) relay() {
	var due []string
	c.no(c.db.Select(&due, `WITH due AS (DELETE FROM outbox WHERE line = $1 AND (due_at IS NULL OR due_at <= now()) RETURNING id, message_id)
		SELECT message_id FROM due ORDER BY id`, c.place.Line))
	c.partition = append(c.partition, due...)
}

func (c *consumer) redrive() {
	letters := deadletter.New(c.db)
	all, err := letters.List(context.Background(), app.Newest, 100)
	c.no(err)
	for _, l := range all {
		if l.Line == c.place.Line {
			c.no(letters.Redrive(context.Background(), l.ID))
			c.partition = append(c.partition, l.MessageID)
			_, err := c.db.Exec(`DELETE FROM outbox WHERE message_id = $1 AND due_at IS NULL`, l.MessageID) // it was relayed
			c.no(err)
		}
	}
}

// However messages of a key fail, come again and are repeated, they are handled in the order in which they came, all of them.
func TestOrderIsKept(t *testing.T) {
	db, _ := harness.Database(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		c := &consumer{t: t, db: db, lines: lines.New(db, func() {}), place: app.Place{Consumer: "c", Line: fmt.Sprint("line-", n)}}
		var want []string
		for i := range rapid.IntRange(1, 6).Draw(t, "messages") {
			want = append(want, fmt.Sprintf("%d-%d", n, i))
		}
		waiting := slices.Clone(want)
		for range rapid.IntRange(0, 40).Draw(t, "happenings") {
			switch rapid.SampledFrom([]string{"publish", "deliver", "deliver", "relay", "redrive", "repeat"}).Draw(t, "happening") {
			case "publish":
				if len(waiting) > 0 {
					c.partition, waiting = append(c.partition, waiting[0]), waiting[1:]
				}
			case "deliver":
				if len(c.partition) > 0 {
					c.deliver(rapid.SampledFrom([]string{"ok", "later", "dead", "crash before", "crash after", "crash in between", "release"}).Draw(t, "outcome"))
				}
			case "relay":
				c.relay()
			case "redrive":
				c.redrive()
			case "repeat": // of what was handled; the relay repeats nothing else out of order
				if len(c.handled) > 0 {
					c.partition = append(c.partition, rapid.SampledFrom(c.handled).Draw(t, "repeated"))
				}
			}
		}
		c.partition = append(c.partition, waiting...)
		for range 10 {
			for len(c.partition) > 0 {
				c.deliver("ok")
			}
			c.redrive()
			c.relay()
		}
		if !slices.Equal(c.handled, want) {
			t.Fatalf("handled %v, want %v", c.handled, want)
		}
		var left int
		c.no(db.Get(&left, `SELECT (SELECT count(*) FROM lines WHERE line = $1) + (SELECT count(*) FROM outbox WHERE line = $1)`, c.place.Line))
		if left > 0 {
			t.Fatalf("%d rows are left", left)
		}
	})
	require.Positive(t, n)
}

// A message that joins the line at the moment when its head is done is either alone or what comes next; it is not left waiting for nobody.
func TestJoiningWhileTheHeadIsDone(t *testing.T) {
	db, _ := harness.Database(t)
	l := lines.New(db, func() {})
	for n := range 200 {
		place := app.Place{Consumer: "c", Line: fmt.Sprint("line-", n)}
		messageOf := func(id string) *message.Message {
			msg := message.NewMessage(fmt.Sprint(id, n), []byte(id))
			msg.Metadata[app.HeaderKey] = place.Line
			return msg
		}
		head, second := messageOf("head"), messageOf("second")
		require.NoError(t, l.Later(t.Context(), place, "topic", head, time.Now().Add(time.Hour)))
		joined := make(chan app.Turn, 1)
		go func() {
			turn, _, err := l.Join(context.Background(), place, "topic", second)
			if err != nil {
				t.Error(err)
			}
			joined <- turn
		}()
		next, err := l.Done(t.Context(), place, head.UUID)
		require.NoError(t, err)
		switch turn := <-joined; {
		case turn == app.Alone:
			require.Nil(t, next)
		case next != nil:
			require.Equal(t, second.UUID, next.UUID)
		default:
			t.Fatalf("round %d: it is %s, and nobody lets it come", n, turn)
		}
	}
}
