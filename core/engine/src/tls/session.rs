//! One TLS connection's records to plaintext, with the secrets of a key log (RFC 5246, RFC 8446).
//!
//! Owns the hellos as far as keys depend on them, when each direction's keys change (handshake, early
//! data, key updates, renegotiation), and the unfinished record. It is fed in the capture's order and
//! stops where a secret is not known yet.

use super::keys::{KeyLog, Keys, Label, Misfit, Random, Suite, EARLY_SUITES};
use std::collections::VecDeque;

const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION: u8 = 23;
pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const END_OF_EARLY_DATA: u8 = 5;
pub(super) const ENCRYPTED_EXTENSIONS: u8 = 8;
pub(super) const FINISHED: u8 = 20;
pub(super) const KEY_UPDATE: u8 = 24;
pub(super) const ALPN: usize = 16;
pub(super) const EARLY_DATA: usize = 42;
pub(super) const SUPPORTED_VERSIONS: usize = 43;
pub(super) const TLS13: usize = 0x0304;
pub(super) const MAX_RECORD: usize = 5 + (1 << 14) + 2048;
pub(super) const MAX_HANDSHAKE: usize = 1 << 20;
/// The random of a HelloRetryRequest (RFC 8446 §4.1.3).
pub(super) const RETRY: Random = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// These records cannot be read.
#[derive(Debug)]
pub struct Undecryptable;

impl From<Misfit> for Undecryptable {
    fn from(_: Misfit) -> Self {
        Undecryptable
    }
}

/// A record that was read: the bytes it took of its stream, its plaintext if it is application data.
pub struct Record {
    pub server: bool,
    pub size: usize,
    pub plain: Option<Vec<u8>>,
}

/// Where a direction of TLS 1.3 is in its secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Early,
    Handshake,
    Application,
}

pub(super) struct Side {
    pub(super) buffer: Vec<u8>,
    /// Of a handshake message that is not whole.
    pub(super) handshake: Vec<u8>,
    pub(super) keys: Option<Keys>,
    /// TLS 1.2: ChangeCipherSpec has passed.
    pub(super) encrypted: bool,
    pub(super) stage: Stage,
}

impl Side {
    fn new() -> Self {
        Side {
            buffer: Vec::new(),
            handshake: Vec::new(),
            keys: None,
            encrypted: false,
            stage: Stage::Handshake,
        }
    }
}

/// What became of early data (RFC 8446 §4.2.10).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Early {
    Undecided,
    Accepted,
    Refused,
}

pub struct Session {
    pub(super) sides: [Side; 2],
    pub(super) client_random: Random,
    pub(super) server_random: Option<Random>,
    pub(super) suite: Option<Suite>,
    pub(super) version: usize,
    pub(super) early: Early,
    /// The client's records since its early data, until the server says what becomes of it.
    pub(super) held: VecDeque<(Record, bool)>,
    /// The protocol inside (RFC 7301).
    pub alpn: Vec<u8>,
    /// The side (true: the server) whose next record's secret is not in the key log yet.
    pub blocked: Option<bool>,
}

/// What a record holds.
struct Opened {
    pub(super) kind: u8,
    pub(super) content: Vec<u8>,
    /// It was sent before the handshake had ended.
    pub(super) early: bool,
    /// It could not be decrypted.
    pub(super) unread: bool,
}

impl Opened {
    fn new(kind: u8, content: Vec<u8>) -> Self {
        Opened {
            kind,
            content,
            early: false,
            unread: false,
        }
    }

    fn early(kind: u8, content: Vec<u8>) -> Self {
        Opened {
            early: true,
            ..Opened::new(kind, content)
        }
    }

