-- +goose Up

-- Every POST takes an Idempotency-Key, so a key is its owner's for one method and path (scope), and the answer keeps its status. Until now
-- only orders took one: the defaults are what their rows mean, and what instances of the version before go on writing.
ALTER TABLE idempotency_keys
    ADD COLUMN scope    text    NOT NULL DEFAULT 'POST /v1/orders',
    ADD COLUMN status   integer NOT NULL DEFAULT 202,
    ADD COLUMN location text    NOT NULL DEFAULT '';
UPDATE idempotency_keys SET location = '/v1/orders/' || (answer ->> 'order_id') WHERE answer ->> 'order_id' IS NOT NULL;
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey, ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (owner, key, scope);

-- +goose Down
DELETE FROM idempotency_keys WHERE scope <> 'POST /v1/orders';
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey, ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (owner, key);
ALTER TABLE idempotency_keys DROP COLUMN scope, DROP COLUMN status, DROP COLUMN location;
