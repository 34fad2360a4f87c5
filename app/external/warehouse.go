package external

import (
	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// ParcelArrived says that a parcel has arrived at the warehouse.
type ParcelArrived struct {
	ParcelNumber string `json:"parcel_number"`
}

// Warehouse is the service that receives the parcels of returned orders.
var Warehouse = cqrs.ExternalService{
	Service: "warehouse", Category: "parcels",
	Events: aggregate.TypesOf(aggregate.NewType[ParcelArrived]("parcel.arrived")),
}
