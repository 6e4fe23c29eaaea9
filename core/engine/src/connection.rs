//! One connection's HTTP/1: in-order bytes of two directions to exchanges.
//!
//! Owns pairing, body framing over segments, holes, switches to other protocols and where each
//! packet's bytes are booked. It is fed by `tcp`, in order, and never looks ahead. Cost grows with
//! heads and chunk lines; body bytes are only counted unless messages are asked for.

use crate::account::{Account, Cause};
use crate::exchange::{
    Addresses, Columns, Counted, Ends, Exchange, Protocol, Secure, Side, HOST, TARGET,
};
use crate::head;
use crate::http1::{self, Anomaly, Body, Chunk, Head, Kind, Memos, Parsed};
use crate::http2::{self, Http2};
use crate::increment::{Clock, Increments};
use crate::link::Addr;
use crate::message::{gor_id, Messages, Meta};
use crate::opaque::{self, Opaque};
use crate::options::Options;
use crate::plugin::{Handover, Pieces, Reading};
use crate::proxy_protocol;
use crate::tls::keys::KeyLog;
use crate::tls::Tls;
use crate::tunnel::Tunnel;
use crate::websocket::WebSocket;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Where finished things go.
pub struct Sink {
    pub options: Options,
    pub columns: Columns,
    pub messages: Messages,
    pub account: Account,
    /// Bytes in all buffers of all connections.
    pub buffered: usize,
    pub memos: Memos,
    pub pieces: Pieces,
    /// What TLS is read with.
    pub keys: KeyLog,
    /// TLS connections that were read.
    pub tls_read: u64,
    /// Streams that are read by plug-ins, by their connections.
    pub handed: HashMap<u64, Reading>,
    pub increments: Increments,
    pub clock: Clock,
    /// Exchanges that have increments.
    pub numbered: u64,
}

impl Sink {
    /// An exchange has ended: its row, or its bytes under their cause if it is denied.
    pub fn push(&mut self, x: &Exchange, ends: &Ends, addresses: &mut Addresses) {
        if x.denied {
            let counted = x.counted.as_ref().map_or(0, |c| c.link_bytes);
            self.account.add(Cause::Denied, x.link_bytes - counted);
            return;
        }
        self.account.exchanges += 1;
        self.account.exchange_bytes += x.link_bytes;
        self.account.incomplete += u64::from(!x.complete());
        let all = Counted::default();
        self.columns.push(x, &all, ends, addresses, &self.options);
        if let Some(before) = x.counted.as_deref() {
            self.account.in_flight_bytes -= before.link_bytes;
            let slice = self.clock.start();
            self.increments
                .push(x, before, ends, &self.options, slice, true);
        }
    }

    /// A slice has ended amid an exchange.
    pub fn increment(&mut self, x: &mut Exchange, ends: &Ends) {
        let moved = x.moved();
        let before = x.counted.as_deref().copied().unwrap_or_default();
        if moved == before {
            return;
        }
        if x.number == 0 && !x.denied {
            self.numbered += 1;
            x.number = self.numbered;
        }
        let link_bytes = moved.link_bytes - before.link_bytes;
        if x.denied {
            self.account.add(Cause::Denied, link_bytes);
        } else {
            self.account.in_flight_bytes += link_bytes;
            let slice = self.clock.start();
            self.increments
                .push(x, &before, ends, &self.options, slice, false);
        }
        x.counted = Some(Box::new(moved));
    }
}

/// Looks at an exchange that is in flight.
pub type Visit<'a> = dyn FnMut(&mut Exchange, &Ends) + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Between messages.
    Idle,
    /// In a head that spans segments.
    Head,
    Body(Body),
    /// Not in step: bytes go to the cause until a segment begins clearly.
    Skip(Cause),
    /// After CONNECT or an upgrade.
    Switched,
}

/// New in-order bytes: `data` was captured of the `len` that were sent.
#[derive(Clone, Copy)]
pub struct Chunks<'a> {
    pub data: &'a [u8],
    pub len: usize,
    pub time: i64,
    pub seq: u32,
    pub ack: Option<u32>,
    pub overhead: u64,
    pub packets: u32,
}

/// A packet's headers, booked once, with its first byte.
pub struct Cost {
    overhead: u64,
    packets: u64,
}

impl Cost {
    pub fn new(overhead: u64, packets: u64) -> Self {
        Cost { overhead, packets }
    }

    pub fn take(&mut self, n: usize) -> (u64, u64) {
        let bytes = n as u64 + std::mem::take(&mut self.overhead);
        (bytes, std::mem::take(&mut self.packets))
    }
}

/// A head that is not whole yet, or one just read: when and where it began, what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun {
    pub time: i64,
    pub end: i64,
    pub seq: u32,
    pub ack: Option<u32>,
    pub link: u64,
    pub packets: u64,
    pub retransmitted: u64,
}

impl Begun {
    pub fn at(time: i64, seq: u32) -> Self {
        Begun {
            time,
            end: time,
            seq,
            ..Begun::default()
        }
    }

    pub fn pay(&mut self, (link, packets): (u64, u64)) {
        self.link += link;
        self.packets += packets;
    }
}

/// In-order bytes for a protocol above HTTP/1, or a hole: `data` was captured of `len`.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub data: &'a [u8],
    pub len: usize,
    pub time: i64,
    pub seq: u32,
    /// A segment begins here.
    pub first: bool,
    /// The capture never held it.
    pub missing: bool,
}

impl Piece<'_> {
    /// Why reading got out of step here.
    pub fn lost(&self, otherwise: Cause) -> Cause {
        if self.missing {
            Cause::Gap
        } else if self.data.len() < self.len {
            Cause::Truncated
        } else {
            otherwise
        }
    }
}

/// Books `n` bytes of a piece to a cause; a hole's bytes were never captured.
pub fn book(p: &Piece, cause: Cause, n: usize, cost: &mut Cost, sink: &mut Sink) {
    if !p.missing {
        sink.account.add(cause, cost.take(n).0);
    }
}

/// An address as people write it.
fn address(addr: Addr) -> String {
    match addr {
        Addr::V4(a) => std::net::Ipv4Addr::from(a).to_string(),
        Addr::V6(a) => std::net::Ipv6Addr::from(a).to_string(),
    }
}

/// What a protocol above HTTP/1 knows of its connection.
pub struct Context<'a> {
    pub id: u64,
    ends: Ends,
    addresses: &'a mut Addresses,
    stream: &'a mut i32,
}

