// Payments charges a thousand orders over a network that fails four attempts in
// ten, three times over: with plain net/http, with net/http in the retry loop
// that everybody has written, and with resilient. The shop that they charge at
// honours keys by package idempotency. Then the ledger is opened, and what each
// client was told is held against what happened.
//
//	go run ./examples/payments
//
// It ends with status 1 if resilient charged an order twice, or told anything
// that the ledger does not bear out.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// settings is what a run can be told to be.
type settings struct {
	charges, workers int
	seed             uint64
	rate             float64       // the share of the attempts that faults strike
	pause            time.Duration // before what was left open is resumed
	progress         io.Writer
	live             bool // progress is a terminal
}

func main() {
	s := settings{progress: os.Stderr, live: isTerminal(os.Stderr)}
	flag.IntVar(&s.charges, "charges", 1000, "orders to charge")
	flag.IntVar(&s.workers, "workers", 40, "charges under way at once")
	flag.Uint64Var(&s.seed, "seed", 1, "of the faults")
	flag.Float64Var(&s.rate, "rate", 0.4, "share of the attempts that a fault strikes")
	flag.DurationVar(&s.pause, "pause", 500*time.Millisecond, "before open charges are resumed")
	flag.Parse()
	ok, err := run(context.Background(), s, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "payments:", err)
	}
	if !ok {
		os.Exit(1)
	}
}

// run lets the three charge the same orders, each at a shop of its own with the
// same faults, and prints what came of it.
func run(ctx context.Context, s settings, out io.Writer) (ok bool, err error) {
	fmt.Fprintf(out, "%d charges each, %d at a time; faults strike %.0f %% of the attempts (seed %d)\n\n",
		s.charges, s.workers, 100*s.rate, s.seed)
	contestants := []contestant{plain, loop, ours}
	results := make([]result, len(contestants))
	for i, c := range contestants {
		if results[i], err = s.contest(ctx, c, out); err != nil {
			return false, err
		}
	}
	table(out, results)
	return results[len(results)-1].sound(), nil
}

// contest lets one client charge all orders, and opens the ledger.
func (s settings) contest(ctx context.Context, c contestant, out io.Writer) (result, error) {
	shop, err := openShop(ctx, s.seed, s.rate)
	if err != nil {
		return result{}, err
	}
	defer shop.close()
	start := time.Now()
	till, err := c.open(shop)
	if err != nil {
		return result{}, err
	}
	told := make([]report, s.charges)
	open := make([]int, s.charges)
	for i := range open {
		open[i] = i
	}
	var r result
	for pass := 1; len(open) > 0 && pass <= c.passes; pass++ {
		if pass > 1 {
			rest(ctx, s.pause)
		}
		s.charge(ctx, c.name, till, open, told)
		r = shop.audit(r, told) // of every pass: what is told on the way must be true as well
		still := unsettled(open, told)
		if c.passes > 1 {
			fmt.Fprintln(out, passLine(c.name, pass, open, still, told))
		}
		open = still
	}
	r.name, r.took, r.attempts = c.name, time.Since(start), till.attempts()
	return r, nil
}

// charge has the workers charge the open orders.
func (s settings) charge(ctx context.Context, name string, t till, open []int, told []report) {
	queue := make(chan int)
	var workers sync.WaitGroup
	for range s.workers {
		workers.Go(func() {
			for order := range queue {
				told[order] = t.charge(ctx, order, told[order])
				rest(ctx, time.Until(told[order].notBefore))
			}
		})
	}
	for done, order := range open {
		queue <- order
		if s.live && done%20 == 0 {
			fmt.Fprintf(s.progress, "\r%-20s %5d of %d ", name, done, len(open))
		}
	}
	close(queue)
	workers.Wait()
	if s.live {
		fmt.Fprintf(s.progress, "\r%40s\r", "")
	}
}

// rest waits, unless there is nothing to wait for.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// unsettled is which of the orders were not told an end.
func unsettled(orders []int, told []report) (open []int) {
	for _, order := range orders {
		if told[order].says != paid {
			open = append(open, order)
		}
	}
	return open
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
