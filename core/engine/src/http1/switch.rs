//! What else is spoken on a connection: chosen by its first bytes, or by a message that switches.

use crate::account::Cause;
use crate::bytes::segment::Addr;
use crate::exchange::{Exchange, Secure, HOST};
use crate::http1::connection::{Http, State};
use crate::http1::syntax;
use crate::http2::connection::Http2;
use crate::http2::frame;
use crate::http2::frame::PREFACE;
use crate::opaque::Opaque;
use crate::plugin::handover::Handover;
use crate::protocol::{book, Carried, Context, Cost, Inside, Piece, ProtocolReader, Sink, Visit};
use crate::tls::connection::Tls;
use crate::tls::hello;
use crate::tunnel::Tunnel;
use crate::websocket::connection::WebSocket;

/// What a response of status 101 switches to, where that is known (RFC 9110 §7.8).
pub(super) fn upgrade(exchange: &Exchange, head: &[u8]) -> Option<Box<dyn ProtocolReader>> {
    let find = |wanted: &[u8]| {
        syntax::fields(head)
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    };
    let to = find(b"Upgrade")?;
    Some(if to.eq_ignore_ascii_case(b"websocket") {
        let extensions = find(b"Sec-WebSocket-Extensions").unwrap_or(b"");
        Box::new(WebSocket::new(exchange, extensions))
    } else if to.eq_ignore_ascii_case(b"h2c") {
        let mut http2 = Http2::new(0, true);
        http2.upgraded(exchange);
        Box::new(http2)
    } else {
        Box::new(Tunnel::upgrade(to, exchange.text(HOST)))
    })
}

impl Carried for Http {
    fn feed(&mut self, direction: usize, piece: &Piece, cost: &mut Cost, sink: &mut Sink) {
        if piece.missing {
            sink.account.missing_bytes -= piece.len as u64; // it was counted below
            return self.gap(direction, piece.seq, piece.len as u32, sink);
        }
        Http::feed(self, direction, piece, cost, sink);
    }

    fn each_open(&mut self, visit: &mut Visit) {
        Http::each_open(self, visit);
    }

    fn secrets_added(&mut self, sink: &mut Sink) {
        Http::secrets_added(self, sink);
    }

    fn close(&mut self, in_order: bool, sink: &mut Sink) {
        if in_order {
            self.end_both(sink);
        } else {
            Http::close(self, true, sink);
        }
    }

    fn positions(&self) -> i32 {
        self.stream
    }
}

/// A connection that another one carries.
fn carried(id: u64, ends: [(Addr, u16); 2], inside: Inside) -> Box<dyn Carried> {
    let mut http = Http::new(id, ends, 0, State::Idle);
    match inside {
        Inside::Decrypted(alpn) => http.secure = Secure::negotiated(&alpn),
        Inside::Tunnelled(position) => http.stream = position,
    }
    Box::new(http)
}

impl Http {
    /// Runs `work` on the reader of what is spoken now, if that is not HTTP/1.
    pub(super) fn with_reader<T>(
        &mut self,
        work: impl FnOnce(&mut dyn ProtocolReader, &mut Context) -> T,
    ) -> Option<T> {
        let mut context = Context {
            id: self.id,
            ends: self.ends(),
            addresses: &mut self.addresses,
            position: &mut self.stream,
            carried,
        };
        self.reader
            .as_deref_mut()
            .map(|reader| work(reader, &mut context))
    }

    /// More TLS secrets are known.
    pub fn secrets_added(&mut self, sink: &mut Sink) {
        self.with_reader(|reader, context| reader.secrets_added(context, sink));
    }

    /// Bytes after the switch.
    pub(super) fn pass_on(
        &mut self,
        direction: usize,
        piece: &Piece,
        cost: &mut Cost,
        sink: &mut Sink,
    ) {
        let server = direction != self.client;
        let known =
            self.with_reader(|reader, context| reader.feed(server, piece, cost, context, sink));
        if known.is_none() {
            book(piece, Cause::Switched, piece.len, cost, sink);
        }
    }

    /// Both directions speak something else from here on.
    pub(super) fn switch(&mut self, reader: Option<Box<dyn ProtocolReader>>, sink: &mut Sink) {
        for lane in 0..2 {
            if self.lanes[lane].state == State::Head {
                self.drop_head(lane, Cause::Switched, sink);
            }
            self.lanes[lane].state = State::Switched;
        }
        self.reader = reader;
    }

    /// Something else than HTTP/1 from the first byte on: what the options say of this connection,
    /// TLS, or HTTP/2. `fresh`: the connection's beginning was seen.
    pub(super) fn prior_knowledge(
        &mut self,
        direction: usize,
        seen: &[u8],
        fresh: bool,
        sink: &mut Sink,
    ) -> bool {
        if self.understood {
            return self.http2(direction, seen, fresh, sink);
        }
        let options = &sink.options;
        let hello = hello::tls_start(seen);
        let reader: Box<dyn ProtocolReader> = if options.raw {
            Box::new(Opaque::raw())
        } else if self
            .ends
            .iter()
            .any(|(_, port)| options.plugin_ports.contains(port))
        {
            Box::new(Handover::default())
        } else if hello.is_some() || (!fresh && hello::tls_amid(seen)) {
            if options.tls_keys || sink.keys.added > 0 {
                let client = if hello.unwrap_or(direction == self.client) {
                    direction
                } else {
                    1 - direction
                };
                let ends = [self.ends[client], self.ends[1 - client]];
                Box::new(Tls::new(ends, hello.is_some()))
            } else {
                Box::new(Opaque::tls(fresh || hello.is_some()))
            }
        } else {
            return self.http2(direction, seen, fresh, sink);
        };
        if let Some(by_client) = hello.filter(|_| !options.raw) {
            self.client = if by_client { direction } else { 1 - direction };
        }
        self.understood = true;
        self.switch(Some(reader), sink);
        true
    }

    /// HTTP/2 without an upgrade, if these are its first bytes: the client's preface or the
    /// server's SETTINGS, or frames where the beginning was not seen.
    pub(super) fn http2(
        &mut self,
        direction: usize,
        seen: &[u8],
        fresh: bool,
        sink: &mut Sink,
    ) -> bool {
        let preface = seen.starts_with(&PREFACE[..18]);
        let client = if preface {
            direction
        } else if !self.understood && fresh && frame::server_start(seen) {
            1 - direction
        } else if !self.understood && !fresh && frame::clear_start(seen) {
            self.client
        } else {
            return false;
        };
        if self.understood && (client != self.client || !self.queue.is_empty()) {
            return false;
        }
        self.understood = true;
        self.client = client;
        self.switch(Some(Box::new(Http2::new(0, fresh || preface))), sink);
        true
    }
}
