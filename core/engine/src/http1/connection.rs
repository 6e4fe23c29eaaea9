//! One connection's HTTP/1: in-order bytes of two directions to exchanges.
//!
//! Owns what a connection is at, the way of its bytes, holes, repeats and ends. It is fed by `tcp`, in order,
//! and never looks ahead. Its heads, messages and pairing, and what else may be spoken on it, are beside it.

use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::bytes::segment::Addr;
use crate::exchange::columns::Addresses;
use crate::exchange::{Ends, Exchange, Secure};
use crate::grpc::Grpc;
use crate::http1::body::{Body, Chunk};
use crate::http1::head::Kind;
use crate::http1::syntax;
use crate::protocol::{distance, Cost, MessageStart, Piece, ProtocolReader, Repeat, Sink, Visit};
use std::collections::VecDeque;

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

pub struct Lane {
    pub state: State,
    pub(super) start: MessageStart,
    pub(super) head: Vec<u8>,
    pub(super) message: Vec<u8>,
    /// The message is still whole.
    pub(super) keep: bool,
    /// A response without its request has just start: it may answer HEAD.
    pub(super) unasked: bool,
    /// The message is gRPC-Web's.
    pub(super) grpc: Option<Box<Grpc>>,
    /// Where a hole between messages began.
    pub(super) hole: Option<u32>,
    pub(super) closed: bool,
}

impl Lane {
    pub(super) fn new(state: State) -> Self {
        Lane {
            state,
            start: MessageStart::default(),
            head: Vec::new(),
            message: Vec::new(),
            keep: false,
            unasked: false,
            grpc: None,
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
    pub(super) queue: VecDeque<Box<Exchange>>,
    pub(super) spare: Option<Box<Exchange>>,
    pub(super) addresses: Addresses,
    pub(super) stream: i32,
    /// Responses to expect for requests given up.
    pub(super) forgotten: u32,
    pub(super) last_id: Option<u32>,
    pub(super) reader: Option<Box<dyn ProtocolReader>>,
    pub(super) secure: Secure,
    /// A balancer has said for whom it speaks, and where it is.
    pub(super) proxied: bool,
    pub(super) proxy: Option<(Addr, u16)>,
    /// What is spoken once the response that switches has ended.
    pub(super) next: Option<Box<dyn ProtocolReader>>,
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
            reader: None,
            secure: Secure::No,
            proxied: false,
            proxy: None,
            next: None,
        }
    }

    pub(super) fn ends(&self) -> Ends {
        Ends {
            connection: self.id,
            client: self.ends[self.client],
            server: self.ends[1 - self.client],
            proxy: self.proxy,
            secure: self.secure,
        }
    }

    /// Positions on the connection that were given to messages.
    pub fn positions(&self) -> i32 {
        self.stream
    }

    /// Both directions have ended in order, and the connection is over.
    pub fn end_both(&mut self, sink: &mut Sink) {
        for direction in 0..2 {
            self.end(direction, sink);
        }
        self.close(false, sink);
    }

    /// Shows every exchange that is in flight.
    pub fn each_open(&mut self, visit: &mut Visit) {
        let ends = self.ends();
        for exchange in &mut self.queue {
            visit(exchange, &ends);
        }
        if let Some(reader) = &mut self.reader {
            reader.each_open(&ends, visit);
        }
    }

    pub(super) fn fits(&mut self, kind: Kind, direction: usize) -> bool {
        if !self.understood {
            self.understood = true;
            self.client = if kind == Kind::Request {
                direction
            } else {
                1 - direction
            };
        }
        (kind == Kind::Request) == (direction == self.client)
    }

    /// In-order bytes.
    pub fn feed(&mut self, direction: usize, piece: &Piece, cost: &mut Cost, sink: &mut Sink) {
        let mut at = 0;
        while at < piece.len {
            let rest = piece.from(at);
            at += match self.lanes[direction].state {
                State::Body(body) => self.body(direction, body, &rest, cost, sink),
                State::Idle => self.begin(direction, &rest, cost, sink),
                State::Head => self.head(direction, &rest, cost, sink),
                State::Skip(cause) => self.skip(direction, cause, &rest, cost, sink),
                State::Switched => {
                    self.pass_on(direction, &rest, cost, sink);
                    rest.len
                }
            };
        }
    }

    pub(super) fn skip(
        &mut self,
        direction: usize,
        cause: Cause,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let clear = if piece.first {
            syntax::clear_start(seen)
        } else {
            None
        };
        if let Some(kind) = clear {
            if !self.understood || (kind == Kind::Request) == (direction == self.client) {
                self.lanes[direction].state = State::Idle;
                return 0;
            }
        }
        if piece.first
            && cause == Cause::NotUnderstood
            && self.prior_knowledge(direction, seen, false, sink)
        {
            return 0;
        }
        if cause == Cause::Malformed && direction != self.client {
            if let Some(n) = syntax::find_response(seen) {
                sink.account.add(cause, cost.take(n).0);
                self.lanes[direction].state = State::Idle;
                return n;
            }
        }
        sink.account.add(cause, cost.take(rest).0);
        rest
    }

    /// Not HTTP: the rest of the segment goes to a cause, and reading waits for a clear start.
    pub(super) fn refuse(&mut self, direction: usize, cause: Cause, bytes: u64, sink: &mut Sink) {
        sink.account.add(cause, bytes);
        self.lanes[direction].state = State::Skip(cause);
    }

    pub(super) fn broken(&self) -> Cause {
        if self.understood {
            Cause::Malformed
        } else {
            Cause::UnknownProtocol
        }
    }

