package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/orderreturn"
	"github.com/millrace/millrace/tests/harness"
)

// Every page, small and large, light and dark: nothing in the console, nothing wider than the screen, nothing that axe-core finds.
func TestEveryPage(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01", "HEAVY-99")
	b := open(t, i.URL)
	good, bad := i.Place("pm_ok", "MUG-01"), i.Place("pm_ok", "HEAVY-99")
	i.Decided(good)
	i.Decided(bad)
	returned := i.Place("pm_ok", "MUG-01")
	i.Decided(returned)
	require.Equal(t, http.StatusAccepted, i.Do(http.MethodPost, "/v1/orders/"+returned+"/return", `{"lines":[{"sku":"MUG-01","quantity":1,"replace":true}]}`).Status)
	letter := makeDeadLetter(t, i)
	_, err := kittest.OpenDB(t, i.DSN()).Exec(`UPDATE dead_letters SET stack = $1`, string(debug.Stack()))
	require.NoError(t, err)
	awaiting := saga.ID(orderreturn.Name, returned)
	kittest.Eventually(t, func() error {
		status, body, err := i.Get("/ui/sagas/" + awaiting)
		if err == nil && (status != http.StatusOK || !strings.Contains(body, "R-"+returned)) {
			err = fmt.Errorf("%d: it does not wait for its parcel", status)
		}
		return err
	})
	pages := map[string]string{
		"overview": "/ui/", "orders": "/ui/orders", "order-confirmed": "/ui/orders/" + good, "order-cancelled": "/ui/orders/" + bad, "order-returned": "/ui/orders/" + returned, "sagas": "/ui/sagas",
		"saga-completed": "/ui/sagas/" + i.SagaOf(good).ID, "saga-compensated": "/ui/sagas/" + i.SagaOf(bad).ID, "saga-awaiting": "/ui/sagas/" + awaiting, "dead-letters": "/ui/dead-letters",
		"dead-letter": "/ui/dead-letters/" + letter, "breakers": "/ui/breakers", "sandbox": "/ui/sandbox", "definitions": "/ui/definitions",
		"definition": "/ui/definitions/order-fulfilment.v2", "definition-return": "/ui/definitions/order-return.v1",
	}
	for _, l := range everyLook {
		b.as(l)
		for name, path := range pages {
			b.visit(path)
			b.looksGood(name, l)
		}
	}
	b.quiet()
	for _, l := range everyLook {
		b.as(l)
		b.visit("/ui/nothing")
		require.Contains(t, b.text("main"), "there is no page at /ui/nothing")
		b.looksGood("not-found", l)
		b.visit("/ui/dead-letters/" + letter)
		b.press(`form[action$="/replay"]`, false)
		b.looksGood("confirm", l)
	}
	db := kittest.OpenDB(t, i.DSN())
	_, err = db.Exec(`ALTER TABLE order_view RENAME TO order_view_away`)
	require.NoError(t, err)
	for _, l := range everyLook {
		b.as(l)
		b.visit("/ui/orders")
		require.Contains(t, b.text("main"), "The log of the service has the details")
		b.looksGood("error", l)
	}
	_, err = db.Exec(`ALTER TABLE order_view_away RENAME TO order_view`)
	require.NoError(t, err)
}

// The viewer of openapi.yaml comes from the binary alone, and what describes the messages is there.
func TestDocuments(t *testing.T) {
	i := env(t).Start()
	b := open(t, i.URL)
	b.do(chromedp.Navigate(i.URL+"/docs"), chromedp.WaitVisible(".swagger-ui .opblock"))
	b.until(".swagger-ui", "Place an order")
	b.shot("docs")
	require.Zero(t, js[int](b, `performance.getEntriesByType("resource").filter((r) => !r.name.startsWith(location.origin) && !r.name.startsWith("data:")).length`), "loaded from elsewhere")
	b.quiet()
	status, body, err := i.Get("/asyncapi.yaml")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "asyncapi: 3.0.0")
	require.Contains(t, body, "address: "+i.Topic("commands.orders"))
}

func TestAnOrderIsWatchedToItsEnd(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01", "HEAVY-99")
	i.SetFaults("carrier", `{"latency":"700ms"}`)
	b := open(t, i.URL)
	b.visit("/ui/orders")
	b.do(chromedp.SetValue("#outcome", "confirmed"))
	b.press(`form[aria-labelledby=place]`, false)
	b.until("#live", "started for")
	b.marked()
	require.Contains(t, b.text(".notice"), "placed")
	b.until("svg.saga .in_progress", "book shipment")
	b.until(".means", "all steps are completed")
	b.same()

	b.visit("/ui/orders")
	b.do(chromedp.SetValue("#outcome", "declined"))
	b.press(`form[aria-labelledby=place]`, false)
	b.marked()
	b.until(".means .tone-undone", "compensated")
	require.Contains(t, b.text("svg.saga .box.compensated"), "reserve stock")
	require.Contains(t, b.text(".timeline"), "authorise payment refused")
	b.same()
	b.quiet()
}

