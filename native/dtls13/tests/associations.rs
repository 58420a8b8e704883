//! Two associations over a line that loses, repeats, reorders and invents datagrams.

use std::time::{Duration, Instant};

use fleetcert_dtls13::{Association, Context, Limits, Output};

const P256: (&[u8], &[u8]) = (
    include_bytes!("fixtures/p256.cert.der"),
    include_bytes!("fixtures/p256.key.der"),
);
const P384: (&[u8], &[u8]) = (
    include_bytes!("fixtures/p384.cert.der"),
    include_bytes!("fixtures/p384.key.der"),
);
const ED25519: (&[u8], &[u8]) = (
    include_bytes!("fixtures/ed25519.cert.der"),
    include_bytes!("fixtures/ed25519.key.der"),
);

const LIMITS: Limits = Limits {
    mtu: 1232,
    retransmit: Duration::from_secs(1),
    retries: 10,
    handshake: Duration::from_secs(120),
};

fn context(server: bool, identity: (&[u8], &[u8])) -> Context {
    Context::new(server, identity.0.to_vec(), identity.1.to_vec(), LIMITS).expect("a context")
}

/// A small generator (xorshift), so that a failure is a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Two ends, a clock of their own, and what each end was told.
struct Line {
    ends: [Association; 2],
    told: [Vec<Output>; 2],
    now: Instant,
    dice: Dice,
    /// Of a hundred datagrams, how many are lost; as many are repeated.
    loss: u64,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl Line {
    fn new(loss: u64, seed: u64) -> Self {
        Self::between(&context(false, P256), &context(true, P384), loss, seed)
    }

    fn between(client: &Context, server: &Context, loss: u64, seed: u64) -> Self {
        let now = Instant::now();
        let ends = [Association::new(client, now), Association::new(server, now)];
        Self {
            ends,
            told: [Vec::new(), Vec::new()],
            now,
            dice: Dice(seed),
            loss,
        }
    }

    fn take(&mut self, end: usize, outputs: Vec<Output>) {
        let mut going = Vec::new();
        for output in outputs {
            match output {
                Output::Datagram(bytes) => going.push(bytes),
                other => self.told[end].push(other),
            }
        }
        if self.loss > 0 && going.len() > 1 && self.dice.roll(4) == 0 {
            going.swap(0, 1);
        }
        for bytes in going {
            let rolled = self.dice.roll(100);
            let copies = if rolled < self.loss {
                0
            } else {
                1 + usize::from(rolled < 2 * self.loss)
            };
            for _ in 0..copies {
                let answer = self.ends[1 - end].receive(&bytes, self.now);
                self.take(1 - end, answer);
            }
        }
    }

    /// Let time pass until something is due, and do it.
    fn tick(&mut self) {
        let due = self.ends.iter().filter_map(|one| one.delay(self.now)).min();
        self.now += due.unwrap_or_default().min(Duration::from_secs(1));
        for end in [CLIENT, SERVER] {
            let outputs = self.ends[end].tick(self.now);
            self.take(end, outputs);
        }
    }

    fn connected(&self) -> bool {
        self.told
            .iter()
            .all(|one| one.iter().any(|what| matches!(what, Output::Connected(_))))
    }

    fn connect(mut self) -> Self {
        for _ in 0..200 {
            self.tick();
            if self.connected() {
                return self;
            }
        }
        panic!("no connection: {:?}", self.told);
    }

    fn say(&mut self, end: usize, data: &[u8]) {
        let outputs = self.ends[end].send(data, self.now).expect("it fits");
        self.take(end, outputs);
    }

    fn heard(&self, end: usize) -> Vec<&[u8]> {
        let data = self.told[end].iter().filter_map(|one| match one {
            Output::Data(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        data.collect()
    }
}

#[test]
fn both_ends_learn_the_certificate_of_the_other() {
    let line = Line::new(0, 1).connect();
    assert_eq!(line.told[SERVER], [Output::Connected(P256.0.to_vec())]);
    assert_eq!(line.told[CLIENT], [Output::Connected(P384.0.to_vec())]);
}

#[test]
fn a_line_that_loses_a_fifth_connects_all_the_same() {
    for seed in 1..=60 {
        Line::new(20, seed).connect();
    }
}

#[test]
fn messages_go_both_ways_and_a_repeated_one_is_heard_once() {
    let mut line = Line::new(0, 2).connect();
    line.loss = 30;
    for number in 0..100_u8 {
        line.say(CLIENT, &[number; 100]);
    }
    let heard: Vec<u8> = line.heard(SERVER).iter().map(|one| one[0]).collect();
    let mut once = heard.clone();
    once.dedup();
    assert_eq!(heard, once);
    assert!((50..100).contains(&heard.len()), "{}", heard.len());
    line.loss = 0;
    line.say(SERVER, b"down");
    assert_eq!(line.heard(CLIENT), [b"down"]);
}

#[test]
fn a_message_that_fits_no_datagram_is_refused_and_the_rest_goes_on() {
    let mut line = Line::new(0, 3).connect();
    let most = context(true, P256).send_bytes_max();
    assert!(
        line.ends[CLIENT]
            .send(&vec![1; most + 1], line.now)
            .is_err()
    );
    line.say(CLIENT, &vec![1; most]);
    assert_eq!(line.heard(SERVER).len(), 1);
}

#[test]
fn no_datagram_is_longer_than_the_mtu() {
    let (client, server) = (context(false, P256), context(true, P384));
    let now = Instant::now();
    let (mut one, mut other) = (
        Association::new(&client, now),
        Association::new(&server, now),
    );
    let mut going = one.tick(now);
    let mut seen = 0;
    for turn in 0..12 {
        let mut next = Vec::new();
        for output in going {
            if let Output::Datagram(bytes) = output {
                assert!(bytes.len() <= LIMITS.mtu, "{}", bytes.len());
                seen += 1;
                let end = if turn % 2 == 0 { &mut other } else { &mut one };
                next.extend(end.receive(&bytes, now));
            }
        }
        going = next;
    }
    assert!(seen > 4);
}

#[test]
fn closing_is_told_to_the_other_end() {
    let mut line = Line::new(0, 4).connect();
    let outputs = line.ends[CLIENT].close();
    line.take(CLIENT, outputs);
    assert_eq!(line.told[SERVER].last(), Some(&Output::Closed));
    assert_eq!(line.ends[SERVER].delay(line.now), None);
    assert_eq!(line.ends[CLIENT].delay(line.now), None);
    assert!(
        line.ends[CLIENT]
            .send(b"late", line.now)
            .is_ok_and(|said| said.is_empty())
    );
}

#[test]
fn a_key_that_the_engine_cannot_use_is_refused_before_it_panics() {
    let made =
        Context::new(true, ED25519.0.to_vec(), ED25519.1.to_vec(), LIMITS).map(|_| "a context");
    assert_eq!(
        made,
        Err("the private key is not ECDSA P-256 or P-384".to_owned())
    );
    assert!(Context::new(true, P256.0.to_vec(), b"no key".to_vec(), LIMITS).is_err());
    assert!(Context::new(true, vec![], P256.1.to_vec(), Limits { mtu: 1, ..LIMITS }).is_err());
}

#[test]
fn a_handshake_that_nobody_answers_ends() {
    let client = context(false, P256);
    let mut now = Instant::now();
    let mut alone = Association::new(&client, now);
    let mut told = alone.tick(now);
    while let Some(delay) = alone.delay(now) {
        now += delay;
        told.extend(alone.tick(now));
    }
    assert!(matches!(told.last(), Some(Output::Failed(_))), "{told:?}");
}

/// dimpl 0.9.0 panics when a certificate is longer than the buffer it is told in.
#[test]
fn a_huge_certificate_of_an_unknown_peer_does_no_harm() {
    let mut huge = P256.0.to_vec();
    huge.resize(20_000, 0);
    let client = Context::new(false, huge, P256.1.to_vec(), LIMITS).expect("a context");
    let mut line = Line::between(&client, &context(true, P256), 0, 5);
    for _ in 0..30 {
        line.tick();
    }
    assert!(
        !line.told[SERVER]
            .iter()
            .any(|one| matches!(one, Output::Connected(_)))
    );
}

#[test]
fn garbage_never_ends_an_association_that_stands() {
    let mut line = Line::new(0, 6).connect();
    let mut dice = Dice(7);
    for _ in 0..20_000 {
        let length = usize::try_from(dice.roll(200)).expect("small");
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| dice.roll(256).to_le_bytes()[0])
            .collect();
        if let Some(first) = bytes.first_mut() {
            // handshake, alert and ciphertext records above all
            *first = [22, 21, 23, 26, 0x2f, 0x2c, 0x3f, *first][usize::from(*first) % 8];
        }
        let told = line.ends[SERVER].receive(&bytes, line.now);
        assert!(
            !told
                .iter()
                .any(|one| matches!(one, Output::Failed(_) | Output::Closed)),
            "{told:?}"
        );
    }
    line.say(CLIENT, b"still here");
    assert_eq!(line.heard(SERVER), [b"still here"]);
}

#[test]
fn damaged_handshakes_never_panic() {
    for seed in 1..=300 {
        let mut line = Line::new(0, seed);
        let mut dice = Dice(seed * 7919);
        let mut going = line.ends[CLIENT].tick(line.now);
        for turn in 0..10 {
            let mut next = Vec::new();
            for output in going {
                let Output::Datagram(mut bytes) = output else {
                    continue;
                };
                if dice.roll(3) == 0 {
                    let place = usize::try_from(dice.roll(bytes.len() as u64)).expect("small");
                    bytes[place] ^= 1 << dice.roll(8);
                }
                next.extend(line.ends[1 - turn % 2].receive(&bytes, line.now));
            }
            let internal =
                |one: &Output| matches!(one, Output::Failed(why) if why.starts_with("internal"));
            assert!(!next.iter().any(internal), "seed {seed}: {next:?}");
            going = next;
        }
    }
}
