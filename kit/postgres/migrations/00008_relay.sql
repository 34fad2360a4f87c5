-- +goose Up

-- Relays that run. Of the relays of one host the one that started first sends; the others stand by.
CREATE TABLE relays (
    owner      text        PRIMARY KEY, -- token of one session of one relay: a relay that lost its leases begins another one
    host       text        NOT NULL,
    since      timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Which relay sends which shard of the outbox. A relay changes the outbox only where it is still the owner.
CREATE TABLE relay_leases (
    shard      smallint    PRIMARY KEY,
    owner      text,
    expires_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO relay_leases (shard) SELECT generate_series(0, 15);

-- Topics that cannot be sent to. Their messages have due_at = '-infinity', so that they are not read with those of other topics.
CREATE TABLE suspended_topics (
    topic    text        PRIMARY KEY,
    reason   text        NOT NULL,
    since    timestamptz NOT NULL DEFAULT now(),
    next_try timestamptz NOT NULL,
    attempts integer     NOT NULL DEFAULT 1
);
CREATE INDEX outbox_suspended ON outbox (topic, id) WHERE due_at = '-infinity';

-- Messages that wait for a dead letter of which nothing is left, because a replay or a drop came between.
UPDATE outbox o SET due_at = NULL WHERE due_at = 'infinity' AND consumer IS NULL
    AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.outbox_id IS NOT NULL AND d.topic = o.topic AND d.key = o.key);
UPDATE outbox_epoch SET epoch = epoch + 1;

-- +goose Down
UPDATE outbox SET due_at = NULL WHERE due_at = '-infinity';
UPDATE outbox_epoch SET epoch = epoch + 1;
DROP INDEX outbox_suspended;
DROP TABLE suspended_topics, relay_leases, relays;
