package faultinject

import "sync"

// group counts what is under way. Unlike a sync.WaitGroup it may be added to
// while somebody waits, as a server must. Its zero value is ready.
type group struct {
	mu   sync.Mutex
	cond *sync.Cond
	n    int
}

func (g *group) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cond == nil {
		g.cond = sync.NewCond(&g.mu)
	}
	g.n += n
	g.cond.Broadcast()
}

// during runs f here and counts it.
func (g *group) during(f func()) {
	g.add(1)
	defer g.add(-1)
	f()
}

// start runs f in a goroutine and counts it from now on.
func (g *group) start(f func()) {
	g.add(1)
	go func() {
		defer g.add(-1)
		f()
	}()
}

// wait returns when nothing is under way.
func (g *group) wait() {
	g.add(0)
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.n > 0 {
		g.cond.Wait()
	}
}
