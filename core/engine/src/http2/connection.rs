//! One connection's HTTP/2 (RFC 9113): in-order bytes of two directions to exchanges.
//!
//! Owns frames as they pass and where each packet's bytes are booked. Never keeps a body unless messages are
//! asked for: data is counted as it passes. Frames that steer the connection are its overhead. After a hole it
//! waits for a segment that begins with a frame; what the header table held is then unknown, and fills again.

use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::exchange::{Ends, Exchange, Side};
use crate::http2::frame;
use crate::http2::frame::{
    header, CONTINUATION, DATA, END_STREAM, FRAME, GOAWAY, HEADERS, PADDED, PREFACE, PUSH_PROMISE,
    RST_STREAM,
};
use crate::http2::hpack::{Decoder, Fields};
use crate::http2::lane::{Block, Frame, Lane, Step};
use crate::http2::stream::{open, Stream};
use crate::protocol::{
    book, Context, Cost, MessageStart, Piece, ProtocolReader, Repeat, Sink, Visit,
};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// The lane of the server; the client's is 0.
pub(super) const SERVER: usize = 1;

pub struct Http2 {
    pub(super) lanes: [Lane; 2],
    pub(super) streams: HashMap<u32, Stream>,
    pub(super) fields: Fields,
    /// The connection's beginning was seen.
    pub(super) whole: bool,
    /// Streams that were reset, and when: what is on its way to them still arrives.
    pub(super) resets: VecDeque<(i64, u32)>,
    /// Streams that have ended lately: what comes on them is no message of a request that was not captured.
    pub(super) ended: VecDeque<u32>,
}

/// So long after a reset frames of the other side may still arrive (RFC 9113 §5.1).
pub(super) const RESET_NS: i64 = 1_000_000_000;

/// Ended streams remembered.
pub(super) const ENDED: usize = 128;

