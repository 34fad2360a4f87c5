// Package projection builds read models from events: one file per projection. Package adapters/views stores and lists them.
package projection
