package ui

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// tokenCookie is the cookie that keeps the operator's token. Its prefix has browsers take it from this host alone, and over TLS alone; on
// loopback, where there is no TLS, it has another name.
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

// guard lets operators in; without auth, everybody is one.
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
			s.render(w, http.StatusUnauthorized, "login", view{Title: "Sign in", Page: loginForm{Next: "/ui/", Fault: "Sign in first."}})
		case !principal.Operator:
			s.render(w, http.StatusForbidden, "login", view{Title: "Sign in", Page: loginForm{Next: "/ui/", Fault: principal.Subject + " is no operator; these pages are for operators."}})
		default:
			next(w, r.WithContext(cqrs.WithPrincipal(r.Context(), principal)))
		}
	})
}

type loginForm struct{ Next, Fault string }

func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	s.render(w, http.StatusOK, "login", view{Title: "Sign in", Page: loginForm{Next: inside(r.URL.Query().Get("next"))}})
}

// login keeps a token that is good in a cookie which no script and no other site can use.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	token, next := strings.TrimSpace(r.PostFormValue("token")), inside(r.PostFormValue("next"))
	if s.Verify == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	principal, err := s.Verify(token)
	fault := ""
	switch {
	case !httpapi.ClientOf(r.Context()).HTTPS && !plainLoopback(r):
		fault = "Sign in over https: the token is kept in a cookie that browsers take over TLS only. If a proxy ends TLS, TRUSTED_PROXIES must name it, and it must set X-Forwarded-Proto."
	case err != nil:
		fault = "This token is not good: " + err.Error()
	case !principal.Operator:
		fault = principal.Subject + " is no operator; these pages are for operators."
	}
	if fault != "" {
		s.render(w, http.StatusUnauthorized, "login", view{Title: "Sign in", Page: loginForm{next, fault}})
		return
	}
	setCookie(w, r, tokenCookie(r), token, 0)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	setCookie(w, r, tokenCookie(r), "", -1)
	http.Redirect(w, r, "/ui/login", http.StatusSeeOther)
}

// setCookie sets a cookie of these pages, which no script and no other site gets. Seconds below 0 delete it; 0 lasts as long as the browser.
func setCookie(w http.ResponseWriter, r *http.Request, name, value string, seconds int) {
	path := "/ui/"
	if name == tokenCookie(r) && !plainLoopback(r) {
		path = "/" // as __Host- demands
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not secure where the pages themselves are not: on loopback
		Name: name, Value: value, Path: path, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: seconds,
		Secure: httpapi.ClientOf(r.Context()).HTTPS || strings.HasPrefix(name, "__Host-"),
	})
}

// inside is an address of these pages, whatever a link says.
func inside(next string) string {
	if u, err := url.Parse(next); err == nil && u.Host == "" && u.Scheme == "" && strings.HasPrefix(u.Path, "/ui/") && !strings.Contains(next, "\\") {
		return u.RequestURI()
	}
	return "/ui/"
}

// back is the page that a form was on.
func back(r *http.Request) string {
	if u, err := url.Parse(r.Referer()); err == nil && u.Host == r.Host {
		return inside(u.RequestURI())
	}
	return ""
}

// takeNotice reads what the last action has to say, once.
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
