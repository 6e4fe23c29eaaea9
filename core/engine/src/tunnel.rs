//! What is inside CONNECT and Upgrade: a stream of its own (RFC 9110 §7.8, §9.3.6).
//!
//! Owns the choice made with its first bytes: TLS, HTTP/1 and HTTP/2 are read as a connection of their
//! own; anything else is a row named after where the tunnel leads, `connect://host:port` or `upgrade://protocol`.

use crate::exchange::{Ends, Protocol};
use crate::http1::head::Kind;
use crate::http1::syntax;
use crate::http2::frame::PREFACE;
use crate::opaque::Opaque;
use crate::protocol::{Carried, Context, Cost, Inside, Piece, ProtocolReader, Repeat, Sink, Visit};
use crate::tls::hello;

enum Content {
    /// Nothing has passed yet: what it would be counted as.
    Undecided(Opaque),
    Unknown(Opaque),
    Connection(Box<dyn Carried>),
}

pub struct Tunnel(Content);

impl Tunnel {
    /// To an authority, as the CONNECT request names it.
    pub fn connect(authority: &[u8]) -> Self {
        Tunnel(Content::Undecided(Opaque::tunnel(
            Protocol::Connect,
            b"",
            authority,
        )))
    }

    /// To another protocol on the same host.
    pub fn upgrade(protocol: &[u8], host: &[u8]) -> Self {
        Tunnel(Content::Undecided(Opaque::tunnel(
            Protocol::Upgrade,
            protocol,
            host,
        )))
    }
}

/// Whether a protocol that is read here begins with these bytes.
fn is_known(server: bool, piece: &Piece) -> bool {
    let b = piece.data;
    !piece.missing
        && (hello::tls_start(b).is_some()
            || b.starts_with(&[22, 3])
            || (!server && b.starts_with(&PREFACE[..18]))
            || (!server && syntax::clear_start(b) == Some(Kind::Request)))
}

impl ProtocolReader for Tunnel {
    fn feed(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        if let Content::Undecided(opaque) = &mut self.0 {
            self.0 = if is_known(server, piece) {
                let ends = [context.ends.client, context.ends.server];
                Content::Connection(context.carry(ends, Inside::Tunnelled(*context.position)))
            } else {
                Content::Unknown(std::mem::replace(opaque, Opaque::raw()))
            };
        }
        match &mut self.0 {
            Content::Connection(inside) => inside.feed(usize::from(server), piece, cost, sink),
            Content::Unknown(opaque) | Content::Undecided(opaque) => {
                opaque.feed(server, piece, cost, context, sink);
            }
        }
    }

    fn repeated(&mut self, server: bool, repeat: &Repeat) -> bool {
        match &mut self.0 {
            Content::Unknown(opaque) => opaque.repeated(server, repeat),
            Content::Connection(_) | Content::Undecided(_) => false,
        }
    }

    fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        match &mut self.0 {
            Content::Connection(inside) => inside.each_open(visit),
            Content::Unknown(opaque) => opaque.each_open(ends, visit),
            Content::Undecided(_) => {}
        }
    }

    fn secrets_added(&mut self, _context: &mut Context, sink: &mut Sink) {
        if let Content::Connection(inside) = &mut self.0 {
            inside.secrets_added(sink);
        }
    }

    fn close(&mut self, in_order: bool, context: &mut Context, sink: &mut Sink) {
        match &mut self.0 {
            Content::Connection(inside) => {
                inside.close(in_order, sink);
                *context.position = inside.positions();
            }
            Content::Unknown(opaque) => opaque.close(in_order, context, sink),
            Content::Undecided(_) => {}
        }
    }
}
