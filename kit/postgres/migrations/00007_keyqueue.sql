-- +goose Up

-- A key of a consumer whose messages wait because one of them failed. The messages of other keys go on.
CREATE TABLE blocked_keys (
    consumer text        NOT NULL,
    key      bytea       NOT NULL, -- any bytes: a record's key, or a saga's id
    attempts integer     NOT NULL DEFAULT 0, -- how often the first waiting message has failed
    first_at timestamptz, -- when it failed first
    due_at   timestamptz NOT NULL, -- when it is tried again, or when the lease ends; infinity: it is a dead letter
    lease    text, -- of the instance that handles the key's messages at the moment
    PRIMARY KEY (consumer, key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0); -- rows come and go
CREATE INDEX blocked_keys_due ON blocked_keys (consumer, due_at);

-- The messages that wait, as they were received, in the order of their ids within a key.
CREATE TABLE waiting_messages (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receipt     text        NOT NULL UNIQUE, -- of this message at this consumer; the id of its dead letter too
    consumer    text        NOT NULL,
    key         bytea       NOT NULL,
    topic       text        NOT NULL,
    source      bytea       NOT NULL, -- ce_source of another service's message, else empty
    message_id  bytea       NOT NULL,
    headers     jsonb       NOT NULL, -- pairs of a name and a value, both in base64
    payload     bytea, -- null: a tombstone
    received_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0); -- rows come and go
CREATE INDEX waiting_messages_of_key ON waiting_messages (consumer, key, id);

-- What a dead letter's message was to the byte, from which it is replayed. The older columns hold the same as text to be shown. They are
-- null for a message of the outbox that the broker refused, which is text anyway.
ALTER TABLE dead_letters
    ADD COLUMN raw_key     bytea, -- of blocked_keys
    ADD COLUMN raw_source  bytea,
    ADD COLUMN raw_id      bytea,
    ADD COLUMN raw_headers jsonb,
    ADD COLUMN tombstone   boolean NOT NULL DEFAULT false;
-- The id of a dead letter follows from the message, so that the same message never has two.
ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_consumer_message_id_key;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pg_temp.raw_headers(headers text) RETURNS jsonb LANGUAGE sql AS
$$ SELECT COALESCE(jsonb_agg(jsonb_build_array(encode(convert_to(name, 'UTF8'), 'base64'), encode(convert_to(value, 'UTF8'), 'base64'))), '[]')
   FROM json_each_text(replace(headers, '\u0000', '\ufffd')::json) AS h(name, value) WHERE name <> 'consumer' $$;
-- +goose StatementEnd

UPDATE dead_letters SET raw_key = convert_to(COALESCE(NULLIF(line, ''), NULLIF(key, ''), 'message ' || message_id), 'UTF8'), raw_source = '',
    raw_id = convert_to(message_id, 'UTF8'), raw_headers = pg_temp.raw_headers(headers::text)
WHERE consumer <> 'relay';

-- What waited in the outbox to come again by way of the broker waits here now. The first one of a key may be a dead letter.
INSERT INTO blocked_keys (consumer, key, attempts, first_at, due_at)
SELECT l.consumer, convert_to(l.line, 'UTF8'), l.attempts, l.first_at, CASE WHEN d.id IS NULL THEN now() ELSE 'infinity' END
FROM lines l LEFT JOIN dead_letters d ON d.consumer = l.consumer AND d.line = l.line AND d.message_id = l.head AND d.dropped_at IS NULL;

INSERT INTO waiting_messages (receipt, consumer, key, topic, source, message_id, headers, payload)
SELECT id, consumer, raw_key, topic, raw_source, raw_id, raw_headers, payload
FROM dead_letters WHERE consumer <> 'relay' AND line IS NOT NULL AND dropped_at IS NULL
    AND EXISTS (SELECT FROM lines l WHERE l.consumer = dead_letters.consumer AND l.line = dead_letters.line AND l.head = dead_letters.message_id);

INSERT INTO waiting_messages (receipt, consumer, key, topic, source, message_id, headers, payload)
SELECT gen_random_uuid()::text, o.consumer, convert_to(o.line, 'UTF8'), o.topic, '', convert_to(o.message_id, 'UTF8'), pg_temp.raw_headers(o.headers::text), o.payload
FROM outbox o JOIN lines l ON l.consumer = o.consumer AND l.line = o.line
ORDER BY o.message_id <> l.head, o.id;

DELETE FROM outbox o USING lines l WHERE l.consumer = o.consumer AND l.line = o.line;
DELETE FROM blocked_keys b WHERE NOT EXISTS (SELECT FROM waiting_messages w WHERE w.consumer = b.consumer AND w.key = b.key);
DROP TABLE lines;
DROP INDEX outbox_lines;
DROP FUNCTION pg_temp.raw_headers(text);
ALTER TABLE dead_letters DROP COLUMN line;

-- +goose Down

-- The older version cannot read what waits here.
-- +goose StatementBegin
DO $$ BEGIN
    IF EXISTS (SELECT FROM waiting_messages) OR EXISTS (SELECT FROM dead_letters WHERE raw_headers IS NOT NULL AND dropped_at IS NULL) THEN
        RAISE EXCEPTION 'messages wait to be retried: let them be handled, and replay or drop the dead letters, before you go down';
    END IF;
END $$;
-- +goose StatementEnd
DELETE FROM dead_letters WHERE raw_headers IS NOT NULL; -- dropped ones
ALTER TABLE dead_letters ADD COLUMN line text;
ALTER TABLE dead_letters ADD CONSTRAINT dead_letters_consumer_message_id_key UNIQUE (consumer, message_id);
ALTER TABLE dead_letters DROP COLUMN raw_key, DROP COLUMN raw_source, DROP COLUMN raw_id, DROP COLUMN raw_headers, DROP COLUMN tombstone;
CREATE INDEX outbox_lines ON outbox (consumer, line, id) WHERE consumer IS NOT NULL;
CREATE TABLE lines (
    consumer   text        NOT NULL,
    line       text        NOT NULL,
    head       text        NOT NULL,
    attempts   integer     NOT NULL DEFAULT 0,
    first_at   timestamptz,
    PRIMARY KEY (consumer, line)
);
DROP TABLE waiting_messages, blocked_keys;
