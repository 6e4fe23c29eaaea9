//! One connection's HTTP/2 (RFC 9113): in-order bytes of two directions to exchanges.
//!
//! Owns frames, header blocks, streams and where each packet's bytes are booked. Never keeps a body
//! unless messages are asked for: data is counted as it passes. Frames that steer the connection are
//! its overhead. After a hole it waits for a segment that begins with a frame; what the header table
//! held is then unknown, and fills again.

use crate::account::Cause;
use crate::connection::{book, Begun, Context, Cost, Piece, Sink, Visit};
use crate::exchange::{Ends, Exchange, Extra, Protocol, Side};
use crate::filter::Redaction;
use crate::grpc::Grpc;
use crate::head;
use crate::hpack::{self, Decoder, Fields};
use crate::http1::Anomaly;
use crate::message::Meta;
use crate::websocket::WebSocket;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::Engine as _;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// RFC 9113 §3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

const FRAME: usize = 9;

/// Kind, flags, stream and payload length of a frame's first nine bytes.
fn header(b: &[u8; FRAME]) -> (u8, u8, u32, u32) {
    let length = u32::from_be_bytes([0, b[0], b[1], b[2]]);
    let stream = u32::from_be_bytes([b[5], b[6], b[7], b[8]]) & 0x7fff_ffff;
    (b[3], b[4], stream, length)
}

/// True for nine bytes that are most likely a frame's: known kind, on a stream where it may be, of a
/// length that it may have.
fn likely(b: &[u8; FRAME]) -> bool {
    let (kind, flags, stream, length) = header(b);
    let (on_stream, sized, known) = match kind {
        DATA => (true, length <= 1 << 20, END_STREAM | PADDED),
        HEADERS => (
            true,
            (1..=1 << 16).contains(&length),
            END_STREAM | END_HEADERS | PADDED | PRIORITY,
        ),
        2 => (true, length == 5, 0),
        RST_STREAM => (true, length == 4, 0),
        SETTINGS => (
            false,
            length % 6 == 0 && length < 256 && (flags == 0 || length == 0),
            1,
        ),
        PUSH_PROMISE => (true, (5..=1 << 16).contains(&length), END_HEADERS | PADDED),
        PING => (false, length == 8, 1),
        GOAWAY => (false, (8..1 << 16).contains(&length), 0),
        8 => (stream != 0, length == 4, 0),
        CONTINUATION => (true, (1..=1 << 16).contains(&length), END_HEADERS),
        _ => return false,
    };
    b[5] & 0x80 == 0 && on_stream == (stream != 0) && sized && flags & !known == 0
}

/// True if a segment begins with a frame, and after each whole one comes another or its end.
pub fn clear_start(b: &[u8]) -> bool {
    let mut at = 0;
    while let Some(head) = b.get(at..).and_then(|rest| rest.first_chunk()) {
        if !likely(head) {
            return false;
        }
        at += FRAME + header(head).3 as usize;
    }
    at > 0 // what is left is less than a frame's header
}

/// True if a server may open with these bytes: its SETTINGS.
pub fn server_start(b: &[u8]) -> bool {
    b.first_chunk()
        .is_some_and(|head| likely(head) && head[3] == SETTINGS && head[4] == 0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// In the preface, so many bytes have passed.
    Preface(u8),
    /// In a frame's header, so many bytes have passed.
    Header(u8),
    Payload,
    /// Not in step: bytes go to the cause until a segment begins with a frame.
    Lost(Cause),
}

/// The frame that is passing.
#[derive(Default)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: u32,
    /// Payload still to come, and of that padding.
    left: u32,
    padding: u32,
    /// The pad length has been read, where there is one.
    opened: bool,
    /// Not all of its payload was seen.
    cut: bool,
    begun: Begun,
}

/// The header block that is being put together.
#[derive(Default)]
struct Block {
    open: bool,
    stream: u32,
    promised: u32,
    end_stream: bool,
    cut: bool,
    bytes: Vec<u8>,
    /// Payloads as sent, and with frame headers.
    payload: u64,
    wire: u64,
    begun: Begun,
}

struct Lane {
    step: Step,
    head: [u8; FRAME],
    frame: Frame,
    payload: Vec<u8>,
    block: Block,
    hpack: Decoder,
    /// The stream that spoke last, to which repeats are booked.
    last: u32,
}

impl Lane {
    fn lose_table(&mut self, sink: &mut Sink) {
        sink.buffered -= self.hpack.held();
        self.hpack.lose();
    }
}

/// One side of a stream beyond what is measured: its message, if it is wanted.
#[derive(Default)]
struct Flow {
    keep: bool,
    head: Vec<u8>,
    body: Vec<u8>,
    trailers: Vec<u8>,
    has_length: bool,
    grpc: Option<Grpc>,
}

struct Stream {
    x: Box<Exchange>,
    flows: [Flow; 2],
    websocket: Option<Box<WebSocket>>,
}

impl Stream {
    fn new(mut x: Box<Exchange>, id: u32) -> Self {
        x.protocol = Protocol::H2;
        x.stream = id as i32;
        Stream {
            x,
            flows: Default::default(),
            websocket: None,
        }
    }