impl Context<'_> {
    /// Hands out an exchange.
    pub fn push(&mut self, x: &Exchange, sink: &mut Sink) {
        sink.push(x, &self.ends, self.addresses);
    }

    /// The position of a message that came after `origin`: its stream's number in HTTP/2.
    pub fn number(&mut self, origin: &Exchange) -> i32 {
        if origin.protocol == Protocol::H2 {
            return origin.stream;
        }
        self.next_position()
    }

    /// The next position on the connection.
    pub fn next_position(&mut self) -> i32 {
        let n = *self.stream;
        *self.stream = n.wrapping_add(1);
        n
    }

    /// The positions up to here were given to messages that were read in its place.
    pub fn go_on_from(&mut self, n: i32) {
        *self.stream = n;
    }

    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// The position that the next message will have.
    pub fn position(&self) -> i32 {
        *self.stream
    }

    pub fn client_address(&self) -> String {
        address(self.ends.client.0)
    }

    /// Both ends, the client's first: address, port, address, port.
    pub fn described(&self) -> String {
        let ((c, cp), (s, sp)) = (self.ends.client, self.ends.server);
        format!("{} {cp} {} {sp}", address(c), address(s))
    }

    pub fn gor_id(&self, seq: u32, sink: &Sink) -> [u8; 24] {
        if !sink.options.requests && !sink.options.responses {
            return [0; 24];
        }
        let (client, port) = self.ends.client;
        gor_id(port, self.ends.server.1, last_bytes(client), seq)
    }
}

/// The last four bytes of an address.
fn last_bytes(addr: Addr) -> u32 {
    match addr {
        Addr::V4(a) => a,
        Addr::V6(a) => a as u32,
    }
}

/// What is spoken after a switch.
enum Upper {
    Http2(Http2),
    WebSocket(WebSocket),
    Opaque(Opaque),
    Tls(Box<Tls>),
    Tunnel(Box<Tunnel>),
    Handover(Handover),
}

pub struct Lane {
    pub state: State,
    begun: Begun,
    head: Vec<u8>,
    message: Vec<u8>,
    /// The message is still whole.
    keep: bool,
    /// A response without its request has just begun: it may answer HEAD.
    unasked: bool,
    /// Where a hole between messages began.
    hole: Option<u32>,
    closed: bool,
}

impl Lane {
    fn new(state: State) -> Self {
        Lane {
            state,
            begun: Begun::default(),
            head: Vec::new(),
            message: Vec::new(),
            keep: false,
            unasked: false,
            hole: None,
            closed: false,
        }
    }
}

pub struct Http {
    pub id: u64,
    pub ends: [(Addr, u16); 2],
    /// The lane of the client; a guess until `understood`.
    pub client: usize,
    pub understood: bool,
    pub lanes: [Lane; 2],
    queue: VecDeque<Box<Exchange>>,
    spare: Option<Box<Exchange>>,
    addresses: Addresses,
    stream: i32,
    /// Answers to expect for requests given up.
    forgotten: u32,
    last_id: Option<u32>,
    upper: Option<Box<Upper>>,
    secure: Secure,
    /// A balancer has said for whom it speaks.
    proxied: bool,
    /// What is spoken once the answer that switches has ended.
    next: Option<Box<Upper>>,
}

/// a - b on the circle of sequence numbers.
#[inline]
pub fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// A side of an exchange begins; interim responses may have been counted to it already.
#[inline]
fn begin(side: &mut Side, head: &Head, len: usize, begun: &Begun) {
    side.seen = true;
    side.time = begun.time;
    side.end = begun.end;
    side.seq = begun.seq;
    side.ack = begun.ack;
    side.minor = head.minor;
    side.header = len as u64;
    side.wire += len as u64;
    side.packets += begun.packets;
}

/// What an answer of status 101 switches to, where that is known (RFC 9110 §7.8).
fn upgrade(x: &Exchange, head: &[u8], server: usize) -> Option<Box<Upper>> {
    let find = |wanted: &[u8]| {
        http1::fields(head)
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    };
    let to = find(b"Upgrade")?;
    Some(Box::new(if to.eq_ignore_ascii_case(b"websocket") {
        let extensions = find(b"Sec-WebSocket-Extensions").unwrap_or(b"");
        Upper::WebSocket(WebSocket::new(x, extensions))
    } else if to.eq_ignore_ascii_case(b"h2c") {
        let mut h = Http2::new(1 - server, 0, true);
        h.upgraded(x);
        Upper::Http2(h)
    } else {
        Upper::Tunnel(Box::new(Tunnel::upgrade(to, x.text(HOST))))
    }))
}

impl Http {
    pub fn new(id: u64, ends: [(Addr, u16); 2], client: usize, state: State) -> Self {
        Http {
            id,
            ends,
            client,
            understood: false,
            lanes: [Lane::new(state), Lane::new(state)],
            queue: VecDeque::new(),
            spare: None,
            addresses: Addresses::default(),
            stream: 0,
            forgotten: 0,
            last_id: None,
            upper: None,
            secure: Secure::No,
            proxied: false,
            next: None,
        }
    }

    fn ends(&self) -> Ends {
        Ends {
            connection: self.id,
            client: self.ends[self.client],
            server: self.ends[1 - self.client],
            secure: self.secure,
        }
    }

    /// The bytes come out of TLS, which negotiated this protocol.
    pub fn secure(&mut self, alpn: &[u8]) {
        self.secure = match alpn {
            b"http/1.1" => Secure::Http11,
            b"h2" => Secure::H2,
            _ => Secure::Unnamed,
        };
    }

    /// Positions on the connection that were given to messages.
    pub fn positions(&self) -> i32 {
        self.stream
    }

    /// More secrets are known.
    pub fn again(&mut self, sink: &mut Sink) {
        if let Some(Upper::Tls(_) | Upper::Tunnel(_)) = self.upper.as_deref() {
            self.above(|upper, cx| match upper {
                Upper::Tls(t) if t.blocked() => t.again(cx, sink),
                Upper::Tunnel(t) => t.again(sink),
                _ => {}
            });
        }
    }

    /// The positions up to here were given to other messages.
    pub fn go_on_from(&mut self, position: i32) {
        self.stream = position;
    }

