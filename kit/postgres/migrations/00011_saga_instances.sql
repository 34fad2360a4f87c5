-- +goose Up

-- While instances of the version before still run, they write and read through the former name, by the rights that they had on the table.
-- The next version drops it.
ALTER TABLE saga_rows RENAME TO saga_instances;
CREATE VIEW saga_rows AS SELECT * FROM saga_instances;
-- +goose StatementBegin
DO $$
DECLARE g record;
BEGIN
    FOR g IN SELECT privilege_type, grantee::regrole::text AS role FROM pg_class, aclexplode(relacl)
        WHERE oid = 'saga_instances'::regclass AND grantee NOT IN (0, relowner) AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') LOOP
        EXECUTE format('GRANT %s ON saga_rows TO %s', g.privilege_type, g.role);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP VIEW saga_rows;
ALTER TABLE saga_instances RENAME TO saga_rows;