    fn side(&mut self, server: bool) -> &mut Side {
        if server {
            &mut self.x.response
        } else {
            &mut self.x.request
        }
    }

    /// True if this side has begun.
    fn sides(&self, server: bool) -> bool {
        if server {
            self.x.response.seen
        } else {
            self.x.request.seen
        }
    }

    /// A message begins on this side; its head as HTTP/1.1 is kept where it is wanted and `sound`.
    fn open(
        &mut self,
        server: bool,
        wanted: bool,
        sound: bool,
        head: Vec<u8>,
        n: &Named,
        sink: &mut Sink,
    ) {
        let flow = &mut self.flows[usize::from(server)];
        if self.x.grpc {
            flow.grpc = Some(Grpc::default());
        }
        let wanted = wanted && !self.x.denied;
        flow.keep = wanted && sound;
        sink.account.messages_cut += u64::from(wanted && !sound);
        if flow.keep {
            flow.has_length = n.has_length;
            sink.buffered += head.len();
            flow.head = head;
        }
    }

    fn grpc_status(&mut self, n: &Named) {
        let text = std::str::from_utf8(n.grpc_status).unwrap_or("");
        if text.len() <= 3 && text.bytes().all(|c| c.is_ascii_digit()) {
            if let Ok(code) = text.parse() {
                self.x.extra_mut().set(Extra::GRPC_STATUS, false, code);
            }
        }
    }

    /// Hands out this side's message, if it is wanted and whole.
    fn hand_out(&mut self, server: bool, cx: &mut Context, sink: &mut Sink) {
        let whole = self.x.missing == 0;
        let flow = &mut self.flows[usize::from(server)];
        if !flow.keep {
            return;
        }
        if !whole {
            return flow.spoil(sink);
        }
        sink.buffered -= flow.buffered();
        let mut payload = flow.http1(&sink.options.redaction);
        if !server && !sink.options.real_ip_header.is_empty() {
            let body = payload.split_off(head::end(&payload));
            let name = sink.options.real_ip_header.as_bytes();
            head::set(&mut payload, name, cx.client_address().as_bytes());
            payload.extend_from_slice(&body);
        }
        *flow = Flow {
            grpc: flow.grpc.take(),
            ..Flow::default()
        };
        let side = if server {
            &self.x.response
        } else {
            &self.x.request
        };
        let meta = Meta {
            kind: 1 + u8::from(server),
            id: self.x.id,
            time: side.time,
            latency: side.end.wrapping_sub(side.time),
            connection: cx.id,
            stream: self.x.stream,
        };
        sink.messages.push(&meta, &payload);
    }
}

impl Flow {
    fn buffered(&self) -> usize {
        self.head.len() + self.body.len() + self.trailers.len()
    }

    /// The message cannot be handed out.
    fn spoil(&mut self, sink: &mut Sink) {
        if self.keep {
            self.keep = false;
            sink.buffered -= self.buffered();
            self.head = Vec::new();
            self.body = Vec::new();
            self.trailers = Vec::new();
            sink.account.messages_cut += 1;
        }
    }

    /// The message as HTTP/1.1 sends it: with trailers in chunks, else with its length.
    fn http1(&mut self, redaction: &Redaction) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.head);
        let chunked = !self.trailers.is_empty() && !self.has_length;
        if chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        } else if !self.has_length && !self.body.is_empty() {
            line(
                &mut out,
                b"content-length",
                self.body.len().to_string().as_bytes(),
            );
        }
        out.extend_from_slice(b"\r\n");
        if !redaction.is_empty() {
            out = redaction.head(&out);
        }
        if chunked {
            if !self.body.is_empty() {
                out.extend_from_slice(format!("{:x}\r\n", self.body.len()).as_bytes());
                out.extend_from_slice(&self.body);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(&self.trailers);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

pub struct Http2 {
    client: usize,
    lanes: [Lane; 2],
    streams: HashMap<u32, Stream>,
    fields: Fields,
    /// The connection's beginning was seen.
    whole: bool,
    /// Streams that were reset, and when: what is on its way to them still arrives.
    resets: VecDeque<(i64, u32)>,
    /// Streams that have ended lately: what comes on them is no message of a request that was not captured.
    ended: VecDeque<u32>,
}

/// So long after a reset frames of the other side may still arrive (RFC 9113 §5.1).
const RESET_NS: i64 = 1_000_000_000;
/// Ended streams remembered.
const ENDED: usize = 128;

/// The fields of a block that matter here.
#[derive(Default)]
struct Named<'a> {
    method: &'a [u8],
    path: &'a [u8],
    authority: &'a [u8],
    host: &'a [u8],
    scheme: &'a [u8],
    protocol: &'a [u8],
    status: &'a [u8],
    content_type: &'a [u8],
    content_encoding: &'a [u8],
    traceparent: &'a [u8],
    b3: &'a [u8],
    b3_trace_id: &'a [u8],
    grpc_status: &'a [u8],
    extensions: &'a [u8],
    has_length: bool,
}

impl<'a> Named<'a> {
    fn of(fields: &'a Fields) -> Self {
        let mut n = Named::default();
        for (name, value) in fields.iter() {
            let place = match name {
                b":method" => &mut n.method,
                b":path" => &mut n.path,
                b":authority" => &mut n.authority,
                b":scheme" => &mut n.scheme,
                b":protocol" => &mut n.protocol,
                b":status" => &mut n.status,
                b"host" => &mut n.host,
                b"content-type" => &mut n.content_type,
                b"content-encoding" => &mut n.content_encoding,
                b"traceparent" => &mut n.traceparent,
                b"b3" => &mut n.b3,
                b"x-b3-traceid" => &mut n.b3_trace_id,
                b"grpc-status" => &mut n.grpc_status,
                b"sec-websocket-extensions" => &mut n.extensions,
                b"content-length" => {
                    n.has_length = true;
                    continue;
                }
                _ => continue,
            };
            *place = value;
        }
        n
    }

    fn status(&self) -> u16 {
        match self.status {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => [a, b, c]
                .iter()
                .fold(0, |n, &&d| n * 10 + u16::from(d - b'0')),
            _ => 0,
        }
    }

    fn trace(&self) -> &'a [u8] {
        crate::http1::trace(self.traceparent, self.b3, self.b3_trace_id)
    }

    fn is_grpc(&self) -> bool {
        self.content_type.starts_with(b"application/grpc")
    }
}

