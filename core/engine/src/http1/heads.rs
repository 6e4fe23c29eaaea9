//! Heads of HTTP/1 messages as they arrive: whole, over several segments, cut, or none at all.

use crate::account::Cause;
use crate::exchange::Exchange;
use crate::http1::body::Body;
use crate::http1::connection::{Http, State};
use crate::http1::head::{Kind, Parsed};
use crate::http1::syntax;
use crate::http1::syntax::SIMPLE;
use crate::http2::connection::Http2;
use crate::http2::frame::PREFACE;
use crate::plugin::handover::Handover;
use crate::protocol::{last_bytes, Cost, MessageStart, Piece, Sink};
use crate::proxy_protocol;

impl Http {
    pub(super) fn begin(
        &mut self,
        direction: usize,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        if !self.understood && self.positions() == 0 {
            if let Some(header) = proxy_protocol::header(seen).filter(|_| !self.proxied) {
                sink.account
                    .add(Cause::ConnectionOverhead, cost.take(header.size).0);
                self.proxied = true;
                self.client = direction;
                if let Some([client, _]) = header.ends {
                    self.proxy = Some(self.ends[direction]);
                    self.ends[direction] = client;
                }
                return header.size;
            }
        }
        let covered = seen.len() >= rest;
        if covered && self.begins_apart(seen) {
            let lane = &mut self.lanes[direction];
            lane.start = MessageStart::at(piece.time, piece.seq);
            lane.start.pay(cost.take(rest));
            lane.head.clear();
            lane.head.extend_from_slice(seen);
            sink.buffered += seen.len();
            lane.state = State::Head;
            return rest;
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
            && self.prior_knowledge(direction, seen, true, sink)
        {
            return 0;
        }
        if self.answers_simply(direction) {
            self.begin_simple_response(direction, piece, sink);
            return 0;
        }
        if self.understood && direction != self.client && !syntax::may_respond(seen) {
            return self.stray(direction, piece, cost, sink);
        }
        let start = |bytes: (u64, u64)| MessageStart {
            time: piece.time,
            end: piece.time,
            seq: piece.seq,
            ack: piece.ack,
            link: bytes.0,
            packets: bytes.1,
            retransmitted: 0,
        };
        let speaker = last_bytes(self.ends[direction].0);
        match syntax::parse_with(seen, !covered, Some((&mut sink.memos, speaker))) {
            Parsed::Whole(head, n) if self.fits(head.kind, direction) => {
                let stray = syntax::stray_prefix(head.method);
                if stray > 0 {
                    sink.account.add(Cause::Malformed, cost.take(stray).0);
                    return stray;
                }
                self.message(direction, &head, &seen[..n], start(cost.take(n)), sink);
                n
            }
            Parsed::Partial if covered => {
                let lane = &mut self.lanes[direction];
                lane.start = start(cost.take(rest));
                lane.head.clear();
                lane.head.extend_from_slice(seen);
                sink.buffered += seen.len();
                lane.state = State::Head;
                self.check_head(direction, sink);
                rest
            }
            Parsed::Partial => {
                self.refuse(direction, Cause::Truncated, cost.take(rest).0, sink);
                rest
            }
            Parsed::Invalid if !self.understood && !sink.options.protocols.is_empty() => {
                self.understood = true;
                self.switch(Some(Box::new(Handover::default())), sink);
                0
            }
            Parsed::Invalid if !self.understood && syntax::simple_request(seen).is_some() => {
                if let Some(head) = syntax::simple_request(seen) {
                    self.fits(head.kind, direction);
                    self.message(direction, &head, seen, start(cost.take(rest)), sink);
                }
                rest
            }
            Parsed::Whole(..) | Parsed::Invalid => self.stray(direction, piece, cost, sink),
        }
    }

    pub(super) fn drop_head(&mut self, direction: usize, cause: Cause, sink: &mut Sink) {
        let lane = &mut self.lanes[direction];
        sink.buffered -= lane.head.len();
        lane.head.clear();
        let bytes = lane.start.link;
        self.refuse(direction, cause, bytes, sink);
    }

    /// Gives up on a head that cannot be one, or grows over the bound.
    fn check_head(&mut self, direction: usize, sink: &mut Sink) {
        let head = &self.lanes[direction].head;
        if head.len() > sink.options.max_head_bytes || sink.buffered > sink.options.max_buffer_bytes
        {
            sink.account.bound_hits += 1;
            self.cut_head(direction, Cause::MemoryBound, sink);
        } else if head.len() < 64 && syntax::start(head) == syntax::Start::No {
            let cause = self.broken();
            self.drop_head(direction, cause, sink);
        }
    }

    pub(super) fn head(
        &mut self,
        direction: usize,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        if self.begins_apart(&self.lanes[direction].head) {
            return self.join(direction, piece, cost, sink);
        }
        let lane = &mut self.lanes[direction];
        let old = lane.head.len();
        lane.head.extend_from_slice(seen);
        sink.buffered += seen.len();
        lane.start.end = piece.time;
        if let Some(end) = syntax::head_end(&lane.head, old.saturating_sub(2)) {
            let used = end - old;
            sink.buffered -= lane.head.len() - end;
            lane.head.truncate(end);
            let (bytes, packets) = cost.take(used);
            lane.start.link += bytes;
            lane.start.packets += packets;
            let mut head = std::mem::take(&mut lane.head);
            let start = lane.start;
            match syntax::parse(&head, false) {
                _ if head == PREFACE[..18] && self.queue.is_empty() => {
                    sink.buffered -= end;
                    sink.account.add(Cause::ConnectionOverhead, start.link);
                    self.understood = true;
                    self.client = direction;
                    self.lanes[direction].state = State::Idle;
                    self.switch(Some(Box::new(Http2::new(18, true))), sink);
                }
                Parsed::Whole(parsed, _) if self.fits(parsed.kind, direction) => {
                    sink.buffered -= end;
                    let stray = syntax::stray_prefix(parsed.method);
                    sink.account.add(Cause::Malformed, stray as u64);
                    let start = MessageStart {
                        seq: start.seq.wrapping_add(stray as u32),
                        link: start.link - stray as u64,
                        ..start
                    };
                    match syntax::parse(&head[stray..], false) {
                        Parsed::Whole(parsed, _) => {
                            self.message(direction, &parsed, &head[stray..], start, sink);
                        }
                        _ => self.refuse(direction, Cause::Malformed, start.link, sink),
                    }
                }
                _ => {
                    sink.buffered -= end;
                    if self.understood && direction != self.client {
                        self.lanes[direction].hole.get_or_insert(start.seq);
                    }
                    self.refuse(direction, self.broken(), start.link, sink);
                }
            }
            head.clear();
            self.lanes[direction].head = head;
            return used;
        }
        let (bytes, packets) = cost.take(rest);
        lane.start.link += bytes;
        lane.start.packets += packets;
        if seen.len() < rest {
            self.cut_head(direction, Cause::Truncated, sink);
            let server = direction != self.client;
            if let (State::Body(_), Some(exchange)) =
                (self.lanes[direction].state, self.current(direction))
            {
                // What the snap length hid of this segment counts as body: its share is unknown.
                let side = if server {
                    &mut exchange.response
                } else {
                    &mut exchange.request
                };
                side.body += (rest - seen.len()) as u64;
                side.wire += (rest - seen.len()) as u64;
            }
        } else {
            self.check_head(direction, sink);
        }
        rest
    }

    /// Whether these first bytes of a connection are too few to tell what begins: a TLS record, or a balancer's header.
    fn begins_apart(&self, seen: &[u8]) -> bool {
        let tls = seen.len() < 6 && seen.starts_with(&[22]);
        let proxy = || !self.proxied && self.positions() == 0 && proxy_protocol::begins(seen);
        !self.understood && (tls || proxy())
    }

    /// What came apart is read with the bytes that follow.
    fn join(&mut self, direction: usize, piece: &Piece, cost: &mut Cost, sink: &mut Sink) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let lane = &mut self.lanes[direction];
        sink.buffered -= lane.head.len();
        let mut head = std::mem::take(&mut lane.head);
        let start = lane.start;
        let (bytes, packets) = cost.take(rest);
        let whole = head.len() + rest;
        head.extend_from_slice(seen);
        if seen.len() == rest && self.begins_apart(&head) {
            sink.buffered += head.len();
            let lane = &mut self.lanes[direction];
            lane.head = head;
            lane.start.pay((bytes, packets));
            return rest;
        }
        self.lanes[direction].state = State::Idle;
        let together = Piece {
            data: &head,
            len: whole,
            time: start.time,
            seq: start.seq,
            first: true,
            ..*piece
        };
        if head[0] != 22 || self.prior_knowledge(direction, &head, true, sink) {
            let overhead = start.link + bytes - whole as u64;
            let mut cost = Cost::new(overhead, start.packets + packets);
            self.feed(direction, &together, &mut cost, sink);
        } else {
            self.refuse(direction, self.broken(), start.link + bytes, sink);
        }
        rest
    }

