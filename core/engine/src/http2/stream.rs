//! A stream of HTTP/2: its exchange, and its messages where somebody wants them.

use super::fields::Named;
use crate::exchange::{Exchange, Extra, Protocol, Side};
use crate::filter::Redaction;
use crate::gor::message::Meta;
use crate::grpc::{self, Grpc};
use crate::http1::edit;
use crate::http2::fields::line;
use crate::protocol::{Context, Sink};
use crate::websocket::connection::WebSocket;
use hashbrown::HashMap;

/// One side of a stream beyond what is measured: its message, if it is wanted.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) keep: bool,
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<u8>,
    pub(super) has_length: bool,
    pub(super) grpc: Option<Grpc>,
}

pub(super) struct Stream {
    pub(super) exchange: Box<Exchange>,
    pub(super) flows: [Flow; 2],
    pub(super) websocket: Option<Box<WebSocket>>,
}

impl Stream {
    pub(super) fn new(mut exchange: Box<Exchange>, id: u32) -> Self {
        exchange.protocol = Protocol::H2;
        exchange.stream = id as i32;
        Stream {
            exchange,
            flows: Default::default(),
            websocket: None,
        }
    }

    pub(super) fn side(&mut self, server: bool) -> &mut Side {
        if server {
            &mut self.exchange.response
        } else {
            &mut self.exchange.request
        }
    }

    /// True if this side has start.
    pub(super) fn has_begun(&self, server: bool) -> bool {
        if server {
            self.exchange.response.seen
        } else {
            self.exchange.request.seen
        }
    }

    /// A message begins on this side; its head as HTTP/1.1 is kept where it is wanted and `sound`.
    pub(super) fn open(
        &mut self,
        server: bool,
        wanted: bool,
        sound: bool,
        head: Vec<u8>,
        named: &Named,
        sink: &mut Sink,
    ) {
        let flow = &mut self.flows[usize::from(server)];
        flow.grpc = Grpc::new(named.content_type);
        let wanted = wanted && !self.exchange.denied;
        flow.keep = wanted && sound;
        sink.account.messages_cut += u64::from(wanted && !sound);
        if flow.keep {
            flow.has_length = named.has_length;
            sink.buffered += head.len();
            flow.head = head;
        }
    }

    pub(super) fn grpc_status(&mut self, named: &Named) {
        if let Some(code) = grpc::status(named.grpc_status) {
            self.exchange
                .extra_mut()
                .set(Extra::GRPC_STATUS, false, code);
        }
    }

    /// Hands out this side's message, if it is wanted and whole.
    pub(super) fn hand_out(&mut self, server: bool, context: &mut Context, sink: &mut Sink) {
        let whole = self.exchange.missing == 0;
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
            let body = payload.split_off(edit::end(&payload));
            let name = sink.options.real_ip_header.as_bytes();
            edit::set(&mut payload, name, context.client_address().as_bytes());
            payload.extend_from_slice(&body);
        }
        *flow = Flow {
            grpc: flow.grpc.take(),
            ..Flow::default()
        };
        let side = if server {
            &self.exchange.response
        } else {
            &self.exchange.request
        };
        let meta = Meta {
            kind: 1 + u8::from(server),
            id: self.exchange.id,
            time: side.time,
            latency: side.end.wrapping_sub(side.time),
            connection: context.id,
            stream: self.exchange.stream,
        };
        sink.messages.push(&meta, &payload);
    }
}

impl Flow {
    pub(super) fn buffered(&self) -> usize {
        self.head.len() + self.body.len() + self.trailers.len()
    }

    /// The message cannot be handed out.
    pub(super) fn spoil(&mut self, sink: &mut Sink) {
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
    pub(super) fn http1(&mut self, redaction: &Redaction) -> Vec<u8> {
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

/// The stream, if this side of it may still speak.
pub(super) fn open(
    streams: &mut HashMap<u32, Stream>,
    id: u32,
    server: bool,
) -> Option<&mut Stream> {
    streams.get_mut(&id).filter(|stream| {
        let side = if server {
            &stream.exchange.response
        } else {
            &stream.exchange.request
        };
        !side.done
    })
}
