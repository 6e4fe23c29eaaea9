//! HTTP/2 messages: header blocks are put together, streams begin, go on and end.

use super::fields::Named;
use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::exchange::{Extra, Side};
use crate::http1::message::client_of;
use crate::http2::connection::{Http2, ENDED, SERVER};
use crate::http2::fields::{http1_head, line, writable};
use crate::http2::frame::{inside, CONTINUATION, END_HEADERS, END_STREAM, FRAME, HEADERS};
use crate::http2::hpack::Fields;
use crate::http2::lane::Block;
use crate::http2::stream::{open, Stream};
use crate::protocol::ProtocolReader;
use crate::protocol::{Context, MessageStart, Sink};
use crate::websocket::connection::WebSocket;

/// A header block as it was read.
struct HeaderBlock<'a> {
    block: &'a Block,
    fields: &'a Fields,
    named: Named<'a>,
    wrong: Anomaly,
}

impl Http2 {
    /// A frame of a header block has passed.
    pub(super) fn block(
        &mut self,
        direction: usize,
        start: MessageStart,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let lane = &mut self.lanes[direction];
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
                start.link,
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
                start: MessageStart::at(start.time, start.seq),
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
        block.start.link += start.link;
        block.start.packets += start.packets;
        block.start.retransmitted += start.retransmitted;
        block.start.end = start.end;
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
        let head = HeaderBlock {
            block: &block,
            fields: &fields,
            named: Named::of(&fields),
            wrong,
        };
        self.headers(direction, &head, context, sink);
        self.fields = fields;
        block.bytes.clear();
        self.lanes[direction].block.bytes = block.bytes;
    }

