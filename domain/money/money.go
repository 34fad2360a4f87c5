// Package money has amounts of money, as integers in the minor unit of a currency. It refuses overflows and mixed currencies.
package money

import (
	"fmt"
	"math"
	"strings"

	"github.com/millrace/millrace/kit/aggregate"
)

// Refusals of this package.
var (
	ErrCurrency = aggregate.Refuse("a currency is three capital letters of ISO 4217")
	ErrMixed    = aggregate.Refuse("amounts of two currencies cannot be added")
	ErrTooMuch  = aggregate.Refuse("the amount is larger than can be counted")
	ErrNegative = aggregate.Refuse("an amount cannot be negative")
)

// Money is an amount: 1250 EUR is 12.50 euros, 1250 JPY is 1250 yen.
type Money struct {
	Amount   int64  `json:"amount"` // in minor units, never negative
	Currency string `json:"currency"`
}

// New makes an amount in minor units. It checks that the currency has three capital letters, but not whether such a currency exists. Errors wrap ErrNegative
// or ErrCurrency.
func New(amount int64, currency string) (Money, error) {
	if amount < 0 {
		return Money{}, fmt.Errorf("%d: %w", amount, ErrNegative)
	}
	if len(currency) != 3 || strings.Trim(currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return Money{}, fmt.Errorf("%q: %w", currency, ErrCurrency)
	}
	return Money{amount, currency}, nil
}

// Times multiplies the amount by n. Errors wrap ErrNegative or ErrTooMuch.
func (m Money) Times(n int64) (Money, error) {
	if n < 0 {
		return Money{}, fmt.Errorf("%d times: %w", n, ErrNegative)
	}
	if n > 0 && m.Amount > math.MaxInt64/n {
		return Money{}, fmt.Errorf("%d times %d: %w", n, m.Amount, ErrTooMuch)
	}
	return Money{m.Amount * n, m.Currency}, nil
}

// Plus adds an amount of the same currency. Errors wrap ErrMixed or ErrTooMuch.
func (m Money) Plus(other Money) (Money, error) {
	if m.Currency != other.Currency {
		return Money{}, fmt.Errorf("%s and %s: %w", m.Currency, other.Currency, ErrMixed)
	}
	if m.Amount > math.MaxInt64-other.Amount {
		return Money{}, fmt.Errorf("%d plus %d: %w", m.Amount, other.Amount, ErrTooMuch)
	}
	return Money{m.Amount + other.Amount, m.Currency}, nil
}
