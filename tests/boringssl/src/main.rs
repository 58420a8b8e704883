//! A CoAP client on coap-rs over `BoringSSL`: peer ADDRESS IDENTITY.pem|none CA.pem
//!
//! Reads from standard input, a line each, `get PATH ACCEPT`, `post PATH FORMAT FILE` and
//! `observe PATH ACCEPT`; answers each with a line: code, content format, bytes, text.
//! The observation ends with its second notification. It speaks coaps over DTLS 1.3 alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use boring::ssl::{ErrorCode, SslConnector, SslFiletype, SslMethod, SslStream, SslVersion};
use boring::x509::{X509, store::X509StoreBuilder};
use coap::client::{ClientTransport, CoAPClient, ObserveMessage};
use coap::request::{CoapOption, CoapRequest, Method, Packet, RequestBuilder};
use foreign_types::ForeignTypeRef;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, timeout, timeout_at};

const PATIENCE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(50);

type Client = CoAPClient<Association>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let client = match timeout(PATIENCE, dial(&words[1], &words[2], &words[3])).await {
        Ok(Ok(association)) => Ok(CoAPClient::from_transport(association)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err("the handshake did not end".into()),
    };
    let mut lines = BufReader::new(stdin()).lines();
    let mut token = 0_u16;
    while let Some(line) = lines.next_line().await? {
        token += 1;
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = match &client {
            Ok(client) => answer(client, &words, token).await,
            Err(error) => Err(error.to_string().into()),
        };
        if let Err(error) = done {
            println!("none {}", one(&error.to_string()));
        }
    }
    Ok(())
}

async fn answer(client: &Client, words: &[&str], token: u16) -> Result<(), Failure> {
    let format: u16 = words[2].parse()?;
    let option = |kind| vec![(kind, shortest(format))];
    let method = if words[0] == "post" {
        Method::Post
    } else {
        Method::Get
    };
    let mut builder = RequestBuilder::new(words[1], method).token(Some(token.to_be_bytes().into()));
    builder = match words.get(3) {
        Some(file) => builder
            .options(option(CoapOption::ContentFormat))
            .data(Some(std::fs::read(file)?)),
        None => builder.options(option(CoapOption::Accept)),
    };
    if words[0] == "observe" {
        return observe(client, builder.build()).await;
    }
    tell(
        &timeout(PATIENCE, client.send(builder.build()))
            .await??
            .message,
    );
    Ok(())
}

async fn observe(client: &Client, request: CoapRequest<SocketAddr>) -> Result<(), Failure> {
    let (say, mut heard) = unbounded_channel();
    let end = Instant::now() + PATIENCE;
    let handler = move |notification| drop(say.send(notification));
    let observation = timeout_at(end, client.observe_with(request, handler)).await??;
    for _ in 0..2 {
        tell(
            &timeout_at(end, heard.recv())
                .await?
                .ok_or("the observation ended")??,
        );
    }
    let _ = observation.send(ObserveMessage::Terminate);
    Ok(())
}

fn tell(response: &Packet) {
    let format = response.get_first_option(CoapOption::ContentFormat);
    let shown = format.map_or(-1, |bytes| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | i32::from(*byte))
    });
    let text = one(&String::from_utf8_lossy(&response.payload));
    println!(
        "{} {shown} {} {text}",
        response.header.get_code(),
        response.payload.len()
    );
}

/// An unsigned option's value: without leading zeros (RFC 7252 section 3.2).
fn shortest(value: u16) -> Vec<u8> {
    value
        .to_be_bytes()
        .into_iter()
        .skip_while(|byte| *byte == 0)
        .collect()
}

fn one(text: &str) -> String {
    text.replace('\n', " ")
}

/// A datagram socket as `BoringSSL` reads and writes it: a datagram a call, never waiting.
struct Datagrams(Arc<UdpSocket>);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_recv(buffer)
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.try_send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A DTLS 1.3 association by `BoringSSL`.
struct Association {
    socket: Arc<UdpSocket>,
    stream: Mutex<SslStream<Datagrams>>,
}

async fn dial(address: &str, identity: &str, authority: &str) -> Result<Association, Failure> {
    let mut connector = SslConnector::builder(SslMethod::dtls())?;
    connector.set_min_proto_version(Some(SslVersion::DTLS1_3))?;
    connector.set_max_proto_version(Some(SslVersion::DTLS1_3))?;
    let mut trusted = X509StoreBuilder::new()?;
    trusted.add_cert(&X509::from_pem(&std::fs::read(authority)?)?)?;
    connector.set_verify_cert_store(trusted.build())?;
    if identity != "none" {
        connector.set_certificate_chain_file(identity)?;
        connector.set_private_key_file(identity, SslFiletype::PEM)?;
    }
    let socket = Arc::new(UdpSocket::bind("0.0.0.0:0").await?);
    let peer = lookup_host(address)
        .await?
        .find(SocketAddr::is_ipv4)
        .ok_or("no IPv4 address")?;
    socket.connect(peer).await?;
    let (name, _) = address.split_once(':').ok_or("an address is HOST:PORT")?;
    let ssl = connector.build().configure()?.into_ssl(name)?;
    let stream = Mutex::new(SslStream::new(ssl, Datagrams(socket.clone()))?);
    let association = Association { socket, stream };
    association.run(SslStream::connect).await?;
    Ok(association)
}

impl Association {
    /// Do one thing with the stream, as often as it takes: `BoringSSL` wants to read or its time comes.
    async fn run<T>(
        &self,
        mut step: impl FnMut(&mut SslStream<Datagrams>) -> Result<T, boring::ssl::Error>,
    ) -> io::Result<T> {
        loop {
            match self.locked(&mut step) {
                Err(error) if error.would_block() => {}
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    return Err(io::Error::new(
                        ErrorKind::ConnectionAborted,
                        "closed by the peer",
                    ));
                }
                Err(error) => return Err(error.into_io_error().unwrap_or_else(io::Error::other)),
                Ok(done) => return Ok(done),
            }
            let _ = timeout(TICK, self.socket.readable()).await;
            self.locked(|stream| {
                // SAFETY: the pointer is the stream's own, and the lock is held.
                unsafe { boring_sys::DTLSv1_handle_timeout(stream.ssl().as_ptr()) }
            });
        }
    }

    fn locked<T>(&self, mut step: impl FnMut(&mut SslStream<Datagrams>) -> T) -> T {
        step(&mut self.stream.lock().expect("no step panics"))
    }
}

#[async_trait]
impl ClientTransport for Association {
    async fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        let length = self.run(|stream| stream.ssl_read(buffer)).await?;
        Ok((length, None))
    }

    async fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.run(|stream| stream.ssl_write(datagram)).await
    }
}
