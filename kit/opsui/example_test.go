package opsui_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing/fstest"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/opsui"
)

// A service adds a page with a form. Templates are usually files that the service embeds.
func ExampleExtension() {
	stock := map[string]int{"MUG-01": 40}
	extension := opsui.Extension{
		Templates: fstest.MapFS{"stock.html": {Data: []byte(`
			{{define "live"}}<ul>{{range $sku, $n := .Page}}<li>{{$sku}}: {{$n}}</li>{{end}}</ul>{{end}}
			{{define "head"}}<form method="post" action="/ui/stock/MUG-01/add"><button>Add ten</button></form>{{end}}`)}},
		Pages: []opsui.Page{{
			Path: "/ui/stock", Title: "Stock", Nav: "/ui/stock", Template: "stock", Streams: opsui.AnyStream,
			Load: func(*http.Request) (any, error) { return stock, nil },
		}},
		Actions: map[string]opsui.Action{"/ui/stock/{sku}/add": {
			Do: func(r *http.Request) (notice, next string, err error) {
				stock[r.PathValue("sku")] += 10
				return "Ten pieces added.", "/ui/stock", nil
			},
		}},
	}
	server := &opsui.Server{
		Name: "Warehouse", Extension: extension, Log: slog.New(slog.DiscardHandler), Stopping: context.Background().Done(),
		Queries: cqrs.NewQueries(nil), Totals: func() opsui.Totals { return opsui.Totals{} },
	}
	handler, err := server.Handler()
	if err != nil {
		fmt.Println(err)
		return
	}
	send := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	fmt.Println(send(http.MethodPost, "/ui/stock/MUG-01/add").Code)
	fmt.Println(strings.Contains(send(http.MethodGet, "/ui/stock").Body.String(), "MUG-01: 50"))
	// Output:
	// 303
	// true
}