// A person returns an order, has the parcel arrive in the sandbox, and inspects the goods on the page of the saga.
func TestAReturnOnThePages(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01")
	id := i.Place("pm_ok", "MUG-01")
	require.Equal(t, "confirmed", i.Decided(id).Status)
	b := open(t, i.URL)
	b.visit("/ui/orders/" + id)
	b.do(chromedp.Click(`#replace-0`))
	b.press(`form[aria-labelledby=return]`, false)
	b.until("#live", "requested")
	require.Contains(t, b.text("#live"), "to be replaced")
	b.press(`form[action$="/parcel"]`, false)
	require.Contains(t, b.text(".notice"), "arrived")
	b.visit("/ui/sagas/" + saga.ID(orderreturn.Name, id))
	b.until("#live", "inspect goods")
	b.until("#signal-inspection", "inspect goods")
	b.do(chromedp.Click(`#inspection-accepted`))
	b.press(`form[action$="/signals/inspection"]`, true)
	b.until(".means", "all steps are completed")
	b.visit("/ui/orders/" + id)
	b.until("#live", "returned")
	b.quiet()
}

// An event is on the page within 200 ms of its commit. What is measured here, with a browser and everything else on one computer, is
// printed; the test fails only if the page does not follow at all.
func TestThePageFollows(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01")
	i.SetFaults("payments", `{"latency":"400ms"}`)
	b := open(t, i.URL)
	id := i.Place("pm_ok", "MUG-01")
	b.visit("/ui/orders/" + id)
	js[bool](b, `
		window.seen = [];
		new MutationObserver(() => document.querySelectorAll(".timeline time[datetime]").forEach((t) => {
			if (!seen.find((s) => s.at === t.dateTime + t.nextElementSibling.innerText)) seen.push({ at: t.dateTime + t.nextElementSibling.innerText, late: Date.now() - Date.parse(t.dateTime) });
		})).observe(document.getElementById("live"), { childList: true, subtree: true }); true`)
	b.until(".means", "all steps are completed")
	late := js[[]float64](b, `seen.filter((s) => s.at.includes("completed") || s.at.includes("sent")).slice(-8).map((s) => s.late)`)
	require.NotEmpty(t, late)
	t.Logf("milliseconds from when an event was decided to when it was seen: %.0f", late)
}

func TestPaymentsBreakAndTheBannerSaysSo(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01")
	b := open(t, i.URL)
	b.visit("/ui/sandbox")
	b.do(chromedp.Click(`#payments input[name=down]`))
	b.press("#payments", false)
	require.Contains(t, b.text(".notice"), "fault settings of payments")
	for range 20 {
		i.Place("pm_ok", "MUG-01")
	}
	b.visit("/ui/")
	b.marked()
	b.until(".banner", "breaker of payments is open")
	b.same()
	b.visit("/ui/breakers")
	require.Contains(t, b.text("#live"), "closed → ✕ open")
	for _, l := range everyLook {
		b.as(l)
		b.visit("/ui/breakers")
		b.looksGood("breaker-open", l)
		b.visit("/ui/")
		b.looksGood("overview-broken", l)
	}
	i.SetFaults("payments", `{"down":false}`)
	b.visit("/ui/")
	b.until(".banner", "healthy: every component answers")
	b.quiet()
}

// A saga whose stock was taken away behind its back waits for a person, who resolves it on the page.
func TestStuckSagaIsResolved(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01")
	i.SetFaults("carrier", `{"latency":"1s"}`)
	id := i.Place("pm_ok", "MUG-01")
	kittest.Eventually(t, func() error {
		if at := i.SagaOf(id).Statuses()["book shipment"]; at != "in_progress" {
			return fmt.Errorf("book shipment: %s", at)
		}
		return nil
	})
	payload, err := json.Marshal(map[string]any{"order_id": id, "lines": []map[string]any{{"sku": "MUG-01", "quantity": 1}}})
	require.NoError(t, err)
	send(t, i, "commands.inventory", "MUG-01", map[string]string{"ce_id": "thief", "ce_type": "ReleaseStock"}, payload)
	b := open(t, i.URL)
	b.visit("/ui/sagas/" + i.SagaOf(id).ID)
	b.marked()
	b.until("#live", "An operator must decide")
	b.same()
	for _, l := range everyLook {
		b.as(l)
		b.looksGood("saga-stuck", l)
	}
	b.do(chromedp.SendKeys("#resolve-reason", "sent it from another house"))
	b.press(`form[action$="/resolve"]`, true)
	require.Contains(t, b.text(".notice"), "resolved")
	b.until("#live", "all steps are completed")
	require.Contains(t, b.text(".timeline"), "guest resolved the saga by hand: sent it from another house")
	b.quiet()
}

