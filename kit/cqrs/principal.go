package cqrs

import (
	"context"
	"slices"
	"strings"
)

// Principal is the authenticated client of a request.
type Principal struct {
	Subject  string // the customer's id
	Operator bool   // may read and do everything

	// Roles are the names of further roles, separated by spaces. Signals of sagas may require them.
	Roles string
}

// allRoles is the value of Guest.Roles. HasRole returns true for every role of Guest.
const allRoles = "*"

// HasRole tells whether the principal has at least one of the roles. The role "operator" is the field Operator.
func (p Principal) HasRole(roles ...string) bool {
	own := strings.Fields(p.Roles)
	return slices.ContainsFunc(roles, func(role string) bool {
		return role == "operator" && p.Operator || slices.Contains(own, role) || p == Guest
	})
}

// Guest is the principal of every client if authentication by tokens is off. It is an operator and has every role.
var Guest = Principal{Subject: "guest", Operator: true, Roles: allRoles}

// Owns tells whether the principal may read the data of a customer.
func (p Principal) Owns(customerID string) bool { return p.Operator || p.Subject == customerID }

type principalKey struct{}

// WithPrincipal puts the principal of a request into its context.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFromContext returns the principal in ctx. Without one it returns the zero Principal, which may read nothing.
func PrincipalFromContext(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