    /// Makes what it can of a head that will not become whole.
    pub(super) fn cut_head(&mut self, direction: usize, cause: Cause, sink: &mut Sink) {
        let head = std::mem::take(&mut self.lanes[direction].head);
        let start = self.lanes[direction].start;
        sink.buffered -= head.len();
        match syntax::parse(&head, true) {
            Parsed::Whole(parsed, n) if self.fits(parsed.kind, direction) => {
                self.message(direction, &parsed, &head[..n], start, sink);
            }
            _ => match syntax::cut_request_line(&head) {
                Some(parsed)
                    if cause == Cause::MemoryBound && self.fits(Kind::Request, direction) =>
                {
                    self.message(direction, &parsed, &head, start, sink);
                }
                _ => self.refuse(direction, cause, start.link, sink),
            },
        }
    }

    /// Whether what comes next responds to a request of HTTP/0.9: a body, and nothing before it.
    fn answers_simply(&self, direction: usize) -> bool {
        let simple = |x: &Exchange| x.request.minor == SIMPLE && !x.response.seen;
        direction != self.client && self.queue.front().is_some_and(|x| simple(x))
    }

    fn begin_simple_response(&mut self, direction: usize, piece: &Piece, sink: &mut Sink) {
        if let Some(exchange) = self.queue.front_mut() {
            exchange.response.seen = true;
            exchange.response.minor = SIMPLE;
            exchange.response.time = piece.time;
            exchange.response.end = piece.time;
            exchange.response.seq = piece.seq;
        }
        sink.account.messages_cut += u64::from(sink.options.responses);
        self.lanes[direction].state = State::Body(Body::UntilClose);
    }
}
