//! WebSocket (RFC 6455): frames of two directions to messages, each an exchange of its own.
//!
//! Owns where frames begin, which message they belong to and what they cost. Never keeps a payload; compressed
//! messages (RFC 7692) are inflated to be counted, in bounded memory.

use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::exchange::{Ends, Exchange, Extra, Protocol, HOST, TARGET, TRACE};
use crate::protocol::{
    book, Context, Cost, MessageStart, Piece, ProtocolReader, Repeat, Sink, Visit,
};
use crate::websocket::frame::{
    clear_start, extensions, header_length, name, payload_length, FIN, MAX_HEADER, RSV1,
};
use crate::websocket::inflate::{Inflate, INFLATE_BYTES};

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
    start: MessageStart,
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

impl WebSocket {
    /// After the handshake `exchange`, whose response chose these extensions.
    pub fn new(exchange: &Exchange, chosen: &[u8]) -> Self {
        let (negotiated, fresh) = extensions(chosen);
        let lane = |fresh| Lane {
            step: Step::Header(0),
            head: [0; MAX_HEADER],
            start: MessageStart::default(),
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
            origin: exchange.clone(),
            lanes: [lane(fresh[0]), lane(fresh[1])],
            negotiated,
            scratch: Vec::new(),
        }
    }

    /// Frames can no longer be told apart: what is open is handed out as it stands.
    fn lose(&mut self, server: bool, piece: &Piece, context: &mut Context, sink: &mut Sink) {
        let cause = piece.lost(Cause::Malformed);
        let lane = &mut self.lanes[usize::from(server)];
        sink.account
            .add(cause, std::mem::take(&mut lane.start.link));
        lane.step = Step::Lost(cause);
        lane.lose_window();
        self.finish(server, false, Anomaly::None, context, sink);
    }

    /// Hands out what is open, which will not become whole.
    fn finish(
        &mut self,
        server: bool,
        closed: bool,
        why: Anomaly,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let lane = &mut self.lanes[usize::from(server)];
        let open = [lane.control.take(), lane.message.take()];
        for mut exchange in open.into_iter().flatten() {
            if closed {
                exchange.flag(why);
            }
            emit(exchange, server, false, context, sink);
        }
    }

    fn header(
        &mut self,
        server: bool,
        have: usize,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let lane = &mut self.lanes[usize::from(server)];
        if have == 0 {
            lane.start = MessageStart::at(piece.time, piece.seq);
        }
        let mut n = have;
        let mut size = header_length(&lane.head[..n]);
        let mut k = 0;
        while n < size && k < rest {
            let Some(&byte) = seen.get(k) else {
                self.lose(server, piece, context, sink);
                return 0;
            };
            lane.head[n] = byte;
            n += 1;
            k += 1;
            size = header_length(&lane.head[..n]);
        }
        lane.start.pay(cost.take(k));
        if n < size {
            lane.step = Step::Header(n);
            return k;
        }
        let Some(length) = payload_length(&lane.head) else {
            self.lose(server, piece, context, sink);
            return k;
        };
        self.open(server, size, length, piece.time, context, sink);
        k
    }

