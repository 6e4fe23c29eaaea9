//! One connection's WebSocket (RFC 6455): frames of two directions to messages, a row each.
//!
//! Owns frame headers, fragments, control frames between them, masks, and how long a message is
//! after permessage-deflate (RFC 7692). Never keeps a message: payload is counted, and inflated into
//! a scratch buffer where it was compressed. After a hole it waits for a segment that begins with a
//! frame.

use crate::account::Cause;
use crate::connection::{book, Begun, Context, Cost, Piece, Sink, Visit};
use crate::exchange::{Ends, Exchange, Extra, Protocol, HOST, TARGET, TRACE};
use crate::http1::Anomaly;
use flate2::{Decompress, FlushDecompress, Status};

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const MAX_HEADER: usize = 14;

/// Opcodes (RFC 6455 §5.2) as the column `method` names them.
fn name(opcode: u8) -> &'static [u8] {
    match opcode {
        0 => b"CONTINUATION",
        1 => b"TEXT",
        2 => b"BINARY",
        8 => b"CLOSE",
        9 => b"PING",
        10 => b"PONG",
        _ => b"RESERVED",
    }
}

/// Length of the header that begins so; at least two bytes are needed to tell.
fn header_length(head: &[u8]) -> usize {
    match head {
        [_, b, ..] => {
            let length = match b & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            2 + length + if b & 0x80 != 0 { 4 } else { 0 }
        }
        _ => 2,
    }
}

/// Payload length; None where its highest bit is set (§5.2).
fn payload_length(head: &[u8; MAX_HEADER]) -> Option<u64> {
    match head[1] & 0x7f {
        126 => Some(u64::from(u16::from_be_bytes([head[2], head[3]]))),
        127 => {
            let mut b = [0; 8];
            b.copy_from_slice(&head[2..10]);
            Some(u64::from_be_bytes(b)).filter(|&n| n >> 63 == 0)
        }
        n => Some(u64::from(n)),
    }
}

/// True if a segment begins with a frame, and after each whole one comes another or its end.
fn clear_start(b: &[u8], masked: bool, compressed: bool) -> bool {
    let mut at = 0;
    while at < b.len() {
        let mut head = [0; MAX_HEADER];
        let rest = &b[at..];
        let k = rest.len().min(MAX_HEADER);
        head[..k].copy_from_slice(&rest[..k]);
        let (first, second) = (head[0], head[1]);
        let opcode = first & 15;
        let sound = matches!(opcode, 0..=2 | 8..=10)
            && first & 0x30 == 0
            && (first & RSV1 == 0 || (compressed && matches!(opcode, 1 | 2)))
            && (opcode < 8 || (first & FIN != 0 && second & 0x7f < 126))
            && (k < 2 || (second & 0x80 != 0) == masked);
        if !sound {
            return false;
        }
        let size = header_length(&head[..k]);
        if k < size {
            return at > 0;
        }
        let Some(n) = payload_length(&head) else {
            return false;
        };
        at = at
            .saturating_add(size)
            .saturating_add(n.min(1 << 40) as usize);
    }
    at > 0
}

/// What an inflater holds: its window, and tables.
const INFLATE_BYTES: usize = 48 << 10;

/// One direction's permessage-deflate.
struct Inflate {
    stream: Decompress,
    /// §7.1.1: each message begins with an empty window.
    fresh: bool,
    /// The window is not what the sender's is: nothing more can be told.
    lost: bool,
    /// Bytes that the message's payload has become so far.
    out: u64,
}

impl Inflate {
    fn new(fresh: bool) -> Self {
        Inflate {
            stream: Decompress::new(false),
            fresh,
            lost: false,
            out: 0,
        }
    }

    fn begin(&mut self) {
        self.out = 0;
        if self.fresh {
            self.stream.reset(false);
            self.lost = false;
        }
    }

