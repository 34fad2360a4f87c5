//go:build !noembedded

package embedded

// Available reports whether this binary contains the embedded PostgreSQL and Kafka.
const Available = true
