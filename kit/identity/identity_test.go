package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/identity"
)

const secret = "0123456789abcdef0123456789abcdef"

func TestSharedSecret(t *testing.T) {
	config := identity.Config{Secret: secret, Issuer: "us", Audience: "orders"}
	verifier, err := identity.NewVerifier(t.Context(), config, func(error) {})
	require.NoError(t, err)
	sign := func(c identity.Config, subject, role string, expires time.Duration) string {
		token, err := c.Sign(subject, role, time.Now().Add(expires))
		require.NoError(t, err)
		return token
	}
	for role, want := range map[string]cqrs.Principal{"customer": {Subject: "ada"}, "operator": {Subject: "ada", Operator: true}} {
		got, err := verifier.Verify(sign(config, "ada", role, time.Hour))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	good := sign(config, "ada", "customer", time.Hour)
	head, _, _ := strings.Cut(good, ".")
	roles := jwt.MapClaims{"sub": "ada", "roles": []string{"customer", "inspector", "*", "two words", ""}, "exp": time.Now().Add(time.Hour).Unix(), "iss": "us", "aud": "orders"}
	withRoles, err := jwt.NewWithClaims(jwt.SigningMethodHS256, roles).SignedString([]byte(secret))
	require.NoError(t, err)
	inspector, err := verifier.Verify(withRoles)
	require.NoError(t, err)
	require.Equal(t, cqrs.Principal{Subject: "ada", Roles: "inspector"}, inspector)
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"sub": "ada", "role": "operator", "exp": time.Now().Add(time.Hour).Unix(), "iss": "us", "aud": "orders"}).
		SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	timeless, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "role": "operator", "iss": "us", "aud": "orders"}).SignedString([]byte(secret))
	require.NoError(t, err)
	for name, token := range map[string]string{
		"empty": "", "no token": "hello", "half": head, "unsigned": unsigned, "no end": timeless, "changed": good[:len(good)-4] + "AAAA",
		"expired": sign(config, "ada", "customer", -time.Hour), "no subject": sign(config, "", "customer", time.Hour), "unknown role": sign(config, "ada", "boss", time.Hour),
		"other secret":   sign(identity.Config{Secret: strings.Repeat("x", 32), Issuer: "us", Audience: "orders"}, "ada", "operator", time.Hour),
		"other issuer":   sign(identity.Config{Secret: secret, Issuer: "them", Audience: "orders"}, "ada", "operator", time.Hour),
		"other audience": sign(identity.Config{Secret: secret, Issuer: "us", Audience: "billing"}, "ada", "operator", time.Hour),
	} {
		_, err := verifier.Verify(token)
		require.ErrorIs(t, err, identity.ErrToken, name)
		require.NotContains(t, err.Error(), secret)
	}
}

// A subject becomes a customer's id, which is stored and looked up. A subject that cannot be stored is refused, and the error names the claim.
func TestSubjectMustBeValidText(t *testing.T) {
	config := identity.Config{Secret: secret}
	verifier, err := identity.NewVerifier(t.Context(), config, func(error) {})
	require.NoError(t, err)
	sign := func(subject string) string { // signs a subject of any bytes
		head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))
		body := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"` + subject + `","role":"customer","exp":` + fmt.Sprint(time.Now().Add(time.Hour).Unix()) + `}`))
		signature, err := jwt.SigningMethodHS256.Sign(head+"."+body, []byte(secret))
		require.NoError(t, err)
		return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	principal, err := verifier.Verify(sign("äda"))
	require.NoError(t, err)
	require.Equal(t, "äda", principal.Subject)
	for _, subject := range []string{`a\u0000b`, "a\xffb", strings.Repeat("x", 6000)} {
		_, err := verifier.Verify(sign(subject))
		require.ErrorIs(t, err, identity.ErrToken, "%q", subject)
		var text *cqrs.TextError
		require.ErrorAs(t, err, &text)
		require.Equal(t, "sub", text.Field)
	}
}

// Keys are fetched only from the configured URL.
func TestJWKSRedirectIsRefused(t *testing.T) {
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte(`{"keys":[]}`))
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer server.Close()
	var warned atomic.Value
	verifier, err := identity.NewVerifier(t.Context(), identity.Config{JWKSURL: server.URL, Issuer: "i", Audience: "a"}, func(err error) { warned.Store(err.Error()) })
	require.NoError(t, err)
	_, err = verifier.Verify("x.y.z")
	require.Error(t, err)
	require.Eventually(t, func() bool { return warned.Load() != nil }, 10*time.Second, 5*time.Millisecond)
	require.Contains(t, warned.Load(), "redirects are refused")
	require.Zero(t, asked.Load())
}

func TestKeysOfAProvider(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	var down atomic.Bool
	down.Store(true)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		b64 := base64.RawURLEncoding.EncodeToString
		public, err := key.PublicKey.Bytes()
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"k-1","x":%q,"y":%q}]}`, b64(public[1:33]), b64(public[33:]))
	}))
	defer provider.Close()
	verifier, err := identity.NewVerifier(t.Context(), identity.Config{JWKSURL: provider.URL}, func(error) {})
	require.NoError(t, err, "a provider that is away is no reason not to start")
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": "ada", "roles": []string{"customer", "operator"}, "exp": time.Now().Add(time.Hour).Unix()})
	token.Header["kid"] = "k-1"
	signed, err := token.SignedString(key)
	require.NoError(t, err)
	_, err = verifier.Verify(signed)
	require.ErrorIs(t, err, identity.ErrToken)
	down.Store(false)
	verifier, err = identity.NewVerifier(t.Context(), identity.Config{JWKSURL: provider.URL}, func(error) {})
	require.NoError(t, err)
	got, err := verifier.Verify(signed)
	require.NoError(t, err)
	require.Equal(t, cqrs.Principal{Subject: "ada", Operator: true}, got)

	// A public key is not secret: a token that uses it as a shared secret must be refused.
	public, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	forged := jwt.NewWithClaims(jwt.SigningMethodHS256, token.Claims)
	forged.Header["kid"] = "k-1"
	text, err := forged.SignedString(public)
	require.NoError(t, err)
	_, err = verifier.Verify(text)
	require.ErrorIs(t, err, identity.ErrToken)
}

func TestTokenExpiresByTheGivenClock(t *testing.T) {
	ahead := time.Duration(0)
	config := identity.Config{Secret: secret, Clock: func() time.Time { return time.Now().Add(ahead) }}
	verifier, err := identity.NewVerifier(t.Context(), config, func(error) {})
	require.NoError(t, err)
	token, err := config.Sign("ada", "customer", time.Now().Add(14*24*time.Hour))
	require.NoError(t, err)
	_, err = verifier.Verify(token)
	require.NoError(t, err)
	ahead = 15 * 24 * time.Hour
	_, err = verifier.Verify(token)
	require.ErrorIs(t, err, identity.ErrToken)
}
