package opsui

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

// Totals are counters of this instance since its start.
type Totals struct {
	Handled float64 // messages processed
	Relayed float64 // messages sent to Kafka
	Sagas   float64 // sagas ended
	Failed  float64 // failed attempts to process a message
}

// rates samples the totals for the charts.
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

// chart is a rate of the last two minutes, drawn as a line of 120 by 32 units.
type chart struct {
	Name      string
	Now, Peak string // per second
	Points    string // of the SVG polyline
	Label     string // for screen readers
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
		draw("Messages processed", samples, func(t Totals) float64 { return t.Handled }),
		draw("Messages sent to Kafka", samples, func(t Totals) float64 { return t.Relayed }),
		draw("Sagas ended", samples, func(t Totals) float64 { return t.Sagas }),
		draw("Failed attempts", samples, func(t Totals) float64 { return t.Failed }),
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
	now, peak := perSecond(rates[sampleCount-1]), perSecond(highest)
	return chart{
		Name: name, Now: now, Peak: peak, Points: strings.Join(points, " "),
		Label: fmt.Sprintf("%s: %s per second now, peak of the last two minutes %s per second", name, now, peak),
	}
}

func perSecond(v float64) string {
	if v == 0 || v >= 10 {
		return fmt.Sprintf("%.0f", math.Round(v))
	}
	return fmt.Sprintf("%.1f", v)
}