/// True if HTTP/1.1 can write these fields: names without what ends a name, no blanks in a start line.
fn writable(fields: &Fields) -> bool {
    let odd = |c: &u8| *c <= b' ' || *c == b':';
    fields.iter().all(|(name, value)| match name {
        [b':', pseudo @ ..] => !pseudo.iter().any(odd) && !value.contains(&b' '),
        _ => !name.is_empty() && !name.iter().any(odd),
    })
}

/// A head as HTTP/1.1 writes it (RFC 9113 §8), without the blank line that ends it.
fn http1_head(fields: &Fields, n: &Named, server: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if server {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(n.status);
        out.extend_from_slice(b" \r\n");
    } else {
        out.extend_from_slice(n.method);
        out.push(b' ');
        out.extend_from_slice(if n.path.is_empty() {
            n.authority
        } else {
            n.path
        });
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if !n.authority.is_empty() {
            out.extend_from_slice(b"host: ");
            out.extend_from_slice(n.authority);
            out.extend_from_slice(b"\r\n");
        }
    }
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in fields.iter() {
        match name {
            [b':', ..] => {}
            b"host" if !n.authority.is_empty() => {}
            // §8.2.3: cookies may come in pieces.
            b"cookie" => cookies.push(value),
            _ => line(&mut out, name, value),
        }
    }
    if !cookies.is_empty() {
        line(&mut out, b"cookie", &cookies.join(&b"; "[..]));
    }
    out
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    match hpack::binary(name, value) {
        // As gRPC sends it to peers that take text only.
        Some(bytes) => out.extend_from_slice(STANDARD_NO_PAD.encode(bytes).as_bytes()),
        None => out.extend_from_slice(value),
    }
    out.extend_from_slice(b"\r\n");
}

