-- +goose Up

-- Read models are named views. While instances of the version before still run, they write and read through the former names, by the
-- rights that they had on the tables. The next version drops them.
ALTER TABLE order_rows RENAME TO order_view;
CREATE VIEW order_rows AS SELECT * FROM order_view;
ALTER TABLE stock_rows RENAME TO stock_view;
CREATE VIEW stock_rows AS SELECT * FROM stock_view;
-- +goose StatementBegin
DO $$
DECLARE g record;
BEGIN
    FOR g IN SELECT replace(relname, '_view', '_rows') AS former, privilege_type, grantee::regrole::text AS role FROM pg_class, aclexplode(relacl)
        WHERE oid IN ('order_view'::regclass, 'stock_view'::regclass) AND grantee NOT IN (0, relowner)
            AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') LOOP
        EXECUTE format('GRANT %s ON %I TO %s', g.privilege_type, g.former, g.role);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP VIEW stock_rows, order_rows;
ALTER TABLE stock_view RENAME TO stock_rows;
ALTER TABLE order_view RENAME TO order_rows;
