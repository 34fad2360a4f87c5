-- +goose Up

-- Every fact that was ever decided. Rows are never changed and never deleted.
CREATE TABLE events (
    stream   text        NOT NULL, -- "orders/0198…": category and id
    version  integer     NOT NULL, -- number of the event in its stream, from 1
    position bigint      NOT NULL, -- over all streams; see docs/adr for how to read by it
    type     text        NOT NULL,
    schema   integer     NOT NULL,
    payload  json        NOT NULL, -- json, not jsonb: kept to the byte
    meta     json        NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (stream, version)
);
CREATE SEQUENCE events_position AS bigint OWNED BY events.position;
CREATE UNIQUE INDEX events_by_position ON events (position);

-- A state from which folding can start. May be deleted at any time.
CREATE TABLE snapshots (
    stream  text    PRIMARY KEY,
    version integer NOT NULL,
    state   json    NOT NULL
);

-- What was handled, by whom; and the barrier between a saga's commands and their compensations.
CREATE TABLE inbox (
    consumer    text        NOT NULL,
    message_id  text        NOT NULL,
    saga_id     text,
    saga_step   text,
    branch      text, -- do, undo; null where the row is no barrier
    outcome     text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX inbox_by_age ON inbox (received_at);
CREATE UNIQUE INDEX inbox_barrier ON inbox (consumer, saga_id, saga_step, branch) WHERE branch IS NOT NULL;

-- Messages on their way to the broker. A row is deleted once the broker has it.
CREATE TABLE outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id text        NOT NULL,
    topic      text        NOT NULL,
    key        text        NOT NULL,
    shard      smallint    NOT NULL,
    payload    bytea       NOT NULL,
    headers    jsonb       NOT NULL,
    due_at     timestamptz, -- null: now; infinity: its key is parked behind a dead letter
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_ready ON outbox (shard, id) WHERE due_at IS NULL;
CREATE INDEX outbox_delayed ON outbox (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX outbox_timers ON outbox (message_id) WHERE due_at IS NOT NULL;
CREATE INDEX outbox_parked ON outbox (topic, key) WHERE due_at = 'infinity';

-- Messages that could not be handled or sent.
CREATE TABLE dead_letters (
    id           text        PRIMARY KEY,
    consumer     text        NOT NULL, -- who gave up; "relay" for what the broker refused
    message_id   text        NOT NULL,
    topic        text        NOT NULL,
    key          text        NOT NULL,
    headers      jsonb       NOT NULL,
    payload      bytea       NOT NULL,
    reason       text        NOT NULL,
    stack        text        NOT NULL DEFAULT '',
    attempts     integer     NOT NULL,
    outbox_id    bigint, -- of the row that was parked
    first_at     timestamptz NOT NULL,
    last_at      timestamptz NOT NULL,
    dropped_at   timestamptz, -- by whom and why, for the record
    dropped_by   text,
    drop_reason  text,
    UNIQUE (consumer, message_id)
);
CREATE INDEX dead_letters_parked ON dead_letters (topic, key) WHERE outbox_id IS NOT NULL;

-- Answers to requests that bore an Idempotency-Key.
CREATE TABLE idempotency_keys (
    owner      text        NOT NULL,
    key        text        NOT NULL,
    request    bytea       NOT NULL, -- hash of the body
    answer     json        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- The list of saga instances.
CREATE TABLE saga_rows (
    saga_id    text        PRIMARY KEY,
    definition text        NOT NULL,
    subject    text        NOT NULL,
    status     text        NOT NULL,
    started_at timestamptz NOT NULL,
    version    integer     NOT NULL,
    state      json        NOT NULL
);
CREATE INDEX saga_rows_newest ON saga_rows (started_at DESC, saga_id DESC);
CREATE INDEX saga_rows_by_status ON saga_rows (status, started_at DESC, saga_id DESC);

-- +goose Down
DROP TABLE saga_rows, idempotency_keys, dead_letters, outbox, inbox, snapshots, events;
