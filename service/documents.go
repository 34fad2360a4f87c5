package service

import (
	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/consumer"
	"github.com/millrace/millrace/app/elsewhere"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// asyncAPI describes the messages of a service with these handlers.
func asyncAPI(c Config, handlers []cqrs.Handler) ([]byte, error) {
	return messaging.AsyncAPI("Millrace", c.TopicPrefix, handlers, kinds(), saga.Answers, consumer.All(consumer.Deps{}), c.Others)
}

// printAsyncAPI describes them without a service that runs.
func (p program) printAsyncAPI() ([]byte, error) {
	handlers := append(command.All(command.Deps{}), (&manager.Manager{}).Handlers()...)
	for _, n := range elsewhere.All() {
		handlers = append(handlers, n.Handlers()...)
	}
	return asyncAPI(p.config, handlers)
}
