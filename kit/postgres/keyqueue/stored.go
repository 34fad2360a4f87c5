package keyqueue

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
)

// stored is the key as the tables store it. A long key is replaced by its hash, because PostgreSQL cannot index it.
func stored(k cqrs.MessageKey) []byte {
	if len(k.Key) <= cqrs.MaxKey {
		return []byte(k.Key)
	}
	hash := sha256.Sum256([]byte(k.Key))
	return hash[:]
}

// receipt is the id under which a message of a consumer is stored, here and as a dead letter. It is computed from the message, so the same
// message always has the same receipt. The key is part of it: if messages of two keys had one receipt, the second message would block its key
// but not be stored, and nothing would unblock that key.
func receipt(m cqrs.Received) string {
	var name []byte
	for _, part := range []string{m.Key.Consumer, m.Key.Key, m.Source, m.ID} {
		name = fmt.Appendf(name, "%d:%s", len(part), part)
	}
	return uuid.NewHash(sha256.New(), uuid.Nil, name, 8).String()
}

// block blocks the key of a message until a time, and stores the message as the first one that waits. If the key was blocked meanwhile, the
// message is stored behind the waiting ones. A message that another instance has processed blocks no key.
func (q *Queue) block(ctx context.Context, tx *sqlx.Tx, m cqrs.Received, attempts int, due string, args ...any) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO blocked_keys (consumer, key, attempts, first_at, due_at) VALUES ($1, $2, $3, app_now(), `+due+`)
		ON CONFLICT (consumer, key) DO UPDATE SET due_at = blocked_keys.due_at`, append([]any{m.Key.Consumer, stored(m.Key), attempts}, args...)...)
	if err != nil {
		return err
	}
	if err := put(ctx, tx, m); err != nil {
		return err
	}
	return free(ctx, tx, m.Key.Consumer, stored(m.Key))
}

// put stores a message, unless it is stored or processed already because the broker has delivered it twice. A key may be blocked for longer
// than the inbox's retention; without this check a waiting duplicate would be processed again.
func put(ctx context.Context, tx sqlx.ExtContext, m cqrs.Received) error {
	id := cqrs.InboxID(m.Source, m.ID)
	if cqrs.CheckText("message id", id, 0) == nil { // else the inbox cannot have it
		var processed bool
		err := sqlx.GetContext(ctx, tx, &processed, `SELECT EXISTS (SELECT FROM inbox WHERE consumer = $1 AND message_id = $2)`, m.Key.Consumer, id)
		if err != nil || processed {
			return err
		}
	}
	headers, err := marshalHeaders(m.Headers)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO waiting_messages (receipt, consumer, key, topic, source, message_id, headers, payload)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (receipt) DO NOTHING`,
		receipt(m), m.Key.Consumer, stored(m.Key), m.Topic, []byte(m.Source), []byte(m.ID), headers, m.Payload)
	return err
}

// marshalHeaders makes pairs of base64, because names and values may be any bytes, which JSON strings cannot hold.
func marshalHeaders(headers map[string]string) (string, error) {
	pairs := make([][2][]byte, 0, len(headers))
	for name, value := range headers {
		pairs = append(pairs, [2][]byte{[]byte(name), []byte(value)})
	}
	out, err := json.Marshal(pairs)
	return string(out), err
}

func unmarshalHeaders(text []byte) (map[string]string, error) {
	var pairs [][2][]byte
	if err := json.Unmarshal(text, &pairs); err != nil {
		return nil, fmt.Errorf("stored headers: %w", err)
	}
	headers := make(map[string]string, len(pairs))
	for _, p := range pairs {
		headers[string(p[0])] = string(p[1])
	}
	return headers, nil
}