    /// In-order bytes, or a hole, of a connection whose bytes another one carries.
    pub fn feed_piece(&mut self, d: usize, p: &Piece, cost: &mut Cost, sink: &mut Sink) {
        if p.missing {
            sink.account.missing_bytes -= p.len as u64; // it was counted below
            return self.gap(d, p.seq, p.len as u32, sink);
        }
        let (link_bytes, packets) = cost.take(p.len);
        let chunks = Chunks {
            data: p.data,
            len: p.len,
            time: p.time,
            seq: p.seq,
            ack: None,
            overhead: link_bytes - p.len as u64,
            packets: packets as u32,
        };
        self.feed(d, &chunks, sink);
    }

    /// Both directions have ended in order, and the connection is over.
    pub fn end_both(&mut self, sink: &mut Sink) {
        for d in 0..2 {
            self.end(d, sink);
        }
        self.close(false, sink);
    }

    /// Shows every exchange that is in flight.
    pub fn each_open(&mut self, visit: &mut Visit) {
        let ends = self.ends();
        for x in &mut self.queue {
            visit(x, &ends);
        }
        match self.upper.as_deref_mut() {
            Some(Upper::Http2(h)) => h.each_open(&ends, visit),
            Some(Upper::WebSocket(w)) => w.each_open(&ends, visit),
            Some(Upper::Opaque(o)) => o.each_open(&ends, visit),
            Some(Upper::Tls(t)) => t.each_open(&ends, visit),
            Some(Upper::Tunnel(t)) => t.each_open(&ends, visit),
            Some(Upper::Handover(_)) | None => {}
        }
    }

    fn fits(&mut self, kind: Kind, d: usize) -> bool {
        if !self.understood {
            self.understood = true;
            self.client = if kind == Kind::Request { d } else { 1 - d };
        }
        (kind == Kind::Request) == (d == self.client)
    }

    #[inline]
    fn current_request(&self) -> Option<usize> {
        if self.queue.back().is_some_and(|x| !x.request.done) {
            return Some(self.queue.len() - 1);
        }
        self.queue.iter().rposition(|x| !x.request.done)
    }

    #[inline]
    fn current_response(&self) -> Option<usize> {
        if self.queue.front().is_some_and(|x| !x.response.done) {
            return Some(0);
        }
        self.queue.iter().position(|x| !x.response.done)
    }

    /// The exchange whose message is passing in this direction.
    fn current(&mut self, d: usize) -> Option<&mut Exchange> {
        let i = if d == self.client {
            self.current_request()
        } else {
            self.current_response()
        };
        self.queue.get_mut(i?).map(Box::as_mut)
    }

    /// In-order bytes.
    pub fn feed(&mut self, d: usize, c: &Chunks, sink: &mut Sink) {
        let mut cost = Cost {
            overhead: c.overhead,
            packets: u64::from(c.packets),
        };
        let mut at = 0;
        while at < c.len {
            let seen = c.data.get(at..).unwrap_or(&[]);
            let rest = c.len - at;
            at += match self.lanes[d].state {
                State::Body(body) => self.body(d, body, seen, rest, at == 0, c, &mut cost, sink),
                State::Idle => self.begin(d, seen, rest, at, c, &mut cost, sink),
                State::Head => self.head(d, seen, rest, c, &mut cost, sink),
                State::Skip(cause) => self.skip(d, cause, seen, rest, at == 0, &mut cost, sink),
                State::Switched => {
                    let piece = Piece {
                        data: seen,
                        len: rest,
                        time: c.time,
                        seq: c.seq.wrapping_add(at as u32),
                        first: at == 0,
                        missing: false,
                    };
                    self.upper(d, &piece, &mut cost, sink);
                    rest
                }
            };
        }
    }

    /// Runs `work` on what is spoken after the switch.
    fn above<T>(&mut self, work: impl FnOnce(&mut Upper, &mut Context) -> T) -> Option<T> {
        let mut cx = Context {
            id: self.id,
            ends: Ends {
                connection: self.id,
                client: self.ends[self.client],
                server: self.ends[1 - self.client],
                secure: self.secure,
            },
            addresses: &mut self.addresses,
            stream: &mut self.stream,
        };
        self.upper.as_deref_mut().map(|upper| work(upper, &mut cx))
    }

    fn upper(&mut self, d: usize, p: &Piece, cost: &mut Cost, sink: &mut Sink) {
        let server = d != self.client;
        let known = self.above(|upper, cx| match upper {
            Upper::Http2(h) => h.feed(d, p, cost, cx, sink),
            Upper::WebSocket(w) => w.feed(server, p, cost, cx, sink),
            Upper::Opaque(o) => {
                o.feed(server, p, cost, cx, sink);
            }
            Upper::Tls(t) => t.feed(server, p, cost, cx, sink),
            Upper::Tunnel(t) => t.feed(server, p, cost, cx, sink),
            Upper::Handover(t) => t.feed(server, p, cost, cx, sink),
        });
        if known.is_none() {
            book(p, Cause::Switched, p.len, cost, sink);
        }
    }

    /// Both directions speak something else from here on.
    fn switch(&mut self, upper: Option<Upper>, sink: &mut Sink) {
        for lane in 0..2 {
            if self.lanes[lane].state == State::Head {
                self.drop_head(lane, Cause::Switched, sink);
            }
            self.lanes[lane].state = State::Switched;
        }
        self.upper = upper.map(Box::new);
    }

    /// Something else than HTTP/1 from the first byte on: what the options say of this connection,
    /// TLS, or HTTP/2. `fresh`: the connection's beginning was seen.
    fn prior_knowledge(&mut self, d: usize, seen: &[u8], fresh: bool, sink: &mut Sink) -> bool {
        if self.understood {
            return self.http2(d, seen, fresh, sink);
        }
        let o = &sink.options;
        let hello = opaque::tls_start(seen);
        let upper = if o.raw {
            Upper::Opaque(Opaque::raw())
        } else if self
            .ends
            .iter()
            .any(|(_, port)| o.plugin_ports.contains(port))
        {
            Upper::Handover(Handover::default())
        } else if hello.is_some() || (!fresh && opaque::tls_amid(seen)) {
            if o.tls_keys || sink.keys.added > 0 {
                let client = if hello.unwrap_or(d == self.client) {
                    d
                } else {
                    1 - d
                };
                let ends = [self.ends[client], self.ends[1 - client]];
                Upper::Tls(Box::new(Tls::new(ends, hello.is_some())))
            } else {
                Upper::Opaque(Opaque::tls(fresh || hello.is_some()))
            }
        } else {
            return self.http2(d, seen, fresh, sink);
        };
        if let Some(by_client) = hello.filter(|_| !o.raw) {
            self.client = if by_client { d } else { 1 - d };
        }
        self.understood = true;
        self.switch(Some(upper), sink);
        true
    }

