-- +goose Up

-- IF NOT EXISTS: a database of a version before the kit had its own migrations has these tables.

CREATE TABLE IF NOT EXISTS order_rows (
    order_id    text        PRIMARY KEY,
    customer_id text        NOT NULL,
    status      text        NOT NULL,
    reason      text        NOT NULL DEFAULT '',
    lines       json        NOT NULL,
    total       bigint      NOT NULL,
    currency    text        NOT NULL,
    placed_at   timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     integer     NOT NULL
);
CREATE INDEX IF NOT EXISTS order_rows_newest ON order_rows (placed_at DESC, order_id DESC);
CREATE INDEX IF NOT EXISTS order_rows_by_status ON order_rows (status, placed_at DESC, order_id DESC);
CREATE INDEX IF NOT EXISTS order_rows_by_customer ON order_rows (customer_id, placed_at DESC, order_id DESC);

CREATE TABLE IF NOT EXISTS stock_rows (
    sku      text    PRIMARY KEY,
    received bigint  NOT NULL,
    on_hand  bigint  NOT NULL,
    reserved bigint  NOT NULL,
    version  integer NOT NULL
);

-- +goose Down
DROP TABLE stock_rows, order_rows;
