//go:build !noembedded

package embedded

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// repository is the Maven repository that PostgreSQL is downloaded from.
const repository = "https://repo1.maven.org/maven2"

// reported is the progress, in percent, between two messages.
const reported = 10

// watched starts a local proxy of the repository that reports the progress of downloads, because the library that downloads does not.
func watched(ctx context.Context, repository string, logf func(string)) (address string, stop func(), err error) {
	upstream, err := url.Parse(repository)
	if err != nil {
		return "", nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		ModifyResponse: func(r *http.Response) error {
			if r.ContentLength > 1<<20 {
				r.Body = &counted{ReadCloser: r.Body, total: r.ContentLength, logf: logf}
			}
			return nil
		},
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener) //nolint:errcheck // it ends when it is closed
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}

// counted reports the progress of reading a download.
type counted struct {
	io.ReadCloser
	read, total, said int64
	logf              func(string)
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.read += int64(n)
	if percent := 100 * c.read / c.total; percent >= c.said+reported {
		c.said = percent - percent%reported
		c.logf(fmt.Sprintf("  %3d %% of %.0f MB", c.said, float64(c.total)/1e6))
	}
	return n, err
}
