// Package browser looks at the pages with a real browser, Chromium, driven by chromedp. Its tests run where BROWSER_TESTS is set
// and Chromium is installed; otherwise they are skipped.
// BROWSER_SHOTS names a folder for screenshots; without it they go to a temporary one.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// look is a size and a colour scheme.
type look struct {
	name          string
	width, height int64
	dark          bool
}

var (
	phone        = look{"phone-light", 390, 844, false}
	night        = look{"phone-dark", 390, 844, true}
	desktop      = look{"desktop-light", 1280, 900, false}
	secondOrders = look{"desktop-dark", 1280, 900, true}
)

var everyLook = []look{phone, night, desktop, secondOrders}

// browser is Chromium with one page open.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp's way to name a page
	url string

	mu       sync.Mutex
	problems []string // what the console said
}

// world makes a world, if there is a browser to look at it.
func env(t *testing.T, settings ...string) *harness.Environment {
	t.Helper()
	chromium(t)
	return harness.NewEnvironment(t, settings...)
}

// chromium finds the browser, or skips the test.
func chromium(t *testing.T) string {
	t.Helper()
	if os.Getenv("BROWSER_TESTS") == "" {
		t.Skip("takes minutes: make browser-test sets BROWSER_TESTS")
	}
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("needs Chromium: install it, or set CHROMIUM to its path")
	return ""
}

func open(t *testing.T, url string) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, end := context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(end)
	b := &browser{t: t, ctx: ctx, url: url}
	require.NoError(t, chromedp.Do(ctx))
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.problems = append(b.problems, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" || e.Type == "warning" {
				b.problems = append(b.problems, fmt.Sprint(e.Type, " ", e.Args))
			}
		case *cdplog.EventEntryAdded:
			if e.Entry.Level == "error" || e.Entry.Level == "warning" {
				b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	}))
	b.as(desktop)
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, steps...))
}

// js is the value of an expression in the page.
func js[T any](b *browser, expression string, options ...chromedp.EvaluateOption) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, options...))
	require.NoError(b.t, err, expression)
	return value
}

// as has the page be seen with a look.
func (b *browser) as(l look) {
	b.t.Helper()
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	b.do(chromedp.EmulateViewport(l.width, l.height))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, //nolint:misspell // its standard's spelling
		{Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	require.NoError(b.t, err)
}

func (b *browser) visit(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.url+path), chromedp.WaitVisible("body > main")) // "main" alone is also searched for in texts
}

// text is what is to be read in an element.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return js[string](b, fmt.Sprintf(`document.querySelector(%q)?.textContent ?? ""`, selector))
}

// until waits until an element says something, without loading the page again.
func (b *browser) until(selector, text string) {
	b.t.Helper()
	kittest.Eventually(b.t, func() error {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](fmt.Sprintf(`document.querySelector(%q)?.textContent ?? "no such element"`, selector)))
		if err != nil {
			return err
		}
		if !strings.Contains(strings.ToLower(got), strings.ToLower(text)) {
			return fmt.Errorf("%s says %q, not %q", selector, got, text)
		}
		return nil
	})
}

// marked notes the page that is shown; same demands that it was not loaded again since.
func (b *browser) marked() { js[bool](b, `window.notLoadedAgain = true`) }

func (b *browser) same() {
	b.t.Helper()
	require.True(b.t, js[bool](b, `window.notLoadedAgain === true`), "the page was loaded again")
}

// press presses the button of a form and waits for the next page; if need be, it answers the question there.
func (b *browser) press(form string, sure bool) {
	b.t.Helper()
	b.follow(form + " button")
	if sure {
		b.follow("form .actions button")
		b.do(chromedp.WaitVisible(".notice"))
	}
}

// follow clicks, and waits until another page is there.
func (b *browser) follow(selector string) {
	b.t.Helper()
	js[bool](b, `window.before = true`)
	b.do(chromedp.Click(selector))
	kittest.Eventually(b.t, func() error {
		there, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`window.before === undefined && document.readyState === "complete"`))
		if err == nil && !there {
			err = errors.New("still on the page before")
		}
		return err
	})
}

func (b *browser) path() string { return js[string](b, `location.pathname`) }

// shot keeps a picture of the whole page.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("BROWSER_SHOTS")
	if dir == "" {
		dir = b.t.TempDir()
	}
	require.NoError(b.t, os.MkdirAll(dir, 0o750))
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600))
}

// quiet demands that nothing went wrong in the browser.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.problems, "the browser's console")
}

// fits demands that the page is not wider than the screen.
func (b *browser) fits() {
	b.t.Helper()
	over := js[int](b, `document.documentElement.scrollWidth - document.documentElement.clientWidth`)
	require.LessOrEqual(b.t, over, 0, "%s is wider than the screen by so many pixels", b.path())
}

// looksGood demands that the page fits the screen and is accessible, and keeps a picture of it.
func (b *browser) looksGood(name string, l look) {
	b.t.Helper()
	b.fits()
	b.accessible()
	b.shot(name + "-" + l.name)
}

// accessible has axe-core look at the page.
func (b *browser) accessible() {
	b.t.Helper()
	axe, err := os.ReadFile("../../tools/node/node_modules/axe-core/axe.min.js")
	if err != nil {
		b.t.Log("axe-core is not there, so nobody looks whether the page is accessible: npm ci --prefix tools/node")
		return
	}
	js[bool](b, string(axe)+`; true`)
	violations := js[string](b, `axe.run().then((r) => JSON.stringify(r.violations.map((v) => ({ id: v.id, help: v.help, where: v.nodes.map((n) => n.target.join(" ") + ": " + n.failureSummary) }))))`, chromedp.EvalAwaitPromise)
	require.Equal(b.t, "[]", violations, "%s", b.path())
}
