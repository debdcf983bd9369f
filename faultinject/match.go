package faultinject

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// Match asks the plan about the exchanges that the pattern matches; all others
// pass. The pattern is one of http.ServeMux: "POST /charge/{id}", "shop.test/",
// "GET /files/{rest...}", "/exactly/{$}"; GET stands for HEAD too. The methods
// DIAL and ACCEPT mean connections, whose path is "/": "DIAL shop.test/". A
// pattern without a method matches them as well.
//
// A host without a port matches that host at any port, "shop.test:8080/" only
// requests that name the port; neither depends on upper or lower case. A path is
// cleaned first, and nothing is redirected: "/a/" does not match "/a".
func Match(pattern string, plan Plan) Plan {
	p, err := newPattern(pattern)
	if err != nil {
		return senseless("pattern %q: %v", pattern, err)
	}
	return match{p, plan}
}

type match struct {
	pattern
	plan Plan
}

func (m match) Decide(x Exchange) Fault {
	if !m.matches(x) {
		return Pass()
	}
	return decide(m.plan, x)
}

// pattern leaves the matching to a ServeMux with nothing else in it.
type pattern struct {
	text string
	port string // asked for; a ServeMux knows none
	mux  *http.ServeMux
}

// hit is the handler by which a match shows: redirects have another.
type hit struct{}

func (hit) ServeHTTP(http.ResponseWriter, *http.Request) {}

func newPattern(text string) (p pattern, err error) {
	method, rest := "", text
	if i := strings.LastIndexAny(text[:max(strings.Index(text, "/"), 0)], " \t"); i >= 0 {
		method, rest = text[:i+1], text[i+1:]
	}
	host, path, slash := strings.Cut(rest, "/")
	p = pattern{text: text, mux: http.NewServeMux()}
	if host, p.port = splitHost(host); slash {
		rest = host + "/" + path
	}
	defer func() { // the only way to ask for the syntax
		if why := recover(); why != nil {
			err = fmt.Errorf("%v", why)
		}
	}()
	p.mux.Handle(method+rest, hit{})
	return p, nil
}

// splitHost returns the name in lower case, an IPv6 address without brackets.
func splitHost(hostPort string) (host, port string) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(hostPort, "["), "]"), ""
	}
	return strings.ToLower(host), port
}

func (p pattern) matches(x Exchange) bool {
	host, port := splitHost(x.Host)
	if p.port != "" && p.port != port {
		return false
	}
	clean := path.Clean("/" + x.Path)
	if strings.HasSuffix(x.Path, "/") && clean != "/" {
		clean += "/"
	}
	h, _ := p.mux.Handler(&http.Request{Method: x.Method, Host: host, URL: &url.URL{Path: clean, Host: host}})
	_, ok := h.(hit)
	return ok
}