func TestDeadLetterReplayAndDrop(t *testing.T) {
	i := env(t).Start()
	b := open(t, i.URL)
	letter := makeDeadLetter(t, i)
	b.visit("/ui/dead-letters")
	require.Contains(t, b.text("table"), "Nonsense")
	b.visit("/ui/dead-letters/" + letter)
	require.Contains(t, b.text("pre"), `"it": "makes no sense"`)
	b.press(`form[action$="/replay"]`, true)
	require.Contains(t, b.text(".notice"), "is replayed")
	b.until("table", "Nonsense") // it is dead again
	b.follow("table a")
	b.do(chromedp.SendKeys("#reason", "nobody needs it"))
	b.press(`form[action$="/drop"]`, true)
	b.until("table", "No dead letters")
	b.quiet()
}

func TestOnlyOperatorsSeeThePages(t *testing.T) {
	w := env(t, "AUTH_SECRET=a secret of at least thirty-two characters")
	i := w.Start()
	b := open(t, i.URL)
	b.visit("/ui/orders")
	require.Equal(t, "/ui/login", b.path())
	for _, l := range everyLook {
		b.as(l)
		b.looksGood("login", l)
	}
	token := func(role string) string {
		out, err := w.Command("token", "--subject", "ada", "--role", role).Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	b.do(chromedp.SendKeys("#token", token("customer")))
	b.press("main form", false)
	require.Contains(t, b.text(".banner"), "not an operator")
	b.do(chromedp.SendKeys("#token", token("operator")))
	b.press("main form", false)
	require.Equal(t, "/ui/orders", b.path())
	require.Contains(t, b.text("header"), "Sign out ada")
}

// Pages of other sites cannot act through a visitor's browser, and what is asked without being sure is not done.
func TestOtherSitesAreRefused(t *testing.T) {
	i := env(t).Start()
	post := func(path, body string, headers ...string) kittest.Response {
		return i.Do(http.MethodPost, path, body, append(headers, "Content-Type", "application/x-www-form-urlencoded")...)
	}
	require.Equal(t, http.StatusForbidden, post("/ui/orders", "outcome=confirmed&quantity=1", "Sec-Fetch-Site", "cross-site").Status)
	require.Equal(t, http.StatusForbidden, post("/ui/orders", "outcome=confirmed&quantity=1", "Origin", "https://elsewhere.example").Status)
	require.Equal(t, http.StatusUnprocessableEntity, post("/ui/orders", "outcome=confirmed&quantity=x").Status)
	require.Equal(t, http.StatusUnprocessableEntity, post("/ui/sandbox/payments", "failure_rate=200&refusal_rate=0&latency=0").Status)
}

// What a button will do is said first; then it is done.
func TestActionsAskFirst(t *testing.T) {
	i := env(t).Start()
	i.Stock(1000, "MUG-01")
	i.SetFaults("carrier", `{"latency":"3s"}`)
	id := i.Place("pm_ok", "MUG-01")
	post := func(path, body string) kittest.Response {
		return i.Do(http.MethodPost, path, body, "Content-Type", "application/x-www-form-urlencoded")
	}
	asked := post("/ui/orders/"+id+"/cancel", "")
	require.Equal(t, http.StatusOK, asked.Status)
	require.Contains(t, string(asked.Body), "Its completed steps are compensated")
	require.Equal(t, "pending", i.Order(id).Status)
	post("/ui/orders/"+id+"/cancel", "sure=yes")
	require.Equal(t, "cancelled", i.Decided(id).Status)
	late := post("/ui/sagas/"+i.SagaOf(id).ID+"/retry", "sure=yes")
	require.Equal(t, http.StatusConflict, late.Status, "it is not stuck")
	for _, action := range []string{"skip", "resolve"} {
		require.Equal(t, http.StatusUnprocessableEntity, post("/ui/sagas/"+i.SagaOf(id).ID+"/"+action, "sure=yes").Status, "they want a reason")
	}
}

// More than ten thousand orders do not make a page slow. Times are printed; a page that takes a whole second fails.
func TestPagesWithTenThousandOrders(t *testing.T) {
	i := env(t).Start()
	db := kittest.OpenDB(t, i.DSN())
	_, err := db.ExecContext(t.Context(), `
		INSERT INTO order_view (order_id, customer_id, status, reason, lines, total, currency, placed_at, updated_at, version)
		SELECT 'order-' || n, 'guest', CASE WHEN n % 9 = 0 THEN 'cancelled' ELSE 'confirmed' END, '', '[{"sku":"A","quantity":1,"unit_price":1}]', 1, 'EUR',
			now() - n * interval '1 second', now(), 2 FROM generate_series(1, 12000) n`)
	require.NoError(t, err)
	_, overview, err := i.Get("/ui/")
	require.NoError(t, err)
	require.Contains(t, overview, "more than 10000", "nobody counts further than that")
	_, found, err := i.Get("/ui/orders?search=order-77")
	require.NoError(t, err)
	require.Contains(t, found, ">order-77<")
	require.NotContains(t, found, ">order-78<")
	for _, path := range []string{"/ui/", "/ui/orders", "/ui/orders?status=cancelled", "/ui/orders?search=nobody", "/ui/sagas", "/ui/dead-letters", "/ui/breakers", "/ui/sandbox", "/ui/definitions"} {
		quickest := time.Minute
		for range 5 {
			began := time.Now()
			status, _, err := i.Get(path)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, status)
			quickest = min(quickest, time.Since(began))
		}
		t.Logf("%-28s %5.1f ms", path, float64(quickest.Microseconds())/1000)
		require.Less(t, quickest, time.Second, path)
	}
}

