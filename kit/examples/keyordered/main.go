// Command keyordered shows the key-ordered Kafka subscriber in a plain Watermill program: messages of one key are handled in order, messages
// of different keys at the same time, also those of one partition.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/millrace/millrace/kit/kafka/keyordered"
)

// StockMoved is an event; the record's key is its article.
type StockMoved struct {
	Article string
	N       int
}

const articles, moves = 20, 5

func main() {
	topic := "stock-" + watermill.NewShortUUID()
	if err := run(context.Background(), strings.Split(os.Getenv("KAFKA_BROKERS"), ","), topic); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, brokers []string, topic string) error {
	logger, json := watermill.NopLogger{}, wcqrs.JSONMarshaler{}
	if err := publish(ctx, brokers, topic, json); err != nil {
		return err
	}

	// A router with Watermill's own middleware, and a processor with handlers of Watermill's.
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddMiddleware(middleware.Recoverer, middleware.Retry{MaxRetries: 3, InitialInterval: 10 * time.Millisecond}.Middleware)
	processor, err := wcqrs.NewEventProcessorWithConfig(router, wcqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(wcqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) { return topic, nil },
		SubscriberConstructor: func(p wcqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return keyordered.NewSubscriber(keyordered.Config{Brokers: brokers, Group: topic + "." + p.HandlerName})
		},
		Marshaler: json,
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	last, active, most, failed, seen := map[string]int{}, 0, 0, false, 0
	count := wcqrs.NewEventHandler("count", func(_ context.Context, e *StockMoved) error {
		mu.Lock()
		if !failed { // Watermill's Retry calls the handler again
			failed = true
			mu.Unlock()
			return errors.New("the first call fails")
		}
		active++
		most = max(most, active)
		mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		active--
		if e.N != last[e.Article]+1 {
			fmt.Println(e.Article, "out of order:", e.N, "after", last[e.Article])
		}
		last[e.Article] = e.N
		if seen++; seen == articles*moves {
			go router.Close()
		}
		return nil
	})
	if err := processor.AddHandlers(count); err != nil {
		return err
	}
	if err := router.Run(ctx); err != nil {
		return err
	}
	fmt.Println("handled", seen, "messages of", len(last), "keys, each key in order; many keys at once:", most > 4)
	return nil
}

// publish writes to Kafka with Watermill's publisher, partitioned by article.
func publish(ctx context.Context, brokers []string, topic string, json wcqrs.JSONMarshaler) error {
	admin, err := sarama.NewClusterAdmin(brokers, nil)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false); err != nil {
		return err
	}
	byArticle := wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) { return msg.Metadata["article"], nil })
	publisher, err := wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: brokers, Marshaler: byArticle}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	defer publisher.Close()
	bus, err := wcqrs.NewEventBusWithConfig(publisher, wcqrs.EventBusConfig{
		GeneratePublishTopic: func(wcqrs.GenerateEventPublishTopicParams) (string, error) { return topic, nil },
		OnPublish: func(p wcqrs.OnEventSendParams) error {
			p.Message.Metadata["article"] = p.Event.(StockMoved).Article
			return nil
		},
		Marshaler: json,
	})
	if err != nil {
		return err
	}
	for n := range moves {
		for a := range articles {
			if err := bus.Publish(ctx, StockMoved{fmt.Sprint("article-", a), n + 1}); err != nil {
				return err
			}
		}
	}
	return nil
}
