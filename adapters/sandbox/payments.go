package sandbox

import (
	"encoding/json"
	"net/http"
	"time"
)

// Payments plays the payment provider. By method: pm_ok pays, pm_declined is declined, pm_error answers 500, pm_slow does the
// work and answers after a minute, pm_capture_refused is authorised but never captured.
type Payments struct {
	service
	ledger   PaymentsLedger
	payments map[string]*sandboxPayment
}

// PaymentsLedger adds up what took effect, in minor units of whatever currency.
type PaymentsLedger struct {
	Authorised int64 `json:"authorised"`
	Captured   int64 `json:"captured"`
	Voided     int64 `json:"voided"`
	Refunded   int64 `json:"refunded"`
	Held       int64 `json:"held"`
	Calls      int64 `json:"calls"`
	Repeats    int64 `json:"repeats"` // calls that changed nothing, because an earlier one had done so
}

type sandboxPayment struct {
	held, captured, voided bool
	amount                 int64
	refused                string // the authorisation's refusal
	neverCapture           bool
}

func newPayments() *Payments {
	p := &Payments{payments: map[string]*sandboxPayment{}}
	p.apply = p.effect
	return p
}

// Ledger returns the sums.
func (p *Payments) Ledger() PaymentsLedger {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.ledger
	l.Calls, l.Repeats = p.calls, p.repeats
	return l
}

func (p *Payments) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /authorisations", p.serve(p.authorise))
	mux.HandleFunc("POST /captures", p.serve(p.capture))
	mux.HandleFunc("POST /voids", p.serve(p.void))
	return mux
}

type paymentCall struct {
	PaymentID string `json:"payment_id"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	Method    string `json:"method"`
}

func read[T any](r *http.Request) (v T, err error) {
	err = json.NewDecoder(r.Body).Decode(&v)
	return v, err
}

// bad answers a request that cannot be read.
func bad(err error) (answer, int, time.Duration, error) {
	return answer{Reason: err.Error()}, http.StatusBadRequest, 0, nil
}

const neverCapture = "authorise, never capture"

func (p *Payments) authorise(r *http.Request, refuse bool) (answer, int, time.Duration, error) {
	call, err := read[paymentCall](r)
	if err != nil {
		return bad(err)
	}
	e := entry{Op: "authorise", ID: call.PaymentID, Amount: call.Amount, Currency: call.Currency}
	var delay time.Duration
	switch {
	case call.Method == "pm_error":
		return answer{Reason: "pm_error"}, http.StatusInternalServerError, 0, nil
	case call.Method == "pm_slow":
		delay = time.Minute
	case call.Method == "pm_capture_refused":
		e.Op = neverCapture
	case call.Method == "pm_declined":
		e.Refused = "payment declined"
	case call.Method != "pm_ok":
		e.Refused = "unknown payment method"
	case refuse:
		e.Refused = "payment declined"
	}
	if err := p.record(e); err != nil {
		return answer{}, 0, 0, err
	}
	if reason := p.payments[e.ID].refused; reason != "" {
		return answer{Reason: reason}, http.StatusPaymentRequired, delay, nil
	}
	return answer{Reference: "auth-" + e.ID}, http.StatusOK, delay, nil
}

func (p *Payments) capture(r *http.Request, refuse bool) (answer, int, time.Duration, error) {
	call, err := read[paymentCall](r)
	if err != nil {
		return bad(err)
	}
	e := entry{Op: "capture", ID: call.PaymentID, Amount: call.Amount}
	known := p.payments[e.ID]
	switch {
	case known == nil || !known.held && !known.captured || known.amount < call.Amount:
		e.Refused = "nothing is held for this payment"
	case !known.captured && (refuse || known.neverCapture):
		e.Refused = "capture refused"
	}
	if err := p.record(e); err != nil {
		return answer{}, 0, 0, err
	}
	if e.Refused != "" {
		return answer{Reason: e.Refused}, http.StatusPaymentRequired, 0, nil
	}
	return answer{Reference: "capture-" + e.ID}, http.StatusOK, 0, nil
}

func (p *Payments) void(r *http.Request, _ bool) (answer, int, time.Duration, error) {
	call, err := read[paymentCall](r)
	if err != nil {
		return bad(err)
	}
	if known := p.payments[call.PaymentID]; known != nil && known.captured {
		return answer{Reason: "already captured"}, http.StatusConflict, 0, nil
	}
	if err := p.record(entry{Op: "void", ID: call.PaymentID}); err != nil {
		return answer{}, 0, 0, err
	}
	return answer{Reference: "void-" + call.PaymentID}, http.StatusOK, 0, nil
}

func (p *Payments) effect(e entry) {
	known, repeated := p.payments[e.ID]
	if !repeated {
		known = &sandboxPayment{}
		p.payments[e.ID] = known
	}
	switch e.Op {
	case "authorise", neverCapture:
		switch {
		case repeated:
			p.repeats++
			if known.voided && known.refused == "" {
				known.refused = "voided"
			}
		case e.Refused != "":
			known.refused = e.Refused
		default:
			known.held, known.amount, known.neverCapture = true, e.Amount, e.Op == neverCapture
			p.ledger.Authorised += e.Amount
			p.ledger.Held += e.Amount
		}
	case "capture":
		switch {
		case e.Refused != "":
		case known.captured:
			p.repeats++
		default:
			known.captured, known.held = true, false
			p.ledger.Captured += e.Amount
			p.ledger.Held -= known.amount
		}
	case "void":
		if known.voided {
			p.repeats++
		}
		if known.held {
			p.ledger.Voided += known.amount
			p.ledger.Held -= known.amount
		}
		// A void of what was never authorised bars it: the authorisation may still be on its way.
		known.voided, known.held = true, false
	}
}
