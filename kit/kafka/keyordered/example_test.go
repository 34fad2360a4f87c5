package keyordered_test

import (
	"context"
	"fmt"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kafka/keyordered"
)

// The first message of a key is not acknowledged yet. The second message of the key waits for it, and a message of another key does not.
func ExampleNewSubscriber() {
	dir, err := os.MkdirTemp("", "keyordered-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	broker, err := embedded.StartKafka(dir, 0)
	if err != nil {
		panic(err)
	}
	defer broker.Stop()
	if _, err := kafka.EnsureTopics(context.Background(), kafka.Config{Brokers: broker.Brokers}, []string{"orders"}, 1); err != nil {
		panic(err)
	}
	publisher, err := wkafka.NewPublisher(wkafka.PublisherConfig{
		Brokers: broker.Brokers,
		Marshaler: wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
			return msg.Metadata["order"], nil
		}),
	}, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	defer publisher.Close()
	for _, m := range [][2]string{{"order-1", "placed"}, {"order-1", "paid"}, {"order-2", "placed"}} {
		msg := message.NewMessage(watermill.NewUUID(), []byte(m[1]))
		msg.Metadata["order"] = m[0]
		if err := publisher.Publish("orders", msg); err != nil {
			panic(err)
		}
	}

	subscriber, err := keyordered.NewSubscriber(keyordered.Config{Brokers: broker.Brokers, Group: "billing"})
	if err != nil {
		panic(err)
	}
	messages, err := subscriber.Subscribe(context.Background(), "orders")
	if err != nil {
		panic(err)
	}
	first, second := <-messages, <-messages
	if first.Metadata["order"] == "order-2" {
		first, second = second, first
	}
	fmt.Println("handed out at once:", first.Metadata["order"], string(first.Payload), "and", second.Metadata["order"], string(second.Payload))
	first.Ack()
	second.Ack()
	third := <-messages
	fmt.Println("then:", third.Metadata["order"], string(third.Payload))
	third.Ack()
	fmt.Println("close:", subscriber.Close())
	// Output:
	// handed out at once: order-1 placed and order-2 placed
	// then: order-1 paid
	// close: <nil>
}
