package tools

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// generator is a copy of the template, and the scaffold as a binary.
type generator struct {
	mine

	binary string
}

// newGenerator makes a copy of the template that builds fast: it uses the kit in place, which the build cache has already.
func newGenerator(t *testing.T) generator {
	t.Helper()
	m := own(t)
	kit, err := filepath.Abs("../../kit")
	require.NoError(t, err)
	m.must("go", "mod", "edit", "-replace="+kitModule+"="+kit)
	g := generator{m, filepath.Join(t.TempDir(), "scaffold")}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", g.binary, "../../tools/scaffold").CombinedOutput()
	require.NoError(t, err, "%s", out)
	g.commit()
	return g
}

// try makes parts, one a line, and returns what the scaffold prints.
func (g generator) try(parts string) (output string, err error) {
	command := exec.CommandContext(g.t.Context(), g.binary, "-")
	command.Dir, command.Stdin = g.dir, strings.NewReader(parts)
	text, err := command.CombinedOutput()
	return string(text), err
}

func (g generator) make(parts string) string {
	g.t.Helper()
	output, err := g.try(parts)
	require.NoError(g.t, err, "%s\n%s", parts, output)
	return output
}

// refuses checks that the scaffold refuses a part with an error that has all the texts, and changes nothing.
func (g generator) refuses(part string, texts ...string) {
	g.t.Helper()
	output, err := g.try(part)
	require.Error(g.t, err, "%s\n%s", part, output)
	for _, text := range texts {
		require.Contains(g.t, output, text, part)
	}
	require.Empty(g.t, g.touched(), part)
}

// unchanged checks that the scaffold accepts parts and changes nothing.
func (g generator) unchanged(parts string) {
	g.t.Helper()
	output := g.make(parts)
	require.Empty(g.t, g.touched(), output)
}

func (g generator) read(path string) string {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, path))
	require.NoError(g.t, err)
	return string(text)
}

// plausible are parts with names that collide with names of the templates, of Go, or of other parts.
const plausible = `
aggregate account
command account OpenAccount --fields amount:int --decision Open
gateway bank
command account PayAccount --fields amount:int --decision Pay --gateway bank
command account RefundAccount --decision Refund --gateway bank --compensates PayAccount
aggregate customer
command customer GreetCustomer --fields "greeting, at:time" --decision Greet --gateway bank
aggregate e-mail
command e-mail SendEMail --decision Send
aggregate hour
aggregate breaker
event breaker Opened --fields "version:int, at:time"
command breaker OpenBreaker --decision Open
aggregate migration
aggregate hint
aggregate page
aggregate card
gateway cards
command card ChargeCard --fields amount:int --decision Charge --gateway cards
aggregate appointment
event appointment Made --fields "day, slot:int, at:time"
command appointment MakeAppointment --fields "day, slot:int, at:time, note, customer_id" --decision Make
command appointment CancelAppointment --fields reason --decision Cancel
command appointment ConfirmAppointment --decision Confirm
command appointment URLCheck --fields url --decision Check
command appointment MoveSlot --fields "slot:int, at:time, open:bool" --decision Move
projection appointment days --fields "day, slot:int, at:time, open:bool"
query AppointmentsOfDay --projection days --by day
query AppointmentsOfSlot --projection days --by slot
query AppointmentsAt --projection days --by at
query OpenAppointments --projection days --by open
query AppointmentByID --projection days --by appointment_id
route POST /v1/appointments MakeAppointment --access customer
route DELETE /v1/appointments/{id}/confirmation ConfirmAppointment
route POST /v1/appointments/{appointment_id}/cancel CancelAppointment
route PUT /v1/appointments/{id}/url URLCheck
route PUT /v1/appointments/{id}/slots/{slot} MoveSlot
route GET /v1/appointments/{id} AppointmentByID
route GET /v1/days/{day} AppointmentsOfDay
route GET /v1/busy/{slot} AppointmentsOfSlot
route GET /v1/at/{at} AppointmentsAt
route GET /v1/open/{open} OpenAppointments
route POST /v1/accounts OpenAccount
page appointments
setting GRACE --kind duration
saga remind --on appointment.Made --steps "delay: wait, tell guest"
consumer shipping --from carrier.parcels --on "parcel.left, parcel.lost"
`

