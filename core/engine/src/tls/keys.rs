//! Secrets and keys: the key log, the cipher suites, the key schedule of TLS 1.2 and 1.3.
//!
//! Owns what a key log said, in bounded memory, and each direction's keys with the number of its
//! next record (RFC 5246 §5 and §6.3, RFC 5288, RFC 7905, RFC 8446 §5 and §7).

use hashbrown::{HashMap, HashSet};
use ring::aead::{
    self, Aad, LessSafeKey, Nonce, UnboundKey, AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305,
};
use ring::{digest, hmac};
use std::collections::VecDeque;

/// Secrets kept; the oldest are forgotten first.
const MAX_LOGGED: usize = 1_000_000;
/// A longer line is none of a key log's.
const MAX_LINE: usize = 4096;
const TAG: usize = 16;

/// Whose secret of which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    Master,
    Early,
    ClientHandshake,
    ServerHandshake,
    Client,
    Server,
}

const LABELS: [(&[u8], Label); 6] = [
    (b"CLIENT_RANDOM", Label::Master),
    (b"CLIENT_EARLY_TRAFFIC_SECRET", Label::Early),
    (b"CLIENT_HANDSHAKE_TRAFFIC_SECRET", Label::ClientHandshake),
    (b"SERVER_HANDSHAKE_TRAFFIC_SECRET", Label::ServerHandshake),
    (b"CLIENT_TRAFFIC_SECRET_0", Label::Client),
    (b"SERVER_TRAFFIC_SECRET_0", Label::Server),
];

pub type Random = [u8; 32];

/// The secrets of a key log (SSLKEYLOGFILE format): lines of `LABEL client_random secret` in hex.
///
/// A line that is none, and secrets that no record is read with, are passed over.
#[derive(Default)]
pub struct KeyLog {
    secrets: HashMap<(Label, Random), Box<[u8]>>,
    order: VecDeque<(Label, Random)>,
    rest: Vec<u8>,
    /// Secrets that were ever added.
    pub added: u64,
    /// Secrets that were forgotten for newer ones.
    pub forgotten: u64,
    /// Client randoms that are read, while they are noted.
    pub noted: Option<HashSet<Random>>,
    /// The client randoms whose secrets are kept; None: all.
    only: Option<HashSet<Random>>,
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

impl KeyLog {
    /// More of the log's bytes; a line may come in parts. `restart`: the log was begun anew.
    pub fn feed(&mut self, bytes: &[u8], restart: bool) {
        if restart {
            self.rest.clear();
        }
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let whole = rest
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        for line in rest[..whole].split(|&b| b == b'\n') {
            self.line(line);
        }
        // The last line may lack its end for good: it is taken as it stands, and again once it is whole.
        self.line(&rest[whole..]);
        if rest.len() - whole <= MAX_LINE {
            self.rest = rest[whole..].to_vec();
        }
    }

