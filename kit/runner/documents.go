package runner

import (
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// asyncAPI describes the messages of a service with these handlers.
func (d *Service) asyncAPI(c Config, handlers []cqrs.Handler) ([]byte, error) {
	return messaging.AsyncAPI(d.Title, c.TopicPrefix, handlers, d.published(c), saga.Answers, d.heard(&Kit{}), c.ExternalPrefixes)
}

// AsyncAPI describes the messages of a service with these settings as an AsyncAPI 3.0 document. It needs no running instance.
func (d *Service) AsyncAPI(c Config) ([]byte, error) {
	handlers := append(d.commands(&Kit{}), (&manager.Manager{}).Handlers()...)
	for _, n := range d.External {
		handlers = append(handlers, n.Handlers()...)
	}
	return d.asyncAPI(c, handlers)
}
