-- +goose Up

-- What a relay says of the broker: '' nothing, 'unreached', 'reached', 'cut off'.
ALTER TABLE relays ADD COLUMN broker text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE relays DROP COLUMN broker;