    /// Bytes where a message should begin, and none does: up to the next clear start of a response, or all.
    pub(super) fn stray(
        &mut self,
        direction: usize,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        if self.understood && direction != self.client {
            self.lanes[direction].hole.get_or_insert(piece.seq);
            if let Some(n) = syntax::find_response(seen).filter(|&n| n > 0) {
                sink.account.add(Cause::Malformed, cost.take(n).0);
                return n;
            }
        }
        self.refuse(direction, self.broken(), cost.take(rest).0, sink);
        rest
    }

    /// `n` bytes of this direction, from `seq` on, will never be seen.
    pub fn gap(&mut self, direction: usize, seq: u32, n: u32, sink: &mut Sink) {
        sink.account.missing_bytes += u64::from(n);
        if self.lanes[direction].state == State::Switched {
            let piece = Piece {
                data: &[],
                len: n as usize,
                time: 0,
                seq,
                ack: None,
                first: true,
                missing: true,
            };
            return self.pass_on(direction, &piece, &mut Cost::new(0, 0), sink);
        }
        if !sink.options.allow_incomplete || self.lanes[direction].state == State::Head {
            self.spoil(direction, sink);
        }
        let n = u64::from(n);
        if self.lanes[direction].state == State::Head {
            self.cut_head(direction, Cause::Gap, sink);
            self.spoil(direction, sink);
        }
        match self.lanes[direction].state {
            State::Idle | State::Skip(_) => {
                let lane = &mut self.lanes[direction];
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
                if let Some(exchange) = self.current(direction) {
                    exchange.missing += part;
                    exchange.flag(flag);
                }
                match next {
                    Some(next) => self.lanes[direction].state = State::Body(next),
                    None => {
                        self.finish(direction, false, sink);
                        if n > part && self.lanes[direction].state == State::Idle {
                            self.lanes[direction].hole = Some(seq.wrapping_add(part as u32));
                            self.lanes[direction].state = State::Skip(Cause::Gap);
                        }
                    }
                }
            }
            State::Head | State::Switched => {}
        }
    }

    /// A segment of this direction came again: its bytes go to the exchange it belongs to.
    pub fn repeated(&mut self, direction: usize, repeat: &Repeat, sink: &mut Sink) {
        let server = direction != self.client;
        let Repeat {
            seq, link_bytes, ..
        } = *repeat;
        if self.reader.is_some() {
            if self.with_reader(|reader, _| reader.repeated(server, repeat)) != Some(true) {
                sink.account.add(Cause::Retransmission, link_bytes);
            }
            return;
        }
        let lane = &mut self.lanes[direction];
        if lane.state == State::Head && distance(seq, lane.start.seq) >= 0 {
            lane.start.link += link_bytes;
            lane.start.retransmitted += repeat.payload;
            lane.start.packets += repeat.packets;
            return;
        }
        let found = if !self.understood {
            None
        } else if direction == self.client {
            self.queue
                .iter_mut()
                .rfind(|exchange| exchange.request.seen && distance(seq, exchange.request.seq) >= 0)
        } else {
            self.queue.iter_mut().find(|exchange| {
                !exchange.response.done
                    && exchange.response.seen
                    && distance(seq, exchange.response.seq) >= 0
            })
        };
        match found {
            Some(exchange) => repeat.book(exchange, server),
            None => sink.account.add(Cause::Retransmission, link_bytes),
        }
    }

    /// This direction has ended in order (FIN); true once both have.
    pub fn end(&mut self, direction: usize, sink: &mut Sink) -> bool {
        self.end_message(direction, true, sink);
        self.lanes[direction].closed = true;
        self.lanes[1 - direction].closed
    }

    /// Says when the last byte of this direction's message passed, where it came as one piece.
    pub fn last_byte(&mut self, direction: usize, time: i64) {
        let server = direction != self.client;
        let message = if server {
            self.queue
                .iter_mut()
                .find(|exchange| exchange.response.seen)
        } else {
            self.queue.back_mut()
        };
        if let Some(exchange) = message {
            let side = if server {
                &mut exchange.response
            } else {
                &mut exchange.request
            };
            side.end = time;
        }
    }

    fn end_message(&mut self, direction: usize, closed: bool, sink: &mut Sink) {
        if self.lanes[direction].state == State::Head {
            self.cut_head(direction, Cause::Malformed, sink);
        }
        if let State::Body(body) = self.lanes[direction].state {
            let never_sent =
                |exchange: &mut Exchange| exchange.expects && exchange.request.body == 0;
            if direction == self.client
                && self.is_answered()
                && self.current(direction).is_some_and(never_sent)
            {
                return self.end_answered(sink);
            }
            let whole = closed && body == Body::UntilClose;
            if closed && !whole {
                if let Some(exchange) = self.current(direction) {
                    exchange.flag(Anomaly::ClosedEarly);
                }
            }
            self.finish(direction, whole, sink);
        }
    }

    /// The connection is over: everything unfinished is handed out as it stands.
    pub fn close(&mut self, reset: bool, sink: &mut Sink) {
        for direction in [self.client, 1 - self.client] {
            if reset {
                if let (State::Body(_), Some(exchange)) =
                    (self.lanes[direction].state, self.current(direction))
                {
                    exchange.flag(Anomaly::ClosedEarly);
                }
            }
            self.end_message(direction, false, sink);
        }
        let in_order = self.lanes.iter().all(|lane| lane.closed);
        self.with_reader(|reader, context| reader.close(in_order, context, sink));
        self.reader = None;
        for exchange in &mut self.queue {
            exchange.request.done = true;
            exchange.response.done = true;
        }
        self.emit(sink);
        for lane in &mut self.lanes {
            *lane = Lane::new(State::Skip(Cause::Retransmission));
        }
        self.queue = VecDeque::new();
        self.spare = None;
    }
}
