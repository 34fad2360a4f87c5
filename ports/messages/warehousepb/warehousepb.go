// Package warehousepb is the warehouse's messages as Protocol Buffers.
package warehousepb

// make proto, which needs protoc, writes warehouse.pb.go anew.