    /// A header block was read: a message begins, goes on or ends.
    fn headers(
        &mut self,
        direction: usize,
        head: &HeaderBlock,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let block = head.block;
        let server = direction == SERVER;
        if block.promised != 0 || !server {
            let id = if block.promised != 0 {
                block.promised
            } else {
                block.stream
            };
            if !self.streams.contains_key(&id) {
                self.request(id, head, context, sink);
            } else if block.promised == 0 {
                self.trailers(id, false, head, sink);
            } else {
                sink.account.add(Cause::Malformed, block.start.link);
            }
        } else {
            let id = block.stream;
            if !self.streams.contains_key(&id) {
                if !self.is_new(id) {
                    sink.account
                        .add(Cause::ConnectionOverhead, block.start.link);
                    return;
                }
                // Its request was not captured.
                self.insert_headless(id, context, sink);
            }
            let start = self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.exchange.response.seen);
            if start {
                self.trailers(id, true, head, sink);
            } else {
                self.response(id, head, sink);
            }
        }
        if block.end_stream {
            self.end_side(block.stream, server, context, sink);
        }
    }

    /// Whether nothing was seen of this stream yet.
    pub(super) fn is_new(&self, id: u32) -> bool {
        id != 0 && !self.ended.contains(&id)
    }

    /// A stream whose beginning was not captured.
    pub(super) fn insert_headless(&mut self, id: u32, context: &mut Context, sink: &mut Sink) {
        let mut stream = Stream::new(Box::default(), id);
        stream.exchange.request.done = true;
        stream.exchange.denied = !sink.options.filters.passes_unknown();
        stream.exchange.set_request([b"", b"", b"", b""]);
        stream.exchange.id = context.gor_id(id, sink);
        self.insert(id, stream, context, sink);
    }

    pub(super) fn insert(
        &mut self,
        id: u32,
        stream: Stream,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        if self.streams.len() >= sink.options.max_pipeline {
            if let Some(oldest) = self.streams.keys().copied().min() {
                sink.account.bound_hits += 1;
                if let Some(stream) = self.streams.get_mut(&oldest) {
                    stream.exchange.flag(Anomaly::PipelineBound);
                }
                self.over(oldest, context, sink);
            }
        }
        self.streams.insert(id, stream);
    }

    fn request(&mut self, id: u32, head: &HeaderBlock, context: &mut Context, sink: &mut Sink) {
        let HeaderBlock {
            block,
            fields,
            named,
            wrong,
        } = head;
        let mut stream = Stream::new(Box::default(), id);
        let exchange = &mut stream.exchange;
        begin(&mut exchange.request, block);
        exchange.link_bytes = block.start.link;
        exchange.retransmitted = block.start.retransmitted;
        exchange.flag(*wrong);
        let authority = if named.authority.is_empty() {
            named.host
        } else {
            named.authority
        };
        let target = if named.path.is_empty() {
            named.authority
        } else {
            named.path
        };
        exchange.set_request([named.method, target, authority, named.trace()]);
        exchange.https = named.scheme == b"https";
        exchange.is_head = named.method == b"HEAD";
        exchange.is_connect = named.method == b"CONNECT";
        exchange.upgrades =
            exchange.is_connect && named.protocol.eq_ignore_ascii_case(b"websocket");
        exchange.grpc = named.is_grpc();
        let wanted = sink.options.requests;
        let rules = !sink.options.filters.is_empty();
        let text = if wanted || rules || sink.options.client_from.is_some() {
            http1_head(fields, named, false)
        } else {
            Vec::new()
        };
        exchange.client = client_of(&text, sink);
        exchange.denied = rules && !sink.options.filters.passes(named.method, target, &text);
        exchange.id = context.gor_id(id, sink);
        exchange
            .extra_mut()
            .set(Extra::UNCOMPRESSED, false, fields.size as i64);
        let sound = *wrong == Anomaly::None && writable(fields);
        stream.open(false, wanted, sound, text, named, sink);
        if block.promised != 0 {
            stream.exchange.request.done = true; // §8.4: a promised request has no content
            stream.exchange.request.whole = true;
            stream.flows[0].spoil(sink);
        }
        self.insert(id, stream, context, sink);
    }

    fn response(&mut self, id: u32, head: &HeaderBlock, sink: &mut Sink) {
        let HeaderBlock {
            block,
            fields,
            named,
            wrong,
        } = head;
        let Some(stream) = self.streams.get_mut(&id) else {
            return; // not reached: it was put there
        };
        let exchange = &mut stream.exchange;
        exchange.link_bytes += block.start.link;
        exchange.retransmitted += block.start.retransmitted;
        exchange.flag(*wrong);
        let status = named.status();
        if (100..200).contains(&status) {
            exchange.response.wire += block.wire;
            exchange.response.packets += block.start.packets;
            return;
        }
        begin(&mut exchange.response, block);
        exchange.status = status;
        exchange.set_response(named.content_type, named.content_encoding);
        exchange.grpc |= named.is_grpc();
        exchange
            .extra_mut()
            .set(Extra::UNCOMPRESSED, true, fields.size as i64);
        if exchange.upgrades && (200..300).contains(&status) {
            stream.websocket = Some(Box::new(WebSocket::new(&stream.exchange, named.extensions)));
        }
        let wanted = sink.options.responses;
        let text = if wanted {
            http1_head(fields, named, true)
        } else {
            Vec::new()
        };
        let sound = *wrong == Anomaly::None && writable(fields);
        stream.open(true, wanted, sound, text, named, sink);
        stream.grpc_status(named);
    }

    fn trailers(&mut self, id: u32, server: bool, head: &HeaderBlock, sink: &mut Sink) {
        let HeaderBlock {
            block,
            fields,
            named,
            wrong,
        } = head;
        let Some(stream) = open(&mut self.streams, id, server) else {
            sink.account
                .add(Cause::ConnectionOverhead, block.start.link);
            return;
        };
        stream.exchange.link_bytes += block.start.link;
        stream.exchange.retransmitted += block.start.retransmitted;
        stream.exchange.flag(*wrong);
        let extra = stream.exchange.extra_mut();
        let size = extra.get(Extra::UNCOMPRESSED, server).unwrap_or(0);
        extra.set(Extra::UNCOMPRESSED, server, size + fields.size as i64);
        let side = stream.side(server);
        side.header += block.payload;
        side.wire += block.wire;
        side.packets += block.start.packets;
        side.end = block.start.end;
        if server {
            stream.grpc_status(named);
        }
        let flow = &mut stream.flows[usize::from(server)];
        if *wrong != Anomaly::None || !writable(fields) {
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
    pub(super) fn end_side(
        &mut self,
        id: u32,
        server: bool,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let Some(stream) = open(&mut self.streams, id, server) else {
            return;
        };
        let side = stream.side(server);
        if !side.seen {
            return;
        }
        side.done = true;
        side.whole = true;
        stream.hand_out(server, context, sink);
        if stream.exchange.request.done && stream.exchange.response.done {
            self.over(id, context, sink);
        }
    }

    /// One side gives a stream up; what the other one had sent before it knew still arrives.
    pub(super) fn reset(
        &mut self,
        id: u32,
        server: bool,
        time: i64,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let answered = stream.exchange.response.done && stream.exchange.response.whole;
        if !answered {
            // A response that is whole needs no more of its request (§8.1): that is no failure.
            stream.exchange.flag(Anomaly::StreamReset);
        }
        stream.side(server).done = true;
        let other_is_done = if server {
            stream.exchange.request.done
        } else {
            stream.exchange.response.done
        };
        let twice = self.resets.iter().any(|&(_, known)| known == id);
        if other_is_done || twice || self.resets.len() >= ENDED {
            self.over(id, context, sink);
        } else {
            self.resets.push_back((time, id));
        }
    }

    /// A stream is over: its exchange is handed out as it stands.
    pub(super) fn over(&mut self, id: u32, context: &mut Context, sink: &mut Sink) {
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        if self.ended.len() == ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
        if let Some(mut websocket) = stream.websocket.take() {
            websocket.close(false, context, sink);
        }
        for server in [false, true] {
            let flow = &mut stream.flows[usize::from(server)];
            flow.spoil(sink);
            if let Some(grpc) = &flow.grpc {
                let extra = stream.exchange.extra.get_or_insert_default();
                extra.set(Extra::MESSAGES, server, grpc.messages);
                extra.set(Extra::MESSAGE_BYTES, server, grpc.bytes);
                if let (true, Some(code)) = (server, grpc.status()) {
                    extra.set(Extra::GRPC_STATUS, false, code);
                }
            }
        }
        stream.exchange.request.done = true;
        stream.exchange.response.done = true;
        context.push(&stream.exchange, sink);
    }
}

/// A side of an exchange begins; interim responses may have been counted to it already.
pub(super) fn begin(side: &mut Side, block: &Block) {
    side.seen = true;
    side.time = block.start.time;
    side.end = block.start.end;
    side.seq = block.start.seq;
    side.header = block.payload;
    side.wire += block.wire;
    side.packets += block.start.packets;
}
