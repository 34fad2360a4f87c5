package money_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/domain/money"
)

func TestMoneyRefusesInvalidAmounts(t *testing.T) {
	for text, want := range map[string]error{"EUR": nil, "eur": money.ErrCurrency, "EU": money.ErrCurrency, "EURO": money.ErrCurrency, "": money.ErrCurrency, "ÄÖÜ": money.ErrCurrency} {
		_, err := money.New(1, text)
		require.ErrorIs(t, err, want, text)
	}
	_, err := money.New(-1, "EUR")
	require.ErrorIs(t, err, money.ErrNegative)
	_, err = money.Money{Amount: 1, Currency: "EUR"}.Plus(money.Money{Amount: 1, Currency: "USD"})
	require.ErrorIs(t, err, money.ErrMixed)
	_, err = money.Money{Amount: 1, Currency: "EUR"}.Times(-1)
	require.ErrorIs(t, err, money.ErrNegative)
}

// Sums and products equal those of unbounded integers, or are refused because they do not fit.
func TestMoneyNeverOverflows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(0, math.MaxInt64)
		a, b := amount.Draw(t, "a"), amount.Draw(t, "b")
		m := money.Money{Amount: a, Currency: "EUR"}
		sum, err := m.Plus(money.Money{Amount: b, Currency: "EUR"})
		compare(t, new(big.Int).Add(big.NewInt(a), big.NewInt(b)), sum, err)
		product, err := m.Times(b)
		compare(t, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)), product, err)
	})
}

func compare(t *rapid.T, want *big.Int, got money.Money, err error) {
	if want.IsInt64() {
		if err != nil || got.Amount != want.Int64() {
			t.Fatalf("got %v, %v; want %v", got, err, want)
		}
	} else if err == nil {
		t.Fatalf("got %v, want a refusal of %v", got, want)
	}
}
