//! What is inside CONNECT and Upgrade: a stream of its own (RFC 9110 §7.8, §9.3.6).
//!
//! Owns the choice made with its first bytes: TLS, HTTP/1 and HTTP/2 are read as a connection of their
//! own; anything else is a row named after where the tunnel leads, `connect://host:port` or `upgrade://protocol`.

use crate::connection::{Context, Cost, Http, Piece, Sink, State, Visit};
use crate::exchange::{Ends, Protocol};
use crate::http1::{self, Kind};
use crate::http2;
use crate::opaque::{tls_start, Opaque};

pub struct Tunnel {
    to: Option<Opaque>,
    inside: Option<Box<Http>>,
    decided: bool,
}

impl Tunnel {
    /// To an authority, as the CONNECT request names it.
    pub fn connect(authority: &[u8]) -> Self {
        Tunnel::new(Opaque::tunnel(Protocol::Connect, b"", authority))
    }

    /// To another protocol on the same host.
    pub fn upgrade(protocol: &[u8], host: &[u8]) -> Self {
        Tunnel::new(Opaque::tunnel(Protocol::Upgrade, protocol, host))
    }

    fn new(to: Opaque) -> Self {
        Tunnel {
            to: Some(to),
            inside: None,
            decided: false,
        }
    }

    pub fn feed(
        &mut self,
        server: bool,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        if !self.decided {
            self.decided = true;
            let known = !p.missing
                && (tls_start(p.data).is_some()
                    || p.data.starts_with(&[22, 3])
                    || (!server && p.data.starts_with(&http2::PREFACE[..18]))
                    || (!server && http1::clear_start(p.data) == Some(Kind::Request)));
            if known {
                let Ends { client, server, .. } = cx.ends();
                let mut inside = Http::new(cx.id, [client, server], 0, State::Idle);
                inside.go_on_from(cx.position());
                self.inside = Some(Box::new(inside));
                self.to = None;
            }
        }
        if let Some(inside) = &mut self.inside {
            inside.feed_piece(usize::from(server), p, cost, sink);
        } else if let Some(to) = &mut self.to {
            to.feed(server, p, cost, cx, sink);
        }
    }

    /// Shows every exchange that is in flight.
    pub fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        if let Some(inside) = &mut self.inside {
            inside.each_open(visit);
        }
        if let Some(to) = &mut self.to {
            to.each_open(ends, visit);
        }
    }

    /// More TLS secrets are known.
    pub fn again(&mut self, sink: &mut Sink) {
        if let Some(inside) = &mut self.inside {
            inside.again(sink);
        }
    }

    /// A segment came again; true if its bytes have been booked.
    pub fn repeated(&mut self, server: bool, bytes: u64, payload: u64, packets: u64) -> bool {
        self.to
            .as_mut()
            .is_some_and(|to| to.repeated(server, bytes, payload, packets))
    }

    /// The connection is over.
    pub fn close(&mut self, in_order: bool, cx: &mut Context, sink: &mut Sink) {
        if let Some(mut inside) = self.inside.take() {
            if in_order {
                inside.end_both(sink);
            } else {
                inside.close(true, sink);
            }
            cx.go_on_from(inside.positions());
        }
        if let Some(mut to) = self.to.take() {
            to.close(in_order, cx, sink);
        }
    }
}
