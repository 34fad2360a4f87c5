package service

import (
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/ports/messages"
	"github.com/millrace/millrace/sagas/process"
	"github.com/millrace/millrace/sagas/saga"
)

// asyncAPI describes the messages of a service with these handlers.
func asyncAPI(prefix string, handlers []app.Handler) ([]byte, error) {
	return messages.AsyncAPI("Millrace", prefix, handlers, kinds(), saga.Answers)
}

// printAsyncAPI describes them without a service that runs.
func (p program) printAsyncAPI() ([]byte, error) {
	return asyncAPI(p.config.TopicPrefix, append(command.All(command.Deps{}), (&process.Manager{}).Handlers()...))
}