    /// HTTP/2 without an upgrade, if these are its first bytes: the client's preface or the
    /// server's SETTINGS, or frames where the beginning was not seen.
    fn http2(&mut self, d: usize, seen: &[u8], fresh: bool, sink: &mut Sink) -> bool {
        let preface = seen.starts_with(&http2::PREFACE[..18]);
        let client = if preface {
            d
        } else if !self.understood && fresh && http2::server_start(seen) {
            1 - d
        } else if !self.understood && !fresh && http2::clear_start(seen) {
            self.client
        } else {
            return false;
        };
        if self.understood && (client != self.client || !self.queue.is_empty()) {
            return false;
        }
        self.understood = true;
        self.client = client;
        self.switch(
            Some(Upper::Http2(Http2::new(client, 0, fresh || preface))),
            sink,
        );
        true
    }

    fn skip(
        &mut self,
        d: usize,
        cause: Cause,
        seen: &[u8],
        rest: usize,
        first: bool,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let clear = if first {
            http1::clear_start(seen)
        } else {
            None
        };
        if let Some(kind) = clear {
            if !self.understood || (kind == Kind::Request) == (d == self.client) {
                self.lanes[d].state = State::Idle;
                return 0;
            }
        }
        if first && cause == Cause::NotUnderstood && self.prior_knowledge(d, seen, false, sink) {
            return 0;
        }
        if cause == Cause::Malformed && d != self.client {
            if let Some(n) = http1::find_response(seen) {
                sink.account.add(cause, cost.take(n).0);
                self.lanes[d].state = State::Idle;
                return n;
            }
        }
        sink.account.add(cause, cost.take(rest).0);
        rest
    }

    /// Not HTTP: the rest of the segment goes to a cause, and reading waits for a clear start.
    fn refuse(&mut self, d: usize, cause: Cause, bytes: u64, sink: &mut Sink) {
        sink.account.add(cause, bytes);
        self.lanes[d].state = State::Skip(cause);
    }

    fn broken(&self) -> Cause {
        if self.understood {
            Cause::Malformed
        } else {
            Cause::UnknownProtocol
        }
    }

    fn begin(
        &mut self,
        d: usize,
        seen: &[u8],
        rest: usize,
        at: usize,
        c: &Chunks,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        if !self.understood && self.positions() == 0 {
            if let Some(header) = proxy_protocol::header(seen).filter(|_| !self.proxied) {
                sink.account
                    .add(Cause::ConnectionOverhead, cost.take(header.size).0);
                self.proxied = true;
                self.client = d;
                if let Some([client, _]) = header.ends {
                    self.ends[d] = client;
                }
                return header.size;
            }
        }
        // RFC 9112 §2.2: blank lines before a request are ignored; some servers send one after a body.
        let blank = seen
            .iter()
            .position(|b| !matches!(b, b'\r' | b'\n'))
            .unwrap_or(seen.len());
        if blank > 0 {
            sink.account
                .add(Cause::ConnectionOverhead, cost.take(blank).0);
            return blank;
        }
        if (seen.first() == Some(&b'P') || !self.understood)
            && self.prior_knowledge(d, seen, true, sink)
        {
            return 0;
        }
        let covered = seen.len() >= rest;
        if !self.understood && covered && rest < 6 && seen.starts_with(&[22]) {
            // A TLS record may begin here, and its first bytes come alone.
            let lane = &mut self.lanes[d];
            lane.begun = Begun::at(c.time, c.seq.wrapping_add(at as u32));
            lane.begun.pay(cost.take(rest));
            lane.head.clear();
            lane.head.extend_from_slice(seen);
            sink.buffered += seen.len();
            lane.state = State::Head;
            return rest;
        }
        let (time, ack) = (c.time, c.ack);
        let seq = c.seq.wrapping_add(at as u32);
        if self.understood && d != self.client && !http1::may_respond(seen) {
            return self.stray(d, seen, rest, seq, cost, sink);
        }
        let begun = |bytes: (u64, u64)| Begun {
            time,
            end: time,
            seq,
            ack,
            link: bytes.0,
            packets: bytes.1,
            retransmitted: 0,
        };
        let speaker = last_bytes(self.ends[d].0);
        match http1::parse_with(seen, !covered, Some((&mut sink.memos, speaker))) {
            Parsed::Whole(head, n) if self.fits(head.kind, d) => {
                let stray = http1::stray_prefix(head.method);
                if stray > 0 {
                    sink.account.add(Cause::Malformed, cost.take(stray).0);
                    return stray;
                }
                self.message(d, &head, &seen[..n], begun(cost.take(n)), sink);
                n
            }
            Parsed::Partial if covered => {
                let lane = &mut self.lanes[d];
                lane.begun = begun(cost.take(rest));
                lane.head.clear();
                lane.head.extend_from_slice(seen);
                sink.buffered += seen.len();
                lane.state = State::Head;
                self.check_head(d, sink);
                rest
            }
            Parsed::Partial => {
                self.refuse(d, Cause::Truncated, cost.take(rest).0, sink);
                rest
            }
            Parsed::Invalid if !self.understood && !sink.options.protocols.is_empty() => {
                self.understood = true;
                self.switch(Some(Upper::Handover(Handover::default())), sink);
                0
            }
            Parsed::Whole(..) | Parsed::Invalid => self.stray(d, seen, rest, seq, cost, sink),
        }
    }

    /// Bytes where a message should begin, and none does: up to the next clear start of a response, or all.
    fn stray(
        &mut self,
        d: usize,
        seen: &[u8],
        rest: usize,
        seq: u32,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        if self.understood && d != self.client {
            self.lanes[d].hole.get_or_insert(seq);
            if let Some(n) = http1::find_response(seen).filter(|&n| n > 0) {
                sink.account.add(Cause::Malformed, cost.take(n).0);
                return n;
            }
        }
        self.refuse(d, self.broken(), cost.take(rest).0, sink);
        rest
    }

    fn drop_head(&mut self, d: usize, cause: Cause, sink: &mut Sink) {
        let lane = &mut self.lanes[d];
        sink.buffered -= lane.head.len();
        lane.head.clear();
        let bytes = lane.begun.link;
        self.refuse(d, cause, bytes, sink);
    }

