package runner

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/audit"
	"github.com/millrace/millrace/kit/saga"
)

// StartQuiet starts an instance that logs errors only, for a command that needs a running service. The function stop stops the instance and waits
// for at most 10 seconds.
func (p *Program) StartQuiet(ctx context.Context) (s *Instance, stop func() error, err error) {
	p.config.LogLevel = max(p.config.LogLevel, slog.LevelError)
	p.log = newLog(p.config, p.stderr)
	if s, err = Start(ctx, p.def, p.config, p.log, p.Say); err != nil {
		return nil, nil, err
	}
	return s, func() error {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		return s.Stop(stopCtx)
	}, nil
}

// CheckTopics compares the event store with the topics: a topic must contain each stored event at least once, and the events of a stream in order.
// It returns a text for each fault. It does not check the events of sagas, because they are on a topic only since the settings or a consumer made
// the service publish them.
func (s *Instance) CheckTopics(ctx context.Context) (faults []string, err error) {
	var topics []string
	for _, a := range s.def.Aggregates {
		topics = append(topics, messaging.EventTopic(s.config.TopicPrefix, a.category()))
	}
	var logged audit.Logged
	err = s.broker.ReadAll(ctx, topics, func(_ string, msg *message.Message) error {
		var version int
		if _, err := fmt.Sscan(msg.Metadata.Get(cqrs.HeaderSequence), &version); err != nil {
			return nil //nolint:nilerr // an answer that no stream holds
		}
		if fault := logged.Saw(0, msg.Metadata.Get(cqrs.HeaderSubject), version); fault != nil {
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
			if e.Category == saga.Category {
				continue
			}
			stored[e.Meta.Subject] = max(stored[e.Meta.Subject], e.Meta.Version)
		}
	}
}
