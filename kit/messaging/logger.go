package messaging

import (
	"context"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// Watermill's info lines are details for a service, so they are logged at debug level, and its debug lines one level below.
const (
	levelInfo  = slog.LevelDebug
	levelDebug = slog.LevelDebug - 4
)

// NewLogger makes Watermill's logger write to log. Watermill's info lines have the level debug, and its debug lines a lower level.
func NewLogger(log *slog.Logger) watermill.LoggerAdapter {
	levels := map[slog.Level]slog.Level{slog.LevelInfo: levelInfo, slog.LevelDebug: levelDebug}
	return logger{watermill.NewSlogLoggerWithLevelMapping(log, levels), log}
}

// logger checks the level before it builds the fields, because Watermill logs several lines per message.
type logger struct {
	watermill.LoggerAdapter
	log *slog.Logger
}

// Debug implements watermill.LoggerAdapter.
func (l logger) Debug(msg string, fields watermill.LogFields) {
	if l.log.Enabled(context.Background(), levelDebug) {
		l.LoggerAdapter.Debug(msg, fields)
	}
}

// Trace implements watermill.LoggerAdapter.
func (l logger) Trace(msg string, fields watermill.LogFields) {
	if l.log.Enabled(context.Background(), watermill.LevelTrace) {
		l.LoggerAdapter.Trace(msg, fields)
	}
}

// With implements watermill.LoggerAdapter.
func (l logger) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return logger{l.LoggerAdapter.With(fields), l.log}
}
