-- +goose Up

-- Of a definition, a type of event and a key, at most one of these tables has rows: sagas that wait, or events that came before anybody waited.
CREATE TABLE saga_waits (
    saga_id    text        NOT NULL,
    step       text        NOT NULL,
    definition text        NOT NULL,
    event      text        NOT NULL, -- its Go type
    key        text        NOT NULL,
    seq        bigint      GENERATED ALWAYS AS IDENTITY, -- the oldest wait is served first
    began_at   timestamptz NOT NULL DEFAULT app_now(),
    PRIMARY KEY (saga_id, step)
);
CREATE INDEX saga_waits_by_key ON saga_waits (definition, event, key, seq);

CREATE TABLE saga_events (
    definition  text        NOT NULL,
    event       text        NOT NULL,
    key         text        NOT NULL,
    message_id  text        NOT NULL,
    body        json        NOT NULL,
    happened_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT app_now(),
    seq         bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (definition, event, key, message_id)
);
CREATE INDEX saga_events_by_message ON saga_events (definition, message_id);
CREATE INDEX saga_events_by_age ON saga_events (received_at);

-- The first one of the sagas that a child belongs to. While that has not ended, the child may have to be compensated.
ALTER TABLE saga_instances ADD COLUMN root_id text;

-- +goose Down
ALTER TABLE saga_instances DROP COLUMN root_id;
DROP TABLE saga_events, saga_waits;
