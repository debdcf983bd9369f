package main

import (
	_ "embed"
	"regexp"
	"strings"
)

// Peer is a client to compare, with how it is set up.
type Peer struct {
	Name   string
	Module string // in go.mod; "" for the standard library and for ours
	Beside string // another module that the configuration is made of; "" for none
	Setup  string // its configuration, as printed
	Why    string // where that comes from
	New    func(Env) (Client, error)
}

// Names that the rows speak of.
const (
	bare      = "net/http"
	ours      = "resilient"
	unbounded = "resilient, no budget, no breaker"
)

// Peers are all there are to compare, net/http first and ours last.
func Peers() []Peer {
	return []Peer{
		plain, handWritten,
		retryable, failsafeRetry, failsafeBreaker, restyPeer, rehttpPeer, httpretryPeer, heimdallPeer,
		azurePeer, awsPeer, stripePeer,
		oursUnbounded, oursShipped,
	}
}

//go:embed go.mod
var goMod string

// Version is what go.mod requires; "" where there is nothing to require.
func (p *Peer) Version() string { return required(p.Module) }

// Versions has that of the other module too.
func (p *Peer) Versions() string {
	if p.Beside == "" {
		return p.Version()
	}
	return p.Version() + ", " + strings.TrimPrefix(p.Beside, "github.com/") + " " + required(p.Beside)
}

func required(module string) string {
	if module == "" {
		return ""
	}
	found := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (v\S+)`).FindStringSubmatch(goMod)
	if found == nil {
		return "?"
	}
	return found[1]
}