impl Http2 {
    /// A connection that speaks HTTP/2 from here on; the client's first `preface` bytes have passed.
    /// `whole`: its beginning was seen.
    pub fn new(preface: u8, whole: bool) -> Self {
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
        Http2 {
            lanes: [lane(first), lane(Step::Header(0))],
            streams: HashMap::new(),
            fields: Fields::default(),
            whole,
            resets: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    /// RFC 7540 §3.2: the request that asked for the upgrade is answered on stream 1.
    pub fn upgraded(&mut self, request: &Exchange) {
        let mut exchange = Box::new(request.clone());
        exchange.response = Side::default();
        exchange.link_bytes = 0;
        exchange.retransmitted = 0;
        exchange.missing = 0;
        exchange.anomaly = 0;
        exchange.counted = None;
        exchange.number = 0;
        let q = &mut exchange.request;
        (q.header, q.body, q.wire, q.packets) = (0, 0, 0, 0);
        (q.done, q.whole) = (true, true);
        self.streams.insert(1, Stream::new(exchange, 1));
    }

    pub(super) fn preface(
        &mut self,
        direction: usize,
        n: u8,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let left = &PREFACE[usize::from(n)..];
        let k = left.len().min(rest);
        if seen.len() < k || seen[..k] != left[..k] {
            self.lose(direction, piece, Cause::Malformed, sink);
            return 0;
        }
        sink.account.add(Cause::ConnectionOverhead, cost.take(k).0);
        let n = n + k as u8;
        self.lanes[direction].step = if usize::from(n) == PREFACE.len() {
            Step::Header(0)
        } else {
            Step::Preface(n)
        };
        k
    }

    /// Frames can no longer be told apart.
    pub(super) fn lose(&mut self, direction: usize, piece: &Piece, cause: Cause, sink: &mut Sink) {
        let cause = piece.lost(cause);
        let lane = &mut self.lanes[direction];
        lane.step = Step::Lost(cause);
        lane.lose_table(sink);
        self.drop_block(direction, cause, sink);
    }

    fn drop_block(&mut self, direction: usize, cause: Cause, sink: &mut Sink) {
        let lane = &mut self.lanes[direction];
        sink.buffered -= lane.block.bytes.len() + lane.payload.len();
        lane.payload.clear();
        let block = std::mem::take(&mut lane.block);
        sink.account.add(cause, block.start.link);
    }

    pub(super) fn header(
        &mut self,
        direction: usize,
        n: u8,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let have = usize::from(n);
        let k = (FRAME - have).min(rest);
        let lane = &mut self.lanes[direction];
        if have == 0 {
            lane.frame.start = MessageStart::at(piece.time, piece.seq);
        }
        if seen.len() < k {
            sink.account.add(
                piece.lost(Cause::Truncated),
                std::mem::take(&mut lane.frame.start.link),
            );
            self.lose(direction, piece, Cause::Truncated, sink);
            return 0;
        }
        lane.head[have..have + k].copy_from_slice(&seen[..k]);
        lane.frame.start.pay(cost.take(k));
        if have + k < FRAME {
            lane.step = Step::Header((have + k) as u8);
            return k;
        }
        let (kind, flags, stream, length) = header(&lane.head);
        lane.frame.start.end = piece.time;
        let start = lane.frame.start;
        lane.frame = Frame {
            kind,
            flags,
            stream,
            length,
            left: length,
            padding: 0,
            opened: false,
            cut: false,
            start,
        };
        lane.step = Step::Payload;
        self.forget_resets(piece.time, context, sink);
        let lane = &mut self.lanes[direction];
        if lane.block.open && (kind != CONTINUATION || stream != lane.block.stream) {
            // RFC 9113 §6.10: nothing else may come in between.
            lane.lose_table(sink);
            self.drop_block(direction, Cause::Malformed, sink);
        }
        if kind == DATA {
            self.open_data(direction, context, sink);
        }
        if length == 0 {
            self.end_frame(direction, context, sink);
        }
        k
    }

    /// Payload of the frame that is passing.
    pub(super) fn payload(
        &mut self,
        direction: usize,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) -> usize {
        let (seen, rest) = (piece.data, piece.len);
        let frame = &mut self.lanes[direction].frame;
        let mut k = (frame.left as usize).min(rest);
        if frame.kind != DATA {
            self.keep(direction, &piece.upto(k), cost, sink);
        } else if frame.flags & PADDED != 0 && !frame.opened {
            // Padding that fills the whole payload or more is an error (§6.1): it is all padding.
            let pad = seen.first().map_or(0, |&n| u32::from(n));
            frame.opened = true;
            k = 1;
            let left = frame.left - 1;
            self.data(direction, false, &piece.upto(k), cost, context, sink);
            self.lanes[direction].frame.padding = pad.min(left);
        } else {
            let content = (frame.left.saturating_sub(frame.padding) as usize).min(k);
            if content > 0 {
                k = content;
            }
            self.data(direction, content > 0, &piece.upto(k), cost, context, sink);
        }
        let lane = &mut self.lanes[direction];
        lane.frame.left -= k as u32;
        if lane.frame.left == 0 {
            self.end_frame(direction, context, sink);
        }
        k
    }

    /// Payload of a frame that is not data: header blocks are kept, and what ends streams.
    pub(super) fn keep(
        &mut self,
        direction: usize,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) {
        let (seen, k) = (piece.data, piece.len);
        let lane = &mut self.lanes[direction];
        let frame = &mut lane.frame;
        if !piece.missing {
            frame.start.pay(cost.take(k));
            frame.start.end = piece.time;
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
    fn open_data(&mut self, direction: usize, context: &mut Context, sink: &mut Sink) {
        let server = direction == SERVER;
        let strange = self.strange();
        let id = self.lanes[direction].frame.stream;
        if !self.streams.contains_key(&id) && self.is_new(id) && (server || !self.whole) {
            // Its head was not captured.
            self.insert_headless(id, context, sink);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.exchange.flag(Anomaly::UndecodedHeaders);
            }
        }
        let lane = &mut self.lanes[direction];
        let start = std::mem::take(&mut lane.frame.start);
        lane.last = lane.frame.stream;
        match open(&mut self.streams, lane.frame.stream, server) {
            Some(stream) => {
                stream.exchange.link_bytes += start.link;
                stream.exchange.retransmitted += start.retransmitted;
                let side = stream.side(server);
                if !side.seen {
                    (side.seen, side.time, side.seq) = (true, start.time, start.seq);
                }
                side.wire += FRAME as u64;
                side.packets += start.packets;
                side.end = start.end;
            }
            None => sink.account.add(strange, start.link),
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

    /// Payload bytes of a DATA frame: all content, or all padding.
    pub(super) fn data(
        &mut self,
        direction: usize,
        is_content: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let (seen, k) = (piece.data, piece.len);
        let content = if is_content { k } else { 0 };
        let server = direction == SERVER;
        let strange = self.strange();
        let Some(stream) = open(
            &mut self.streams,
            self.lanes[direction].frame.stream,
            server,
        ) else {
            book(piece, strange, k, cost, sink);
            return;
        };
        if let (Some(ws), true) = (&mut stream.websocket, content > 0) {
            let piece = Piece {
                first: false,
                ..*piece
            };
            let side = if server {
                &mut stream.exchange.response
            } else {
                &mut stream.exchange.request
            };
            side.end = piece.time;
            return ws.feed(server, &piece, cost, context, sink);
        }
        if piece.missing {
            stream.exchange.missing += content as u64;
        } else {
            let (link, packets) = cost.take(k);
            stream.exchange.link_bytes += link;
            let side = stream.side(server);
            side.packets += packets;
            side.end = piece.time;
            side.wire += k as u64;
            side.body += content as u64;
        }
        if content == 0 {
            return;
        }
        let flow = &mut stream.flows[usize::from(server)];
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

    pub(super) fn end_frame(&mut self, direction: usize, context: &mut Context, sink: &mut Sink) {
        let lane = &mut self.lanes[direction];
        lane.step = Step::Header(0);
        let start = std::mem::take(&mut lane.frame.start);
        let (kind, flags, stream) = (lane.frame.kind, lane.frame.flags, lane.frame.stream);
        match kind {
            DATA => {
                if flags & END_STREAM != 0 {
                    self.end_side(stream, direction == SERVER, context, sink);
                }
            }
            HEADERS | PUSH_PROMISE | CONTINUATION => self.block(direction, start, context, sink),
            _ => {
                sink.account.add(Cause::ConnectionOverhead, start.link);
                let last = lane.payload.first_chunk().map(|b| u32::from_be_bytes(*b));
                sink.buffered -= lane.payload.len();
                lane.payload.clear();
                if kind == RST_STREAM {
                    self.reset(stream, direction == SERVER, start.end, context, sink);
                } else if let (GOAWAY, Some(last)) = (kind, last) {
                    // §6.8: what the sender of this has not taken up will not be answered.
                    let own = u32::from(direction == SERVER); // odd streams are the client's
                    let mut ids: Vec<u32> = self.streams.keys().copied().collect();
                    ids.retain(|id| *id > last & 0x7fff_ffff && id & 1 == own);
                    ids.sort_unstable();
                    for id in ids {
                        if let Some(stream) = self.streams.get_mut(&id) {
                            stream.exchange.flag(Anomaly::StreamReset);
                        }
                        self.over(id, context, sink);
                    }
                }
            }
        }
    }

    /// Streams that were reset a while ago are over.
    fn forget_resets(&mut self, now: i64, context: &mut Context, sink: &mut Sink) {
        while let Some(&(time, id)) = self.resets.front() {
            if now.saturating_sub(time) <= RESET_NS {
                return;
            }
            self.resets.pop_front();
            self.over(id, context, sink);
        }
    }
}

impl ProtocolReader for Http2 {
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
                Step::Preface(n) => self.preface(direction, n, &rest, cost, sink),
                Step::Header(n) => self.header(direction, n, &rest, cost, context, sink),
                Step::Payload => self.payload(direction, &rest, cost, context, sink),
                Step::Lost(cause) => {
                    if rest.first && frame::clear_start(rest.data) {
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

    /// Its bytes go to the stream that spoke last, if that is open.
    fn repeated(&mut self, server: bool, repeat: &Repeat) -> bool {
        let id = self.lanes[usize::from(server)].last;
        let Some(stream) = open(&mut self.streams, id, server).filter(|s| s.has_begun(server))
        else {
            return false;
        };
        let inside = &mut stream.websocket;
        if !inside
            .as_mut()
            .is_some_and(|websocket| websocket.repeated(server, repeat))
        {
            repeat.book(&mut stream.exchange, server);
        }
        true
    }

    fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        for stream in self.streams.values_mut() {
            visit(&mut stream.exchange, ends);
            if let Some(ws) = &mut stream.websocket {
                ws.each_open(ends, visit);
            }
        }
    }

    fn close(&mut self, _in_order: bool, context: &mut Context, sink: &mut Sink) {
        for direction in 0..2 {
            let lane = &mut self.lanes[direction];
            let link = match lane.step {
                Step::Header(1..) | Step::Payload => lane.frame.start.link,
                _ => 0,
            };
            lane.step = Step::Lost(Cause::Retransmission);
            lane.lose_table(sink);
            sink.account.add(Cause::Malformed, link);
            self.drop_block(direction, Cause::Malformed, sink);
        }
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.exchange.flag(Anomaly::ClosedEarly);
            }
            self.over(id, context, sink);
        }
    }
}