    /// Gives up on a head that cannot be one, or grows over the bound.
    fn check_head(&mut self, d: usize, sink: &mut Sink) {
        let head = &self.lanes[d].head;
        if head.len() > sink.options.max_head_bytes || sink.buffered > sink.options.max_buffer_bytes
        {
            sink.account.bound_hits += 1;
            self.cut_head(d, Cause::MemoryBound, sink);
        } else if head.len() < 64 && http1::start(head) == http1::Start::No {
            let cause = self.broken();
            self.drop_head(d, cause, sink);
        }
    }

    fn head(
        &mut self,
        d: usize,
        seen: &[u8],
        rest: usize,
        c: &Chunks,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        if !self.understood && self.lanes[d].head.first() == Some(&22) {
            return self.tls_head(d, seen, rest, c, cost, sink);
        }
        let lane = &mut self.lanes[d];
        let old = lane.head.len();
        lane.head.extend_from_slice(seen);
        sink.buffered += seen.len();
        lane.begun.end = c.time;
        if let Some(end) = http1::head_end(&lane.head, old.saturating_sub(2)) {
            let used = end - old;
            sink.buffered -= lane.head.len() - end;
            lane.head.truncate(end);
            let (bytes, packets) = cost.take(used);
            lane.begun.link += bytes;
            lane.begun.packets += packets;
            let mut head = std::mem::take(&mut lane.head);
            let begun = lane.begun;
            match http1::parse(&head, false) {
                _ if head == http2::PREFACE[..18] && self.queue.is_empty() => {
                    sink.buffered -= end;
                    sink.account.add(Cause::ConnectionOverhead, begun.link);
                    self.understood = true;
                    self.client = d;
                    self.lanes[d].state = State::Idle;
                    self.switch(Some(Upper::Http2(Http2::new(d, 18, true))), sink);
                }
                Parsed::Whole(parsed, _) if self.fits(parsed.kind, d) => {
                    sink.buffered -= end;
                    let stray = http1::stray_prefix(parsed.method);
                    sink.account.add(Cause::Malformed, stray as u64);
                    let begun = Begun {
                        seq: begun.seq.wrapping_add(stray as u32),
                        link: begun.link - stray as u64,
                        ..begun
                    };
                    match http1::parse(&head[stray..], false) {
                        Parsed::Whole(parsed, _) => {
                            self.message(d, &parsed, &head[stray..], begun, sink);
                        }
                        _ => self.refuse(d, Cause::Malformed, begun.link, sink),
                    }
                }
                _ => {
                    sink.buffered -= end;
                    if self.understood && d != self.client {
                        self.lanes[d].hole.get_or_insert(begun.seq);
                    }
                    self.refuse(d, self.broken(), begun.link, sink);
                }
            }
            head.clear();
            self.lanes[d].head = head;
            return used;
        }
        let (bytes, packets) = cost.take(rest);
        lane.begun.link += bytes;
        lane.begun.packets += packets;
        if seen.len() < rest {
            self.cut_head(d, Cause::Truncated, sink);
            let server = d != self.client;
            if let (State::Body(_), Some(x)) = (self.lanes[d].state, self.current(d)) {
                // What the snap length hid of this segment counts as body: its share is unknown.
                let side = if server {
                    &mut x.response
                } else {
                    &mut x.request
                };
                side.body += (rest - seen.len()) as u64;
                side.wire += (rest - seen.len()) as u64;
            }
        } else {
            self.check_head(d, sink);
        }
        rest
    }

    /// The first bytes of what may be TLS have come alone: they are read with those that follow.
    fn tls_head(
        &mut self,
        d: usize,
        seen: &[u8],
        rest: usize,
        c: &Chunks,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let lane = &mut self.lanes[d];
        sink.buffered -= lane.head.len();
        let mut head = std::mem::take(&mut lane.head);
        let begun = lane.begun;
        let (bytes, packets) = cost.take(rest);
        let whole = head.len() + rest;
        head.extend_from_slice(seen);
        if head.len() < 6 && seen.len() == rest {
            sink.buffered += head.len();
            lane.head = head;
            lane.begun.pay((bytes, packets));
            return rest;
        }
        lane.state = State::Idle;
        let chunks = Chunks {
            data: &head,
            len: whole,
            time: begun.time,
            seq: begun.seq,
            ack: c.ack,
            overhead: begun.link + bytes - whole as u64,
            packets: (begun.packets + packets) as u32,
        };
        if self.prior_knowledge(d, &head, true, sink) {
            self.feed(d, &chunks, sink);
        } else {
            self.refuse(d, self.broken(), begun.link + bytes, sink);
        }
        rest
    }

    /// Makes what it can of a head that will not become whole.
    fn cut_head(&mut self, d: usize, cause: Cause, sink: &mut Sink) {
        let head = std::mem::take(&mut self.lanes[d].head);
        let begun = self.lanes[d].begun;
        sink.buffered -= head.len();
        match http1::parse(&head, true) {
            Parsed::Whole(parsed, n) if self.fits(parsed.kind, d) => {
                self.message(d, &parsed, &head[..n], begun, sink);
            }
            _ => match http1::cut_request_line(&head) {
                Some(parsed) if cause == Cause::MemoryBound && self.fits(Kind::Request, d) => {
                    self.message(d, &parsed, &head, begun, sink);
                }
                _ => self.refuse(d, cause, begun.link, sink),
            },
        }
    }