// contract is a test of the generated routes: a body and a parameter are accepted only as openapi.yaml declares them.
const contract = `package ports

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

type recorder struct {
	desk

	got any
}

func (s *recorder) Execute(_ context.Context, c cqrs.Command) error {
	s.got = c.Body
	return nil
}

func TestContract(t *testing.T) {
	const at = "2026-05-04T10:00:00Z"
	for request, want := range map[string]struct {
		body   string
		status int
		answer string
	}{
		"POST /v1/appointments/a1/cancel":      {"{\"reason\":\"ill\"}", 204, ""},
		"POST /v1/appointments/a2/cancel":      {"{}", 400, "reason: is missing"},
		"POST /v1/appointments/a3/cancel":      {"{\"reason\":\"ill\",\"appointment_id\":\"other\"}", 400, "appointment_id"},
		"POST /v1/appointments/a4/cancel":      {"", 400, "the body is empty"},
		"POST /v1/appointments":                {"{\"day\":\"monday\",\"slot\":2,\"at\":\"" + at + "\",\"note\":\"\",\"customer_id\":\"bob\"}", 400, "customer_id"},
		"DELETE /v1/appointments/a1/confirmation": {"", 204, ""},
		"DELETE /v1/appointments/a2/confirmation": {"{\"appointment_id\":\"other\"}", 400, "appointment_id"},
		"PUT /v1/appointments/a1/slots/7":      {"{\"at\":\"" + at + "\",\"open\":false}", 204, ""},
		"PUT /v1/appointments/a1/slots/seven":  {"{\"at\":\"" + at + "\",\"open\":false}", 400, "slot: is not of the form"},
		"GET /v1/busy/7":                       {"", 200, "7"},
		"GET /v1/busy/seven":                   {"", 400, "slot: is not of the form"},
		"GET /v1/at/" + at:                     {"", 200, at},
		"GET /v1/at/noon":                      {"", 400, "at: is not of the form"},
		"GET /v1/open/true":                    {"", 200, "true"},
		"GET /v1/open/perhaps":                 {"", 400, "open: is not of the form"},
	} {
		t.Run(request, func(t *testing.T) {
			s := &recorder{}
			server := &httpapi.Server{
				Service: Routes(Deps{}), UnitOfWork: s, Commands: s, Log: slog.New(slog.DiscardHandler), Streams: &httpapi.Streams{}, Wake: func() {},
				Verify: func(token string) (cqrs.Principal, error) { return cqrs.Principal{Subject: token, Operator: true}, nil },
				Queries: cqrs.NewQueries([]cqrs.QueryHandler{
					cqrs.HandleQuery("AppointmentsOfSlot", func(_ context.Context, q query.AppointmentsOfSlot) (a query.AppointmentsOfSlotAnswer, _ error) {
						a.Days = append(a.Days, query.AppointmentsOfSlotRow{Slot: q.Slot})
						return a, nil
					}),
					cqrs.HandleQuery("AppointmentsAt", func(_ context.Context, q query.AppointmentsAt) (a query.AppointmentsAtAnswer, _ error) {
						a.Days = append(a.Days, query.AppointmentsAtRow{At: q.At})
						return a, nil
					}),
					cqrs.HandleQuery("OpenAppointments", func(_ context.Context, q query.OpenAppointments) (a query.OpenAppointmentsAnswer, _ error) {
						a.Days = append(a.Days, query.OpenAppointmentsRow{Open: q.Open})
						return a, nil
					}),
				}),
			}
			handler, err := server.Handler(httpapi.Everything)
			require.NoError(t, err)
			method, path, _ := strings.Cut(request, " ")
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(want.body))
			r.Host = "localhost"
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer ada")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.Equal(t, want.status, w.Code, w.Body)
			require.Contains(t, w.Body.String(), want.answer)
			if want.status == 400 {
				require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
				require.Nil(t, s.got)
			}
			if request == "PUT /v1/appointments/a1/slots/7" {
				move := s.got.(command.MoveSlot)
				require.Equal(t, []any{"a1", int64(7), false}, []any{move.AppointmentID, move.Slot, move.Open})
			}
		})
	}
}
`

