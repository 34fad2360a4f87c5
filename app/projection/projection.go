// Package projection says what read models are made of: one file each. adapters/postgres/readmodel, which keeps them, lists them all.
package projection