    /// A frame's header has been read.
    fn open(
        &mut self,
        server: bool,
        size: usize,
        length: u64,
        time: i64,
        context: &mut Context,
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
                emit(old, server, false, context, sink);
            }
        }
        let lane = &mut self.lanes[usize::from(server)];
        let (opcode, start) = (lane.opcode, lane.start);
        let place = if control {
            &mut lane.control
        } else {
            &mut lane.message
        };
        let fresh = place.is_none();
        let exchange = place.get_or_insert_with(|| {
            let mut exchange = Box::<Exchange>::default();
            let o = &self.origin;
            exchange.protocol = Protocol::WebSocket;
            exchange.https = o.https;
            exchange.denied = o.denied;
            exchange.set_request([name(opcode), o.text(TARGET), o.text(HOST), o.text(TRACE)]);
            exchange.stream = context.number(o);
            exchange.extra = Some(Box::default());
            let side = exchange.side_mut(server);
            side.seen = true;
            side.time = start.time;
            side.seq = start.seq;
            exchange
        });
        let bad = (fresh && opcode == 0)
            || (control && (!matches!(opcode, 8..=10) || first & FIN == 0 || length > 125))
            || matches!(opcode, 3..=7)
            || (second & 0x80 != 0) == server;
        if bad {
            exchange.flag(Anomaly::BadFrame);
        }
        exchange.link_bytes += start.link;
        exchange.retransmitted += start.retransmitted;
        let side = exchange.side_mut(server);
        side.end = time;
        side.header += size as u64;
        side.wire += size as u64;
        side.packets += start.packets;
        lane.start = MessageStart::default();
        if !control && fresh {
            lane.compressed = self.negotiated && first & RSV1 != 0;
            if lane.compressed {
                lane.begin_inflating(sink);
            }
        }
        lane.close = [0; 2];
        if length == 0 {
            self.end_frame(server, context, sink);
        }
    }

    fn payload(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let lane = &mut self.lanes[usize::from(server)];
        let k = lane.left.min(rest as u64) as usize;
        let seen = &seen[..seen.len().min(k)];
        let control = lane.opcode >= 8;
        let place = if control {
            &mut lane.control
        } else {
            &mut lane.message
        };
        if let Some(exchange) = place {
            let (link, packets) = if piece.missing { (0, 0) } else { cost.take(k) };
            exchange.link_bytes += link;
            let side = exchange.side_mut(server);
            if piece.missing {
                exchange.missing += k as u64;
            } else {
                side.body += k as u64;
                side.wire += k as u64;
                side.packets += packets;
                side.end = piece.time;
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
            self.end_frame(server, context, sink);
        }
        k
    }

    fn end_frame(&mut self, server: bool, context: &mut Context, sink: &mut Sink) {
        let lane = &mut self.lanes[usize::from(server)];
        lane.step = Step::Header(0);
        let control = lane.opcode >= 8;
        let place = if control {
            &mut lane.control
        } else {
            &mut lane.message
        };
        let Some(exchange) = place else {
            return; // not reached: a frame's header opened it
        };
        let body = if server {
            exchange.response.body
        } else {
            exchange.request.body
        } as i64;
        if let Some(extra) = &mut exchange.extra {
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
        if let (Some(extra), Some(n)) = (&mut exchange.extra, decoded) {
            extra.set(Extra::DECODED, server, n);
        }
        let code = u16::from_be_bytes(lane.close);
        if lane.opcode == 8 && (1000..5000).contains(&code) {
            exchange.status = code; // §7.4.2
        }
        let whole = exchange.missing == 0;
        if let Some(exchange) = place.take() {
            emit(exchange, server, whole, context, sink);
        }
    }
}

impl ProtocolReader for WebSocket {
    fn feed(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let direction = usize::from(server);
        let mut at = 0;
        while at < piece.len {
            let rest = piece.from(at);
            at += match self.lanes[direction].step {
                Step::Header(n) => self.header(server, n, &rest, cost, context, sink),
                Step::Payload => self.payload(server, &rest, cost, context, sink),
                Step::Lost(cause) => {
                    if rest.first && clear_start(rest.data, !server, self.negotiated) {
                        self.lanes[direction].step = Step::Header(0);
                        0
                    } else {
                        book(&rest, cause, rest.len, cost, sink);
                        rest.len
                    }
                }
            };
        }
    }

    fn repeated(&mut self, server: bool, repeat: &Repeat) -> bool {
        let lane = &mut self.lanes[usize::from(server)];
        let open = lane.control.as_mut().or(lane.message.as_mut());
        open.map(|exchange| repeat.book(exchange, server)).is_some()
    }

    fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        for lane in &mut self.lanes {
            for exchange in [&mut lane.control, &mut lane.message].into_iter().flatten() {
                visit(exchange, ends);
            }
        }
    }

    fn close(&mut self, _in_order: bool, context: &mut Context, sink: &mut Sink) {
        for server in [false, true] {
            let lane = &mut self.lanes[usize::from(server)];
            if let Step::Header(n @ 1..) = lane.step {
                let _ = n;
                sink.account.add(Cause::Malformed, lane.start.link);
                lane.start.link = 0;
            }
            lane.step = Step::Lost(Cause::Retransmission);
            if lane.inflate.take().is_some() {
                sink.buffered -= INFLATE_BYTES;
            }
            self.finish(server, true, Anomaly::ClosedEarly, context, sink);
        }
    }
}

fn emit(
    mut exchange: Box<Exchange>,
    server: bool,
    whole: bool,
    context: &mut Context,
    sink: &mut Sink,
) {
    exchange.request.done = true;
    exchange.response.done = true;
    // The side that does not exist is not missing.
    exchange.request.whole = whole || server;
    exchange.response.whole = whole || !server;
    context.push(&exchange, sink);
}
