package cqrs

import "context"

// Principal is who asks.
type Principal struct {
	Subject  string // the customer's id
	Operator bool   // sees all and operates
}

// Guest is everybody where nobody has to say who they are.
var Guest = Principal{Subject: "guest", Operator: true}

// Owns tells whether something of a customer is for the principal to see.
func (p Principal) Owns(customerID string) bool { return p.Operator || p.Subject == customerID }

type principalKey struct{}

// WithPrincipal says who asks.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFromContext returns who asks; the zero Principal, which owns nothing, if nobody said.
func PrincipalFromContext(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
