package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Codes and options of RFC 7252, 7641 and 8323.
const (
	get, post, put   = 0x01, 0x02, 0x03
	csm              = 0xe1
	success          = 2 // the class of a response code
	observe          = 6
	uriPath          = 11
	contentFormat    = 12
	jsonFormat       = 50
	marker           = 0xff
	confirmable      = 0x40
	patience         = time.Second
	opening          = 16 // handshakes at once
	datagramBytesMax = 2048
)

func option(b []byte, delta int, value string) []byte {
	if len(value) > 12 {
		panic("no option here is that long")
	}
	return append(append(b, byte(delta<<4|len(value))), value...)
}

// frame writes a message for a reliable transport (RFC 8323 section 3.2), its token of 4 bytes.
func frame(code byte, token uint32, rest []byte) []byte {
	var head []byte
	switch n := len(rest); {
	case n < 13:
		head = []byte{byte(n<<4 | 4)}
	case n < 269:
		head = []byte{13<<4 | 4, byte(n - 13)}
	default:
		head = []byte{14<<4 | 4, byte((n - 269) >> 8), byte(n - 269)}
	}
	return append(binary.BigEndian.AppendUint32(append(head, code), token), rest...)
}

// hear reads one message; signals are passed over.
func hear(r *bufio.Reader) (code byte, token uint32) {
	for {
		first, err := r.ReadByte()
		must(err)
		length := int(first >> 4)
		for i, base := range []int{13, 269, 65805} {
			if int(first>>4) == 13+i {
				var more [4]byte
				size := 1 << i
				_, err = io.ReadFull(r, more[4-size:])
				must(err)
				length = int(binary.BigEndian.Uint32(more[:])) + base
			}
		}
		code, err = r.ReadByte()
		must(err)
		body := make([]byte, int(first&15)+length)
		_, err = io.ReadFull(r, body)
		must(err)
		if code>>5 == 7 {
			continue
		}
		if first&15 == 4 {
			token = binary.BigEndian.Uint32(body)
		}
		return code, token
	}
}

type session struct {
	conn   *tls.Conn
	reader *bufio.Reader
}

// sessions opens one per device, some at once.
func sessions() []*session {
	listed, err := os.ReadFile(*devices)
	must(err)
	lines := strings.Fields(string(listed))
	all := make([]*session, len(lines))
	var waiting sync.WaitGroup
	places := make(chan struct{}, opening)
	for i, line := range lines {
		waiting.Add(1)
		places <- struct{}{}
		go func() {
			defer waiting.Done()
			part := strings.Split(line, ",")
			conn := dialTLS(part[1], part[2])
			_, err := conn.Write([]byte{0, csm})
			must(err)
			all[i] = &session{conn, bufio.NewReaderSize(conn, 4096)}
			<-places
		}()
	}
	waiting.Wait()
	return all
}

func (s *session) ask(code byte, sequence int) {
	rest := option(option(option(nil, uriPath, "events"), 0, "heat"), contentFormat-uriPath, string(rune(jsonFormat)))
	body := fmt.Sprintf(`{"boot": 1, "sequence": %d, "body": "%s"}`, sequence, strings.Repeat("x", *size))
	_, err := s.conn.Write(frame(code, uint32(sequence), append(append(rest, marker), body...)))
	must(err)
	if answered, token := hear(s.reader); answered>>5 != success || token != uint32(sequence) {
		fmt.Fprintf(os.Stderr, "answered with %d.%02d\n", answered>>5, answered&31)
		os.Exit(1)
	}
}

// asking asks in each session, one request at a time, for so long; it prints how many were answered.
func asking(all []func(sequence int)) {
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	var waiting sync.WaitGroup
	var answered atomic.Int64
	ends := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	for _, ask := range all {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			for sequence := 1; time.Now().Before(ends); sequence++ {
				ask(sequence)
				answered.Add(1)
			}
		}()
	}
	waiting.Wait()
	fmt.Println(answered.Load())
}

func coapOverTLS() {
	code := map[string]byte{"POST": post, "PUT": put}[*method]
	var all []func(int)
	for _, one := range sessions() {
		all = append(all, func(sequence int) { one.ask(code, sequence) })
	}
	asking(all)
}

// observed waits in each session until it is told of one command; it prints the seconds until all were.
func observed() {
	all := sessions()
	for _, one := range all {
		_, err := one.conn.Write(frame(get, 1, option(option(nil, observe, ""), uriPath-observe, "commands")))
		must(err)
		hear(one.reader)
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	began := time.Now()
	var waiting sync.WaitGroup
	for _, one := range all {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			hear(one.reader)
		}()
	}
	waiting.Wait()
	fmt.Printf("%.3f\n", time.Since(began).Seconds())
}

// discovery asks over plain UDP, again where no answer comes in time. A bare acknowledgement is an
// answer too: our bridge says no more to most of those who are nobody.
func discovery() {
	var all []func(int)
	for range *count {
		conn, err := net.Dial("udp", *addr)
		must(err)
		buffer := make([]byte, datagramBytesMax)
		all = append(all, func(sequence int) {
			message := []byte{confirmable | 2, get, byte(sequence >> 8), byte(sequence), byte(sequence >> 8), byte(sequence)}
			message = option(option(message, uriPath, ".well-known"), 0, "core")
			wanted := func(n int) bool {
				return n > 3 && buffer[2] == byte(sequence>>8) && buffer[3] == byte(sequence)
			}
			for {
				_, err := conn.Write(message)
				must(err)
				must(conn.SetReadDeadline(time.Now().Add(patience)))
				for err == nil { // a late answer to what was asked before is passed over
					var n int
					if n, err = conn.Read(buffer); err == nil && wanted(n) {
						return
					}
				}
			}
		})
	}
	asking(all)
}
