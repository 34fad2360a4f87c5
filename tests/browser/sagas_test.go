package browser

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/saga"
)

// Sagas with parallel steps, a skipped step, a delay, a repeated step, a signal and a step for each item, in every state that a person may find them in.
func TestSagasBeyondALine(t *testing.T) {
	chromium(t)
	refusals := t.TempDir()
	e := kittest.NewEnvironment(t, "REFUSALS="+refusals)
	e.Program = "../../kit/examples/trips"
	i := e.Start()
	place := func(trip, fields string) (page string) {
		answer := i.Do(http.MethodPost, "/trips", fmt.Sprintf(`{"id":%q,%s}`, trip, fields))
		require.Equal(t, http.StatusAccepted, answer.Status, answer.Body)
		return "/ui/sagas/" + saga.ID("trip", trip)
	}
	for _, name := range []string{"t-stuck.seat", "t-stuck.room", "t-items.ticket-3", "t-items.ticket-7"} {
		require.NoError(t, os.WriteFile(filepath.Join(refusals, name), nil, 0o600))
	}
	stuck := place("t-stuck", `"bookings":{"car":{"takes":"300ms","refused":"no car"}}`)
	there := func(page string) {
		kittest.Eventually(t, func() error {
			status, _, err := i.Get(page)
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("%s: %d", page, status)
			}
			return err
		})
	}
	there(stuck)
	b := open(t, i.URL)
	b.visit(stuck)
	b.until(".panel.stuck", "hold room") // it names the steps if there are several
	pages := map[string]string{
		"trip-stuck":       stuck,
		"trip-stage":       place("t-stage", `"luggage":true,"bookings":{"room":{"takes":"10m"},"car":{"takes":"10m"}}`),
		"trip-delay":       place("t-delay", `"cooling_off":"2160h"`),
		"trip-signal":      place("t-signal", `"visa_checks":3,"bookings":{"room":{"takes":"500ms"},"car":{"takes":"900ms"}}`),
		"trip-compensated": place("t-compensated", `"bookings":{"car":{"takes":"400ms"},"room":{"takes":"100ms","refused":"no room for two persons in this season"}}`),
		"trip-items":       place("t-items", `"visa_checks":1,"travellers":80`),
		"trip-parent":      place("t-parent", `"hotel":true,"documents":true`),
		"trip-definition":  "/ui/definitions/trip.v1",
		"trips":            "/ui/sagas",
	}
	for name, text := range map[string]string{"trip-delay": "cooling off", "trip-signal": "Send the signal", "trip-compensated": "Compensated"} {
		there(pages[name])
		b.visit(pages[name])
		b.until("#live", text)
	}
	there(pages["trip-parent"])
	b.visit(pages["trip-parent"])
	b.until(".means", "DocumentsDelivered")
	pages["trip-child"] = "/ui/sagas/" + kittest.Column(t, kittest.OpenDB(t, i.DSN()), `SELECT saga_id FROM saga_instances WHERE definition = 'stay'`)[0]
	there(pages["trip-items"])
	b.visit(pages["trip-items"])
	b.until("#live", "Send the signal")
	answer := i.Do(http.MethodPost, "/v1/sagas/"+saga.ID("trip", "t-items")+"/signals/approval", `{"accepted":true,"nights":2,"note":""}`)
	require.Equal(t, http.StatusAccepted, answer.Status, answer.Body)
	b.until(".tries", "for each: 78 of 80 completed, 2 stuck")
	require.Equal(t, `2 items of "issue ticket" are not completed.`, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(b.text(".means")), "! stuck")))
	for _, l := range everyLook {
		b.as(l)
		for name, path := range pages {
			b.visit(path)
			b.looksGood(name, l)
		}
		b.visit(pages["trip-items"])
		js[bool](b, `document.querySelectorAll('details[data-key^="items of"], .timeline details').forEach((d) => d.open = true), true`)
		b.looksGood("trip-items-open", l)
	}

	// The list of items stays open while the page follows.
	b.as(desktop)
	b.visit(pages["trip-items"])
	b.do(chromedp.Click(`details[data-key="items of issue ticket"] summary`))
	require.NoError(t, os.Remove(filepath.Join(refusals, "t-items.ticket-3")))
	answer = i.Do(http.MethodPost, "/v1/sagas/"+saga.ID("trip", "t-items")+"/retry", `{"step":"issue ticket#3"}`)
	require.Equal(t, http.StatusAccepted, answer.Status, answer.Body)
	b.until(".tries", "for each: 79 of 80 completed, 1 stuck")
	require.True(t, js[bool](b, `document.querySelector('details[data-key="items of issue ticket"]').open`))

	b.visit(pages["trip-signal"])
	b.marked()
	b.do(chromedp.Click("#approval-accepted"), chromedp.SendKeys("#approval-nights", "3"), chromedp.SendKeys("#approval-note", "with breakfast"))
	b.follow(`form[action$="/signals/approval"] button`)
	b.looksGood("trip-signal-confirm", desktop)
	b.follow("form .actions button")
	require.Contains(t, b.text(".notice"), "The signal is sent.")
	b.until("#live", "all steps are completed")
	require.Contains(t, b.text(".timeline"), `guest sent the signal approval: {"accepted":true,"nights":3,"note":"with breakfast"}`)
	b.quiet()

	for _, name := range []string{"t-stuck.seat", "t-stuck.room"} {
		require.NoError(t, os.Remove(filepath.Join(refusals, name)))
	}
	b.visit(stuck)
	b.press(`form[action$="/retry"]`, true)
	b.until(".means", "compensated")
}
