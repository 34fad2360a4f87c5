package opsui

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The decimals are those of ISO 4217. CLDR, which golang.org/x/text/currency uses, has none for IQD and COP.
func TestMoneyHasTheDecimalsOfItsCurrency(t *testing.T) {
	for want, code := range map[string]string{
		"12.50 EUR": "EUR", "1250 JPY": "JPY", "1.250 KWD": "KWD", "1.250 IQD": "IQD", "12.50 COP": "COP", "1250 QQQ (minor units)": "QQQ",
	} {
		require.Equal(t, want, Money(1250, code))
	}
	require.Equal(t, "0.05 EUR", Money(5, "EUR"))
}

func TestGroupHasAFigureForEachStatus(t *testing.T) {
	type status string
	require.Equal(t, Group{Title: "Books", Of: []Tally{{"lent", "/ui/books?status=lent", 3}, {"lost", "/ui/books?status=lost", 0}}},
		NewGroup("Books", "/ui/books", map[status]int{"lent": 3}, "lent", "lost"))
	require.Equal(t, []string{"lent", "lost"}, Names[status]("lent", "lost"))
}

func TestTextsFitTheirBoxes(t *testing.T) {
	for _, c := range []struct {
		text, shown string
		width       int
	}{
		{"reserve stock", "reserve stock", 0},
		{"wait for the approval", "wait for the approval", 142},
		{"wait for the approval of the manager", "wait for the approval o…", 142},
	} {
		shown, width := fit(c.text, nameWidth, 142)
		require.Equal(t, c.shown, shown)
		require.Equal(t, c.width, width, c.text)
	}
	_, width := fit("↩ compensated, 299 ms", stateWidth, 126)
	require.Equal(t, 126, width)
}
