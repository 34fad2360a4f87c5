// Package identity verifies and signs bearer tokens. They are JSON Web Tokens (RFC 7519), signed by an identity provider whose keys are fetched
// (JWKS, RFC 7517), or with a shared secret in small installations.
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

// Roles in a token's claim "role" or in its list "roles". A valid token has at least one of them.
const (
	Customer = "customer"
	Operator = "operator"
)

// ErrToken is the error for a token that is not valid. Errors that wrap it say why, without the token.
var ErrToken = errors.New("the token is not good")

// Config says which tokens are valid. The zero value requires no tokens.
type Config struct {
	JWKSURL  string // the URL of the provider's keys; signatures RS, PS, ES or EdDSA
	Secret   string // the shared secret, used without a JWKSURL; signatures HS256
	Issuer   string // the issuer that a token must name; empty: any
	Audience string // the audience that a token must name; empty: any

	// Clock returns the current time, by which tokens expire. Nil: the local clock.
	Clock cqrs.Clock
}

// On tells whether requests need tokens.
func (c Config) On() bool { return c.JWKSURL != "" || c.Secret != "" }

// leeway is the allowed difference between the clocks of this host and of the token's issuer.
const leeway = 30 * time.Second

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	parser *jwt.Parser
	key    jwt.Keyfunc
}

// NewVerifier makes a Verifier. With a JWKSURL, it fetches the provider's keys in the background until ctx is done, and calls warn if that fails.
// While it has no keys, no token is valid.
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
		// The signature methods are fixed here: a token must not choose its own method.
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

// refuseRedirect refuses redirects, so that keys come only from the configured URL, and not for example over plain http.
func refuseRedirect(to *http.Request, _ []*http.Request) error {
	return fmt.Errorf("redirects are refused; AUTH_JWKS_URL must be where the keys are, not %s://%s", to.URL.Scheme, to.URL.Host)
}

type claims struct {
	jwt.RegisteredClaims
	Role  string   `json:"role,omitempty"`
	Roles []string `json:"roles,omitempty"`
}

// Verify checks a token and returns its principal. The error wraps ErrToken. It also wraps a *cqrs.TextError if the token's subject cannot be stored.
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

// furtherRoles returns the roles besides customer and operator. It ignores roles with characters other than letters, digits, dashes and underscores.
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

// checkText refuses subjects that cannot be stored, and claims that are not valid UTF-8: JSON decoding replaces every invalid byte by U+FFFD, so two
// different subjects could become equal.
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

// Sign makes a token with the shared secret. The token has the issuer and the audience of c. Sign does not check role.
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
