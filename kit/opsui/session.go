package opsui

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// tokenCookie is the name of the cookie with the token of the operator. Browsers accept the prefix __Host- only over TLS, so the cookie has another name
// on loopback without TLS.
func tokenCookie(r *http.Request) string {
	if plainLoopback(r) {
		return "millrace_token"
	}
	return "__Host-millrace_token"
}

func plainLoopback(r *http.Request) bool {
	client := httpapi.ClientOf(r.Context())
	return client.Loopback && !client.HTTPS
}

// guard lets only operators pass. Without Verify every visitor is an operator.
func (s *Server) guard(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Verify == nil {
			next(w, r.WithContext(cqrs.WithPrincipal(r.Context(), cqrs.Guest)))
			return
		}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if cookie, err := r.Cookie(tokenCookie(r)); err == nil && token == "" {
			token = cookie.Value
		}
		principal, err := s.Verify(token)
		switch {
		case err != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			http.Redirect(w, r, "/ui/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		case err != nil:
			s.render(w, http.StatusUnauthorized, "login", s.signIn(r, loginForm{Next: "/ui/", Fault: "Sign in first."}))
		case !principal.Operator:
			s.render(w, http.StatusForbidden, "login", s.signIn(r, loginForm{Next: "/ui/", Fault: principal.Subject + " is not an operator. These pages are for operators only."}))
		default:
			next(w, r.WithContext(cqrs.WithPrincipal(r.Context(), principal)))
		}
	})
}

type loginForm struct{ Next, Fault string }

// signIn is the data of the sign-in page. The page has no navigation, because the visitor cannot see the linked pages yet.
func (s *Server) signIn(r *http.Request, form loginForm) view {
	v := s.view(r, "Sign in", "", form)
	v.Navigation, v.SignedIn = nil, ""
	return v
}

func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	s.render(w, http.StatusOK, "login", s.signIn(r, loginForm{Next: inside(r.URL.Query().Get("next"))}))
}

// login stores a valid token in a cookie that scripts and other sites cannot read.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	token, next := strings.TrimSpace(r.PostFormValue("token")), inside(r.PostFormValue("next"))
	if s.Verify == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	principal, err := s.Verify(token)
	fault := ""
	switch {
	case !httpapi.ClientOf(r.Context()).HTTPS && !plainLoopback(r):
		fault = "Sign in over https: browsers accept the cookie with the token over TLS only. If a proxy terminates TLS, list the proxy in TRUSTED_PROXIES and let it set X-Forwarded-Proto."
	case err != nil:
		fault = "Invalid token: " + err.Error()
	case !principal.Operator:
		fault = principal.Subject + " is not an operator. These pages are for operators only."
	}
	if fault != "" {
		s.render(w, http.StatusUnauthorized, "login", s.signIn(r, loginForm{next, fault}))
		return
	}
	setCookie(w, r, tokenCookie(r), token, 0)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	setCookie(w, r, tokenCookie(r), "", -1)
	http.Redirect(w, r, "/ui/login", http.StatusSeeOther)
}

// setCookie sets a cookie for these pages, which scripts and other sites cannot read. Negative seconds delete the cookie; 0 keeps it until the browser is
// closed.
func setCookie(w http.ResponseWriter, r *http.Request, name, value string, seconds int) {
	path := "/ui/"
	if name == tokenCookie(r) && !plainLoopback(r) {
		path = "/" // __Host- requires it
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not Secure on loopback without TLS
		Name: name, Value: value, Path: path, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: seconds,
		Secure: httpapi.ClientOf(r.Context()).HTTPS || strings.HasPrefix(name, "__Host-"),
	})
}

// inside returns next if it is an address of these pages, otherwise the overview, because a link must not redirect to another site.
func inside(next string) string {
	if u, err := url.Parse(next); err == nil && u.Host == "" && u.Scheme == "" && strings.HasPrefix(u.Path, "/ui/") && !strings.Contains(next, "\\") {
		return u.RequestURI()
	}
	return "/ui/"
}

// back is the address of the page with the form; empty if the request does not say it.
func back(r *http.Request) string {
	if u, err := url.Parse(r.Referer()); err == nil && u.Host == r.Host {
		return inside(u.RequestURI())
	}
	return ""
}

// takeNotice reads the notice of the last action and deletes it.
func takeNotice(w http.ResponseWriter, r *http.Request) string {
	cookie, err := r.Cookie(noticeCookie)
	if err != nil {
		return ""
	}
	setCookie(w, r, noticeCookie, "", -1)
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		return ""
	}
	return string(text)
}

func encode(notice string) string { return base64.RawURLEncoding.EncodeToString([]byte(notice)) }
