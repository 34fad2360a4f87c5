//go:build !noembedded

package embedded

// Available tells whether the embedded PostgreSQL and Kafka are in this binary.
const Available = true