    fn unread() -> Self {
        Opened {
            unread: true,
            ..Opened::early(APPLICATION, Vec::new())
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Session {
            sides: [Side::new(), Side::new()],
            client_random: [0; 32],
            server_random: None,
            suite: None,
            version: 0,
            early: Early::Undecided,
            held: VecDeque::new(),
            alpn: Vec::new(),
            blocked: None,
        }
    }
}

impl Session {
    /// Takes bytes in, and gives back what has become readable, record by record.
    ///
    /// Stops before a record whose secret is not known: feed nothing to go on once it is.
    pub fn feed(
        &mut self,
        server: bool,
        data: &[u8],
        log: &KeyLog,
        out: &mut Vec<Record>,
    ) -> Result<(), Undecryptable> {
        self.blocked = None;
        let side = &mut self.sides[usize::from(server)];
        let mut buffer = std::mem::take(&mut side.buffer);
        if buffer.is_empty() {
            let used = self.records(server, data, log, out)?;
            self.sides[usize::from(server)]
                .buffer
                .extend_from_slice(&data[used..]);
        } else {
            buffer.extend_from_slice(data);
            let used = self.records(server, &buffer, log, out)?;
            buffer.drain(..used);
            self.sides[usize::from(server)].buffer = buffer;
        }
        Ok(())
    }

    /// Bytes of an unfinished record, handshake message or held early data.
    pub fn held_bytes(&self) -> usize {
        let sides: usize = self
            .sides
            .iter()
            .map(|s| s.buffer.len() + s.handshake.len())
            .sum();
        let held = self
            .held
            .iter()
            .map(|(r, _)| r.plain.as_ref().map_or(0, Vec::len));
        sides + held.sum::<usize>()
    }

    /// Reads whole records; gives back how many bytes they took.
    fn records(
        &mut self,
        server: bool,
        data: &[u8],
        log: &KeyLog,
        out: &mut Vec<Record>,
    ) -> Result<usize, Undecryptable> {
        let mut at = 0;
        while let Some(&header) = data[at..].first_chunk::<5>() {
            let size = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
            if size > MAX_RECORD || !(CHANGE_CIPHER_SPEC..=APPLICATION).contains(&header[0]) {
                return Err(Undecryptable);
            }
            let Some(body) = data.get(at + 5..at + size) else {
                break;
            };
            let Some(found) = self.record(server, header, body, log)? else {
                self.blocked = Some(server);
                break;
            };
            at += size;
            self.take(server, size, found, out)?;
        }
        Ok(at)
    }

    fn take(
        &mut self,
        server: bool,
        size: usize,
        found: Opened,
        out: &mut Vec<Record>,
    ) -> Result<(), Undecryptable> {
        if found.kind == HANDSHAKE {
            self.handshake(server)?;
        }
        let record = Record {
            server,
            size,
            plain: (found.kind == APPLICATION).then_some(found.content),
        };
        if self.early != Early::Undecided {
            self.settle(out)?;
        } else if !server && (found.early || !self.held.is_empty()) {
            self.held.push_back((record, found.unread));
            return Ok(());
        }
        out.push(record);
        Ok(())
    }

    /// Hands out what was held until the server had said what becomes of early data.
    fn settle(&mut self, out: &mut Vec<Record>) -> Result<(), Undecryptable> {
        let accepted = self.early == Early::Accepted;
        for (mut record, unread) in self.held.drain(..) {
            if !accepted {
                record.plain = None;
            } else if unread {
                return Err(Undecryptable);
            }
            out.push(record);
        }
        Ok(())
    }

    /// Content type and content; None where the secret is missing. A handshake message's bytes go to its side.
    fn record(
        &mut self,
        server: bool,
        header: [u8; 5],
        body: &[u8],
        log: &KeyLog,
    ) -> Result<Option<Opened>, Undecryptable> {
        let kind = header[0];
        let d = usize::from(server);
        let found = if kind == CHANGE_CIPHER_SPEC {
            let side = &mut self.sides[d];
            if self.version != TLS13 {
                side.encrypted = true;
                if self.server_random.is_some() {
                    side.keys = None; // a renegotiation's keys begin here, too
                }
            }
            side.handshake.clear();
            Some(Opened::new(kind, Vec::new()))
        } else if self.version == TLS13 || self.server_random.is_none() {
            if kind == APPLICATION {
                self.open13(server, header, body, log)?
            } else {
                Some(Opened::new(kind, body.to_vec()))
            }
        } else if !self.sides[d].encrypted {
            Some(Opened::new(kind, body.to_vec()))
        } else if self.keys12(server, log)? {
            let mut content = body.to_vec();
            let Some(keys) = &mut self.sides[d].keys else {
                return Ok(None); // not reached: they are there
            };
            let range = keys.open12(header, &mut content)?;
            content.truncate(range.end);
            content.drain(..range.start);
            Some(Opened::new(kind, content))
        } else {
            None
        };
        if let Some(Opened {
            kind: HANDSHAKE,
            content,
            ..
        }) = &found
        {
            self.sides[d].handshake.extend_from_slice(content);
        }
        Ok(found)
    }

