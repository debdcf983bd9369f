package faultinject

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

// TLSFaults returns the faults that strike where a TLS connection is made, each in
// all its faces. They are apart from [Catalogue] since without TLS they pass. Over
// TLS, on HTTP/1.1 and HTTP/2 alike, a request meets:
//
//	fault                           truth         what the client sees
//	bad-cert(untrusted)             never-sent    x509.UnknownAuthorityError
//	bad-cert(expired)               never-sent    x509.CertificateInvalidError
//	bad-cert(wrong-host)            never-sent    x509.HostnameError
//	stall-handshake                 never-sent    its own deadline
//	cut-handshake(fin)              never-sent    EOF
//	cut-handshake(rst)              never-sent    read: connection reset by peer
//
// The errors of package x509 are inside a *tls.CertificateVerificationError. A
// http.Transport with a TLSHandshakeTimeout ends a stalled handshake by it.
func TLSFaults() []Fault {
	return []Fault{
		BadCert(Untrusted), BadCert(Expired), BadCert(WrongHost),
		StallHandshake(), CutHandshake(FIN), CutHandshake(RST),
	}
}

// An Authority issues the certificates of servers under test. It lives in memory
// and is valid from 1990 to 2100: the clock of a testing/synctest bubble starts in
// 2000. Networks share one through [Network.Authority], across bubbles too, and
// spare themselves keys and signatures. Made by [NewAuthority]; costs nothing until
// it is used. Safe for concurrent use.
type Authority struct {
	name string

	mu     sync.Mutex
	root   *tls.Certificate // nil until used
	issued map[string]*tls.Certificate
}

// NewAuthority returns an authority that nobody trusts yet.
func NewAuthority() *Authority { return &Authority{name: "faultinject"} }

// Pool returns what a client must trust, for tls.Config.RootCAs. It is empty if the
// machine has no randomness to make a key from; then handshakes fail.
func (a *Authority) Pool() *x509.CertPool {
	a.mu.Lock()
	defer a.mu.Unlock()
	pool := x509.NewCertPool()
	if root, err := a.rootLocked(); err == nil {
		pool.AddCert(root.Leaf)
	}
	return pool
}

// certificate returns the certificate of these hosts, each a name or an IP.
func (a *Authority) certificate(hosts ...string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := strings.Join(hosts, ",")
	if c := a.issued[id]; c != nil {
		return c, nil
	}
	c, err := a.issueLocked(always(hosts...))
	if err != nil {
		return nil, err
	}
	if a.issued == nil {
		a.issued = make(map[string]*tls.Certificate)
	}
	a.issued[id] = c
	return c, nil
}

// flawed returns a certificate that must be refused by a client who trusts a and
// wants one of these hosts.
func (a *Authority) flawed(flaw CertFlaw, hosts ...string) (*tls.Certificate, error) {
	switch flaw {
	case Untrusted:
		stranger := &Authority{name: "nobody"}
		return stranger.certificate(hosts...)
	case WrongHost:
		return a.certificate("another.invalid") // RFC 2606, section 2
	case Expired: // below
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	was := always(hosts...)
	was.NotAfter = time.Now().Add(-time.Hour)
	return a.issueLocked(was)
}

func (a *Authority) issueLocked(template *x509.Certificate) (*tls.Certificate, error) {
	root, err := a.rootLocked()
	if err != nil {
		return nil, err
	}
	return sign(template, root)
}

func (a *Authority) rootLocked() (*tls.Certificate, error) {
	if a.root != nil {
		return a.root, nil
	}
	template := always()
	template.Subject = pkix.Name{CommonName: a.name}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	var err error
	a.root, err = sign(template, nil)
	return a.root, err
}

// always is a certificate of these hosts that no clock can make expire.
func always(hosts ...string) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, host)
		}
	}
	return c
}

// sign makes a key for the certificate and lets the parent sign it, or the key
// itself.
func sign(template *x509.Certificate, parent *tls.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.Leaf, parent.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// identity is a server's side of TLS.
type identity struct {
	authority *Authority
	hosts     []string // empty: whatever a client asks for
}

// config is what the server shakes hands with, on a connection struck by f.
func (i *identity) config(f Fault) *tls.Config {
	return &tls.Config{
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			hosts := i.hosts
			if len(hosts) == 0 {
				hosts = []string{hello.ServerName}
			}
			if f.kind == badCert {
				return i.authority.flawed(CertFlaw(f.at), hosts...)
			}
			return i.authority.certificate(hosts...)
		},
	}
}

// client is what a client needs to trust the server.
func (i *identity) client() *tls.Config { return &tls.Config{RootCAs: i.authority.Pool()} }

// handshake plays the TLS handshake of an exchange struck by f.
func (c *call) handshake(f Fault) error {
	if c.req.URL.Scheme != "https" {
		return nil
	}
	if c.trace.TLSHandshakeStart != nil {
		c.trace.TLSHandshakeStart()
	}
	if f.kind == stallHandshake {
		return c.wait(nil) // net/http's own handshake outlives its request, and so fires no more
	}
	err := c.handshakeError(f)
	if c.trace.TLSHandshakeDone != nil {
		var state tls.ConnectionState
		if err == nil {
			state = *session(c.req)
		}
		c.trace.TLSHandshakeDone(state, err)
	}
	return err
}

func (c *call) handshakeError(f Fault) error {
	switch f.kind {
	case cutHandshake, hangUp:
		return dead(f.how, io.EOF, address(c.addr))
	case badCert:
		return refusal(CertFlaw(f.at), c.req.URL.Hostname())
	}
	return nil
}

// refusal is what package crypto/tls makes of a flawed certificate: the very
// check that a client makes.
func refusal(flaw CertFlaw, host string) error {
	a := NewAuthority()
	cert, err := a.flawed(flaw, host)
	if err != nil {
		return err
	}
	_, err = cert.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: host})
	if err == nil {
		return errors.New("faultinject: a flawed certificate was accepted")
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{cert.Leaf}, Err: err}
}
