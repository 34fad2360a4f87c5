package kafka

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
)

// Refused tells whether an error of Producer.Send means that the broker will never accept the record.
func Refused(err error) bool {
	if _, ok := errors.AsType[sarama.ConfigurationError](err); ok {
		return true // the client's own limit, which is that of the topics
	}
	return errors.Is(err, sarama.ErrMessageSizeTooLarge) || errors.Is(err, sarama.ErrMessageSetSizeTooLarge) ||
		errors.Is(err, sarama.ErrInvalidMessage) || errors.Is(err, sarama.ErrInvalidRecord)
}

// TopicError is an error of one topic or partition. The broker answers, and sending to other topics works.
type TopicError struct {
	Topic string
	err   error
}

func (e *TopicError) Error() string { return e.err.Error() }

func (e *TopicError) Unwrap() error { return e.err }

// TopicFault tells whether an error of Producer.Send concerns one topic, and not the whole broker or a single message.
func TopicFault(err error) bool {
	_, ok := errors.AsType[*TopicError](err)
	return ok && !Refused(err)
}

// topicFault makes a *TopicError if err is a broker's answer about a topic, and names the missing right. It returns connection errors unchanged.
func topicFault(err error, topic, right string) error {
	if _, answered := errors.AsType[sarama.KError](err); !answered {
		return err
	}
	if errors.Is(err, sarama.ErrTopicAuthorizationFailed) {
		err = fmt.Errorf("%w: the user of KAFKA_USER needs %s on topic %s", err, right, topic)
	}
	return &TopicError{topic, err}
}
