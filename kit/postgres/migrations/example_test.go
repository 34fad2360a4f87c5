package migrations_test

import (
	"context"
	"fmt"
	"testing/fstest"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/migrations"
)

// Up applies the kit's migrations, and then those of the service, which usually are an embed.FS.
func ExampleSchema_Up() {
	db, _, done := kittest.ExampleDatabase() // with the kit's tables
	defer done()
	ctx := context.Background()
	schema := migrations.New(fstest.MapFS{
		"00001_orders.sql": {Data: []byte("-- +goose Up\nCREATE TABLE order_view (id text PRIMARY KEY);\n-- +goose Down\nDROP TABLE order_view;\n")},
	})
	fmt.Println("up:", schema.Up(ctx, db.DB))
	versions, err := schema.List(ctx, db.DB)
	if err != nil {
		panic(err)
	}
	last := versions[len(versions)-1]
	fmt.Println(last.Set, last.Version, last.Name, last.Applied)
	// Output:
	// up: <nil>
	// service 1 00001_orders.sql true
}
