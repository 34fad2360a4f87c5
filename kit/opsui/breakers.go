package opsui

import "net/http"

func (s *Server) breakers() Page {
	return Page{Path: "/ui/breakers", Title: "Breakers", Nav: "/ui/breakers", Template: "breakers", Streams: AnyStream, Load: func(*http.Request) (any, error) {
		return s.Breakers(), nil
	}}
}
