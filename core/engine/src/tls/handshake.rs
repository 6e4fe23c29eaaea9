//! Handshake messages as far as keys depend on them (RFC 5246 §7.4, RFC 8446 §4).

use super::keys::{Random, Suite};
use crate::tls::hello::Reader;
use crate::tls::session::{
    Early, Session, Stage, Undecryptable, ALPN, CLIENT_HELLO, EARLY_DATA, ENCRYPTED_EXTENSIONS,
    END_OF_EARLY_DATA, FINISHED, KEY_UPDATE, MAX_HANDSHAKE, RETRY, SERVER_HELLO,
    SUPPORTED_VERSIONS, TLS13,
};

impl Session {
    /// Reads the handshake messages of a side that have become whole.
    pub(super) fn handshake(&mut self, server: bool) -> Result<(), Undecryptable> {
        let d = usize::from(server);
        loop {
            let buffer = &self.sides[d].handshake;
            let Some(&[kind, a, b, c]) = buffer.first_chunk::<4>() else {
                return Ok(());
            };
            let size = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            if size > MAX_HANDSHAKE {
                return Err(Undecryptable);
            }
            if buffer.len() < size {
                return Ok(());
            }
            let body: Vec<u8> = buffer[4..size].to_vec();
            self.sides[d].handshake.drain(..size);
            self.message(server, kind, &body).ok_or(Undecryptable)?;
        }
    }

    /// None: it is cut off, or names what cannot be read.
    pub(super) fn message(&mut self, server: bool, kind: u8, body: &[u8]) -> Option<()> {
        let d = usize::from(server);
        match kind {
            CLIENT_HELLO if !server => {
                self.client_random = body.get(2..34)?.try_into().ok()?;
            }
            SERVER_HELLO if server => return self.server_hello(body),
            ENCRYPTED_EXTENSIONS if server => {
                let accepted = self.extensions(Reader::new(body))?;
                if self.early == Early::Undecided {
                    self.early = if accepted {
                        Early::Accepted
                    } else {
                        Early::Refused
                    };
                    if !accepted && self.sides[0].stage == Stage::Early {
                        self.sides[0].stage = Stage::Handshake;
                        self.sides[0].keys = None;
                    }
                }
            }
            END_OF_EARLY_DATA if !server => {
                self.sides[0].stage = Stage::Handshake;
                self.sides[0].keys = None;
            }
            FINISHED if self.version == TLS13 && self.sides[d].stage == Stage::Handshake => {
                self.sides[d].stage = Stage::Application;
                self.sides[d].keys = None;
            }
            KEY_UPDATE if self.version == TLS13 => {
                if let Some(keys) = &self.sides[d].keys {
                    self.sides[d].keys = Some(keys.updated()?);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn server_hello(&mut self, body: &[u8]) -> Option<()> {
        let mut r = Reader::new(body);
        let mut version = r.number(2)?;
        let random: Random = r.take(32)?.try_into().ok()?;
        if random == RETRY {
            // The ServerHello itself comes after another ClientHello; early data is refused by this.
            self.version = TLS13;
            self.early = Early::Refused;
            self.sides[0].stage = Stage::Handshake;
            self.sides[0].keys = None;
            return Some(());
        }
        r.vector(1)?;
        let suite = r.number(2)?;
        r.take(1)?;
        let listed = (!r.is_empty()).then_some(r);
        if let Some(listed) = &listed {
            let mut all = listed.clone().vector(2)?;
            while !all.is_empty() {
                let (kind, mut value) = (all.number(2)?, all.vector(2)?);
                if kind == SUPPORTED_VERSIONS {
                    version = value.number(2)?;
                }
            }
        }
        self.server_random = Some(random);
        (self.version, self.suite) = (version, Suite::of(suite));
        if version == TLS13 {
            self.suite?;
            for side in &mut self.sides {
                if side.stage != Stage::Early {
                    side.keys = None;
                }
            }
        } else {
            self.early = Early::Refused;
        }
        if let Some(listed) = listed {
            self.extensions(listed)?;
        }
        Some(())
    }

    /// Reads the protocol that was chosen; whether early data is accepted.
    pub(super) fn extensions(&mut self, mut r: Reader) -> Option<bool> {
        let mut accepted = false;
        let mut all = r.vector(2)?;
        while !all.is_empty() {
            let (kind, mut value) = (all.number(2)?, all.vector(2)?);
            match kind {
                ALPN => self.alpn = value.vector(2)?.vector(1)?.rest().to_vec(),
                EARLY_DATA => accepted = true,
                _ => {}
            }
        }
        Some(accepted)
    }
}
