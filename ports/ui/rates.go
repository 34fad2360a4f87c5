package ui

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

// Totals are what this instance has done since it was started.
type Totals struct {
	Handled, Relayed, Sagas, Failed float64
}

// rates are the totals of the last minutes, one every few seconds.
type rates struct {
	totals  func() Totals
	mu      sync.Mutex
	samples []Totals
}

const (
	sampleEvery = 2 * time.Second
	sampleCount = 60
)

func newRates(totals func() Totals, stopping <-chan struct{}) *rates {
	r := &rates{totals: totals, samples: []Totals{totals()}}
	go func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now := r.totals()
				r.mu.Lock()
				r.samples = append(r.samples, now)
				r.samples = r.samples[max(0, len(r.samples)-sampleCount-1):]
				r.mu.Unlock()
			case <-stopping:
				return
			}
		}
	}()
	return r
}

// chart is a rate over the last minutes, as a line in a picture of 120 by 32.
type chart struct {
	Name, Unit string
	Now        string // a second
	Most       string
	Line       string // points
	Says       string // for those who don't see it
}

const (
	chartWidth  = 120
	chartHeight = 32
)

func (r *rates) charts() []chart {
	r.mu.Lock()
	samples := append([]Totals(nil), r.samples...)
	r.mu.Unlock()
	return []chart{
		draw("Messages handled", samples, func(t Totals) float64 { return t.Handled }),
		draw("Messages sent to Kafka", samples, func(t Totals) float64 { return t.Relayed }),
		draw("Sagas ended", samples, func(t Totals) float64 { return t.Sagas }),
		draw("Attempts that failed", samples, func(t Totals) float64 { return t.Failed }),
	}
}

func draw(name string, samples []Totals, of func(Totals) float64) chart {
	rates := make([]float64, sampleCount)
	highest := 0.0
	for i := 1; i < len(samples); i++ {
		v := (of(samples[i]) - of(samples[i-1])) / sampleEvery.Seconds()
		rates[sampleCount-len(samples)+i] = v
		highest = max(highest, v)
	}
	points := make([]string, sampleCount)
	for i, v := range rates {
		y := float64(chartHeight - 1)
		if highest > 0 {
			y -= v / highest * (chartHeight - 2)
		}
		points[i] = fmt.Sprintf("%d,%.1f", i*chartWidth/(sampleCount-1), y)
	}
	now, most := perSecond(rates[sampleCount-1]), perSecond(highest)
	return chart{
		Name: name, Now: now, Most: most, Line: strings.Join(points, " "),
		Says: fmt.Sprintf("%s: %s a second now, %s at most in the last two minutes", name, now, most),
	}
}

func perSecond(v float64) string {
	if v == 0 || v >= 10 {
		return fmt.Sprintf("%.0f", math.Round(v))
	}
	return fmt.Sprintf("%.1f", v)
}