    /// Inflates payload and adds to `out`; more than `limit` is not followed.
    fn feed(&mut self, b: &[u8], limit: u64, scratch: &mut Vec<u8>) {
        scratch.resize(16 << 10, 0);
        let mut at = 0;
        while !self.lost {
            let (before, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(&b[at..], scratch, FlushDecompress::None);
            let taken = (self.stream.total_in() - before) as usize;
            at += taken;
            let made = self.stream.total_out() - made;
            self.out += made;
            if matches!(status, Ok(Status::StreamEnd)) {
                // RFC 7692 §7.2.3.5: a final block ends no message; another follows it.
                self.stream.reset(false);
            } else {
                self.lost = !matches!(status, Ok(Status::Ok | Status::BufError));
            }
            self.lost |= self.out > limit;
            if (at == b.len() && made < scratch.len() as u64) || (taken == 0 && made == 0) {
                return;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Header(usize),
    Payload,
    /// Not in step: bytes go to the cause until a segment begins with a frame.
    Lost(Cause),
}

struct Lane {
    step: Step,
    head: [u8; MAX_HEADER],
    begun: Begun,
    left: u64,
    /// Payload bytes of this frame so far.
    passed: u64,
    opcode: u8,
    fin: bool,
    /// The data message that is passing, and the control frame.
    message: Option<Box<Exchange>>,
    control: Option<Box<Exchange>>,
    compressed: bool,
    close: [u8; 2],
    /// Made with the first compressed message; what it holds counts as buffered.
    inflate: Option<Box<Inflate>>,
    fresh: bool,
    /// There was no room for an inflater.
    refused: bool,
}

impl Lane {
    /// A compressed message begins.
    fn begin_inflating(&mut self, sink: &mut Sink) {
        if self.inflate.is_none() && !self.refused {
            if sink.buffered + INFLATE_BYTES > sink.options.max_buffer_bytes {
                sink.account.bound_hits += 1;
                self.refused = true;
            } else {
                sink.buffered += INFLATE_BYTES;
                self.inflate = Some(Box::new(Inflate::new(self.fresh)));
            }
        }
        if let Some(inflate) = &mut self.inflate {
            inflate.begin();
        }
    }

    /// What the sender's window holds is no longer known.
    fn lose_window(&mut self) {
        match &mut self.inflate {
            Some(inflate) => inflate.lost = true,
            None => self.refused = !self.fresh,
        }
    }
}

pub struct WebSocket {
    /// The handshake, whose endpoint every message has.
    origin: Exchange,
    lanes: [Lane; 2],
    negotiated: bool,
    scratch: Vec<u8>,
}

/// True if the list of extensions has permessage-deflate, and whether client and server begin each
/// message with an empty window.
fn extensions(text: &[u8]) -> (bool, [bool; 2]) {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    for extension in text.split(',') {
        let mut parts = extension
            .split(';')
            .map(|part| part.trim_matches([' ', '\t', '\r', '\n', '\x0b', '\x0c']));
        if parts.next() == Some("permessage-deflate") {
            let parts: Vec<&str> = parts.collect();
            let has = |name: &str| parts.contains(&name);
            return (
                true,
                [
                    has("client_no_context_takeover"),
                    has("server_no_context_takeover"),
                ],
            );
        }
    }
    (false, [false; 2])
}

impl WebSocket {
    /// After the handshake `x`, whose answer chose these extensions.
    pub fn new(x: &Exchange, chosen: &[u8]) -> Self {
        let (negotiated, fresh) = extensions(chosen);
        let lane = |fresh| Lane {
            step: Step::Header(0),
            head: [0; MAX_HEADER],
            begun: Begun::default(),
            left: 0,
            passed: 0,
            opcode: 0,
            fin: true,
            message: None,
            control: None,
            compressed: false,
            close: [0; 2],
            inflate: None,
            fresh,
            refused: false,
        };
        WebSocket {
            origin: x.clone(),
            lanes: [lane(fresh[0]), lane(fresh[1])],
            negotiated,
            scratch: Vec::new(),
        }
    }

    /// In-order bytes of the client (`server` false) or the server, or a hole (`p.missing`).
    pub fn feed(
        &mut self,
        server: bool,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let d = usize::from(server);
        let mut at = 0;
        while at < p.len {
            let seen = p.data.get(at..).unwrap_or(&[]);
            let rest = p.len - at;
            at += match self.lanes[d].step {
                Step::Header(n) => self.header(server, n, seen, rest, at, p, cost, cx, sink),
                Step::Payload => self.payload(server, seen, rest, p, cost, cx, sink),
                Step::Lost(cause) => {
                    if at == 0 && p.first && clear_start(seen, !server, self.negotiated) {
                        self.lanes[d].step = Step::Header(0);
                        0
                    } else {
                        book(p, cause, rest, cost, sink);
                        rest
                    }
                }
            };
        }
    }

    /// Shows every message that is in flight.
    pub fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        for lane in &mut self.lanes {
            for x in [&mut lane.control, &mut lane.message].into_iter().flatten() {
                visit(x, ends);
            }
        }
    }

    /// Frames can no longer be told apart: what is open is handed out as it stands.
    fn lose(&mut self, server: bool, p: &Piece, cx: &mut Context, sink: &mut Sink) {
        let cause = p.lost(Cause::Malformed);
        let lane = &mut self.lanes[usize::from(server)];
        sink.account
            .add(cause, std::mem::take(&mut lane.begun.link));
        lane.step = Step::Lost(cause);
        lane.lose_window();
        self.finish(server, false, Anomaly::None, cx, sink);
    }

    /// Hands out what is open, which will not become whole.
    fn finish(
        &mut self,
        server: bool,
        closed: bool,
        why: Anomaly,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let lane = &mut self.lanes[usize::from(server)];
        let open = [lane.control.take(), lane.message.take()];
        for mut x in open.into_iter().flatten() {
            if closed {
                x.flag(why);
            }
            emit(x, server, false, cx, sink);
        }
    }

    fn header(
        &mut self,
        server: bool,
        have: usize,
        seen: &[u8],
        rest: usize,
        at: usize,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let lane = &mut self.lanes[usize::from(server)];
        if have == 0 {
            lane.begun = Begun::at(p.time, p.seq.wrapping_add(at as u32));
        }
        let mut n = have;
        let mut size = header_length(&lane.head[..n]);
        let mut k = 0;
        while n < size && k < rest {
            let Some(&byte) = seen.get(k) else {
                self.lose(server, p, cx, sink);
                return 0;
            };
            lane.head[n] = byte;
            n += 1;
            k += 1;
            size = header_length(&lane.head[..n]);
        }
        lane.begun.pay(cost.take(k));
        if n < size {
            lane.step = Step::Header(n);
            return k;
        }
        let Some(length) = payload_length(&lane.head) else {
            self.lose(server, p, cx, sink);
            return k;
        };
        self.open(server, size, length, p.time, cx, sink);
        k
    }

    /// A frame's header has been read.
    fn open(
        &mut self,
        server: bool,
        size: usize,
        length: u64,
        time: i64,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let lane = &mut self.lanes[usize::from(server)];
        let [first, second, ..] = lane.head;
        lane.opcode = first & 15;
        lane.fin = first & FIN != 0;
        lane.left = length;
        lane.passed = 0;
        lane.step = Step::Payload;
        let control = lane.opcode >= 8;
        if !control && lane.opcode != 0 {
            if let Some(mut old) = lane.message.take() {
                // §5.4: a message must end before the next begins.
                old.flag(Anomaly::BadFrame);
                emit(old, server, false, cx, sink);
            }
        }
        let lane = &mut self.lanes[usize::from(server)];
        let (opcode, begun) = (lane.opcode, lane.begun);
        let place = if control {
            &mut lane.control
        } else {
            &mut lane.message
        };
        let fresh = place.is_none();
        let x = place.get_or_insert_with(|| {
            let mut x = Box::<Exchange>::default();
            let o = &self.origin;
            x.protocol = Protocol::WebSocket;
            x.https = o.https;
            x.denied = o.denied;
            x.set_request([name(opcode), o.text(TARGET), o.text(HOST), o.text(TRACE)]);
            x.stream = cx.number(o);
            x.extra = Some(Box::default());
            let side = if server {
                &mut x.response
            } else {
                &mut x.request
            };
            side.seen = true;
            side.time = begun.time;
            side.seq = begun.seq;
            x
        });
        let bad = (fresh && opcode == 0)
            || (control && (!matches!(opcode, 8..=10) || first & FIN == 0 || length > 125))
            || matches!(opcode, 3..=7)
            || (second & 0x80 != 0) == server;
        if bad {
            x.flag(Anomaly::BadFrame);
        }
        x.link_bytes += begun.link;
        x.retransmitted += begun.retransmitted;
        let side = if server {
            &mut x.response
        } else {
            &mut x.request
        };
        side.end = time;
        side.header += size as u64;
        side.wire += size as u64;
        side.packets += begun.packets;
        lane.begun = Begun::default();
        if !control && fresh {
            lane.compressed = self.negotiated && first & RSV1 != 0;
            if lane.compressed {
                lane.begin_inflating(sink);
            }
        }
        lane.close = [0; 2];
        if length == 0 {
            self.end_frame(server, cx, sink);
        }
    }

    fn payload(
        &mut self,
        server: bool,
        seen: &[u8],
        rest: usize,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let lane = &mut self.lanes[usize::from(server)];
        let k = lane.left.min(rest as u64) as usize;
        let seen = &seen[..seen.len().min(k)];
        let control = lane.opcode >= 8;
        let place = if control {
            &mut lane.control
        } else {
            &mut lane.message
        };
        if let Some(x) = place {
            let (link, packets) = if p.missing { (0, 0) } else { cost.take(k) };
            x.link_bytes += link;
            let side = if server {
                &mut x.response
            } else {
                &mut x.request
            };
            if p.missing {
                x.missing += k as u64;
            } else {
                side.body += k as u64;
                side.wire += k as u64;
                side.packets += packets;
                side.end = p.time;
            }
        }
        let mask = |i: u64| {
            let at = header_length(&lane.head) - 4 + (i % 4) as usize;
            if lane.head[1] & 0x80 != 0 {
                lane.head[at]
            } else {
                0
            }
        };
        let start = lane.passed;
        if lane.opcode == 8 && start < 2 {
            for (i, &byte) in seen.iter().take(2 - start as usize).enumerate() {
                let i = start + i as u64;
                lane.close[i as usize] = byte ^ mask(i);
            }
        }
        if let Some(inflate) = lane
            .inflate
            .as_mut()
            .filter(|_| !control && lane.compressed)
        {
            let limit = sink.options.max_message_bytes as u64;
            if seen.len() < k {
                inflate.lost = true;
            } else if lane.head[1] & 0x80 == 0 {
                inflate.feed(seen, limit, &mut self.scratch);
            } else {
                let plain: Vec<u8> = (start..).zip(seen).map(|(i, b)| b ^ mask(i)).collect();
                inflate.feed(&plain, limit, &mut self.scratch);
            }
        }
        lane.passed += k as u64;
        lane.left -= k as u64;
        if lane.left == 0 {
            self.end_frame(server, cx, sink);
        }
        k
    }

    fn end_frame(&mut self, server: bool, cx: &mut Context, sink: &mut Sink) {
        let lane = &mut self.lanes[usize::from(server)];
        lane.step = Step::Header(0);
        let control = lane.opcode >= 8;
        let place = if control {
            &mut lane.control
        } else {
            &mut lane.message
        };
        let Some(x) = place else {
            return; // not reached: a frame's header opened it
        };
        let body = if server {
            x.response.body
        } else {
            x.request.body
        } as i64;
        if let Some(extra) = &mut x.extra {
            let n = extra.get(Extra::MESSAGES, server).unwrap_or(0);
            extra.set(Extra::MESSAGES, server, n + 1);
        }
        if !control && !lane.fin {
            return;
        }
        let mut decoded = Some(body).filter(|_| control || !lane.compressed);
        if let Some(inflate) = lane
            .inflate
            .as_mut()
            .filter(|_| !control && lane.compressed)
        {
            // RFC 7692 §7.2.2: the end that the sender left out.
            let limit = sink.options.max_message_bytes as u64;
            inflate.feed(&[0, 0, 0xff, 0xff], limit, &mut self.scratch);
            decoded = (!inflate.lost).then_some(inflate.out as i64);
        }
        if let (Some(extra), Some(n)) = (&mut x.extra, decoded) {
            extra.set(Extra::DECODED, server, n);
        }
        let code = u16::from_be_bytes(lane.close);
        if lane.opcode == 8 && (1000..5000).contains(&code) {
            x.status = code; // §7.4.2
        }
        let whole = x.missing == 0;
        if let Some(x) = place.take() {
            emit(x, server, whole, cx, sink);
        }
    }

    /// A segment came again; true if its bytes have been booked.
    pub fn repeated(&mut self, server: bool, bytes: u64, payload: u64, packets: u64) -> bool {
        let lane = &mut self.lanes[usize::from(server)];
        let Some(x) = lane.control.as_mut().or(lane.message.as_mut()) else {
            return false;
        };
        x.link_bytes += bytes;
        x.retransmitted += payload;
        let side = if server {
            &mut x.response
        } else {
            &mut x.request
        };
        side.packets += packets;
        true
    }

    /// The connection is over.
    pub fn close(&mut self, cx: &mut Context, sink: &mut Sink) {
        for server in [false, true] {
            let lane = &mut self.lanes[usize::from(server)];
            if let Step::Header(n @ 1..) = lane.step {
                let _ = n;
                sink.account.add(Cause::Malformed, lane.begun.link);
                lane.begun.link = 0;
            }
            lane.step = Step::Lost(Cause::Retransmission);
            if lane.inflate.take().is_some() {
                sink.buffered -= INFLATE_BYTES;
            }
            self.finish(server, true, Anomaly::ClosedEarly, cx, sink);
        }
    }
}

fn emit(mut x: Box<Exchange>, server: bool, whole: bool, cx: &mut Context, sink: &mut Sink) {
    x.request.done = true;
    x.response.done = true;
    // The side that does not exist is not missing.
    x.request.whole = whole || server;
    x.response.whole = whole || !server;
    cx.push(&x, sink);
}
