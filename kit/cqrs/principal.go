package cqrs

import "context"

// Principal is the authenticated client.
type Principal struct {
	Subject  string // the customer's id
	Operator bool   // may read and do everything
}

// Guest is the principal of every client where tokens are off.
var Guest = Principal{Subject: "guest", Operator: true}

// Owns tells whether the principal may read data of a customer.
func (p Principal) Owns(customerID string) bool { return p.Operator || p.Subject == customerID }

type principalKey struct{}

// WithPrincipal puts the principal into the context.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFromContext returns the principal; the zero Principal, which owns nothing, if there is none.
func PrincipalFromContext(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
