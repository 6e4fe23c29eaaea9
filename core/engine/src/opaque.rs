//! Streams that are measured but not understood: TLS without keys, the inside of a tunnel, and raw TCP.
//!
//! Owns their rows. Of TLS, a row is a connection, or a minute of one; host and ALPN come from the
//! hellos. Of raw TCP, a row is a turn: what the client says until it speaks again, and what it is answered.

use crate::anomaly::Anomaly;
use crate::exchange::{Ends, Exchange, Protocol, Side};
use crate::gor::message::Meta;
use crate::protocol::{Context, Cost, Piece, ProtocolReader, Repeat, Sink, Visit};
use crate::tls::unread::Unread;

/// A longer connection has more rows than one.
const SLICE_NS: i64 = 60_000_000_000;

pub struct Opaque {
    exchange: Option<Box<Exchange>>,
    messages: [Vec<u8>; 2],
    keep: [bool; 2],
    tls: Option<Box<Unread>>,
    /// What the inside of a tunnel is called.
    tunnel: Option<Box<Tunnelled>>,
}

struct Tunnelled {
    protocol: Protocol,
    name: Vec<u8>,
    host: Vec<u8>,
}

impl Opaque {
    pub fn raw() -> Self {
        Opaque {
            exchange: None,
            messages: Default::default(),
            keep: [false; 2],
            tls: None,
            tunnel: None,
        }
    }

    /// The inside of a tunnel: its protocol's name and host, where these are known.
    pub fn tunnel(protocol: Protocol, name: &[u8], host: &[u8]) -> Self {
        Opaque {
            tunnel: Some(Box::new(Tunnelled {
                protocol,
                name: name.to_vec(),
                host: host.to_vec(),
            })),
            ..Opaque::raw()
        }
    }

    /// `fresh`: the connection's beginning was seen.
    pub fn tls(fresh: bool) -> Self {
        Opaque {
            tls: Some(Box::new(Unread::new(fresh))),
            ..Opaque::raw()
        }
    }

    /// True if a row has gone out before this piece was taken.
    pub fn measure(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) -> bool {
        let raw = self.tls.is_none() && self.tunnel.is_none();
        let over = self.exchange.as_ref().is_some_and(|exchange| match raw {
            false => {
                let start = if exchange.request.seen {
                    exchange.request.time
                } else {
                    exchange.response.time
                };
                !piece.missing && piece.time.saturating_sub(start) >= SLICE_NS
            }
            true => !server && exchange.response.seen,
        });
        if over {
            self.emit(true, context, sink);
        }
        let tunnel = self.tunnel.as_deref();
        let exchange = self.exchange.get_or_insert_with(|| {
            let mut exchange = Box::<Exchange>::default();
            exchange.protocol = match tunnel {
                Some(inside) => inside.protocol,
                None if raw => Protocol::Raw,
                None => Protocol::Tls,
            };
            exchange.stream = context.next_position();
            exchange.denied = !sink.options.filters.passes_unknown();
            exchange.id = context.gor_id(exchange.stream as u32, sink);
            match tunnel {
                Some(inside) => exchange.set_request([&inside.name, b"", &inside.host, b""]),
                None => exchange.set_request([b"", b"", b"", b""]),
            }
            exchange
        });
        if piece.missing {
            exchange.missing += piece.len as u64;
            if let Some(tls) = &mut self.tls {
                tls.records[usize::from(server)].feed(&[], piece.len);
                let hello = tls.hello[usize::from(server)].take();
                sink.buffered -= hello.map_or(0, |h| h.len());
            } else {
                self.spoil(server, sink);
            }
            return over;
        }
        let (link, packets) = cost.take(piece.len);
        exchange.link_bytes += link;
        let seen = &piece.data[..piece.data.len().min(piece.len)];
        let side = exchange.side_mut(server);
        let begins = !side.seen;
        if begins {
            *side = Side {
                seen: true,
                time: piece.time,
                seq: piece.seq,
                ..Side::default()
            };
        }
        side.end = piece.time;
        side.wire += piece.len as u64;
        side.packets += packets;
        match &mut self.tls {
            None => {
                side.body += piece.len as u64;
                if raw {
                    self.message(server, begins, seen, piece.len, sink);
                }
            }
            Some(tls) => {
                let data = tls.records[usize::from(server)].feed(seen, piece.len) as u64;
                side.body += data;
                side.header += piece.len as u64 - data;
                tls.read(server, seen, seen.len() < piece.len, sink);
            }
        }
        over
    }

