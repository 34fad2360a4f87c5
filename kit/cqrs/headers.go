package cqrs

// Names of message headers: those of the CloudEvents binding for Kafka (binary mode, attributes prefixed with ce_), its
// extensions partitionkey and sequence, and our own.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
const (
	HeaderSpec        = "ce_specversion"
	HeaderID          = "ce_id"
	HeaderType        = "ce_type"
	HeaderSource      = "ce_source"
	HeaderSubject     = "ce_subject"
	HeaderTime        = "ce_time"
	HeaderKey         = "ce_partitionkey"
	HeaderSequence    = "ce_sequence"
	HeaderContent     = "content-type"
	HeaderSchema      = "schema_version"
	HeaderCorrelation = "correlation_id"
	HeaderCausation   = "causation_id"
	HeaderTrace       = "traceparent"

	// Headers that only this service and those that take part in its sagas may set. On other services' topics they are ignored.
	HeaderSagaID   = "millrace_saga_id"
	HeaderSagaStep = "millrace_saga_step"
	HeaderBranch   = "millrace_saga_branch"
	HeaderExpires  = "millrace_expires_at"

	// HeaderHandledBy names the consumers of this service, separated by commas, that have handled the event in the unit of work that recorded it.
	HeaderHandledBy = "millrace_handled_by"

	// HeaderDue holds a message back in the outbox until a time; it is never sent.
	HeaderDue = "due_at"
)

// Headers are the names that a message of ours may have on the wire.
var Headers = [...]string{
	HeaderSpec, HeaderID, HeaderType, HeaderSource, HeaderSubject, HeaderTime, HeaderKey, HeaderSequence, HeaderContent, HeaderSchema,
	HeaderCorrelation, HeaderCausation, HeaderSagaID, HeaderSagaStep, HeaderBranch, HeaderExpires, HeaderTrace,
	HeaderHandledBy,
}

// FormerHeaders maps header names of older versions, which may still be on topics and in the outbox, to today's.
var FormerHeaders = map[string]string{
	"saga_id": HeaderSagaID, "saga_step": HeaderSagaStep, "saga_branch": HeaderBranch, "expires_at": HeaderExpires,
}
