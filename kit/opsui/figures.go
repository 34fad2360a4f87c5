package opsui

import (
	"fmt"

	"github.com/bojanz/currency"
)

// NewGroup is a Group with a figure for each status, which links to the page at address with the filter set to that status.
func NewGroup[S ~string](title, address string, counts map[S]int, statuses ...S) Group {
	g := Group{Title: title}
	for _, s := range statuses {
		g.Of = append(g.Of, Tally{Name: string(s), N: counts[s], Address: address + "?status=" + string(s)})
	}
	return g
}

// Names are statuses as NewList takes them.
func Names[S ~string](statuses ...S) []string {
	names := make([]string, len(statuses))
	for i, s := range statuses {
		names[i] = string(s)
	}
	return names
}

// Money formats minor units with the decimals that ISO 4217 gives the currency: 12.50 EUR, 1250 JPY, 1.250 KWD. The decimals of a code that is not in
// use are unknown. Templates call it as "money".
func Money(minor int64, code string) string {
	a, err := currency.NewAmountFromInt64(minor, code)
	if err != nil {
		return fmt.Sprintf("%d %s (minor units)", minor, code)
	}
	return a.String()
}
