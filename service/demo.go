package service

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/tests/books"
)

// serveOwn starts an instance for the demo, on a free port if its own is taken.
func (p program) serveOwn(ctx context.Context) (url string, checkLog func(context.Context) ([]string, error), stop func() error, err error) {
	p.say("no service answers at " + p.config.HTTPAddr + "; starting one")
	p.config.LogLevel = max(p.config.LogLevel, slog.LevelError) // what the demo breaks on purpose is no news
	p.log = newLog(p.config, p.stderr)
	s, err := Start(ctx, p.config, p.log, p.say)
	if err != nil {
		return "", nil, nil, err
	}
	stop = func() error {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		return s.Stop(stopCtx)
	}
	return s.OpsURL, s.checkLog, stop, nil
}

// checkLog compares the event store with what stands in Kafka.
func (s *Service) checkLog(ctx context.Context) (faults []string, err error) {
	var topics []string
	for category := range kinds() {
		topics = append(topics, messaging.EventTopic(s.config.TopicPrefix, category))
	}
	var logged books.Logged
	err = s.broker.ReadAll(ctx, topics, func(_ string, msg *message.Message) error {
		var version int
		if _, err := fmt.Sscan(msg.Metadata.Get(cqrs.HeaderSequence), &version); err != nil {
			return nil //nolint:nilerr // an answer that no stream holds
		}
		if fault := logged.Saw(msg.Metadata.Get(cqrs.HeaderSubject), version); fault != nil {
			faults = append(faults, fault.Error())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	stored := map[string]int{}
	reader := s.core.store.Read(0)
	for {
		events, err := reader.Next(ctx, 1000)
		if err != nil || len(events) == 0 {
			return append(faults, logged.Missing(stored)...), err
		}
		for _, e := range events {
			stored[e.Meta.Subject] = max(stored[e.Meta.Subject], e.Meta.Version)
		}
	}
}
