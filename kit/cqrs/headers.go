package cqrs

// Names of message headers: those of the CloudEvents binding for Kafka (binary mode, attributes have the prefix ce_), its extensions partitionkey and
// sequence, and the headers of this library. https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
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

	// Only this service and the services that take part in its sagas may set these headers. On topics of other services they are ignored.
	HeaderSagaID   = "millrace_saga_id"
	HeaderSagaStep = "millrace_saga_step"
	HeaderBranch   = "millrace_saga_branch"
	HeaderExpires  = "millrace_expires_at"

	// HeaderHandledBy names the consumers of this service that have handled the event in the unit of work that recorded it, separated by commas.
	HeaderHandledBy = "millrace_handled_by"

	// HeaderDue is the time until which the outbox keeps a message. The relay does not send this header.
	HeaderDue = "due_at"
)

// Headers are the names of all headers that a message of this library may have on a topic.
var Headers = [...]string{
	HeaderSpec, HeaderID, HeaderType, HeaderSource, HeaderSubject, HeaderTime, HeaderKey, HeaderSequence, HeaderContent, HeaderSchema,
	HeaderCorrelation, HeaderCausation, HeaderSagaID, HeaderSagaStep, HeaderBranch, HeaderExpires, HeaderTrace,
	HeaderHandledBy,
}

// FormerHeaders maps header names of older versions to the current names. Messages on topics and in the outbox may still have the older names.
var FormerHeaders = map[string]string{
	"saga_id": HeaderSagaID, "saga_step": HeaderSagaStep, "saga_branch": HeaderBranch, "expires_at": HeaderExpires,
}