    fn open13(
        &mut self,
        server: bool,
        header: [u8; 5],
        body: &[u8],
        log: &KeyLog,
    ) -> Result<Option<Opened>, Undecryptable> {
        let Some(suite) = self.suite else {
            // Before the ServerHello only early data can come; its suite is that of the ticket.
            return if server {
                Err(Undecryptable)
            } else {
                self.open_early(header, body, log)
            };
        };
        let d = usize::from(server);
        if self.sides[d].stage == Stage::Early {
            return self.open_early(header, body, log);
        }
        if self.sides[d].keys.is_none() {
            let label = match (server, self.sides[d].stage == Stage::Application) {
                (false, false) => Label::ClientHandshake,
                (true, false) => Label::ServerHandshake,
                (false, true) => Label::Client,
                (true, true) => Label::Server,
            };
            let Some(secret) = log.find(label, &self.client_random) else {
                return Ok(None);
            };
            self.sides[d].keys = Some(Keys::of_secret(suite, secret).ok_or(Undecryptable)?);
        }
        let side = &mut self.sides[d];
        let Some(keys) = &mut side.keys else {
            return Ok(None); // not reached: they are there
        };
        let mut content = body.to_vec();
        match keys.open13(header, &mut content) {
            Ok((kind, size)) => {
                content.truncate(size);
                Ok(Some(Opened::new(kind, content)))
            }
            // Early data that the server may have refused, or that comes after its hello.
            Err(Misfit) if !server && side.stage == Stage::Handshake && keys.fresh() => {
                self.open_early(header, body, log)
            }
            Err(Misfit) => Err(Undecryptable),
        }
    }

    /// A record of early data. Where its secret is not known, it can be no more than passed over.
    fn open_early(
        &mut self,
        header: [u8; 5],
        body: &[u8],
        log: &KeyLog,
    ) -> Result<Option<Opened>, Undecryptable> {
        let unread = Ok(Some(Opened::unread()));
        if self.early == Early::Refused {
            return unread;
        }
        let Some(secret) = log.find(Label::Early, &self.client_random) else {
            return unread;
        };
        if self.sides[0].stage != Stage::Early {
            let known = self.suite.map(|s| vec![s]);
            let suites = known
                .unwrap_or_else(|| EARLY_SUITES.iter().filter_map(|&n| Suite::of(n)).collect());
            for suite in suites {
                let Some(mut keys) = Keys::of_secret(suite, secret) else {
                    continue;
                };
                let mut content = body.to_vec();
                if let Ok((kind, size)) = keys.open13(header, &mut content) {
                    content.truncate(size);
                    self.sides[0].stage = Stage::Early;
                    self.sides[0].keys = Some(keys);
                    return Ok(Some(Opened::early(kind, content)));
                }
            }
            return unread;
        }
        let Some(keys) = &mut self.sides[0].keys else {
            return unread;
        };
        let mut content = body.to_vec();
        let (kind, size) = keys.open13(header, &mut content)?;
        content.truncate(size);
        Ok(Some(Opened::early(kind, content)))
    }

    /// Whether the keys of a side of TLS 1.2 are known.
    fn keys12(&mut self, server: bool, log: &KeyLog) -> Result<bool, Undecryptable> {
        let side = &mut self.sides[usize::from(server)];
        if side.keys.is_none() {
            let (Some(suite), Some(random)) = (self.suite, self.server_random) else {
                return Err(Undecryptable);
            };
            let Some(master) = log.find(Label::Master, &self.client_random) else {
                return Ok(false);
            };
            let keys = Keys::of_master(suite, master, &random, &self.client_random, server);
            side.keys = Some(keys.ok_or(Undecryptable)?);
        }
        Ok(true)
    }
}
