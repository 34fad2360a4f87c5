package cqrs

import (
	"context"
	"slices"
	"strings"
)

// Principal is the authenticated client.
type Principal struct {
	Subject  string // the customer's id
	Operator bool   // may read and do everything

	// Roles are the names of further roles, separated by spaces: those that signals of sagas ask for.
	Roles string
}

// allRoles is the role of Guest, which has every role.
const allRoles = "*"

// HasRole tells whether the principal has one of some roles; "operator" is one.
func (p Principal) HasRole(roles ...string) bool {
	own := strings.Fields(p.Roles)
	return slices.ContainsFunc(roles, func(role string) bool {
		return role == "operator" && p.Operator || slices.Contains(own, role) || p == Guest
	})
}

// Guest is the principal of every client where tokens are off.
var Guest = Principal{Subject: "guest", Operator: true, Roles: allRoles}

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
