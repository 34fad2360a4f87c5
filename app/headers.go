package app

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
	HeaderSagaID      = "saga_id"
	HeaderSagaStep    = "saga_step"
	HeaderBranch      = "saga_branch"
	HeaderExpires     = "expires_at"
	HeaderTrace       = "traceparent"

	// HeaderFor names the one consumer that a message comes to again; the others of its topic have had it.
	HeaderFor = "consumer"

	// HeaderDue holds a message back in the outbox until a time; it is never sent.
	HeaderDue = "due_at"
)

// Headers are the names that a message of ours may have on the wire.
var Headers = [...]string{
	HeaderSpec, HeaderID, HeaderType, HeaderSource, HeaderSubject, HeaderTime, HeaderKey, HeaderSequence, HeaderContent, HeaderSchema,
	HeaderCorrelation, HeaderCausation, HeaderSagaID, HeaderSagaStep, HeaderBranch, HeaderExpires, HeaderTrace, HeaderFor,
}