    /// A head was read: a message begins.
    fn message(&mut self, d: usize, head: &Head, bytes: &[u8], begun: Begun, sink: &mut Sink) {
        let body = match head.kind {
            Kind::Request => {
                let mut x = self.fresh();
                begin(&mut x.request, head, bytes.len(), &begun);
                x.set_request([head.method, head.target, head.host, head.trace]);
                x.is_head = head.method == b"HEAD";
                x.is_connect = head.method == b"CONNECT";
                x.denied = !sink.options.filters.is_empty()
                    && !sink.options.filters.passes(head.method, head.target, bytes);
                x.id = self.gor_id(begun.ack, sink);
                if self.queue.len() >= sink.options.max_pipeline {
                    self.forget_oldest(sink);
                }
                let body = http1::request_body(head);
                x.expects = body != Body::Length(0)
                    && http1::fields(bytes).any(|(name, value)| {
                        name.eq_ignore_ascii_case(b"Expect")
                            && value.eq_ignore_ascii_case(b"100-continue")
                    });
                self.queue.push_back(x);
                body
            }
            Kind::Response if head.status < 200 && head.status != 101 => {
                self.interim(bytes.len(), &begun, sink);
                self.lanes[d].state = State::Idle;
                return;
            }
            Kind::Response => {
                let i = self.pair(d, &begun, sink);
                let x = &mut self.queue[i];
                begin(&mut x.response, head, bytes.len(), &begun);
                x.status = head.status;
                x.set_response(head.content_type, head.content_encoding);
                if head.status == 101 {
                    self.next = upgrade(x, bytes, d);
                }
                let x = &self.queue[i];
                http1::response_body(head, x.is_head, x.is_connect)
            }
        };
        let unasked =
            head.kind == Kind::Response && self.current(d).is_some_and(|x| !x.request.seen);
        let lane = &mut self.lanes[d];
        lane.state = State::Body(body);
        lane.unasked = unasked;
        lane.hole = None;
        let wanted = if head.kind == Kind::Request {
            sink.options.requests
        } else {
            sink.options.responses
        };
        let Some(x) = self.current(d) else {
            return; // not reached: the exchange was put there above
        };
        x.link_bytes += begun.link;
        x.retransmitted += begun.retransmitted;
        x.flag(head.anomaly);
        let wanted = wanted && !x.denied;
        let client = if sink.options.real_ip_header.is_empty() {
            String::new()
        } else {
            address(self.ends[self.client].0)
        };
        let lane = &mut self.lanes[d];
        lane.keep = wanted && head.anomaly != Anomaly::HeadCut;
        if lane.keep {
            if sink.options.redaction.is_empty() {
                lane.message.extend_from_slice(bytes);
            } else {
                lane.message
                    .extend_from_slice(&sink.options.redaction.head(bytes));
            }
            if head.kind == Kind::Request && !sink.options.real_ip_header.is_empty() {
                let name = sink.options.real_ip_header.as_bytes();
                head::set(&mut lane.message, name, client.as_bytes());
            }
            sink.buffered += lane.message.len();
        } else if wanted {
            sink.account.messages_cut += 1;
        }
        if body == Body::Length(0) {
            self.finish(d, true, sink);
        }
    }

    fn fresh(&mut self) -> Box<Exchange> {
        let mut x = self.spare.take().unwrap_or_default();
        x.clear();
        x.stream = self.stream;
        self.stream = self.stream.wrapping_add(1);
        x
    }

    fn gor_id(&mut self, ack: Option<u32>, sink: &Sink) -> [u8; 24] {
        if !sink.options.requests && !sink.options.responses {
            return [0; 24];
        }
        // Pipelined requests carry one acknowledgement; each still gets its own id.
        let mut seq = ack.unwrap_or(0);
        if let Some(last) = self.last_id {
            if distance(seq, last) <= 0 {
                seq = last.wrapping_add(1);
            }
        }
        self.last_id = Some(seq);
        let (client, port) = self.ends[self.client];
        gor_id(port, self.ends[1 - self.client].1, last_bytes(client), seq)
    }

    fn forget_oldest(&mut self, sink: &mut Sink) {
        sink.account.bound_hits += 1;
        if let Some(x) = self.queue.front_mut() {
            x.flag(Anomaly::PipelineBound);
            x.request.done = true;
            if !x.response.done && !x.response.seen {
                self.forgotten += 1;
            }
            x.response.done = true;
        }
        self.emit(sink);
    }

    fn interim(&mut self, wire: usize, begun: &Begun, sink: &mut Sink) {
        match self.current_response().and_then(|i| self.queue.get_mut(i)) {
            Some(x) => {
                x.response.wire += wire as u64;
                x.response.packets += begun.packets;
                x.link_bytes += begun.link;
                x.retransmitted += begun.retransmitted;
            }
            None => sink.account.add(Cause::ConnectionOverhead, begun.link),
        }
    }

    /// The exchange that a response answers. Acknowledgements tell what each side had received
    /// when it spoke: an answer never comes before its request was read, and a client that has
    /// read past a lost answer sends the next request with an acknowledgement beyond it.
    fn pair(&mut self, d: usize, begun: &Begun, sink: &mut Sink) -> usize {
        let hole = self.lanes[d].hole.take();
        if let Some(hole) = hole {
            while let Some(i) = self.current_response() {
                let next = self.queue.get(i + 1).and_then(|x| x.request.ack);
                if next.is_none_or(|ack| distance(ack, hole) <= 0) {
                    break;
                }
                self.queue[i].response.done = true;
            }
            self.emit(sink);
        }
        let at = self.current_response();
        let answers = at.is_some_and(|i| {
            let request = &self.queue[i].request;
            request.seen && begun.ack.is_none_or(|ack| distance(request.seq, ack) < 0)
        });
        match at {
            Some(i) if answers && self.forgotten == 0 => {
                if hole.is_some() && i + 1 < self.queue.len() {
                    self.queue[i].flag(Anomaly::GuessedPairing);
                }
                i
            }
            _ => {
                self.forgotten = self.forgotten.saturating_sub(1);
                let i = at.unwrap_or(self.queue.len());
                let mut x = self.fresh();
                x.request.done = true;
                x.denied = !sink.options.filters.passes_unknown();
                x.set_request([b"", b"", b"", b""]);
                x.id = self.gor_id(Some(begun.seq), sink);
                self.queue.insert(i, x);
                i
            }
        }
    }

