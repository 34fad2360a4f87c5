-- +goose Up

-- Where a message could not be handled, the later ones of its key wait in line behind it, and no others. A line is there for as
-- long as its head has not been handled.
CREATE TABLE lines (
    consumer   text        NOT NULL,
    line       text        NOT NULL, -- the messages' key; for a saga's consumer, the saga
    head       text        NOT NULL, -- id of the message that all wait for
    attempts   integer     NOT NULL DEFAULT 0, -- how often the head has failed
    first_at   timestamptz, -- when it failed first
    PRIMARY KEY (consumer, line)
);

-- Messages that wait in line are rows of the outbox, in the order in which they came: the head due when it is tried again, the
-- others at infinity.
ALTER TABLE outbox ADD COLUMN consumer text, ADD COLUMN line text;
CREATE INDEX outbox_lines ON outbox (consumer, line, id) WHERE consumer IS NOT NULL;
DROP INDEX outbox_parked;
CREATE INDEX outbox_parked ON outbox (topic, key) WHERE due_at = 'infinity' AND consumer IS NULL;

ALTER TABLE dead_letters ADD COLUMN line text; -- that the message is the head of
CREATE INDEX dead_letters_newest ON dead_letters (first_at DESC, id DESC) WHERE dropped_at IS NULL;

-- Relays read on from where they were a while ago, so that what is deleted but not yet vacuumed is not read over and over. When
-- rows come back to an earlier place, the epoch goes up, and they begin at the beginning again.
CREATE TABLE outbox_epoch (epoch bigint NOT NULL);
INSERT INTO outbox_epoch VALUES (1);


-- +goose Down
DROP TABLE outbox_epoch;
DROP INDEX dead_letters_newest;
ALTER TABLE dead_letters DROP COLUMN line;
DROP INDEX outbox_parked;
CREATE INDEX outbox_parked ON outbox (topic, key) WHERE due_at = 'infinity';
ALTER TABLE outbox DROP COLUMN consumer, DROP COLUMN line;
DROP TABLE lines;
