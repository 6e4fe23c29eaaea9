//! Streams that are measured but not understood: TLS without keys, and raw TCP.
//!
//! Owns their rows. Of TLS, a row is a connection, or a minute of one; host and ALPN come from the
//! hellos (RFC 8446 §4.1, RFC 6066 §3, RFC 7301). Of raw TCP, a row is a turn: what the client says
//! until it speaks again, and what it is answered.

use crate::connection::{Context, Cost, Piece, Sink, Visit};
use crate::exchange::{Ends, Exchange, Protocol, Side};
use crate::http1::Anomaly;
use crate::message::Meta;

/// A longer connection has more rows than one.
const SLICE_NS: i64 = 60_000_000_000;
/// Of a direction's beginning, kept until its hello is whole.
const MAX_HELLO: usize = 18 << 10;
const MAX_RECORD: usize = (16 << 10) + 2048;

const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;

/// A TLS record's content type and length, if these five bytes can begin one.
fn record(b: &[u8]) -> Option<(u8, usize)> {
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
struct Hello {
    host: Vec<u8>,
    alpn: Vec<u8>,
}

/// Reads the hello in a direction's first bytes. None: more are needed. Some(None): there is none.
fn hello(stream: &[u8], client: bool) -> Option<Option<Hello>> {
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

fn extensions(body: &[u8], client: bool) -> Option<Hello> {
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
struct Records {
    head: [u8; 5],
    have: usize,
    kind: u8,
    left: usize,
    /// Records can no longer be told apart: all is taken for application data.
    lost: bool,
}

impl Records {
    /// Of `n` bytes, how many are application data.
    fn feed(&mut self, seen: &[u8], n: usize) -> usize {
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

struct Tls {
    records: [Records; 2],
    /// First bytes of client and server until the hello is read.
    hello: [Option<Vec<u8>>; 2],
    host: Vec<u8>,
    alpn: Vec<u8>,
}

pub struct Opaque {
    x: Option<Box<Exchange>>,
    messages: [Vec<u8>; 2],
    keep: [bool; 2],
    tls: Option<Box<Tls>>,
    /// What the inside of a tunnel is called.
    tunnel: Option<Box<Inside>>,
}

struct Inside {
    protocol: Protocol,
    name: Vec<u8>,
    host: Vec<u8>,
}

impl Opaque {
    pub fn raw() -> Self {
        Opaque {
            x: None,
            messages: Default::default(),
            keep: [false; 2],
            tls: None,
            tunnel: None,
        }
    }

    /// The inside of a tunnel: its protocol's name and host, where these are known.
    pub fn tunnel(protocol: Protocol, name: &[u8], host: &[u8]) -> Self {
        Opaque {
            tunnel: Some(Box::new(Inside {
                protocol,
                name: name.to_vec(),
                host: host.to_vec(),
            })),
            ..Opaque::raw()
        }
    }

    /// `fresh`: the connection's beginning was seen.
    pub fn tls(fresh: bool) -> Self {
        let hello = || fresh.then(Vec::new);
        Opaque {
            tls: Some(Box::new(Tls {
                records: Default::default(),
                hello: [hello(), hello()],
                host: Vec::new(),
                alpn: Vec::new(),
            })),
            ..Opaque::raw()
        }
    }

    /// True if a row has gone out before this piece was taken.
    pub fn feed(
        &mut self,
        server: bool,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) -> bool {
        let raw = self.tls.is_none() && self.tunnel.is_none();
        let over = self.x.as_ref().is_some_and(|x| match raw {
            false => {
                let begun = if x.request.seen {
                    x.request.time
                } else {
                    x.response.time
                };
                !p.missing && p.time.saturating_sub(begun) >= SLICE_NS
            }
            true => !server && x.response.seen,
        });
        if over {
            self.emit(true, cx, sink);
        }
        let tunnel = self.tunnel.as_deref();
        let x = self.x.get_or_insert_with(|| {
            let mut x = Box::<Exchange>::default();
            x.protocol = match tunnel {
                Some(inside) => inside.protocol,
                None if raw => Protocol::Raw,
                None => Protocol::Tls,
            };
            x.stream = cx.next_position();
            x.denied = !sink.options.filters.passes_unknown();
            x.id = cx.gor_id(x.stream as u32, sink);
            match tunnel {
                Some(inside) => x.set_request([&inside.name, b"", &inside.host, b""]),
                None => x.set_request([b"", b"", b"", b""]),
            }
            x
        });
        if p.missing {
            x.missing += p.len as u64;
            if let Some(tls) = &mut self.tls {
                tls.records[usize::from(server)].feed(&[], p.len);
                let hello = tls.hello[usize::from(server)].take();
                sink.buffered -= hello.map_or(0, |h| h.len());
            } else {
                self.spoil(server, sink);
            }
            return over;
        }
        let (link, packets) = cost.take(p.len);
        x.link_bytes += link;
        let seen = &p.data[..p.data.len().min(p.len)];
        let side = if server {
            &mut x.response
        } else {
            &mut x.request
        };
        let begins = !side.seen;
        if begins {
            *side = Side {
                seen: true,
                time: p.time,
                seq: p.seq,
                ..Side::default()
            };
        }
        side.end = p.time;
        side.wire += p.len as u64;
        side.packets += packets;
        match &mut self.tls {
            None => {
                side.body += p.len as u64;
                if raw {
                    self.message(server, begins, seen, p.len, sink);
                }
            }
            Some(tls) => {
                let data = tls.records[usize::from(server)].feed(seen, p.len) as u64;
                side.body += data;
                side.header += p.len as u64 - data;
                tls.read(server, seen, seen.len() < p.len, sink);
            }
        }
        over
    }

    /// Shows the row that is open.
    pub fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        if let Some(x) = &mut self.x {
            if let Some(tls) = &self.tls {
                x.set_request([b"", b"", &tls.host, b""]);
                x.set_alpn(&tls.alpn);
            }
            visit(x, ends);
        }
    }

    /// Its row is not wanted: the connection is read. Gives back the link bytes that it had.
    pub fn forget(&mut self, sink: &mut Sink) -> u64 {
        if let Some(tls) = &mut self.tls {
            for hello in &mut tls.hello {
                sink.buffered -= hello.take().map_or(0, |h| h.len());
            }
        }
        self.x.take().map_or(0, |x| x.link_bytes)
    }

    fn message(&mut self, server: bool, begins: bool, seen: &[u8], n: usize, sink: &mut Sink) {
        let d = usize::from(server);
        let o = &sink.options;
        if begins {
            self.keep[d] = if server { o.responses } else { o.requests };
        }
        if !self.keep[d] {
            return;
        }
        let full = self.messages[d].len() + n > o.max_message_bytes
            || sink.buffered + n > o.max_buffer_bytes;
        if seen.len() < n || full {
            return self.spoil(server, sink);
        }
        self.messages[d].extend_from_slice(seen);
        sink.buffered += n;
    }

    fn spoil(&mut self, server: bool, sink: &mut Sink) {
        let d = usize::from(server);
        if std::mem::take(&mut self.keep[d]) {
            sink.buffered -= self.messages[d].len();
            self.messages[d] = Vec::new();
            sink.account.messages_cut += 1;
        }
    }

    /// Hands out the row that is open.
    fn emit(&mut self, whole: bool, cx: &mut Context, sink: &mut Sink) {
        let Some(mut x) = self.x.take() else {
            return;
        };
        for server in [false, true] {
            let d = usize::from(server);
            let message = std::mem::take(&mut self.messages[d]);
            sink.buffered -= message.len();
            if std::mem::take(&mut self.keep[d]) && !x.denied {
                let side = if server { &x.response } else { &x.request };
                let meta = Meta {
                    kind: 1 + u8::from(server),
                    id: x.id,
                    time: side.time,
                    latency: side.end.wrapping_sub(side.time),
                    connection: cx.id,
                    stream: x.stream,
                };
                sink.messages.push(&meta, &message);
            }
        }
        if let Some(tls) = &self.tls {
            x.set_request([b"", b"", &tls.host, b""]);
            x.set_alpn(&tls.alpn);
        }
        x.request.whole = whole;
        x.response.whole = whole;
        cx.push(&x, sink);
    }

    /// A segment came again; true if its bytes have been booked.
    pub fn repeated(&mut self, server: bool, bytes: u64, payload: u64, packets: u64) -> bool {
        let Some(x) = &mut self.x else {
            return false;
        };
        let side = if server {
            &mut x.response
        } else {
            &mut x.request
        };
        if !side.seen {
            return false;
        }
        side.packets += packets;
        x.link_bytes += bytes;
        x.retransmitted += payload;
        true
    }

    /// The connection is over, by a reset or in silence if not in order.
    pub fn close(&mut self, in_order: bool, cx: &mut Context, sink: &mut Sink) {
        if let (Some(x), false) = (&mut self.x, in_order) {
            x.flag(Anomaly::ClosedEarly);
        }
        self.emit(in_order, cx, sink);
        if let Some(tls) = &mut self.tls {
            for hello in &mut tls.hello {
                sink.buffered -= hello.take().map_or(0, |h| h.len());
            }
        }
    }
}

impl Tls {
    /// Looks for host and ALPN in what a direction said first.
    fn read(&mut self, server: bool, seen: &[u8], cut: bool, sink: &mut Sink) {
        let Some(stream) = &mut self.hello[usize::from(server)] else {
            return;
        };
        stream.extend_from_slice(seen);
        sink.buffered += seen.len();
        let found = match hello(stream, !server) {
            None if !cut && sink.buffered <= sink.options.max_buffer_bytes => return,
            found => found.flatten(),
        };
        sink.buffered -= stream.len();
        self.hello[usize::from(server)] = None;
        if let Some(found) = found {
            if !server {
                self.host = found.host;
            }
            // What the server chose, if it says so in the clear, else what the client offered.
            if !found.alpn.is_empty() {
                self.alpn = found.alpn;
            }
        }
    }
}
