// Command load is devices: it publishes JSON reports at QoS 1 over MQTT 5 and mutual TLS 1.3, one
// connection per device, a window of unacknowledged messages each; or it speaks CoAP. Standard
// library only.
//
//	load publish -devices FILE -n COUNT    one line "id,certificate,key" per device
//	load session -id NAME -cert F -key F   makes a persistent session on bucket/# and leaves it
//	load coap -devices FILE -seconds S     asks over coaps+tcp, one request of each device at a time
//	load observe -devices FILE             waits over coaps+tcp until each device is told of a command
//	load discovery -n SOCKETS -seconds S   asks for /.well-known/core over UDP
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	addr     = flag.String("addr", "localhost:8883", "the broker")
	ca       = flag.String("ca", "", "who signed the broker, PEM")
	devices  = flag.String("devices", "", "file of devices")
	count    = flag.Int("n", 100_000, "messages in all")
	rate     = flag.Float64("rate", 0, "messages per second in all; 0: as fast as it goes")
	window   = flag.Int("window", 100, "unacknowledged messages per device")
	size     = flag.Int("size", 120, "bytes of a payload, about")
	boot     = flag.Int64("boot", 1, "the boot counter in the numbers")
	numbered = flag.Bool("numbered", false, "number the reports, and listen to recorded")
	id       = flag.String("id", "", "client id of the session")
	cert     = flag.String("cert", "", "its certificate")
	key      = flag.String("key", "", "its key")
	seconds  = flag.Float64("seconds", 10, "how long to ask")
	method   = flag.String("method", "POST", "what to ask with: POST or PUT")
	told     atomic.Int64
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func varint(b []byte, n int) []byte {
	for n > 127 {
		b, n = append(b, byte(n)|128), n>>7
	}
	return append(b, byte(n))
}

func text(b []byte, s string) []byte { return append(append(b, byte(len(s)>>8), byte(len(s))), s...) }

func packet(header byte, body []byte) []byte {
	return append(varint([]byte{header}, len(body)), body...)
}

func read(r *bufio.Reader) (byte, []byte) {
	header, err := r.ReadByte()
	must(err)
	length, shift := 0, 0
	for {
		b, err := r.ReadByte()
		must(err)
		length |= int(b&127) << shift
		if shift += 7; b < 128 {
			break
		}
	}
	body := make([]byte, length)
	_, err = io.ReadFull(r, body)
	must(err)
	return header, body
}

func dialTLS(certFile, keyFile string) *tls.Conn {
	pem, err := os.ReadFile(*ca)
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(err)
	settings := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, ServerName: "localhost"}
	conn, err := tls.Dial("tcp", *addr, settings)
	must(err)
	return conn
}

func dial(name, certFile, keyFile string, clean bool) (*tls.Conn, *bufio.Reader) {
	conn := dialTLS(certFile, keyFile)
	flags, properties := byte(2), []byte{0}
	if !clean {
		flags, properties = 0, []byte{5, 0x11, 255, 255, 255, 255} // the session never expires
	}
	body := append(text(nil, "MQTT"), 5, flags, 0, 0)
	_, err := conn.Write(packet(0x10, text(append(body, properties...), name)))
	must(err)
	reader := bufio.NewReaderSize(conn, 65536)
	if header, answer := read(reader); header != 0x20 || answer[1] != 0 {
		log.Fatalf("%s: refused with %v", name, answer)
	}
	return conn, reader
}

func subscribe(conn *tls.Conn, reader *bufio.Reader, pattern string) {
	_, err := conn.Write(packet(0x82, append(text([]byte{0, 1, 0}, pattern), 1)))
	must(err)
	for {
		if header, _ := read(reader); header == 0x90 {
			return
		}
	}
}

// A device publishes its share in its own order and waits for every PUBACK.
type device struct {
	name   string
	conn   *tls.Conn
	reader *bufio.Reader
	lock   sync.Mutex
	out    *bufio.Writer
}

