// Package warehousepb has the warehouse's messages as Protocol Buffers.
package warehousepb

// make proto, which needs protoc, generates warehouse.pb.go. The file does not contain the path of the module, so it stays valid when the module is
// renamed.