    fn line(&mut self, line: &[u8]) {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let (Some(label), Some(random), Some(secret), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let Some(&(_, label)) = LABELS.iter().find(|(name, _)| *name == label) else {
            return;
        };
        let random: Option<Random> = hex(random).and_then(|r| r.try_into().ok());
        let (Some(random), Some(secret)) = (random, hex(secret)) else {
            return;
        };
        if !matches!(secret.len(), 32 | 48) {
            return;
        }
        if self
            .only
            .as_ref()
            .is_some_and(|only| !only.contains(&random))
        {
            self.added += 1;
            return;
        }
        if self
            .secrets
            .insert((label, random), secret.into())
            .is_none()
        {
            self.added += 1;
            self.order.push_back((label, random));
            if self.order.len() > MAX_LOGGED {
                if let Some(oldest) = self.order.pop_front() {
                    self.secrets.remove(&oldest);
                    self.forgotten += 1;
                }
            }
        }
    }

    /// From now on a new log, of which only the secrets of these client randoms are kept.
    pub fn begin_with(&mut self, randoms: &[u8]) {
        let (randoms, _) = randoms.as_chunks();
        *self = Self {
            only: Some(randoms.iter().copied().collect()),
            ..Self::default()
        };
    }

    /// A connection's client random was read.
    pub fn occurs(&mut self, random: &Random) {
        if let Some(noted) = &mut self.noted {
            noted.insert(*random);
        }
    }

    pub fn find(&self, label: Label, random: &Random) -> Option<&[u8]> {
        self.secrets.get(&(label, *random)).map(|s| &s[..])
    }
}

/// What a cipher suite's keys are made with.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    aead: &'static aead::Algorithm,
    hash: &'static hmac::Algorithm,
    /// The nonce's last eight bytes are sent with the record (RFC 5288 §3).
    explicit: bool,
}

/// TLS 1.3 suites that early data may have been encrypted with, before the server has chosen.
pub const EARLY_SUITES: [usize; 3] = [0x1301, 0x1302, 0x1303];

impl Suite {
    pub fn of(number: usize) -> Option<Self> {
        let (aead, hash, explicit) = match number {
            0x1301 => (&AES_128_GCM, &hmac::HMAC_SHA256, false),
            0x1302 => (&AES_256_GCM, &hmac::HMAC_SHA384, false),
            0x1303 | 0xCCA8 | 0xCCA9 | 0xCCAA => (&CHACHA20_POLY1305, &hmac::HMAC_SHA256, false),
            0x009C | 0x009E | 0xC02B | 0xC02F => (&AES_128_GCM, &hmac::HMAC_SHA256, true),
            0x009D | 0x009F | 0xC02C | 0xC030 => (&AES_256_GCM, &hmac::HMAC_SHA384, true),
            _ => return None,
        };
        Some(Suite {
            aead,
            hash,
            explicit,
        })
    }

    fn digest_bytes(&self) -> usize {
        let digest: &digest::Algorithm = self.hash.digest_algorithm();
        digest.output_len()
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand_label(suite: &Suite, secret: &[u8], label: &[u8], size: usize) -> Vec<u8> {
    let full = [b"tls13 ", label].concat();
    let mut info = (size as u16).to_be_bytes().to_vec();
    info.push(full.len() as u8);
    info.extend_from_slice(&full);
    info.push(0);
    let key = hmac::Key::new(*suite.hash, secret);
    let (mut out, mut block) = (Vec::new(), Vec::new());
    for n in 1u8.. {
        block.extend_from_slice(&info);
        block.push(n);
        block = hmac::sign(&key, &block).as_ref().to_vec();
        out.extend_from_slice(&block);
        if out.len() >= size {
            break;
        }
    }
    out.truncate(size);
    out
}

/// The pseudorandom function of TLS 1.2 (RFC 5246 §5).
fn expand12(suite: &Suite, secret: &[u8], label: &[u8], seed: &[u8], size: usize) -> Vec<u8> {
    let key = hmac::Key::new(*suite.hash, secret);
    let seed = [label, seed].concat();
    let (mut a, mut out) = (seed.clone(), Vec::new());
    while out.len() < size {
        a = hmac::sign(&key, &a).as_ref().to_vec();
        out.extend_from_slice(hmac::sign(&key, &[&a[..], &seed].concat()).as_ref());
    }
    out.truncate(size);
    out
}

/// A record that its key does not fit.
#[derive(Debug, PartialEq, Eq)]
pub struct Misfit;

/// One direction's keys, and the number of its next record.
pub struct Keys {
    suite: Suite,
    key: LessSafeKey,
    iv: Vec<u8>,
    secret: Vec<u8>,
    number: u64,
}

impl Keys {
    fn new(suite: Suite, key: &[u8], iv: Vec<u8>, secret: Vec<u8>) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(suite.aead, key).ok()?);
        Some(Keys {
            suite,
            key,
            iv,
            secret,
            number: 0,
        })
    }

    /// Of a traffic secret (RFC 8446 §7.3). None: the secret is of another length than the suite's.
    pub fn of_secret(suite: Suite, secret: &[u8]) -> Option<Self> {
        if secret.len() != suite.digest_bytes() {
            return None;
        }
        let key = expand_label(&suite, secret, b"key", suite.aead.key_len());
        let iv = expand_label(&suite, secret, b"iv", 12);
        Keys::new(suite, &key, iv, secret.to_vec())
    }

