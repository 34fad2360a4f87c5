// Package warehousepb is the warehouse's messages as Protocol Buffers.
package warehousepb

// make proto, which needs protoc, writes warehouse.pb.go anew. The module's path is not in it, so that a renaming leaves it sound.
