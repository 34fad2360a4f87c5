package eventstore_test

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/eventstore"
)

// A repository of an aggregate that keeps a snapshot every ten events. The event store is read by streams, or all of it in the order of
// commits, without a gap, while others write.
func ExampleRepository() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	ctx := context.Background()
	store := eventstore.New(db, types)
	counters := eventstore.NewRepository(store, "counters", rebuild, eventstore.Options{SnapshotEvery: 10})
	for range 25 {
		err := unit(ctx, db, store, func(ctx context.Context) error {
			return counters.Update(ctx, "c1", func(c *counter) error { c.add(2); return nil })
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	c, err := counters.Load(ctx, "c1")
	fmt.Println("counted:", c.n, err)
	history, err := store.History(ctx, "counters", "c1")
	fmt.Println("events:", len(history), err)
	reader := store.Read(0)
	page, err := reader.Next(ctx, 10)
	fmt.Println("first page:", len(page), "last position:", page[9].Position, err)

	// Output:
	// counted: 50 <nil>
	// events: 25 <nil>
	// first page: 10 last position: 10 <nil>
}
