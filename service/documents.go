package service

import (
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/elsewhere"
	"github.com/millrace/millrace/app/reaction"
	"github.com/millrace/millrace/ports/messages"
	"github.com/millrace/millrace/sagas/process"
	"github.com/millrace/millrace/sagas/saga"
)

// asyncAPI describes the messages of a service with these handlers.
func asyncAPI(c Config, handlers []app.Handler) ([]byte, error) {
	return messages.AsyncAPI("Millrace", c.TopicPrefix, handlers, kinds(), saga.Answers, reaction.All(reaction.Deps{}), c.Others)
}

// printAsyncAPI describes them without a service that runs.
func (p program) printAsyncAPI() ([]byte, error) {
	handlers := append(command.All(command.Deps{}), (&process.Manager{}).Handlers()...)
	for _, n := range elsewhere.All() {
		handlers = append(handlers, n.Handlers()...)
	}
	return asyncAPI(p.config, handlers)
}