    /// Its row is not wanted: the connection is read. Gives back the link bytes that it had.
    pub fn forget(&mut self, sink: &mut Sink) -> u64 {
        if let Some(tls) = &mut self.tls {
            for hello in &mut tls.hello {
                sink.buffered -= hello.take().map_or(0, |h| h.len());
            }
        }
        self.exchange
            .take()
            .map_or(0, |exchange| exchange.link_bytes)
    }

    fn message(&mut self, server: bool, begins: bool, seen: &[u8], n: usize, sink: &mut Sink) {
        let direction = usize::from(server);
        let o = &sink.options;
        if begins {
            self.keep[direction] = if server { o.responses } else { o.requests };
        }
        if !self.keep[direction] {
            return;
        }
        let full = self.messages[direction].len() + n > o.max_message_bytes
            || sink.buffered + n > o.max_buffer_bytes;
        if seen.len() < n || full {
            return self.spoil(server, sink);
        }
        self.messages[direction].extend_from_slice(seen);
        sink.buffered += n;
    }

    fn spoil(&mut self, server: bool, sink: &mut Sink) {
        let direction = usize::from(server);
        if std::mem::take(&mut self.keep[direction]) {
            sink.buffered -= self.messages[direction].len();
            self.messages[direction] = Vec::new();
            sink.account.messages_cut += 1;
        }
    }

    /// Hands out the row that is open.
    fn emit(&mut self, whole: bool, context: &mut Context, sink: &mut Sink) {
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        for server in [false, true] {
            let direction = usize::from(server);
            let message = std::mem::take(&mut self.messages[direction]);
            sink.buffered -= message.len();
            if std::mem::take(&mut self.keep[direction]) && !exchange.denied {
                let side = if server {
                    &exchange.response
                } else {
                    &exchange.request
                };
                let meta = Meta {
                    kind: 1 + u8::from(server),
                    id: exchange.id,
                    time: side.time,
                    latency: side.end.wrapping_sub(side.time),
                    connection: context.id,
                    stream: exchange.stream,
                };
                sink.messages.push(&meta, &message);
            }
        }
        if let Some(tls) = &self.tls {
            exchange.set_request([b"", b"", &tls.host, b""]);
            exchange.set_alpn(&tls.alpn);
        }
        exchange.request.whole = whole;
        exchange.response.whole = whole;
        context.push(&exchange, sink);
    }
}

impl ProtocolReader for Opaque {
    fn feed(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        self.measure(server, piece, cost, context, sink);
    }

    fn repeated(&mut self, server: bool, repeat: &Repeat) -> bool {
        let open = self.exchange.as_mut().filter(|x| x.side(server).seen);
        open.map(|exchange| repeat.book(exchange, server)).is_some()
    }

    fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        if let Some(exchange) = &mut self.exchange {
            if let Some(tls) = &self.tls {
                exchange.set_request([b"", b"", &tls.host, b""]);
                exchange.set_alpn(&tls.alpn);
            }
            visit(exchange, ends);
        }
    }

    fn close(&mut self, in_order: bool, context: &mut Context, sink: &mut Sink) {
        if let (Some(exchange), false) = (&mut self.exchange, in_order) {
            exchange.flag(Anomaly::ClosedEarly);
        }
        self.emit(in_order, context, sink);
        if let Some(tls) = &mut self.tls {
            for hello in &mut tls.hello {
                sink.buffered -= hello.take().map_or(0, |h| h.len());
            }
        }
    }
}
