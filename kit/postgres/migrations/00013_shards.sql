-- +goose Up

-- FNV-1a with 32 bits, https://datatracker.ietf.org/doc/draft-eastlake-fnv/
-- +goose StatementBegin
CREATE FUNCTION fnv1a(data bytea) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE h bigint := 2166136261;
BEGIN
    FOR i IN 0 .. length(data) - 1 LOOP
        h := ((h # get_byte(data, i)) * 16777619) & 4294967295;
    END LOOP;
    RETURN h;
END $$;
-- +goose StatementEnd

-- The shard of a key is Kafka's partition of it, of 16, so that a relay can be in the process that handles the key. It had been another one, numbered 0 to 15.
-- +goose StatementBegin
CREATE FUNCTION outbox_shard(topic text, key text) RETURNS smallint LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE h bigint := fnv1a(convert_to(CASE key WHEN '' THEN topic ELSE key END, 'UTF8'));
BEGIN
    IF h >= 2147483648 THEN
        h := h - 4294967296;
    END IF;
    RETURN 16 + abs(h % 16);
END $$;
-- +goose StatementEnd

-- A program of the version before, beside those of this one, still writes the former numbers.
-- +goose StatementBegin
CREATE FUNCTION outbox_correct_shard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.shard := outbox_shard(NEW.topic, NEW.key);
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER outbox_former_shard BEFORE INSERT ON outbox FOR EACH ROW WHEN (NEW.shard < 16) EXECUTE FUNCTION outbox_correct_shard();
UPDATE outbox SET shard = outbox_shard(topic, key);

-- Nor does its relay find the rows behind a message that Kafka has refused, as it looks for them in the former shard.
-- +goose StatementBegin
CREATE FUNCTION outbox_block_behind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE outbox SET due_at = 'infinity' WHERE topic = NEW.topic AND key = NEW.key AND shard = outbox_shard(NEW.topic, NEW.key)
        AND (due_at IS NULL OR due_at = '-infinity') AND id > NEW.outbox_id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER dead_letters_former_shard AFTER INSERT OR UPDATE OF outbox_id ON dead_letters FOR EACH ROW WHEN (NEW.outbox_id IS NOT NULL)
    EXECUTE FUNCTION outbox_block_behind();

-- The shards that a relay is to have if it can, because its process handles their keys.
ALTER TABLE relays ADD COLUMN preferred smallint[];

-- Relays that hold the former shards may send until their next heartbeat fails. Until then nobody holds one of the new shards: a lease lasts for 5 s.
LOCK TABLE relay_leases IN EXCLUSIVE MODE;
INSERT INTO relays (owner, host, since, expires_at) SELECT 'former', 'former', app_now(), app_clock() + interval '5 s' WHERE EXISTS (SELECT FROM relays WHERE expires_at > app_now());
DELETE FROM relay_leases;
INSERT INTO relay_leases (shard, owner, expires_at) SELECT shard, f.owner, COALESCE(f.expires_at, '-infinity')
    FROM generate_series(16, 31) shard LEFT JOIN relays f ON f.owner = 'former';

-- +goose Down
ALTER TABLE relays DROP COLUMN preferred;
DELETE FROM relays WHERE owner = 'former';
DROP TRIGGER dead_letters_former_shard ON dead_letters;
DROP TRIGGER outbox_former_shard ON outbox;
UPDATE outbox SET shard = fnv1a(convert_to(topic, 'UTF8') || '\x00'::bytea || convert_to(key, 'UTF8')) % 16;
DELETE FROM relay_leases;
INSERT INTO relay_leases (shard) SELECT generate_series(0, 15);
DROP FUNCTION outbox_block_behind, outbox_correct_shard, outbox_shard, fnv1a;
