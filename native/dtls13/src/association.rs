//! One DTLS 1.3 association (RFC 9147), bounded on every side and never panicking.
//!
//! Rules of this file: every call drains what the engine has to say, for its queues overflow
//! fatally; the peer's certificate is told only together with `Connected`, for before that its
//! owner has proven nothing; whatever goes wrong becomes `Failed`, and the association is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, DtlsCertificate};

/// The longest datagram that is looked at: a jumbo frame. Longer ones are dropped.
pub const DATAGRAM_BYTES_MAX: usize = 9_216;

/// What a record adds to its content: unified header, content type, authentication tag.
pub const OVERHEAD_BYTES: usize = 32;

/// dimpl panics when a certificate does not fit the buffer it is told in.
const BUFFER_BYTES: usize = 65_536;

/// What one call may bring about at most; more means that the engine goes round in circles.
const OUTPUTS_MAX: usize = 1_024;

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// To be sent to the peer.
    Datagram(Vec<u8>),
    /// The handshake is over; the peer owns the key of this certificate (DER). Nothing is known
    /// about who issued it.
    Connected(Vec<u8>),
    /// What the peer sent.
    Data(Vec<u8>),
    /// The peer closed the association in good order.
    Closed,
    /// The association is over; the text says why.
    Failed(String),
}

/// How a handshake is done; spans and sizes have the units of their names.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest datagram that is sent, in bytes.
    pub mtu: usize,
    /// When the first retransmission of a flight is due; doubled for each further one.
    pub retransmit: Duration,
    /// How often a flight is retransmitted at most.
    pub retries: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
}

/// The half of the set-up that all associations share. Making one takes milliseconds: the
/// cryptographic provider tests itself.
#[derive(Debug)]
pub struct Context {
    config: Arc<Config>,
    certificate: DtlsCertificate,
    server: bool,
    send_bytes_max: usize,
}

impl Context {
    /// Make a context from a certificate and its PKCS #8 or SEC 1 key, both DER.
    ///
    /// # Errors
    /// A text, when the key is not ECDSA P-256 or P-384 (dimpl would panic later), or a limit is
    /// out of range.
    pub fn new(
        server: bool,
        certificate: Vec<u8>,
        private_key: Vec<u8>,
        limits: Limits,
    ) -> Result<Self, String> {
        let built = guarded(|| {
            Config::builder()
                .mtu(limits.mtu)
                .use_server_cookie(true)
                .require_client_certificate(true)
                .dtls12_cipher_suites(&[])
                .flight_start_rto(limits.retransmit)
                .flight_retries(limits.retries)
                .handshake_timeout(limits.handshake)
                .build()
                .map_err(|error| error.to_string())
        });
        let config = Arc::new(built.and_then(|inner| inner)?);
        let loaded = guarded(|| {
            let provider = config.crypto_provider().key_provider;
            provider.load_private_key(&private_key).map(drop)
        });
        if !matches!(loaded, Ok(Ok(()))) {
            return Err("the private key is not ECDSA P-256 or P-384".to_owned());
        }
        Ok(Self {
            config,
            certificate: DtlsCertificate {
                certificate,
                private_key,
            },
            server,
            send_bytes_max: limits.mtu.saturating_sub(OVERHEAD_BYTES),
        })
    }

    /// The longest content of one `send`: DTLS does not fragment application data.
    #[must_use]
    pub fn send_bytes_max(&self) -> usize {
        self.send_bytes_max
    }
}

/// One association, for the time from its first datagram to its last.
pub struct Association {
    engine: Option<Dtls>,
    buffer: Vec<u8>,
    deadline: Option<Instant>,
    peer: Option<Vec<u8>>,
    send_bytes_max: usize,
}

impl Association {
    /// Begin an association. A client's first datagram comes from the first call of `tick`.
    #[must_use]
    pub fn new(context: &Context, now: Instant) -> Self {
        let engine = guarded(|| {
            let mut engine = Dtls::new_13(context.config.clone(), context.certificate.clone(), now);
            engine.set_active(!context.server);
            engine
        });
        Self {
            engine: engine.ok(),
            buffer: Vec::new(),
            deadline: Some(now),
            peer: None,
            send_bytes_max: context.send_bytes_max,
        }
    }

