// Package identity reads and makes bearer tokens: JSON Web Tokens (RFC 7519), signed by an identity provider whose keys are
// fetched (JWKS, RFC 7517), or with a secret that the small installation shares.
package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/app"
)

// Roles in a token's claim "role", or in its list "roles".
const (
	Customer = "customer"
	Operator = "operator"
)

// ErrToken says that a token is not good. What wraps it says why, without the token.
var ErrToken = errors.New("the token is not good")

// Config says which tokens are good.
type Config struct {
	JWKSURL  string // of the provider's keys; signatures RS, PS, ES or EdDSA
	Secret   string // or the shared secret; signatures HS256
	Issuer   string // that a token must name; empty: any
	Audience string // that a token must be for; empty: any
}

// On tells whether tokens are asked for.
func (c Config) On() bool { return c.JWKSURL != "" || c.Secret != "" }

// leeway is how far clocks may be apart.
const leeway = 30 * time.Second

// Verifier reads tokens.
type Verifier struct {
	parser *jwt.Parser
	key    jwt.Keyfunc
}

// NewVerifier makes one. Keys of a provider are fetched until ctx is done; one that is away only keeps tokens from being good.
func NewVerifier(ctx context.Context, c Config, warn func(error)) (*Verifier, error) {
	options := []jwt.ParserOption{jwt.WithExpirationRequired(), jwt.WithLeeway(leeway)}
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
		Client: &http.Client{Timeout: 5 * time.Second}, HTTPTimeout: 5 * time.Second, RateLimitWaitMax: time.Second, NoErrorReturnFirstHTTPReq: &later,
		RefreshInterval: 10 * time.Minute, RefreshErrorHandlerFunc: func(string) func(context.Context, error) { return func(_ context.Context, err error) { warn(err) } },
	})
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", c.JWKSURL, err)
	}
	asymmetric := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	return &Verifier{jwt.NewParser(append(options, jwt.WithValidMethods(asymmetric))...), keys.Keyfunc}, nil
}

type claims struct {
	jwt.RegisteredClaims
	Role  string   `json:"role,omitempty"`
	Roles []string `json:"roles,omitempty"`
}

// Verify reads a token. The error wraps ErrToken.
func (v *Verifier) Verify(token string) (app.Principal, error) {
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.key); err != nil {
		return app.Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	roles := append(c.Roles, c.Role)
	switch {
	case c.Subject == "":
		return app.Principal{}, fmt.Errorf("%w: it names no subject", ErrToken)
	case slices.Contains(roles, Operator):
		return app.Principal{Subject: c.Subject, Operator: true}, nil
	case slices.Contains(roles, Customer):
		return app.Principal{Subject: c.Subject}, nil
	}
	return app.Principal{}, fmt.Errorf("%w: its role is neither %s nor %s", ErrToken, Customer, Operator)
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