// bury has a message become a dead letter, and returns its id.
func makeDeadLetter(t *testing.T, i *harness.Instance) (id string) {
	t.Helper()
	send(t, i, "commands.orders", "o-1", map[string]string{"ce_id": "nonsense", "ce_type": "Nonsense"}, []byte(`{"it":"makes no sense"}`))
	kittest.Eventually(t, func() error {
		_, body, err := i.Get("/v1/dead-letters")
		if err != nil {
			return err
		}
		var list struct {
			DeadLetters []struct{ ID string } `json:"dead_letters"`
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.DeadLetters) == 0 {
			return fmt.Errorf("no dead letter yet: %s", body)
		}
		id = list.DeadLetters[0].ID
		return nil
	})
	return id
}

func send(t *testing.T, i *harness.Instance, topic, key string, headers map[string]string, payload []byte) {
	t.Helper()
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	producer, err := sarama.NewSyncProducer(i.Brokers(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, producer.Close()) }()
	msg := &sarama.ProducerMessage{Topic: i.Topic(topic), Key: sarama.StringEncoder(key), Value: sarama.ByteEncoder(payload)}
	for name, value := range headers {
		msg.Headers = append(msg.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
	}
	_, _, err = producer.SendMessage(msg)
	require.NoError(t, err)
}

// TestPictures makes those of docs/: make screenshots.
func TestPictures(t *testing.T) {
	dir := os.Getenv("PICTURES")
	if dir == "" {
		t.Skip("PICTURES names no folder; make screenshots does")
	}
	t.Setenv("BROWSER_SHOTS", dir)
	w := env(t)
	i := w.Start()
	demo := w.Command("demo", "--orders", "400", "--url", i.URL)
	require.NoError(t, demo.Start())
	time.Sleep(4 * time.Second) // so that there is something to see
	i.SetFaults("payments", `{"down":true}`)
	b := open(t, i.URL)
	b.visit("/ui/")
	b.until(".banner", "breaker of payments is open")
	time.Sleep(4 * time.Second)
	b.as(secondOrders)
	b.shot("overview")
	i.SetFaults("payments", `{"down":false}`)
	require.NoError(t, demo.Wait())

	b.as(desktop)
	refused := i.Place("pm_ok", "HEAVY-99")
	i.Decided(refused)
	kittest.Eventually(t, func() error {
		if s := i.SagaOf(refused); s.Status != "compensated" {
			return fmt.Errorf("%s", s.Status)
		}
		return nil
	})
	b.visit("/ui/sagas/" + i.SagaOf(refused).ID)
	b.shot("saga")
	b.visit("/ui/sagas")
	b.shot("sagas")
	b.as(night)
	b.visit("/ui/definitions/order-fulfilment.v2")
	b.shot("definition")
}
