package httpapi

import (
	"net/http"

	"github.com/swaggest/swgui/v5emb"
)

// documents serves /asyncapi.yaml, and at /docs/ a page that shows /openapi.yaml and can send requests. The page loads nothing from other hosts.
func (s *Server) documents(title string) []Mount {
	asyncAPI := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(s.AsyncAPI)
	})
	viewer := v5emb.New(title, "/openapi.yaml", "/docs/")
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The page of the viewer has an inline script, which sets styles.
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "+
			"img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'")
		viewer.ServeHTTP(w, r)
	})
	return []Mount{
		{Pattern: "/asyncapi.yaml", Handler: asyncAPI}, {Pattern: "/docs", Handler: http.RedirectHandler("/docs/", http.StatusSeeOther)}, {Pattern: "/docs/*", Handler: page},
	}
}
