// Package projection says how read models are built from events: one file each. adapters/views stores them and lists them all.
package projection
