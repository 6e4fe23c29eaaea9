//! HTTP/1 messages: they begin with a head, their bodies pass, they end.

use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::bytes::segment::Addr;
use crate::exchange::Extra;
use crate::exchange::{Exchange, Side, TARGET};
use crate::gor::message::{gor_id, Meta};
use crate::grpc::{self, Grpc};
use crate::http1::body::{Body, Chunk};
use crate::http1::connection::{Http, State};
use crate::http1::head::{Head, Kind};
use crate::http1::switch::upgrade;
use crate::http1::{body, edit, syntax};
use crate::protocol::{
    address, distance, last_bytes, Cost, MessageStart, Piece, ProtocolReader, Sink,
};
use crate::tunnel::Tunnel;

/// A side of an exchange begins; interim responses may have been counted to it already.
#[inline]
pub(super) fn begin(side: &mut Side, head: &Head, len: usize, start: &MessageStart) {
    side.seen = true;
    side.time = start.time;
    side.end = start.end;
    side.seq = start.seq;
    side.ack = start.ack;
    side.minor = head.minor;
    side.header = len as u64;
    side.wire += len as u64;
    side.packets += start.packets;
}

/// The client that a request names, where that is asked for.
pub(crate) fn client_of(head: &[u8], sink: &Sink) -> Option<Box<(Addr, u16)>> {
    let from = sink.options.client_from.as_ref()?;
    from.client(head).map(Box::new)
}

