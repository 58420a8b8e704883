// A CoAP client on go-coap: peer ADDRESS IDENTITY.pem|none CA.pem
//
// Reads from standard input, a line each, `get PATH ACCEPT`, `post PATH FORMAT FILE` and
// `observe PATH ACCEPT`; answers each with a line: code, content format, bytes, text.
// The observation ends with its second notification. It speaks coaps+tcp (RFC 8323) over Go's TLS.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/message/pool"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/tcp"
	"github.com/plgd-dev/go-coap/v3/tcp/client"
)

const patience = 15 * time.Second

func main() {
	connection, err := dial(os.Args[1], os.Args[2], os.Args[3])
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err != nil {
			fmt.Println("none", one(err.Error()))
			continue
		}
		answer(connection, strings.Fields(lines.Text()))
	}
}

func dial(address, identity, authority string) (*client.Conn, error) {
	trusted, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(trusted)
	name, _, _ := strings.Cut(address, ":")
	config := &tls.Config{RootCAs: pool, ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: []string{"coap"}}
	if identity != "none" {
		own, err := tls.LoadX509KeyPair(identity, identity)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	quiet := options.WithErrors(func(error) {})
	return tcp.Dial(address, options.WithTLS(config), options.WithMaxMessageSize(200_000), quiet)
}

func answer(connection *client.Conn, words []string) {
	format, _ := strconv.Atoi(words[2])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	path, media := "/"+words[1], message.MediaType(format)
	accept := message.Option{ID: message.Accept, Value: encoded(uint32(format))}
	var response *pool.Message
	var err error
	switch words[0] {
	case "observe":
		observe(ctx, connection, path, accept)
		return
	case "post":
		var body []byte
		if body, err = os.ReadFile(words[3]); err == nil {
			response, err = connection.Post(ctx, path, media, bytes.NewReader(body))
		}
	default:
		response, err = connection.Get(ctx, path, accept)
	}
	if err != nil {
		fmt.Println("none", one(err.Error()))
		return
	}
	tell(response)
}

func observe(ctx context.Context, connection *client.Conn, path string, accept message.Option) {
	heard := make(chan struct{}, 16)
	observation, err := connection.Observe(ctx, path, func(notification *pool.Message) {
		tell(notification)
		heard <- struct{}{}
	}, accept)
	if err != nil {
		fmt.Println("none", one(err.Error()))
		return
	}
	for range 2 {
		select {
		case <-heard:
		case <-ctx.Done():
			return
		}
	}
	_ = observation.Cancel(ctx)
}

func tell(response *pool.Message) {
	body, _ := response.ReadBody()
	format, err := response.ContentFormat()
	shown := strconv.Itoa(int(format))
	if err != nil {
		shown = "-1"
	}
	code := response.Code()
	fmt.Printf("%s %s %d %s\n", number(code), shown, len(body), one(string(body)))
}

func number(code codes.Code) string {
	return fmt.Sprintf("%d.%02d", int(code)>>5, int(code)&31)
}

func encoded(value uint32) []byte {
	buffer := make([]byte, 4)
	length, _ := message.EncodeUint32(buffer, value)
	return buffer[:length]
}

func one(text string) string {
	return strings.ReplaceAll(text, "\n", " ")
}
