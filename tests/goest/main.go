// An EST client on GlobalSign's est: peer HOST:PORT IDENTITY.pem|none CA.pem
//
// Reads from standard input, a line each, `cacerts`, `csrattrs`, `renew CSR OUT` and
// `enrol CSR OUT USER TOKEN`, the CSR in DER; answers each with a line: the status, then how many
// certificates, the attributes, how many bytes went to OUT, when to ask again, or what went wrong.
// `none` is no answer at all. After a 202 `again OUT` sends the same request once more.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/globalsign/est"
)

const patience = 15 * time.Second

type peer struct {
	client est.Client
	last   func(context.Context) (*x509.Certificate, error)
}

func main() {
	one, err := begun(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		said, err := one.answer(strings.Fields(lines.Text()))
		if err != nil {
			said = refusal(err)
		}
		fmt.Println(strings.Join(strings.Fields(said), " "))
	}
}

func begun(address, identity, authority string) (*peer, error) {
	trusted, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(trusted)
	made := &peer{client: est.Client{Host: address, ExplicitAnchor: pool}}
	if identity != "none" {
		own, err := tls.LoadX509KeyPair(identity, identity)
		if err != nil {
			return nil, err
		}
		made.client.Certificates = []*x509.Certificate{own.Leaf}
		made.client.PrivateKey = own.PrivateKey
	}
	return made, nil
}

func (one *peer) answer(words []string) (string, error) {
	ctx, done := context.WithTimeout(context.Background(), patience)
	defer done()
	switch words[0] {
	case "cacerts":
		found, err := one.client.CACerts(ctx)
		return fmt.Sprint("200 ", len(found)), err
	case "csrattrs":
		found, err := one.client.CSRAttrs(ctx)
		said := "200"
		for _, attribute := range found.Attributes {
			said += " " + attribute.Type.String()
		}
		for _, identifier := range found.OIDs {
			said += " " + identifier.String()
		}
		return said, err
	case "renew", "enrol":
		client := one.client
		ask := client.Reenroll
		if words[0] == "enrol" {
			client.Username, client.Password = words[3], words[4]
			ask = client.Enroll
		}
		der, err := os.ReadFile(words[1])
		if err != nil {
			return "", err
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			return "", err
		}
		one.last = func(ctx context.Context) (*x509.Certificate, error) { return ask(ctx, csr) }
		return one.certified(ctx, words[2])
	case "again":
		return one.certified(ctx, words[1])
	}
	return "unknown", nil
}

func (one *peer) certified(ctx context.Context, out string) (string, error) {
	made, err := one.last(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprint("200 ", len(made.Raw)), os.WriteFile(out, made.Raw, 0o600)
}

func refusal(err error) string {
	var refused est.Error
	if !errors.As(err, &refused) {
		return "none " + err.Error()
	}
	if refused.RetryAfter() > 0 {
		return fmt.Sprint(refused.StatusCode(), " ", refused.RetryAfter())
	}
	return fmt.Sprint(refused.StatusCode(), " ", refused.Error())
}
