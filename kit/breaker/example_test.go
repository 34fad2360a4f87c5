package breaker_test

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/breaker"
)

var errAway = errors.New("the payment provider does not answer")

// A breaker opens when half of at least four calls have failed. Then it rejects every call.
func Example() {
	b := breaker.New(breaker.Settings("payments", 4, 0.5), breaker.Options{Failed: func(err error) bool { return errors.Is(err, errAway) }})
	for range 5 {
		err := b.Do(func() error { return errAway })
		fmt.Println(b.Snapshot().State, "turned away:", breaker.IsOpen(err))
	}
	// Output:
	// closed turned away: false
	// closed turned away: false
	// closed turned away: false
	// open turned away: false
	// open turned away: true
}

// The middleware works in any Watermill router. While the breaker is open, messages wait and do not fail.
func ExampleBreaker_Middleware() {
	b := breaker.New(breaker.Default("payments"), breaker.Options{Failed: func(err error) bool { return errors.Is(err, errAway) }})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	router.AddMiddleware(b.Middleware)
	handle := b.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		return nil, fmt.Errorf("charge %s: %w", msg.Payload, errAway)
	})
	_, err = handle(message.NewMessage("1", []byte("order-1")))
	fmt.Println(err)
	fmt.Println("failures:", b.Snapshot().Failures)
	// Output:
	// charge order-1: the payment provider does not answer
	// failures: 1
}
