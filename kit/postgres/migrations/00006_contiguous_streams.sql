-- +goose Up

-- An event needs the event before it: a stream cannot get a gap, whatever a program believes. OFFSET 0 keeps the planner at one look into the
-- primary key for each event; a plan made while the table is small could read all of it later.
-- +goose StatementBegin
CREATE FUNCTION require_contiguous_streams() RETURNS trigger LANGUAGE plpgsql AS
$$
DECLARE
    gap record;
BEGIN
    SELECT a.stream, a.version INTO gap FROM appended a
    LEFT JOIN LATERAL (SELECT true AS found FROM events e WHERE e.stream = a.stream AND e.version = a.version - 1 OFFSET 0) before ON true
    WHERE a.version <> 1 AND before.found IS NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'version % of stream % cannot be appended: version % does not exist', gap.version, gap.stream, gap.version - 1
            USING ERRCODE = 'MR003', TABLE = 'events';
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER require_contiguous_streams AFTER INSERT ON events
    REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION require_contiguous_streams();

-- The shape of a snapshot's state. Snapshots of another shape than the program's are ignored and made anew; so are those made before.
ALTER TABLE snapshots ADD COLUMN schema text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE snapshots DROP COLUMN schema;
DROP TRIGGER require_contiguous_streams ON events;
DROP FUNCTION require_contiguous_streams();
