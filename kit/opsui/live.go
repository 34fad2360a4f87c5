package opsui

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/millrace/millrace/kit/httpapi"
)

// pollEvery is the interval at which an open page is rendered without a commit on this instance, because Watch does not report commits of other instances.
const pollEvery = time.Second

// minPause is the minimum time between two updates of a page.
const minPause = 100 * time.Millisecond

// live sends the live part of a page when the page is opened and after every change.
func (s *Server) live(w http.ResponseWriter, r *http.Request, p Page) {
	if p.Streams == nil {
		w.WriteHeader(http.StatusNoContent) // an EventSource does not reconnect after 204
		return
	}
	stream, done, err := s.Streams.Begin(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if stream == nil {
		return
	}
	defer done()
	changes, stop := s.Watch(p.Streams(r)...)
	defer stop()
	var sent []byte
	seen := r.Header.Get("Last-Event-ID") // id of the version that the browser shows, if it has reconnected
	heartbeat := time.NewTicker(httpapi.Heartbeat)
	defer heartbeat.Stop()
	for {
		if html, err := s.livePart(r, p); err == nil && !bytes.Equal(html, sent) {
			sent = html
			sum := sha256.Sum256(sent)
			id := hex.EncodeToString(sum[:8])
			if id != seen && stream.Send("", id, string(sent)) != nil {
				return
			}
			seen = id
		} else if err != nil && r.Context().Err() == nil {
			s.Log.Warn("live update of a page failed", "page", p.Template, "error", err)
		}
		pause := time.After(minPause)
		select {
		case <-changes:
		case <-time.After(pollEvery):
		case <-heartbeat.C:
			if stream.Beat() != nil {
				return
			}
		case <-s.Stopping:
			return
		case <-r.Context().Done():
			return
		}
		select {
		case <-pause:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) livePart(r *http.Request, p Page) ([]byte, error) {
	data, err := p.Load(r)
	if err != nil {
		return nil, err
	}
	var html bytes.Buffer
	err = s.templates[p.Template].ExecuteTemplate(&html, "live", s.view(r, p.Title, p.Nav, data))
	return html.Bytes(), err
}
