//! TLS records and hellos in the clear (RFC 8446 §4.1, §5.1; RFC 6066 §3; RFC 7301).

/// Of a direction's beginning, kept until its hello is whole.
pub const MAX_HELLO: usize = 18 << 10;

pub const MAX_RECORD: usize = (16 << 10) + 2048;

pub const HANDSHAKE: u8 = 22;

pub const APPLICATION: u8 = 23;

/// A TLS record's content type and length, if these five bytes can begin one.
pub fn record(b: &[u8]) -> Option<(u8, usize)> {
    let head: &[u8; 5] = b.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let sound = matches!(head[0], 20..=APPLICATION) && head[1] == 3 && head[2] <= 4;
    (sound && (1..=MAX_RECORD).contains(&length)).then_some((head[0], length))
}

/// Whether a TLS connection begins with these bytes, and then whether the client speaks.
pub fn tls_start(b: &[u8]) -> Option<bool> {
    match (record(b)?, b.get(5)?) {
        ((HANDSHAKE, _), 1) => Some(true),
        ((HANDSHAKE, _), 2) => Some(false),
        _ => None,
    }
}

/// Whether a segment amid a connection looks like TLS: whole records, then the beginning of another.
pub fn tls_amid(b: &[u8]) -> bool {
    let mut at = 0;
    while b.len() >= at + 5 {
        match record(&b[at..]) {
            Some((_, length)) => at += 5 + length,
            None => return false,
        }
    }
    at > 0
}

/// A reader of TLS structures, which are lengths and bytes.
#[derive(Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(
            self.take(bytes)?
                .iter()
                .fold(0, |n, &b| n << 8 | usize::from(b)),
        )
    }

    /// A vector with a length of so many bytes before it.
    pub fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let n = self.number(bytes)?;
        self.take(n).map(Reader)
    }
}

/// Host and ALPN of a hello: of the client those it asks for, of the server the one chosen.
#[derive(Default)]
pub struct Hello {
    pub host: Vec<u8>,
    pub alpn: Vec<u8>,
}

/// Reads the hello in a direction's first bytes. None: more are needed. Some(None): there is none.
pub fn hello(stream: &[u8], client: bool) -> Option<Option<Hello>> {
    // A handshake message may be spread over records.
    let mut message = Vec::new();
    let mut rest = stream;
    let whole = loop {
        if rest.len() >= 5 && !matches!(record(rest), Some((HANDSHAKE, _))) {
            return Some(None);
        }
        let Some((_, length)) = record(rest) else {
            break false;
        };
        let part = &rest[5..rest.len().min(5 + length)];
        message.extend_from_slice(part);
        if message.len() >= 4 {
            let wanted = usize::from(message[1]) << 16
                | usize::from(message[2]) << 8
                | usize::from(message[3]);
            if message[0] != if client { 1 } else { 2 } || wanted > MAX_HELLO {
                return Some(None);
            }
            if message.len() >= 4 + wanted {
                message.truncate(4 + wanted);
                break true;
            }
        }
        if part.len() < length {
            break false;
        }
        rest = &rest[5 + length..];
    };
    if !whole {
        return (stream.len() >= MAX_HELLO).then_some(None);
    }
    Some(extensions(&message[4..], client))
}

pub fn extensions(body: &[u8], client: bool) -> Option<Hello> {
    let mut r = Reader(body);
    r.take(2 + 32)?;
    r.vector(1)?;
    if client {
        r.vector(2)?;
        r.vector(1)?;
    } else {
        r.take(3)?;
    }
    let mut out = Hello::default();
    if r.0.is_empty() {
        return Some(out);
    }
    let mut all = r.vector(2)?;
    while !all.0.is_empty() {
        let kind = all.number(2)?;
        let mut value = all.vector(2)?;
        match kind {
            0 if client => {
                let mut names = value.vector(2)?;
                while !names.0.is_empty() {
                    let kind = names.number(1)?;
                    let name = names.vector(2)?;
                    if kind == 0 && out.host.is_empty() {
                        out.host = name.0.to_vec();
                    }
                }
            }
            16 => {
                let mut names = value.vector(2)?;
                while !names.0.is_empty() {
                    let name = names.vector(1)?;
                    if !out.alpn.is_empty() {
                        out.alpn.push(b',');
                    }
                    out.alpn.extend_from_slice(name.0);
                }
            }
            _ => {}
        }
    }
    Some(out)
}

/// Where a direction is in its records.
#[derive(Default)]
pub struct Records {
    pub head: [u8; 5],
    pub have: usize,
    pub kind: u8,
    pub left: usize,
    /// Records can no longer be told apart: all is taken for application data.
    pub lost: bool,
}

impl Records {
    /// Of `n` bytes, how many are application data.
    pub fn feed(&mut self, seen: &[u8], n: usize) -> usize {
        let (mut at, mut data) = (0, 0);
        while at < n {
            if self.lost {
                return data + n - at;
            }
            if self.left > 0 {
                let k = self.left.min(n - at);
                data += if self.kind == APPLICATION { k } else { 0 };
                self.left -= k;
                at += k;
                continue;
            }
            let Some(&byte) = seen.get(at) else {
                self.lost = true;
                continue;
            };
            self.head[self.have] = byte;
            self.have += 1;
            at += 1;
            if self.have == 5 {
                self.have = 0;
                match record(&self.head) {
                    Some((kind, length)) => (self.kind, self.left) = (kind, length),
                    None => self.lost = true,
                }
            }
        }
        data
    }
}