    /// Take one datagram from the peer.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) -> Vec<Output> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Vec::new();
        }
        self.drive(|engine| {
            engine.handle_timeout(now)?;
            engine.handle_packet(datagram)
        })
    }

    /// Do what is due at `now`: see `delay`.
    pub fn tick(&mut self, now: Instant) -> Vec<Output> {
        self.drive(|engine| engine.handle_timeout(now))
    }

    /// Send one message of at most `send_bytes_max` bytes.
    ///
    /// # Errors
    /// A text, when the message is longer; the association goes on.
    pub fn send(&mut self, data: &[u8], now: Instant) -> Result<Vec<Output>, String> {
        if data.len() > self.send_bytes_max {
            let (length, most) = (data.len(), self.send_bytes_max);
            return Err(format!(
                "{length} bytes do not fit a datagram, at most {most} do"
            ));
        }
        Ok(self.drive(|engine| {
            engine.handle_timeout(now)?;
            engine.send_application_data(data).map(drop)
        }))
    }

    /// End the association: the datagram that says so, if there is one to say.
    pub fn close(&mut self) -> Vec<Output> {
        let mut outputs = self.drive(Dtls::close);
        outputs.retain(|one| matches!(one, Output::Datagram(_)));
        self.end();
        outputs
    }

    /// How long until `tick` is due; `None` once the association is over.
    #[must_use]
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(now))
    }

    fn drive(&mut self, work: impl FnOnce(&mut Dtls) -> Result<(), dimpl::Error>) -> Vec<Output> {
        let Some(engine) = self.engine.as_mut() else {
            return Vec::new();
        };
        let mut outputs = Vec::new();
        self.buffer.resize(BUFFER_BYTES, 0);
        let done = guarded(|| {
            let done = work(engine).map_err(|error| error.to_string());
            // an alert may be waiting also where the call failed
            drain(engine, &mut self.buffer, &mut self.peer, &mut outputs).and_then(|deadline| {
                self.deadline = Some(deadline);
                done
            })
        });
        self.buffer = Vec::new(); // 64 KiB for the time of a call, not of an association
        if let Err(why) = done.and_then(|inner| inner) {
            outputs.push(Output::Failed(why));
        }
        if outputs
            .iter()
            .any(|one| matches!(one, Output::Failed(_) | Output::Closed))
        {
            self.end();
        }
        outputs
    }

    fn end(&mut self) {
        self.engine = None;
        self.deadline = None;
        self.peer = None;
    }
}

fn drain(
    engine: &mut Dtls,
    buffer: &mut Vec<u8>,
    peer: &mut Option<Vec<u8>>,
    outputs: &mut Vec<Output>,
) -> Result<Instant, String> {
    for _ in 0..OUTPUTS_MAX {
        match engine.poll_output(buffer) {
            dimpl::Output::Packet(bytes) => outputs.push(Output::Datagram(bytes.to_vec())),
            dimpl::Output::PeerCert(bytes) => *peer = Some(bytes.to_vec()),
            dimpl::Output::Connected => match peer.take() {
                Some(certificate) => outputs.push(Output::Connected(certificate)),
                None => return Err("the peer showed no certificate".to_owned()),
            },
            dimpl::Output::ApplicationData(bytes) => outputs.push(Output::Data(bytes.to_vec())),
            dimpl::Output::CloseNotify => outputs.push(Output::Closed),
            dimpl::Output::BufferTooSmall { needed } if needed <= 4 * BUFFER_BYTES => {
                buffer.resize(needed, 0);
            }
            dimpl::Output::Timeout(deadline) => return Ok(deadline),
            dimpl::Output::BufferTooSmall { .. } => return Err("an endless output".to_owned()),
            _ => {} // key material for SRTP, which nobody here speaks
        }
    }
    Err(format!("more than {OUTPUTS_MAX} outputs of one datagram"))
}

/// Run what may panic; a panic is an error like any other.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|one| (*one).to_owned()));
        format!("internal: {}", text.unwrap_or_default())
    })
}
