// Package identity reads and makes bearer tokens: JSON Web Tokens (RFC 7519), signed by an identity provider whose keys are fetched (JWKS,
// RFC 7517), or with a shared secret for small installations.
package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/kit/cqrs"
)

// Roles in a token's claim "role", or in its list "roles".
const (
	Customer = "customer"
	Operator = "operator"
)

// ErrToken says that a token is not valid. Errors that wrap it have the reason, without the token.
var ErrToken = errors.New("the token is not good")

// Config says which tokens are valid.
type Config struct {
	JWKSURL  string // of the provider's keys; signatures RS, PS, ES or EdDSA
	Secret   string // or the shared secret; signatures HS256
	Issuer   string // that a token must name; empty: any
	Audience string // that a token must be for; empty: any

	// Clock tells whether a token has expired. Nil: the local clock.
	Clock cqrs.Clock
}

// On tells whether requests need tokens.
func (c Config) On() bool { return c.JWKSURL != "" || c.Secret != "" }

// leeway is the allowed difference between clocks.
const leeway = 30 * time.Second

// Verifier verifies tokens.
type Verifier struct {
	parser *jwt.Parser
	key    jwt.Keyfunc
}

// NewVerifier makes a Verifier. It fetches a provider's keys until ctx is done. While the provider is unavailable, no token is valid.
func NewVerifier(ctx context.Context, c Config, warn func(error)) (*Verifier, error) {
	options := []jwt.ParserOption{jwt.WithExpirationRequired(), jwt.WithLeeway(leeway)}
	if c.Clock != nil {
		options = append(options, jwt.WithTimeFunc(c.Clock))
	}
	if c.Issuer != "" {
		options = append(options, jwt.WithIssuer(c.Issuer))
	}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	if c.JWKSURL == "" {
		// The kinds of signature are fixed here: a token must not choose its own.
		parser := jwt.NewParser(append(options, jwt.WithValidMethods([]string{"HS256"}))...)
		return &Verifier{parser, func(*jwt.Token) (any, error) { return []byte(c.Secret), nil }}, nil
	}
	later := true
	keys, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{c.JWKSURL}, keyfunc.Override{
		Client: &http.Client{Timeout: 5 * time.Second, CheckRedirect: refuseRedirect}, HTTPTimeout: 5 * time.Second, RateLimitWaitMax: time.Second, NoErrorReturnFirstHTTPReq: &later,
		RefreshInterval: 10 * time.Minute, RefreshErrorHandlerFunc: func(string) func(context.Context, error) { return func(_ context.Context, err error) { warn(err) } },
	})
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", c.JWKSURL, err)
	}
	asymmetric := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	return &Verifier{jwt.NewParser(append(options, jwt.WithValidMethods(asymmetric))...), keys.Keyfunc}, nil
}

// refuseRedirect refuses redirects, so that keys come from the configured address only, and not by plain http for example.
func refuseRedirect(to *http.Request, _ []*http.Request) error {
	return fmt.Errorf("redirects are refused; AUTH_JWKS_URL must be where the keys are, not %s://%s", to.URL.Scheme, to.URL.Host)
}

type claims struct {
	jwt.RegisteredClaims
	Role  string   `json:"role,omitempty"`
	Roles []string `json:"roles,omitempty"`
}

// Verify reads a token. The error wraps ErrToken, or *cqrs.TextError if a valid token's subject cannot be stored.
func (v *Verifier) Verify(token string) (cqrs.Principal, error) {
	var c claims
	parsed, err := v.parser.ParseWithClaims(token, &c, v.key)
	if err != nil {
		return cqrs.Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if err := checkText(parsed.Raw, c.Subject); err != nil {
		return cqrs.Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	roles := append(c.Roles, c.Role)
	further := furtherRoles(roles)
	switch {
	case c.Subject == "":
		return cqrs.Principal{}, fmt.Errorf("%w: it names no subject", ErrToken)
	case slices.Contains(roles, Operator):
		return cqrs.Principal{Subject: c.Subject, Operator: true, Roles: further}, nil
	case slices.Contains(roles, Customer):
		return cqrs.Principal{Subject: c.Subject, Roles: further}, nil
	}
	return cqrs.Principal{}, fmt.Errorf("%w: its role is neither %s nor %s", ErrToken, Customer, Operator)
}

// furtherRoles are the roles beside customer and operator. Only names count: letters, digits, dashes and underscores.
func furtherRoles(roles []string) string {
	var further []string
	for _, role := range roles {
		if role != "" && role != Customer && role != Operator && strings.Trim(role, roleCharacters) == "" {
			further = append(further, role)
		}
	}
	return strings.Join(further, " ")
}

const roleCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// checkText refuses subjects that cannot be stored, or that would become the same as others: JSON decoding replaces every byte that is not
// UTF-8 by U+FFFD.
func checkText(token, subject string) error {
	if err := cqrs.CheckText("sub", subject, cqrs.MaxKey); err != nil {
		return err
	}
	parts := strings.Split(token, ".")
	if text, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)]); err != nil || !utf8.Valid(text) {
		return &cqrs.TextError{Field: "sub", Reason: "the token's claims are not valid UTF-8"}
	}
	return nil
}

// Sign makes a token with the shared secret.
func (c Config) Sign(subject, role string, expires time.Time) (string, error) {
	now := time.Now()
	body := claims{Role: role, RegisteredClaims: jwt.RegisteredClaims{
		Subject: subject, Issuer: c.Issuer, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}}
	if c.Audience != "" {
		body.Audience = jwt.ClaimStrings{c.Audience}
	}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, body).SignedString([]byte(c.Secret))
}