    fn body(
        &mut self,
        d: usize,
        body: Body,
        seen: &[u8],
        rest: usize,
        first: bool,
        c: &Chunks,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        if std::mem::take(&mut self.lanes[d].unasked)
            && first
            && http1::clear_start(seen) == Some(Kind::Response)
        {
            // Where its body should begin the next answer does: it had none, as answers to HEAD.
            self.finish(d, true, sink);
            return 0;
        }
        if first && d == self.client && self.is_answered() {
            // The other side ended this message early: what follows is not its own.
            if http1::clear_start(seen) == Some(Kind::Request) {
                self.end_answered(sink);
                return 0;
            }
        }
        let mut end = None;
        let mut anomaly = Anomaly::None;
        let (used, content, next) = match body {
            Body::Length(left) => {
                let n = left.min(rest as u64) as usize;
                if n as u64 == left {
                    end = Some(true);
                }
                (n, n, Body::Length(left - n as u64))
            }
            Body::UntilClose => (rest, rest, body),
            Body::Chunked(Chunk::Data(left)) if seen.is_empty() => {
                let n = left.min(rest as u64) as usize;
                let next = if n as u64 == left {
                    Chunk::End
                } else {
                    Chunk::Data(left - n as u64)
                };
                (n, n, Body::Chunked(next))
            }
            // The snap length hides a line end that must be there.
            Body::Chunked(Chunk::End) if seen.is_empty() && rest >= 2 => {
                (2, 0, Body::Chunked(Chunk::Size(0, 0)))
            }
            Body::Chunked(_) if seen.is_empty() => {
                anomaly = Anomaly::ChunksHidden;
                (0, 0, Body::Blind(true))
            }
            Body::Chunked(mut state) => {
                let took = http1::chunk(&mut state, seen);
                if took.end {
                    end = Some(true);
                }
                if took.broken {
                    anomaly = Anomaly::BadChunk;
                    (took.bytes, took.content, Body::Blind(false))
                } else {
                    (took.bytes, took.content, Body::Chunked(state))
                }
            }
            Body::Blind(chunked) => {
                let kind = if d == self.client {
                    Kind::Request
                } else {
                    Kind::Response
                };
                if first && http1::clear_start(seen) == Some(kind) {
                    self.finish(d, false, sink);
                    return 0;
                }
                let last = chunked
                    && seen.len() == rest
                    && (seen == b"0\r\n\r\n" || seen.ends_with(b"\r\n0\r\n\r\n"));
                if last {
                    end = Some(false);
                }
                (rest, rest, body)
            }
        };
        let (bytes, packets) = if used > 0 { cost.take(used) } else { (0, 0) };
        let time = c.time;
        let server = d != self.client;
        if let Some(x) = self.current(d) {
            x.link_bytes += bytes;
            x.flag(anomaly);
            let side = if server {
                &mut x.response
            } else {
                &mut x.request
            };
            side.body += content as u64;
            side.wire += used as u64;
            side.packets += packets;
            side.end = time;
        } else {
            sink.account.add(Cause::Malformed, bytes);
        }
        let lane = &mut self.lanes[d];
        lane.state = State::Body(next);
        if lane.keep && used > 0 {
            let room = sink
                .options
                .max_message_bytes
                .saturating_sub(lane.message.len());
            if (seen.len() < used && !sink.options.allow_incomplete)
                || used > room
                || sink.buffered + used > sink.options.max_buffer_bytes
            {
                self.spoil(d, sink);
            } else {
                let seen = &seen[..used.min(seen.len())];
                lane.message.extend_from_slice(seen);
                sink.buffered += seen.len();
            }
        }
        if let Some(whole) = end {
            self.finish(d, whole, sink);
        }
        used
    }

    /// The request that is passing has its whole response already.
    fn is_answered(&self) -> bool {
        self.current_request()
            .is_some_and(|i| self.queue[i].response.done && self.queue[i].response.seen)
    }

    /// Ends a request that was answered before it was sent. One that waited to be told to go on is whole.
    fn end_answered(&mut self, sink: &mut Sink) {
        let d = self.client;
        let whole = self
            .current_request()
            .is_some_and(|i| self.queue[i].expects && self.queue[i].request.body == 0);
        self.spoil(d, sink);
        self.finish(d, whole, sink);
    }

    /// The message in this direction cannot be handed out.
    fn spoil(&mut self, d: usize, sink: &mut Sink) {
        let lane = &mut self.lanes[d];
        if lane.keep {
            lane.keep = false;
            sink.buffered -= lane.message.len();
            lane.message = Vec::new();
            sink.account.messages_cut += 1;
        }
    }

    /// The message in this direction has ended.
    fn finish(&mut self, d: usize, whole: bool, sink: &mut Sink) {
        if !whole && !sink.options.allow_incomplete {
            self.spoil(d, sink);
        }
        self.lanes[d].state = State::Idle;
        let server = d != self.client;
        let id = self.id;
        let lane_keep = self.lanes[d].keep;
        let message = std::mem::take(&mut self.lanes[d].message);
        let Some(x) = self.current(d) else {
            return;
        };
        let (kind, side) = if server {
            (2, &mut x.response)
        } else {
            (1, &mut x.request)
        };
        side.done = true;
        side.whole = whole;
        let meta = Meta {
            kind,
            id: x.id,
            time: side.time,
            latency: side.end.wrapping_sub(side.time),
            connection: id,
            stream: x.stream,
        };
        let (status, connect) = (x.status, x.is_connect);
        let tunnel = (server && connect && (200..300).contains(&status))
            .then(|| Upper::Tunnel(Box::new(Tunnel::connect(x.text(TARGET)))));
        let open_request = server && !x.request.done;
        if lane_keep {
            sink.messages.push(&meta, &message);
            sink.buffered -= message.len();
            let mut message = message;
            message.clear();
            if message.capacity() <= 64 << 10 {
                self.lanes[d].message = message;
            }
            self.lanes[d].keep = false;
        }
        if server {
            let switched = status == 101 || (connect && (200..300).contains(&status));
            if open_request
                && (switched
                    || matches!(self.lanes[self.client].state, State::Body(Body::Blind(_))))
            {
                let client = self.client;
                if let Some(x) = self.queue.iter_mut().rfind(|x| !x.request.done) {
                    x.request.done = true;
                }
                self.spoil(client, sink);
                self.lanes[client].state = State::Skip(Cause::Gap);
            }
            if switched {
                let next = self.next.take().map(|b| *b).or(tunnel);
                self.switch(next, sink);
            }
        }
        self.emit(sink);
    }

    /// Hands out finished exchanges, in the order of the connection.
    fn emit(&mut self, sink: &mut Sink) {
        let ends = self.ends();
        while self
            .queue
            .front()
            .is_some_and(|x| x.request.done && x.response.done)
        {
            if let Some(x) = self.queue.pop_front() {
                sink.push(&x, &ends, &mut self.addresses);
                self.spare = Some(x);
            }
        }
    }