func TestScaffoldBuildsFromPlausibleInput(t *testing.T) {
	g := newGenerator(t)
	g.make(plausible)
	require.NoError(t, os.WriteFile(filepath.Join(g.dir, "ports/contract_test.go"), []byte(contract), 0o600))
	g.must("go", "generate", "./ports")
	g.commit()
	g.must("go", "vet", "./app/...", "./domain/...", "./adapters/...", "./ports/...", "./sagas/...", "./service/...")
	require.Empty(t, g.must("gofmt", "-l", "app", "domain", "adapters", "sagas", "service"))
	g.must("go", "test", "./ports", "-run", "TestContract")
	require.Contains(t, g.read("domain/appointment/appointment_test.go"), "anAppointment := ")
	require.Contains(t, g.read("domain/customer/customer_test.go"), "aCustomer := ")
	require.Contains(t, g.read("domain/hour/hour_test.go"), "anHour := ")
	openapi := g.read("ports/openapi.yaml")
	for _, operation := range []string{"operationId: appointmentsOfDay", "operationId: appointmentsAt"} {
		_, text, _ := strings.Cut(openapi, operation)
		require.Contains(t, strings.Join(strings.Split(text, "\n")[:4], "\n"), "description: The newest 100 at most.")
	}
	_, one, _ := strings.Cut(openapi, "operationId: appointmentByID")
	require.NotContains(t, strings.Join(strings.Split(one, "\n")[:4], "\n"), "100")
	g.unchanged(plausible)
}

func TestScaffoldRefusesNamesThatCollide(t *testing.T) {
	g := newGenerator(t)
	for _, name := range []string{
		"store", "broker", "event", "query", "command", "consumer", "saga", "ports", "main", "runner", "outbox", "gateway", "context", "errors",
		"time", "cqrs", "aggregate", "category", "types", "rebuild", "internal", "testdata", "vendor", "pages", "views", "fulfilment",
	} {
		g.refuses("aggregate "+name, "AGGREGATE: \""+name+"\"", "choose another name")
	}
	g.refuses("aggregate x", `AGGREGATE: "x"`, "two letters")
	g.refuses("aggregate courier", `AGGREGATE: "courier"`, "app/command/book_courier.go")
	g.refuses("aggregate purchase --plural orders", "--plural", "orders", "domain/order/order.go")
	g.make("aggregate note\naggregate card\ngateway cards\nprojection note notes --fields text")
	g.commit()
	for part, texts := range map[string][]string{
		"projection note n --fields version:int":            {"--fields", "version", "has a column version"},
		"projection note n --fields note_id":                {"--fields", "note_id", "the id of the note"},
		"projection note n --fields order":                  {"--fields", "order", "SQL"},
		"event note Sent --fields note_id":                  {"--fields", "note_id", "the id of the note"},
		"event note Sent --fields a,b,a":                    {"--fields", `"a"`, "twice"},
		"event note Event":                                  {"NAME", "Event", "domain/note/events.go"},
		"event note Note":                                   {"NAME", "Note", "domain/note/note.go"},
		"command note Send --fields note_id":                {"--fields", "note_id", "the id of the note"},
		"command note Send --fields key":                    {"--fields", "key", "method Key"},
		"command note Send --fields id --decision Send":     {"--fields", "id", "the decision Send"},
		"command note Send --fields n --decision Send":      {"--fields", "n", "receiver"},
		"command note Send --fields errors --decision Send": {"--fields", "errors", "package errors"},
		"command note Send --fields id --gateway cards":     {"--fields", "id", "the request to cards"},
		"command note Send --decision Record":               {"--decision", "Record", "aggregate.Root"},
		"command note Send --decision Root":                 {"--decision", "Root", "aggregate.Root"},
		"command note Note":                                 {"NAME", "Note", "import"},
		"command note Deps":                                 {"NAME", "Deps", "app/command/command.go"},
		"command note All":                                  {"NAME", "All", "app/command/command.go"},
		"command note RunTest":                              {"NAME", "run_test.go"},
		"command note MoveWindows":                          {"NAME", "move_windows.go"},
		"query All":                                         {"NAME", "All", "app/query/query.go"},
		"query OrderRows":                                   {"NAME", "OrderRows", "app/query/"},
		"projection note all":                               {"NAME", "All", "adapters/views/views.go"},
		"setting HTTP_ADDR":                                 {"NAME", "HTTP_ADDR", ".env.example"},
		"setting OTEL_SERVICE_NAME":                         {"NAME", "OTEL_SERVICE_NAME"},
		"page counts":                                       {"NAME", "counts", "ports/pages/pages.go"},
		"setting GOMEMLIMIT":                                {"NAME", "GOMEMLIMIT"},
	} {
		g.refuses(part, texts...)
	}
}

