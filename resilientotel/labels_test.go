package resilientotel

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

func TestWhomAnURLCalls(t *testing.T) {
	for url, want := range map[string]server{
		"http://api.test/x":              {"api.test", 80},
		"https://API.test":               {"api.test", 443},
		"https://api.test:8443/a:1/b":    {"api.test", 8443},
		"http://api.test:/":              {"api.test", 80},
		"http://api.test:99999/":         {"api.test", 80},
		"http://[::1]/":                  {"::1", 80},
		"HTTPS://[fe80::1%25eth0]:90/":   {"fe80::1%25eth0", 90},
		"unix://socket/":                 {"socket", 0},
		"tenants":                        {"tenants", 0},
		"://":                            {"", 0},
		"":                               {"", 0},
		"http://:80/":                    {"", 80},
		"http://api.test:80:90/":         {"api.test:80", 90},
		"http://xn--bcher-kva.test/path": {"xn--bcher-kva.test", 80},
	} {
		require.Equal(t, want, serverOf(url), url)
	}
}

func TestManyServersAtOnceAreNotMoreThanTheBound(t *testing.T) {
	for range 100 {
		s := servers{max: 5}
		var all sync.WaitGroup
		told := make([]server, 100)
		for i := range told {
			all.Go(func() { told[i] = s.bound(server{fmt.Sprint("h", i/10), 80}) })
		}
		all.Wait()
		require.Len(t, s.known, 5)
		for i, got := range told {
			if called := (server{fmt.Sprint("h", i/10), 80}); s.known[called] == called {
				require.Equal(t, called, got, "a server has one name")
			}
		}
	}
}

func TestHostsWithoutANameOfTheirOwnAreTakenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, err := New(Config{MaxServers: 1})
		require.NoError(t, err)
		soon := time.Now().Add(9 * time.Second)
		all := tel.summary([]resilient.HostState{
			{Host: "http://a.test", Balance: 10, InFlight: 1},
			{Host: "http://b.test", Balance: 3, InFlight: 2, Trips: 4, Breaker: resilient.BreakerOpen, CoolUntil: soon},
			{Host: "http://c.test", Balance: 7, InFlight: 3, Trips: 5, Breaker: resilient.BreakerOpen},
			{Host: resilient.OtherHosts, Balance: 5, InFlight: 4},
		})
		require.Equal(t, map[server]*hostFigures{
			{"a.test", 80}: {balance: 10, active: 1, states: [3]int64{1, 0, 0}},
			{"_OTHER", 0}:  {balance: 3, active: 9, trips: 9, cooldown: 9, states: [3]int64{1, 2, 0}},
		}, all)
		tel, err = New(Config{})
		require.NoError(t, err)
		require.Contains(t, tel.summary([]resilient.HostState{{Host: resilient.OtherHosts}}), server{"_OTHER", 0})
	})
}
