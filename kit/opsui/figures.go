package opsui

import (
	"fmt"

	"github.com/bojanz/currency"
)

// NewGroup returns a Group with one figure for each status. A figure links to the page at address with the filter set to its status.
func NewGroup[S ~string](title, address string, counts map[S]int, statuses ...S) Group {
	g := Group{Title: title}
	for _, s := range statuses {
		g.Of = append(g.Of, Tally{Name: string(s), N: counts[s], Address: address + "?status=" + string(s)})
	}
	return g
}

// Names converts statuses to the strings that NewList takes.
func Names[S ~string](statuses ...S) []string {
	names := make([]string, len(statuses))
	for i, s := range statuses {
		names[i] = string(s)
	}
	return names
}

// Money formats an amount in minor units with the decimals that ISO 4217 defines for the currency: 12.50 EUR, 1250 JPY, 1.250 KWD. If the code of the
// currency is unknown, it returns the number of minor units and says so. Templates call it as "money".
func Money(minor int64, code string) string {
	a, err := currency.NewAmountFromInt64(minor, code)
	if err != nil {
		return fmt.Sprintf("%d %s (minor units)", minor, code)
	}
	return a.String()
}