impl Http2 {
    /// A connection that speaks HTTP/2 from here on; the client's first `preface` bytes have passed.
    /// `whole`: its beginning was seen.
    pub fn new(client: usize, preface: u8, whole: bool) -> Self {
        let lane = |step| Lane {
            step,
            head: [0; FRAME],
            frame: Frame::default(),
            payload: Vec::new(),
            block: Block::default(),
            hpack: Decoder::new(whole),
            last: 0,
        };
        let first = if whole {
            Step::Preface(preface)
        } else {
            Step::Header(0)
        };
        let second = Step::Header(0);
        Http2 {
            client,
            lanes: if client == 0 {
                [lane(first), lane(second)]
            } else {
                [lane(second), lane(first)]
            },
            streams: HashMap::new(),
            fields: Fields::default(),
            whole,
            resets: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    /// RFC 7540 §3.2: the request that asked for the upgrade is answered on stream 1.
    pub fn upgraded(&mut self, request: &Exchange) {
        let mut x = Box::new(request.clone());
        x.response = Side::default();
        x.link_bytes = 0;
        x.retransmitted = 0;
        x.missing = 0;
        x.anomaly = 0;
        x.counted = None;
        x.number = 0;
        let q = &mut x.request;
        (q.header, q.body, q.wire, q.packets) = (0, 0, 0, 0);
        (q.done, q.whole) = (true, true);
        self.streams.insert(1, Stream::new(x, 1));
    }

    /// In-order bytes, or a hole (`p.missing`).
    pub fn feed(
        &mut self,
        d: usize,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let mut at = 0;
        while at < p.len {
            let seen = p.data.get(at..).unwrap_or(&[]);
            let rest = p.len - at;
            at += match self.lanes[d].step {
                Step::Preface(n) => self.preface(d, n, seen, rest, p, cost, sink),
                Step::Header(n) => self.header(d, n, seen, rest, at, p, cost, cx, sink),
                Step::Payload => self.payload(d, seen, rest, p, cost, cx, sink),
                Step::Lost(cause) => {
                    if at == 0 && p.first && clear_start(seen) {
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

    fn preface(
        &mut self,
        d: usize,
        n: u8,
        seen: &[u8],
        rest: usize,
        p: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let left = &PREFACE[usize::from(n)..];
        let k = left.len().min(rest);
        if seen.len() < k || seen[..k] != left[..k] {
            self.lose(d, p, Cause::Malformed, sink);
            return 0;
        }
        sink.account.add(Cause::ConnectionOverhead, cost.take(k).0);
        let n = n + k as u8;
        self.lanes[d].step = if usize::from(n) == PREFACE.len() {
            Step::Header(0)
        } else {
            Step::Preface(n)
        };
        k
    }

    /// Frames can no longer be told apart.
    fn lose(&mut self, d: usize, p: &Piece, cause: Cause, sink: &mut Sink) {
        let cause = p.lost(cause);
        let lane = &mut self.lanes[d];
        lane.step = Step::Lost(cause);
        lane.lose_table(sink);
        self.drop_block(d, cause, sink);
    }

    fn drop_block(&mut self, d: usize, cause: Cause, sink: &mut Sink) {
        let lane = &mut self.lanes[d];
        sink.buffered -= lane.block.bytes.len() + lane.payload.len();
        lane.payload.clear();
        let block = std::mem::take(&mut lane.block);
        sink.account.add(cause, block.begun.link);
    }

    fn header(
        &mut self,
        d: usize,
        n: u8,
        seen: &[u8],
        rest: usize,
        at: usize,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let have = usize::from(n);
        let k = (FRAME - have).min(rest);
        let lane = &mut self.lanes[d];
        if have == 0 {
            lane.frame.begun = Begun::at(p.time, p.seq.wrapping_add(at as u32));
        }
        if seen.len() < k {
            sink.account.add(
                p.lost(Cause::Truncated),
                std::mem::take(&mut lane.frame.begun.link),
            );
            self.lose(d, p, Cause::Truncated, sink);
            return 0;
        }
        lane.head[have..have + k].copy_from_slice(&seen[..k]);
        lane.frame.begun.pay(cost.take(k));
        if have + k < FRAME {
            lane.step = Step::Header((have + k) as u8);
            return k;
        }
        let (kind, flags, stream, length) = header(&lane.head);
        lane.frame.begun.end = p.time;
        let begun = lane.frame.begun;
        lane.frame = Frame {
            kind,
            flags,
            stream,
            length,
            left: length,
            padding: 0,
            opened: false,
            cut: false,
            begun,
        };
        lane.step = Step::Payload;
        self.forget_resets(p.time, cx, sink);
        let lane = &mut self.lanes[d];
        if lane.block.open && (kind != CONTINUATION || stream != lane.block.stream) {
            // RFC 9113 §6.10: nothing else may come in between.
            lane.lose_table(sink);
            self.drop_block(d, Cause::Malformed, sink);
        }
        if kind == DATA {
            self.open_data(d, cx, sink);
        }
        if length == 0 {
            self.end_frame(d, cx, sink);
        }
        k
    }

    /// Payload of the frame that is passing.
    fn payload(
        &mut self,
        d: usize,
        seen: &[u8],
        rest: usize,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let frame = &mut self.lanes[d].frame;
        let mut k = (frame.left as usize).min(rest);
        if frame.kind != DATA {
            self.keep(d, &seen[..seen.len().min(k)], k, p, cost, sink);
        } else if frame.flags & PADDED != 0 && !frame.opened {
            // Padding that fills the whole payload or more is an error (§6.1): it is all padding.
            let pad = seen.first().map_or(0, |&n| u32::from(n));
            frame.opened = true;
            k = 1;
            let left = frame.left - 1;
            self.data(d, &[], k, 0, p, cost, cx, sink);
            self.lanes[d].frame.padding = pad.min(left);
        } else {
            let content = (frame.left.saturating_sub(frame.padding) as usize).min(k);
            if content > 0 {
                k = content;
            }
            self.data(d, &seen[..seen.len().min(k)], k, content, p, cost, cx, sink);
        }
        let lane = &mut self.lanes[d];
        lane.frame.left -= k as u32;
        if lane.frame.left == 0 {
            self.end_frame(d, cx, sink);
        }
        k
    }

    /// Payload of a frame that is not data: header blocks are kept, and what ends streams.
    fn keep(
        &mut self,
        d: usize,
        seen: &[u8],
        k: usize,
        p: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) {
        let lane = &mut self.lanes[d];
        let frame = &mut lane.frame;
        if !p.missing {
            frame.begun.pay(cost.take(k));
            frame.begun.end = p.time;
        }
        frame.cut |= seen.len() < k;
        match frame.kind {
            HEADERS | PUSH_PROMISE | CONTINUATION if !frame.cut => {
                let kept = lane.payload.len() + lane.block.bytes.len() + k;
                if kept > sink.options.max_head_bytes
                    || sink.buffered + k > sink.options.max_buffer_bytes
                {
                    sink.account.bound_hits += 1;
                    frame.cut = true;
                } else {
                    lane.payload.extend_from_slice(seen);
                    sink.buffered += k;
                }
            }
            GOAWAY => {
                let room = 4usize.saturating_sub(lane.payload.len()).min(seen.len());
                lane.payload.extend_from_slice(&seen[..room]);
                sink.buffered += room;
            }
            _ => {}
        }
    }

    /// A DATA frame begins: its header is part of the message.
    fn open_data(&mut self, d: usize, cx: &mut Context, sink: &mut Sink) {
        let server = d != self.client;
        let strange = self.strange();
        let id = self.lanes[d].frame.stream;
        if !self.streams.contains_key(&id) && self.is_new(id) && (server || !self.whole) {
            // Its head was not captured.
            self.insert_headless(id, cx, sink);
            if let Some(s) = self.streams.get_mut(&id) {
                s.x.flag(Anomaly::UndecodedHeaders);
            }
        }
        let lane = &mut self.lanes[d];
        let begun = std::mem::take(&mut lane.frame.begun);
        lane.last = lane.frame.stream;
        match open(&mut self.streams, lane.frame.stream, server) {
            Some(s) => {
                s.x.link_bytes += begun.link;
                s.x.retransmitted += begun.retransmitted;
                let side = s.side(server);
                if !side.seen {
                    (side.seen, side.time, side.seq) = (true, begun.time, begun.seq);
                }
                side.wire += FRAME as u64;
                side.packets += begun.packets;
                side.end = begun.end;
            }
            None => sink.account.add(strange, begun.link),
        }
    }

    /// Where data of a stream goes that is not open: before the capture, or after a reset.
    fn strange(&self) -> Cause {
        if self.whole {
            Cause::ConnectionOverhead
        } else {
            Cause::NotUnderstood
        }
    }

    /// `k` payload bytes of a DATA frame: all `content`, or all padding.
    fn data(
        &mut self,
        d: usize,
        seen: &[u8],
        k: usize,
        content: usize,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let server = d != self.client;
        let strange = self.strange();
        let Some(s) = open(&mut self.streams, self.lanes[d].frame.stream, server) else {
            book(p, strange, k, cost, sink);
            return;
        };
        if let (Some(ws), true) = (&mut s.websocket, content > 0) {
            let piece = Piece {
                data: seen,
                len: k,
                first: false,
                ..*p
            };
            let side = if server {
                &mut s.x.response
            } else {
                &mut s.x.request
            };
            side.end = p.time;
            return ws.feed(server, &piece, cost, cx, sink);
        }
        if p.missing {
            s.x.missing += content as u64;
        } else {
            let (link, packets) = cost.take(k);
            s.x.link_bytes += link;
            let side = s.side(server);
            side.packets += packets;
            side.end = p.time;
            side.wire += k as u64;
            side.body += content as u64;
        }
        if content == 0 {
            return;
        }
        let flow = &mut s.flows[usize::from(server)];
        if let Some(grpc) = &mut flow.grpc {
            grpc.feed(seen, k);
        }
        if flow.keep {
            let full = flow.body.len() + k > sink.options.max_message_bytes
                || sink.buffered + k > sink.options.max_buffer_bytes;
            if seen.len() < k || full {
                flow.spoil(sink);
            } else {
                flow.body.extend_from_slice(seen);
                sink.buffered += k;
            }
        }
    }

    fn end_frame(&mut self, d: usize, cx: &mut Context, sink: &mut Sink) {
        let lane = &mut self.lanes[d];
        lane.step = Step::Header(0);
        let begun = std::mem::take(&mut lane.frame.begun);
        let (kind, flags, stream) = (lane.frame.kind, lane.frame.flags, lane.frame.stream);
        match kind {
            DATA => {
                if flags & END_STREAM != 0 {
                    self.end_side(stream, d != self.client, cx, sink);
                }
            }
            HEADERS | PUSH_PROMISE | CONTINUATION => self.block(d, begun, cx, sink),
            _ => {
                sink.account.add(Cause::ConnectionOverhead, begun.link);
                let last = lane.payload.first_chunk().map(|b| u32::from_be_bytes(*b));
                sink.buffered -= lane.payload.len();
                lane.payload.clear();
                if kind == RST_STREAM {
                    self.reset(stream, d != self.client, begun.end, cx, sink);
                } else if let (GOAWAY, Some(last)) = (kind, last) {
                    // §6.8: what the sender of this has not taken up will not be answered.
                    let own = u32::from(d != self.client); // odd streams are the client's
                    let mut ids: Vec<u32> = self.streams.keys().copied().collect();
                    ids.retain(|id| *id > last & 0x7fff_ffff && id & 1 == own);
                    ids.sort_unstable();
                    for id in ids {
                        if let Some(s) = self.streams.get_mut(&id) {
                            s.x.flag(Anomaly::StreamReset);
                        }
                        self.over(id, cx, sink);
                    }
                }
            }
        }
    }

    /// A frame of a header block has passed.
    fn block(&mut self, d: usize, begun: Begun, cx: &mut Context, sink: &mut Sink) {
        let lane = &mut self.lanes[d];
        let (frame, block) = (&lane.frame, &mut lane.block);
        let mut fragment = &lane.payload[..];
        let mut sound = !frame.cut;
        if frame.kind == CONTINUATION && !block.open {
            // Its beginning is not here, or §6.10 is broken.
            sink.buffered -= lane.hpack.held();
            lane.hpack.lose();
            sink.account.add(
                if self.whole {
                    Cause::Malformed
                } else {
                    Cause::NotUnderstood
                },
                begun.link,
            );
            sink.buffered -= lane.payload.len();
            lane.payload.clear();
            return;
        }
        if frame.kind != CONTINUATION {
            *block = Block {
                open: true,
                stream: frame.stream,
                end_stream: frame.kind == HEADERS && frame.flags & END_STREAM != 0,
                bytes: std::mem::take(&mut block.bytes),
                begun: Begun::at(begun.time, begun.seq),
                ..Block::default()
            };
            if sound {
                let inside = inside(frame.kind, frame.flags, fragment);
                sound = inside.is_some();
                if let Some((promised, rest)) = inside {
                    block.promised = promised;
                    fragment = rest;
                }
            }
        }
        block.cut |= !sound;
        block.payload += u64::from(frame.length);
        block.wire += u64::from(frame.length) + FRAME as u64;
        block.begun.link += begun.link;
        block.begun.packets += begun.packets;
        block.begun.retransmitted += begun.retransmitted;
        block.begun.end = begun.end;
        sink.buffered -= lane.payload.len();
        if !block.cut {
            block.bytes.extend_from_slice(fragment);
            sink.buffered += fragment.len();
        }
        lane.payload.clear();
        if frame.flags & END_HEADERS == 0 {
            return;
        }
        let mut block = std::mem::take(&mut lane.block);
        sink.buffered -= block.bytes.len();
        let mut fields = std::mem::take(&mut self.fields);
        let mut wrong = Anomaly::None;
        sink.buffered -= lane.hpack.held();
        if block.cut {
            lane.hpack.lose();
            fields.clear();
            fields.unknown = true;
        } else if lane
            .hpack
            .block(&block.bytes, sink.options.max_head_bytes, &mut fields)
            .is_err()
        {
            wrong = Anomaly::BadHeaderBlock;
        }
        sink.buffered += lane.hpack.held();
        if fields.cut {
            sink.account.bound_hits += 1;
        }
        if lane.hpack.held() > 0 && sink.buffered > sink.options.max_buffer_bytes {
            sink.account.bound_hits += 1;
            lane.lose_table(sink);
        }
        if wrong == Anomaly::None && fields.hostile() {
            wrong = Anomaly::BadHeaderBlock;
        }
        if wrong == Anomaly::None && fields.unknown {
            wrong = Anomaly::UndecodedHeaders;
        }
        lane.last = block.stream;
        self.headers(d, &block, &fields, wrong, cx, sink);
        self.fields = fields;
        block.bytes.clear();
        self.lanes[d].block.bytes = block.bytes;
    }

    /// A header block was read: a message begins, goes on or ends.
    fn headers(
        &mut self,
        d: usize,
        block: &Block,
        fields: &Fields,
        wrong: Anomaly,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let named = Named::of(fields);
        let server = d != self.client;
        if block.promised != 0 || !server {
            let id = if block.promised != 0 {
                block.promised
            } else {
                block.stream
            };
            if !self.streams.contains_key(&id) {
                self.request(id, block, fields, &named, wrong, cx, sink);
            } else if block.promised == 0 {
                self.trailers(id, false, block, fields, &named, wrong, sink);
            } else {
                sink.account.add(Cause::Malformed, block.begun.link);
            }
        } else {
            let id = block.stream;
            if !self.streams.contains_key(&id) {
                if !self.is_new(id) {
                    sink.account
                        .add(Cause::ConnectionOverhead, block.begun.link);
                    return;
                }
                // Its request was not captured.
                self.insert_headless(id, cx, sink);
            }
            let begun = self.streams.get(&id).is_some_and(|s| s.x.response.seen);
            if begun {
                self.trailers(id, true, block, fields, &named, wrong, sink);
            } else {
                self.response(id, block, fields, &named, wrong, sink);
            }
        }
        if block.end_stream {
            self.end_side(block.stream, server, cx, sink);
        }
    }

    /// Whether nothing was seen of this stream yet.
    fn is_new(&self, id: u32) -> bool {
        id != 0 && !self.ended.contains(&id)
    }

    /// A stream whose beginning was not captured.
    fn insert_headless(&mut self, id: u32, cx: &mut Context, sink: &mut Sink) {
        let mut s = Stream::new(Box::default(), id);
        s.x.request.done = true;
        s.x.denied = !sink.options.filters.passes_unknown();
        s.x.set_request([b"", b"", b"", b""]);
        s.x.id = cx.gor_id(id, sink);
        self.insert(id, s, cx, sink);
    }

    /// Streams that were reset a while ago are over.
    fn forget_resets(&mut self, now: i64, cx: &mut Context, sink: &mut Sink) {
        while let Some(&(time, id)) = self.resets.front() {
            if now.saturating_sub(time) <= RESET_NS {
                return;
            }
            self.resets.pop_front();
            self.over(id, cx, sink);
        }
    }

    fn insert(&mut self, id: u32, s: Stream, cx: &mut Context, sink: &mut Sink) {
        if self.streams.len() >= sink.options.max_pipeline {
            if let Some(oldest) = self.streams.keys().copied().min() {
                sink.account.bound_hits += 1;
                if let Some(s) = self.streams.get_mut(&oldest) {
                    s.x.flag(Anomaly::PipelineBound);
                }
                self.over(oldest, cx, sink);
            }
        }
        self.streams.insert(id, s);
    }

    fn request(
        &mut self,
        id: u32,
        block: &Block,
        fields: &Fields,
        n: &Named,
        wrong: Anomaly,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        let mut s = Stream::new(Box::default(), id);
        let x = &mut s.x;
        begin(&mut x.request, block);
        x.link_bytes = block.begun.link;
        x.retransmitted = block.begun.retransmitted;
        x.flag(wrong);
        let authority = if n.authority.is_empty() {
            n.host
        } else {
            n.authority
        };
        let target = if n.path.is_empty() {
            n.authority
        } else {
            n.path
        };
        x.set_request([n.method, target, authority, n.trace()]);
        x.https = n.scheme == b"https";
        x.is_head = n.method == b"HEAD";
        x.is_connect = n.method == b"CONNECT";
        x.upgrades = x.is_connect && n.protocol.eq_ignore_ascii_case(b"websocket");
        x.grpc = n.is_grpc();
        let wanted = sink.options.requests;
        let head = if wanted || !sink.options.filters.is_empty() {
            http1_head(fields, n, false)
        } else {
            Vec::new()
        };
        x.denied = !sink.options.filters.is_empty()
            && !sink.options.filters.passes(n.method, target, &head);
        x.id = cx.gor_id(id, sink);
        x.extra_mut()
            .set(Extra::UNCOMPRESSED, false, fields.size as i64);
        let sound = wrong == Anomaly::None && writable(fields);
        s.open(false, wanted, sound, head, n, sink);
        if block.promised != 0 {
            s.x.request.done = true; // §8.4: a promised request has no content
            s.x.request.whole = true;
            s.flows[0].spoil(sink);
        }
        self.insert(id, s, cx, sink);
    }

    fn response(
        &mut self,
        id: u32,
        block: &Block,
        fields: &Fields,
        n: &Named,
        wrong: Anomaly,
        sink: &mut Sink,
    ) {
        let Some(s) = self.streams.get_mut(&id) else {
            return; // not reached: it was put there
        };
        let x = &mut s.x;
        x.link_bytes += block.begun.link;
        x.retransmitted += block.begun.retransmitted;
        x.flag(wrong);
        let status = n.status();
        if (100..200).contains(&status) {
            x.response.wire += block.wire;
            x.response.packets += block.begun.packets;
            return;
        }
        begin(&mut x.response, block);
        x.status = status;
        x.set_response(n.content_type, n.content_encoding);
        x.grpc |= n.is_grpc();
        x.extra_mut()
            .set(Extra::UNCOMPRESSED, true, fields.size as i64);
        if x.upgrades && (200..300).contains(&status) {
            s.websocket = Some(Box::new(WebSocket::new(&s.x, n.extensions)));
        }
        let wanted = sink.options.responses;
        let head = if wanted {
            http1_head(fields, n, true)
        } else {
            Vec::new()
        };
        let sound = wrong == Anomaly::None && writable(fields);
        s.open(true, wanted, sound, head, n, sink);
        s.grpc_status(n);
    }

    fn trailers(
        &mut self,
        id: u32,
        server: bool,
        block: &Block,
        fields: &Fields,
        n: &Named,
        wrong: Anomaly,
        sink: &mut Sink,
    ) {
        let Some(s) = open(&mut self.streams, id, server) else {
            sink.account
                .add(Cause::ConnectionOverhead, block.begun.link);
            return;
        };
        s.x.link_bytes += block.begun.link;
        s.x.retransmitted += block.begun.retransmitted;
        s.x.flag(wrong);
        let extra = s.x.extra_mut();
        let size = extra.get(Extra::UNCOMPRESSED, server).unwrap_or(0);
        extra.set(Extra::UNCOMPRESSED, server, size + fields.size as i64);
        let side = s.side(server);
        side.header += block.payload;
        side.wire += block.wire;
        side.packets += block.begun.packets;
        side.end = block.begun.end;
        if server {
            s.grpc_status(n);
        }
        let flow = &mut s.flows[usize::from(server)];
        if wrong != Anomaly::None || !writable(fields) {
            flow.spoil(sink);
        }
        if flow.keep {
            for (name, value) in fields.iter() {
                let before = flow.trailers.len();
                line(&mut flow.trailers, name, value);
                sink.buffered += flow.trailers.len() - before;
            }
        }
    }

    /// One side of a stream has ended.
    fn end_side(&mut self, id: u32, server: bool, cx: &mut Context, sink: &mut Sink) {
        let Some(s) = open(&mut self.streams, id, server) else {
            return;
        };
        let side = s.side(server);
        if !side.seen {
            return;
        }
        side.done = true;
        side.whole = true;
        s.hand_out(server, cx, sink);
        if s.x.request.done && s.x.response.done {
            self.over(id, cx, sink);
        }
    }

    /// One side gives a stream up; what the other one had sent before it knew still arrives.
    fn reset(&mut self, id: u32, server: bool, time: i64, cx: &mut Context, sink: &mut Sink) {
        let Some(s) = self.streams.get_mut(&id) else {
            return;
        };
        let answered = s.x.response.done && s.x.response.whole;
        if !answered {
            // A response that is whole needs no more of its request (§8.1): that is no failure.
            s.x.flag(Anomaly::StreamReset);
        }
        s.side(server).done = true;
        let other_is_done = if server {
            s.x.request.done
        } else {
            s.x.response.done
        };
        let twice = self.resets.iter().any(|&(_, known)| known == id);
        if other_is_done || twice || self.resets.len() >= ENDED {
            self.over(id, cx, sink);
        } else {
            self.resets.push_back((time, id));
        }
    }

    /// A stream is over: its exchange is handed out as it stands.
    fn over(&mut self, id: u32, cx: &mut Context, sink: &mut Sink) {
        let Some(mut s) = self.streams.remove(&id) else {
            return;
        };
        if self.ended.len() == ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
        if let Some(mut ws) = s.websocket.take() {
            ws.close(cx, sink);
        }
        for server in [false, true] {
            let flow = &mut s.flows[usize::from(server)];
            flow.spoil(sink);
            if let Some(grpc) = &flow.grpc {
                let extra = s.x.extra.get_or_insert_default();
                extra.set(Extra::MESSAGES, server, grpc.messages);
                extra.set(Extra::MESSAGE_BYTES, server, grpc.bytes);
            }
        }
        s.x.request.done = true;
        s.x.response.done = true;
        cx.push(&s.x, sink);
    }

    /// A segment came again: its bytes go to the stream that spoke last, if that is open.
    pub fn repeated(&mut self, d: usize, bytes: u64, payload: u64, packets: u64, sink: &mut Sink) {
        let server = d != self.client;
        let id = self.lanes[d].last;
        let Some(s) = open(&mut self.streams, id, server).filter(|s| s.sides(server)) else {
            sink.account.add(Cause::Retransmission, bytes);
            return;
        };
        if s.websocket
            .as_mut()
            .is_some_and(|ws| ws.repeated(server, bytes, payload, packets))
        {
            return;
        }
        s.x.link_bytes += bytes;
        s.x.retransmitted += payload;
        s.side(server).packets += packets;
    }

    /// Shows every exchange that is in flight.
    pub fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        for s in self.streams.values_mut() {
            visit(&mut s.x, ends);
            if let Some(ws) = &mut s.websocket {
                ws.each_open(ends, visit);
            }
        }
    }

    /// The connection is over: everything unfinished is handed out as it stands.
    pub fn close(&mut self, cx: &mut Context, sink: &mut Sink) {
        for d in 0..2 {
            let lane = &mut self.lanes[d];
            let link = match lane.step {
                Step::Header(1..) | Step::Payload => lane.frame.begun.link,
                _ => 0,
            };
            lane.step = Step::Lost(Cause::Retransmission);
            lane.lose_table(sink);
            sink.account.add(Cause::Malformed, link);
            self.drop_block(d, Cause::Malformed, sink);
        }
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(s) = self.streams.get_mut(&id) {
                s.x.flag(Anomaly::ClosedEarly);
            }
            self.over(id, cx, sink);
        }
    }
}

/// The stream, if this side of it may still speak.
fn open(streams: &mut HashMap<u32, Stream>, id: u32, server: bool) -> Option<&mut Stream> {
    streams.get_mut(&id).filter(|s| {
        let side = if server { &s.x.response } else { &s.x.request };
        !side.done
    })
}

/// A side of an exchange begins; interim responses may have been counted to it already.
fn begin(side: &mut Side, block: &Block) {
    side.seen = true;
    side.time = block.begun.time;
    side.end = block.begun.end;
    side.seq = block.begun.seq;
    side.header = block.payload;
    side.wire += block.wire;
    side.packets += block.begun.packets;
}

/// What a frame's payload holds beside the fragment: the promised stream, and the fragment.
fn inside(kind: u8, flags: u8, payload: &[u8]) -> Option<(u32, &[u8])> {
    let mut b = payload;
    let mut pad = 0;
    if flags & PADDED != 0 {
        let (first, rest) = b.split_first()?;
        pad = usize::from(*first);
        b = rest;
    }
    let mut promised = 0;
    if kind == PUSH_PROMISE {
        promised = u32::from_be_bytes(*b.first_chunk()?) & 0x7fff_ffff;
        b = &b[4..];
        if promised == 0 {
            return None;
        }
    } else if flags & PRIORITY != 0 {
        b = b.get(5..)?;
    }
    Some((promised, b.get(..b.len().checked_sub(pad)?)?))
}