func (d *device) write(b []byte, flush bool) {
	d.lock.Lock()
	defer d.lock.Unlock()
	_, err := d.out.Write(b)
	must(err)
	if flush {
		must(d.out.Flush())
	}
}

// listen frees a place in the window for each PUBACK, and acknowledges what comes down.
func (d *device) listen(free chan struct{}, messages int, done *sync.WaitGroup) {
	defer done.Done()
	for acknowledged := 0; acknowledged < messages; {
		header, body := read(d.reader)
		if header>>4 == 4 {
			acknowledged++
			<-free
		} else if header>>4 == 3 {
			d.heard(body)
		}
	}
}

func (d *device) heard(body []byte) {
	at := 2 + int(body[0])<<8 + int(body[1])
	d.write(packet(0x40, body[at:at+2]), true)
	var said struct{ Recorded [][2]int64 }
	payload := body[at+3+int(body[at+2]):]
	must(json.Unmarshal(payload, &said))
	told.Add(int64(len(said.Recorded)))
}

func (d *device) publish(messages int, free chan struct{}, pace time.Duration) {
	topic, kind := "devices/"+d.name+"/events/reading", "application/json"
	properties := append([]byte{byte(len(kind) + 3), 3}, text(nil, kind)...)
	next := time.Now()
	for sequence := 1; sequence <= messages; sequence++ {
		if pace > 0 {
			next = next.Add(pace)
			time.Sleep(time.Until(next))
		}
		select {
		case free <- struct{}{}:
		default:
			d.write(nil, true)
			free <- struct{}{}
		}
		body := fmt.Sprintf(`{"sent":%d,`, time.Now().UnixMilli())
		if *numbered {
			body += fmt.Sprintf(`"boot":%d,"sequence":%d,`, *boot, sequence)
		}
		body += `"body":"`
		body += strings.Repeat("x", max(0, *size-len(body)-2)) + `"}`
		out := append(text(nil, topic), byte(sequence>>8), byte(sequence))
		if out[len(out)-1] == 0 && out[len(out)-2] == 0 {
			out[len(out)-1] = 1 // a packet id is never 0
		}
		d.write(packet(0x32, append(append(out, properties...), body...)), pace > 0)
	}
	d.write(nil, true)
}

func publish() {
	listed, err := os.ReadFile(*devices)
	must(err)
	lines := strings.Fields(string(listed))
	var all []*device
	for _, line := range lines {
		part := strings.Split(line, ",")
		conn, reader := dial(part[0], part[1], part[2], true)
		if *numbered {
			subscribe(conn, reader, "devices/"+part[0]+"/recorded")
		}
		all = append(all, &device{name: part[0], conn: conn, reader: reader, out: bufio.NewWriterSize(conn, 16384)})
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	var done sync.WaitGroup
	began := time.Now()
	var pace time.Duration
	if *rate > 0 {
		pace = time.Duration(float64(len(all)) / *rate * float64(time.Second))
	}
	for i, d := range all {
		messages, free := *count/len(all), make(chan struct{}, *window)
		if i < *count%len(all) {
			messages++
		}
		done.Add(1)
		go d.listen(free, messages, &done)
		go d.publish(messages, free, pace)
	}
	done.Wait()
	fmt.Printf("published %d in %.3f\n", *count, time.Since(began).Seconds())
	bufio.NewReader(os.Stdin).ReadString('\n') // the sessions stay until told
	fmt.Printf("told %d\n", told.Load())
	for _, d := range all {
		d.write([]byte{0xe0, 0}, true)
		d.conn.Close()
	}
}

func main() {
	command := os.Args[1]
	must(flag.CommandLine.Parse(os.Args[2:]))
	if command == "session" {
		conn, reader := dial(*id, *cert, *key, false)
		subscribe(conn, reader, "bucket/#")
		_, err := conn.Write([]byte{0xe0, 0})
		must(err)
		conn.Close()
		return
	}
	if work := map[string]func(){"coap": coapOverTLS, "observe": observed, "discovery": discovery}[command]; work != nil {
		work()
		return
	}
	publish()
}
