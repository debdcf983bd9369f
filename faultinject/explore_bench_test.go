package faultinject

import (
	"testing"
	"time"
)

// What a schedule costs at each level: a bubble, a server, a client, one payment
// of up to two attempts and the look at all that came of it.
func BenchmarkExplore(b *testing.B) {
	for _, level := range []Level{OnTransport, OnNetwork, OnWarmNetwork, OnHTTP2} {
		b.Run(level.String(), func(b *testing.B) {
			schedules, start := 0, time.Now()
			for b.Loop() {
				// A bubble needs a *testing.T, which only a test can have.
				ok := testing.RunTests(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{
					Name: "explore",
					F: func(t *testing.T) {
						e := Exploration{Level: level, HonourKeys: true, Attempts: 2}
						schedules += Explore(t, e, paid(payer{})).Schedules
					},
				}})
				if !ok {
					b.Fatal("failed")
				}
			}
			b.ReportMetric(float64(schedules)/time.Since(start).Seconds(), "schedules/s")
		})
	}
}