    /// `n` bytes of this direction, from `seq` on, will never be seen.
    pub fn gap(&mut self, d: usize, seq: u32, n: u32, sink: &mut Sink) {
        sink.account.missing_bytes += u64::from(n);
        if self.lanes[d].state == State::Switched {
            let piece = Piece {
                data: &[],
                len: n as usize,
                time: 0,
                seq,
                first: true,
                missing: true,
            };
            let mut free = Cost {
                overhead: 0,
                packets: 0,
            };
            return self.upper(d, &piece, &mut free, sink);
        }
        if !sink.options.allow_incomplete || self.lanes[d].state == State::Head {
            self.spoil(d, sink);
        }
        let n = u64::from(n);
        if self.lanes[d].state == State::Head {
            self.cut_head(d, Cause::Gap, sink);
            self.spoil(d, sink);
        }
        match self.lanes[d].state {
            State::Idle | State::Skip(_) => {
                let lane = &mut self.lanes[d];
                lane.hole.get_or_insert(seq);
                if lane.state == State::Idle {
                    lane.state = State::Skip(Cause::Gap);
                }
            }
            State::Body(body) => {
                let (next, part, flag) = match body {
                    Body::Length(left) if n >= left => (None, left, Anomaly::None),
                    Body::Length(left) => (Some(Body::Length(left - n)), n, Anomaly::None),
                    Body::Chunked(Chunk::Data(left)) if n < left => {
                        (Some(Body::Chunked(Chunk::Data(left - n))), n, Anomaly::None)
                    }
                    Body::Chunked(Chunk::Data(left)) if n == left => {
                        (Some(Body::Chunked(Chunk::End)), n, Anomaly::None)
                    }
                    Body::Chunked(_) => (Some(Body::Blind(true)), n, Anomaly::ChunksHidden),
                    Body::UntilClose | Body::Blind(_) => (Some(body), n, Anomaly::None),
                };
                if let Some(x) = self.current(d) {
                    x.missing += part;
                    x.flag(flag);
                }
                match next {
                    Some(next) => self.lanes[d].state = State::Body(next),
                    None => {
                        self.finish(d, false, sink);
                        if n > part && self.lanes[d].state == State::Idle {
                            self.lanes[d].hole = Some(seq.wrapping_add(part as u32));
                            self.lanes[d].state = State::Skip(Cause::Gap);
                        }
                    }
                }
            }
            State::Head | State::Switched => {}
        }
    }

    /// A segment of this direction came again: its bytes go to the exchange it belongs to.
    pub fn repeated(
        &mut self,
        d: usize,
        seq: u32,
        bytes: u64,
        payload: u64,
        packets: u64,
        sink: &mut Sink,
    ) {
        if self.upper.is_some() {
            return self.repeated_above(d, bytes, payload, packets, sink);
        }
        let lane = &mut self.lanes[d];
        if lane.state == State::Head && distance(seq, lane.begun.seq) >= 0 {
            lane.begun.link += bytes;
            lane.begun.retransmitted += payload;
            lane.begun.packets += packets;
            return;
        }
        let found = if !self.understood {
            None
        } else if d == self.client {
            self.queue
                .iter_mut()
                .rfind(|x| x.request.seen && distance(seq, x.request.seq) >= 0)
        } else {
            self.queue
                .iter_mut()
                .find(|x| !x.response.done && x.response.seen && distance(seq, x.response.seq) >= 0)
        };
        match found {
            Some(x) => {
                x.link_bytes += bytes;
                x.retransmitted += payload;
                let side = if d == self.client {
                    &mut x.request
                } else {
                    &mut x.response
                };
                side.packets += packets;
            }
            None => sink.account.add(Cause::Retransmission, bytes),
        }
    }

    fn repeated_above(
        &mut self,
        d: usize,
        bytes: u64,
        payload: u64,
        packets: u64,
        sink: &mut Sink,
    ) {
        let server = d != self.client;
        let known = self.above(|upper, _| match upper {
            Upper::Http2(h) => {
                h.repeated(d, bytes, payload, packets, sink);
                true
            }
            Upper::WebSocket(w) => w.repeated(server, bytes, payload, packets),
            Upper::Opaque(o) => o.repeated(server, bytes, payload, packets),
            Upper::Tls(t) => t.repeated(server, bytes, payload, packets),
            Upper::Tunnel(t) => t.repeated(server, bytes, payload, packets),
            Upper::Handover(_) => false,
        });
        if known != Some(true) {
            sink.account.add(Cause::Retransmission, bytes);
        }
    }

    /// This direction has ended in order (FIN); true once both have.
    pub fn end(&mut self, d: usize, sink: &mut Sink) -> bool {
        self.end_message(d, true, sink);
        self.lanes[d].closed = true;
        self.lanes[1 - d].closed
    }

    /// Says when the last byte of this direction's message passed, where it came as one piece.
    pub fn last_byte(&mut self, d: usize, time: i64) {
        let server = d != self.client;
        let message = if server {
            self.queue.iter_mut().find(|x| x.response.seen)
        } else {
            self.queue.back_mut()
        };
        if let Some(x) = message {
            let side = if server {
                &mut x.response
            } else {
                &mut x.request
            };
            side.end = time;
        }
    }

    fn end_message(&mut self, d: usize, closed: bool, sink: &mut Sink) {
        if self.lanes[d].state == State::Head {
            self.cut_head(d, Cause::Malformed, sink);
        }
        if let State::Body(body) = self.lanes[d].state {
            let never_sent = |x: &mut Exchange| x.expects && x.request.body == 0;
            if d == self.client && self.is_answered() && self.current(d).is_some_and(never_sent) {
                return self.end_answered(sink);
            }
            let whole = closed && body == Body::UntilClose;
            if closed && !whole {
                if let Some(x) = self.current(d) {
                    x.flag(Anomaly::ClosedEarly);
                }
            }
            self.finish(d, whole, sink);
        }
    }

    /// The connection is over: everything unfinished is handed out as it stands.
    pub fn close(&mut self, reset: bool, sink: &mut Sink) {
        for d in [self.client, 1 - self.client] {
            if reset {
                if let (State::Body(_), Some(x)) = (self.lanes[d].state, self.current(d)) {
                    x.flag(Anomaly::ClosedEarly);
                }
            }
            self.end_message(d, false, sink);
        }
        let in_order = self.lanes.iter().all(|lane| lane.closed);
        self.above(|upper, cx| match upper {
            Upper::Http2(h) => h.close(cx, sink),
            Upper::WebSocket(w) => w.close(cx, sink),
            Upper::Opaque(o) => o.close(in_order, cx, sink),
            Upper::Tls(t) => t.close(in_order, cx, sink),
            Upper::Tunnel(t) => t.close(in_order, cx, sink),
            Upper::Handover(t) => t.close(cx, sink),
        });
        self.upper = None;
        for x in &mut self.queue {
            x.request.done = true;
            x.response.done = true;
        }
        self.emit(sink);
        for lane in &mut self.lanes {
            *lane = Lane::new(State::Skip(Cause::Retransmission));
        }
        self.queue = VecDeque::new();
        self.spare = None;
    }
}