func TestScaffoldAgainWithOtherArguments(t *testing.T) {
	g := newGenerator(t)
	const parts = `
aggregate guest
aggregate host
event guest Invited --fields at:time
command guest InviteGuest --fields at:time
command host GreetHost --decision Greet
gateway mail
gateway sms
command guest TellGuest --fields text --gateway mail
projection guest guests --fields "customer_id, day"
projection guest lists --fields day
query GuestsOfDay --projection guests --by day
query GuestsOfCustomer --projection guests --by customer_id
query Weather
consumer shipping --from carrier.parcels --on parcel.left
saga s1 --on guest.Invited --steps "delay: wait, tell guest"
setting GRACE --kind duration
route PUT /v1/guests/{id} InviteGuest
route GET /v1/days/{day} GuestsOfDay
`
	g.make(parts)
	g.commit()
	g.unchanged(parts)
	for part, texts := range map[string][]string{
		`saga s1 --on guest.Invited --steps "delay: rest, tell guest" --pivot "tell guest"`: {`"rest"`, "sagas/s1/s1.go", "by hand"},
		`saga s1 --on guest.Invited --steps "delay: wait, tell guest" --pivot "tell guest"`: {"--pivot", `"tell guest"`, "sagas/s1/s1.go", "by hand"},
		`saga s1 --on guest.Invited --steps "tell guest, delay: wait"`:                      {"order", "by hand"},
		`saga s1 --on guest.Invited --steps "signal: wait, tell guest"`:                     {`"wait"`, "signal", "by hand"},
		`saga s1 --on guest.Invited --steps "if: tell guest"`:                               {`"tell guest"`, "SkipIf", "by hand"},
		`saga s1 --on guest.Invited --steps "eat, sleep"`:                                   {`"eat"`, "by hand"},
		`saga s1 --on guest.Lost --steps "delay: wait, tell guest"`:                         {"there is no event guest.Lost"},
		"route PUT /v1/gusts/{id} InviteGuest":                                              {"PUT /v1/gusts/{id}", "PUT /v1/guests/{id}", "ports/openapi.yaml"},
		"route POST /v1/guests/{id} InviteGuest":                                            {"POST /v1/guests/{id}", "PUT /v1/guests/{id}"},
		"route PUT /v1/guests/{id} InviteGuest --access public":                             {"x-access", "operator", "public"},
		"route PUT /v1/guests/{id} GreetHost":                                               {"PUT /v1/guests/{id}", "inviteGuest"},
		"route GET /v1/guests GuestsOfDay":                                                  {"day", "{day}"},
		"route GET /v1/all-guests GuestsOfCustomer --access public":                         {"--access", "CustomerID"},
		"route GET /v1/x/{colour}/{day} GuestsOfDay":                                        {"{colour}"},
		"route DELETE /v1/guests/{id}/text TellGuest":                                       {"text", "no body"},
		"route PUT /v1/guests/text TellGuest":                                               {"guest_id", "{id}"},
		"event guest Invited --fields at:time,room":                                         {"room", "domain/guest/events.go", "by hand"},
		"event guest Invited --fields at":                                                   {"At", "time.Time", "domain/guest/events.go"},
		"command guest InviteGuest --fields at:time,room":                                   {"room", "app/command/invite_guest.go", "by hand"},
		"command host InviteGuest --fields at:time":                                         {"app/command/invite_guest.go", "host"},
		"command guest InviteGuest --decision Invite":                                       {"app/command/invite_guest.go", "Invite"},
		"command guest InviteGuest --fields at:time --gateway mail":                         {"app/command/invite_guest.go", "--gateway"},
		"command guest TellGuest --fields text":                                             {"app/command/tell_guest.go", "--gateway"},
		"command guest TellGuest --fields text --gateway sms":                               {"app/command/tell_guest.go", "Mail"},
		"projection guest guests --fields customer_id,day,room":                             {"room", "app/projection/guests.go", "by hand"},
		"projection host guests --fields customer_id,day":                                   {"host", "app/projection/guests.go"},
		"query GuestsOfDay --projection guests --by customer_id":                            {"customer_id", "app/query/guests_of_day.go"},
		"query GuestsOfDay --projection lists --by day":                                     {"lists", "adapters/views/guests.go"},
		"query GuestsOfDay": {"--projection", "app/query/guests_of_day.go"},
		"consumer shipping --from carrier.parcels --on parcel.lost": {"parcel.lost", "app/consumer/shipping.go"},
		"consumer shipping --from post.parcels --on parcel.left":    {"post", "app/consumer/shipping.go"},
		"setting GRACE --kind text":                                 {"GRACE", "duration", "service/service.go"},
		"aggregate guest --plural guestlist":                        {"guests", "domain/guest/guest.go"},
	} {
		g.refuses(part, texts...)
	}

	// What is restored from git without the handler does not match the handler.
	g.write("ports/openapi.yaml", func(text string) string {
		at, end := strings.Index(text, "  /v1/guests/{id}:\n"), strings.Index(text, "  /v1/days/{day}:\n")
		return text[:at] + text[end:]
	})
	g.commit()
	g.refuses("route PUT /v1/guests/{guest_id}/invitations/{at} InviteGuest", "ports/invite_guest.go", "/v1/guests/{guest_id}/invitations/{at}")
	g.refuses("route POST /v1/guests InviteGuest", "ports/invite_guest.go")
	g.make("route PUT /v1/guests/{id} InviteGuest")
	require.Equal(t, []string{"ports/openapi.yaml"}, g.touched())
	g.commit()

	// New steps at the end are appended.
	g.make(`saga s1 --on guest.Invited --steps "delay: wait, tell guest, close" --pivot close`)
	require.Equal(t, 1, strings.Count(g.read("sagas/s1/s1.go"), "Pivot: "))
	g.commit()
	g.unchanged(`saga s1 --on guest.Invited --steps "delay: wait, tell guest, close"`)
	g.refuses(`saga s1 --on guest.Invited --steps "delay: wait, tell guest, close, sing"`, "--pivot", `"close"`)
	g.make(`saga s1 --on guest.Invited --steps "delay: wait, tell guest, close, sing" --pivot close`)
	require.Equal(t, 1, strings.Count(g.read("sagas/s1/s1.go"), "Retriable: "))
	g.commit()

	// What a person changes in a registration stays, without a second registration.
	g.write("app/command/command.go", func(text string) string {
		return strings.Replace(text, `inviteGuest{d.Guests}.handle)`, `inviteGuest{d.Guests}.handle).AfterItsCommit()`, 1)
	})
	g.write("domain/guest/events.go", func(text string) string {
		return strings.Replace(text, `aggregate.NewType[Invited]("guest.invited")`, `aggregate.NewType[Invited]("guest.invited").Since("2")`, 1)
	})
	g.commit()
	g.unchanged(parts)
}
