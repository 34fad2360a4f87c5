-- +goose Up

-- Messages, where PostgreSQL carries them in Kafka's place (BROKER=postgres).
CREATE TABLE topic_messages (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- of one topic, in the order in which they were committed
    topic      text        NOT NULL,
    message_id text        NOT NULL,
    payload    bytea       NOT NULL,
    headers    json        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX topic_messages_in_order ON topic_messages (topic, id);
CREATE INDEX topic_messages_by_age ON topic_messages (created_at);

-- How far each group has read.
CREATE TABLE topic_offsets (
    topic    text   NOT NULL,
    consumer text   NOT NULL,
    acked    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, consumer)
);

-- +goose Down
DROP TABLE topic_offsets, topic_messages;