    /// Of a master secret (RFC 5246 §6.3).
    pub fn of_master(
        suite: Suite,
        master: &[u8],
        server_random: &Random,
        client_random: &Random,
        server: bool,
    ) -> Option<Self> {
        let (size, iv) = (suite.aead.key_len(), if suite.explicit { 4 } else { 12 });
        let seed = [&server_random[..], client_random].concat();
        let block = expand12(&suite, master, b"key expansion", &seed, 2 * (size + iv));
        let at = usize::from(server) * size;
        let ivs = 2 * size + usize::from(server) * iv;
        let (key, iv) = (&block[at..at + size], block[ivs..ivs + iv].to_vec());
        Keys::new(suite, key, iv, Vec::new())
    }

    /// No record was read with these keys yet.
    pub fn fresh(&self) -> bool {
        self.number == 0
    }

    /// The next keys of this direction (RFC 8446 §7.2).
    pub fn updated(&self) -> Option<Self> {
        let size = self.suite.digest_bytes();
        Keys::of_secret(
            self.suite,
            &expand_label(&self.suite, &self.secret, b"traffic upd", size),
        )
    }

    /// The initialisation vector with the record's number in it (RFC 8446 §5.3, RFC 7905 §2).
    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.iv);
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Decrypts a record of TLS 1.3 in place: its content type, and the length of its plaintext.
    pub fn open13(&mut self, header: [u8; 5], body: &mut [u8]) -> Result<(u8, usize), Misfit> {
        let plain = self
            .key
            .open_in_place(self.nonce(), Aad::from(header), body)
            .map_err(|_| Misfit)?;
        self.number += 1;
        // Padding is zeroes behind the content type; a record of nothing else has none.
        let end = plain.iter().rposition(|&b| b != 0).ok_or(Misfit)?;
        Ok((plain[end], end))
    }

    /// Decrypts a record of TLS 1.2 in place: where its plaintext is.
    pub fn open12(
        &mut self,
        header: [u8; 5],
        body: &mut [u8],
    ) -> Result<std::ops::Range<usize>, Misfit> {
        let start = if self.suite.explicit { 8 } else { 0 };
        if body.len() < start + TAG {
            return Err(Misfit);
        }
        let nonce = if self.suite.explicit {
            let mut nonce = [0; 12];
            nonce[..4].copy_from_slice(&self.iv);
            nonce[4..].copy_from_slice(&body[..8]);
            Nonce::assume_unique_for_key(nonce)
        } else {
            self.nonce()
        };
        let size = body.len() - start - TAG;
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.number.to_be_bytes());
        aad[8..11].copy_from_slice(&header[..3]);
        aad[11..].copy_from_slice(&(size as u16).to_be_bytes());
        self.key
            .open_in_place(nonce, Aad::from(aad), &mut body[start..])
            .map_err(|_| Misfit)?;
        self.number += 1;
        Ok(start..start + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_parts_and_the_last_may_lack_its_end() {
        let random = [7u8; 32];
        let text = format!(
            "# a comment\nnonsense\nCLIENT_RANDOM {} {}\nEXPORTER_SECRET {} {}\nSERVER_TRAFFIC_SECRET_0 {} {}",
            "07".repeat(32), "01".repeat(48), "07".repeat(32), "02".repeat(32), "07".repeat(32), "03".repeat(32),
        );
        for cut in [0, 5, 40, 200, text.len()] {
            let mut log = KeyLog::default();
            log.feed(&text.as_bytes()[..cut], false);
            log.feed(&text.as_bytes()[cut..], false);
            assert_eq!(log.find(Label::Master, &random), Some(&[1u8; 48][..]));
            assert_eq!(log.find(Label::Server, &random), Some(&[3u8; 32][..]));
            assert_eq!((log.find(Label::Client, &random), log.added), (None, 2));
        }
    }
}