impl Http {
    /// A head was read: a message begins.
    pub(super) fn message(
        &mut self,
        direction: usize,
        head: &Head,
        bytes: &[u8],
        start: MessageStart,
        sink: &mut Sink,
    ) {
        let body = match head.kind {
            Kind::Request => {
                let mut exchange = self.fresh();
                begin(&mut exchange.request, head, bytes.len(), &start);
                exchange.set_request([head.method, head.target, head.host, head.trace]);
                exchange.is_head = head.method == b"HEAD";
                exchange.is_connect = head.method == b"CONNECT";
                exchange.denied = !sink.options.filters.is_empty()
                    && !sink.options.filters.passes(head.method, head.target, bytes);
                exchange.client = client_of(bytes, sink);
                exchange.id = self.gor_id(start.ack, sink);
                if self.queue.len() >= sink.options.max_pipeline {
                    self.forget_oldest(sink);
                }
                let body = body::request_body(head);
                exchange.expects = body != Body::Length(0)
                    && syntax::fields(bytes).any(|(name, value)| {
                        name.eq_ignore_ascii_case(b"Expect")
                            && value.eq_ignore_ascii_case(b"100-continue")
                    });
                self.queue.push_back(exchange);
                body
            }
            Kind::Response if head.status < 200 && head.status != 101 => {
                self.interim(bytes.len(), &start, sink);
                self.lanes[direction].state = State::Idle;
                return;
            }
            Kind::Response => {
                let i = self.pair(direction, &start, sink);
                let exchange = &mut self.queue[i];
                begin(&mut exchange.response, head, bytes.len(), &start);
                exchange.status = head.status;
                exchange.set_response(head.content_type, head.content_encoding);
                if head.status == 101 {
                    self.next = upgrade(exchange, bytes);
                }
                let exchange = &self.queue[i];
                body::response_body(head, exchange.is_head, exchange.is_connect)
            }
        };
        let unasked = head.kind == Kind::Response
            && self
                .current(direction)
                .is_some_and(|exchange| !exchange.request.seen);
        let lane = &mut self.lanes[direction];
        lane.state = State::Body(body);
        lane.unasked = unasked;
        lane.hole = None;
        lane.grpc = Grpc::new(head.content_type).map(Box::new);
        let is_grpc = lane.grpc.is_some();
        let wanted = if head.kind == Kind::Request {
            sink.options.requests
        } else {
            sink.options.responses
        };
        let Some(exchange) = self.current(direction) else {
            return; // not reached: the exchange was put there above
        };
        exchange.link_bytes += start.link;
        exchange.retransmitted += start.retransmitted;
        exchange.flag(head.anomaly);
        if is_grpc {
            exchange.grpc = true;
            let mut fields = syntax::fields(bytes);
            let field = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"grpc-status"));
            if let (Kind::Response, Some(code)) =
                (head.kind, field.and_then(|(_, v)| grpc::status(v)))
            {
                exchange.extra_mut().set(Extra::GRPC_STATUS, false, code);
            }
        }
        let wanted = wanted && !exchange.denied;
        let client = if sink.options.real_ip_header.is_empty() {
            String::new()
        } else {
            address(self.ends[self.client].0)
        };
        let lane = &mut self.lanes[direction];
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
                edit::set(&mut lane.message, name, client.as_bytes());
            }
            sink.buffered += lane.message.len();
        } else if wanted {
            sink.account.messages_cut += 1;
        }
        if body == Body::Length(0) {
            self.finish(direction, true, sink);
        }
    }

    pub(super) fn fresh(&mut self) -> Box<Exchange> {
        let mut exchange = self.spare.take().unwrap_or_default();
        exchange.clear();
        exchange.stream = self.stream;
        self.stream = self.stream.wrapping_add(1);
        exchange
    }

    pub(super) fn gor_id(&mut self, ack: Option<u32>, sink: &Sink) -> [u8; 24] {
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

    pub(super) fn body(
        &mut self,
        direction: usize,
        body: Body,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        if std::mem::take(&mut self.lanes[direction].unasked)
            && piece.first
            && syntax::clear_start(seen) == Some(Kind::Response)
        {
            // Where its body should begin the next response does: it had none, as responses to HEAD.
            self.finish(direction, true, sink);
            return 0;
        }
        if piece.first && direction == self.client && self.is_answered() {
            // The other side ended this message early: what follows is not its own.
            if syntax::clear_start(seen) == Some(Kind::Request) {
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
                let took = body::chunk(&mut state, seen);
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
                let kind = if direction == self.client {
                    Kind::Request
                } else {
                    Kind::Response
                };
                if piece.first && syntax::clear_start(seen) == Some(kind) {
                    self.finish(direction, false, sink);
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
        let time = piece.time;
        let server = direction != self.client;
        if let Some(exchange) = self.current(direction) {
            exchange.link_bytes += bytes;
            exchange.flag(anomaly);
            let side = if server {
                &mut exchange.response
            } else {
                &mut exchange.request
            };
            side.body += content as u64;
            side.wire += used as u64;
            side.packets += packets;
            side.end = time;
        } else {
            sink.account.add(Cause::Malformed, bytes);
        }
        let lane = &mut self.lanes[direction];
        if let Some(grpc) = &mut lane.grpc {
            body.each_content(piece.upto(used).seen(), used, |part, n| grpc.feed(part, n));
        }
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
                self.spoil(direction, sink);
            } else {
                let seen = &seen[..used.min(seen.len())];
                lane.message.extend_from_slice(seen);
                sink.buffered += seen.len();
            }
        }
        if let Some(whole) = end {
            self.finish(direction, whole, sink);
        }
        used
    }

    /// The request that is passing has its whole response already.
    pub(super) fn is_answered(&self) -> bool {
        self.current_request()
            .is_some_and(|i| self.queue[i].response.done && self.queue[i].response.seen)
    }

    /// Ends a request that was answered before it was sent. One that waited to be told to go on is whole.
    pub(super) fn end_answered(&mut self, sink: &mut Sink) {
        let direction = self.client;
        let whole = self
            .current_request()
            .is_some_and(|i| self.queue[i].expects && self.queue[i].request.body == 0);
        self.spoil(direction, sink);
        self.finish(direction, whole, sink);
    }

    /// The message in this direction cannot be handed out.
    pub(super) fn spoil(&mut self, direction: usize, sink: &mut Sink) {
        let lane = &mut self.lanes[direction];
        if lane.keep {
            lane.keep = false;
            sink.buffered -= lane.message.len();
            lane.message = Vec::new();
            sink.account.messages_cut += 1;
        }
    }

    /// The message in this direction has ended.
    pub(super) fn finish(&mut self, direction: usize, whole: bool, sink: &mut Sink) {
        if !whole && !sink.options.allow_incomplete {
            self.spoil(direction, sink);
        }
        self.lanes[direction].state = State::Idle;
        let server = direction != self.client;
        let id = self.id;
        let lane_keep = self.lanes[direction].keep;
        let message = std::mem::take(&mut self.lanes[direction].message);
        let grpc = self.lanes[direction].grpc.take();
        let Some(exchange) = self.current(direction) else {
            return;
        };
        if let Some(grpc) = grpc.filter(|grpc| !grpc.lost) {
            let extra = exchange.extra_mut();
            extra.set(Extra::MESSAGES, server, grpc.messages);
            extra.set(Extra::MESSAGE_BYTES, server, grpc.bytes);
            if let (true, Some(code)) = (server, grpc.status()) {
                extra.set(Extra::GRPC_STATUS, false, code);
            }
        }
        let (kind, side) = if server {
            (2, &mut exchange.response)
        } else {
            (1, &mut exchange.request)
        };
        side.done = true;
        side.whole = whole;
        let meta = Meta {
            kind,
            id: exchange.id,
            time: side.time,
            latency: side.end.wrapping_sub(side.time),
            connection: id,
            stream: exchange.stream,
        };
        let (status, connect) = (exchange.status, exchange.is_connect);
        let tunnel = (server && connect && (200..300).contains(&status)).then(|| {
            let tunnel: Box<dyn ProtocolReader> = Box::new(Tunnel::connect(exchange.text(TARGET)));
            tunnel
        });
        let open_request = server && !exchange.request.done;
        if lane_keep {
            sink.messages.push(&meta, &message);
            sink.buffered -= message.len();
            let mut message = message;
            message.clear();
            if message.capacity() <= 64 << 10 {
                self.lanes[direction].message = message;
            }
            self.lanes[direction].keep = false;
        }
        if server {
            let switched = status == 101 || (connect && (200..300).contains(&status));
            if open_request
                && (switched
                    || matches!(self.lanes[self.client].state, State::Body(Body::Blind(_))))
            {
                let client = self.client;
                if let Some(exchange) = self
                    .queue
                    .iter_mut()
                    .rfind(|exchange| !exchange.request.done)
                {
                    exchange.request.done = true;
                }
                self.spoil(client, sink);
                self.lanes[client].state = State::Skip(Cause::Gap);
            }
            if switched {
                let next = self.next.take().or(tunnel);
                self.switch(next, sink);
            }
        }
        self.emit(sink);
    }

    /// Hands out finished exchanges, in the order of the connection.
    pub(super) fn emit(&mut self, sink: &mut Sink) {
        let ends = self.ends();
        while self
            .queue
            .front()
            .is_some_and(|exchange| exchange.request.done && exchange.response.done)
        {
            if let Some(exchange) = self.queue.pop_front() {
                sink.push(&exchange, &ends, &mut self.addresses);
                self.spare = Some(exchange);
            }
        }
    }
}
