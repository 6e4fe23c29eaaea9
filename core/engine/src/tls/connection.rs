//! TLS that is read with a key log: a connection's records to the plaintext, which is read as its own connection.
//!
//! Owns what waits for a secret, in bounded memory, and the choice between reading and counting: until
//! the first plaintext, all is counted as TLS without keys as well; if a record cannot be read, the rest
//! is counted so. Handshakes and alerts of a connection that is read are its overhead.

use crate::account::Cause;
use crate::bytes::offsets::Offsets;
use crate::bytes::segment::Addr;
use crate::exchange::Ends;
use crate::opaque::Opaque;
use crate::protocol::{Carried, Context, Cost, Inside, Piece, ProtocolReader, Repeat, Sink, Visit};
use crate::tls::session::{Record, Session, Undecryptable};
use std::collections::VecDeque;

/// Bytes of a connection that wait for a secret before it is counted without them.
const MAX_WAITING: usize = 256 << 10;

pub struct Tls {
    session: Session,
    /// The plaintext, once there is some.
    inside: Option<Box<dyn Carried>>,
    /// The connection as it is without keys: until there is plaintext, and after records that cannot be read.
    opaque: Option<Opaque>,
    offsets: [Offsets; 2],
    /// What came while a secret was missing; both sides, in the capture's order.
    later: VecDeque<(bool, Vec<u8>)>,
    /// Of `later` and the session, as far as they are in `Sink::buffered`.
    buffered: usize,
    ends: [(Addr, u16); 2],
    given_up: bool,
}

impl Tls {
    /// `ends`: the client's first. `fresh`: the connection's beginning was seen.
    pub fn new(ends: [(Addr, u16); 2], fresh: bool) -> Self {
        Tls {
            session: Session::default(),
            inside: None,
            opaque: Some(Opaque::tls(fresh)),
            offsets: Default::default(),
            later: VecDeque::new(),
            buffered: 0,
            ends,
            given_up: !fresh,
        }
    }

    /// Books what waits here in `Sink::buffered`.
    fn keep(&mut self, sink: &mut Sink) {
        let later: usize = self.later.iter().map(|(_, data)| data.len()).sum();
        let held = if self.given_up {
            0
        } else {
            later + self.session.held_bytes()
        };
        sink.buffered = sink.buffered + held - self.buffered;
        self.buffered = held;
    }

    fn read(&mut self, server: bool, data: &[u8], context: &mut Context, sink: &mut Sink) {
        let mut records = Vec::new();
        let found = self.session.feed(server, data, &sink.keys, &mut records);
        sink.keys.occurs(&self.session.client_random);
        for record in records {
            self.record(record, context, sink);
        }
        if let Err(Undecryptable) = found {
            self.give_up(context, sink);
        }
    }

    fn record(&mut self, record: Record, context: &mut Context, sink: &mut Sink) {
        let size = record.size as u64;
        let share = self.offsets[usize::from(record.server)].take(size);
        let Some(plain) = record.plain.filter(|piece| !piece.is_empty()) else {
            if self.opaque.is_none() {
                sink.account
                    .add(Cause::ConnectionOverhead, size + share.overhead);
            }
            return;
        };
        let opaque = self.opaque.take();
        let inside = self.inside.get_or_insert_with(|| {
            context.carry(self.ends, Inside::Decrypted(self.session.alpn.clone()))
        });
        if let Some(mut opaque) = opaque {
            // What was counted until now was handshakes, but for this record and what waits.
            let waiting: u64 = self.offsets.iter().map(Offsets::waiting_link_bytes).sum();
            let counted = opaque.forget(sink);
            sink.account.add(
                Cause::ConnectionOverhead,
                counted.saturating_sub(waiting + size + share.overhead),
            );
            sink.tls_read += 1;
        }
        let overhead = share.overhead + size - plain.len() as u64;
        let mut cost = Cost::new(overhead, share.packets);
        let piece = Piece::of(&plain, share.time);
        inside.feed(usize::from(record.server), &piece, &mut cost, sink);
    }

    /// The rest of the connection is counted without being read.
    fn give_up(&mut self, context: &mut Context, sink: &mut Sink) {
        if let Some(mut inside) = self.inside.take() {
            inside.close(true, sink);
            *context.position = inside.positions();
            let mut opaque = Opaque::tls(false);
            for (direction, offsets) in self.offsets.iter_mut().enumerate() {
                let left = offsets.waiting();
                if left > 0 {
                    let share = offsets.take(left);
                    let rest = Piece {
                        len: left as usize,
                        first: false,
                        ..Piece::of(&[], share.time)
                    };
                    let mut cost = Cost::new(share.overhead, share.packets);
                    opaque.measure(direction == 1, &rest, &mut cost, context, sink);
                }
            }
            self.opaque = Some(opaque);
        }
        self.stop(sink);
    }

    /// From here on only `opaque` counts.
    fn stop(&mut self, sink: &mut Sink) {
        self.given_up = true;
        self.keep(sink);
        self.later = VecDeque::new();
        self.session = Session::default();
        self.offsets = Default::default();
    }
}

impl ProtocolReader for Tls {
    fn feed(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        if self.given_up {
            if let Some(opaque) = &mut self.opaque {
                opaque.feed(server, piece, cost, context, sink);
            }
            return;
        }
        let cut = piece.data.len() < piece.len;
        if piece.missing || cut {
            if let (Some(inside), true) = (&mut self.inside, piece.missing) {
                inside.feed(usize::from(server), piece, cost, sink);
            }
            // Records are numbered: after a hole the number is not known.
            self.give_up(context, sink);
            return self.feed(server, piece, cost, context, sink);
        }
        let (link_bytes, packets) = cost.take(piece.len);
        let overhead = link_bytes - piece.len as u64;
        self.offsets[usize::from(server)].add(piece.len as u64, piece.time, overhead, packets);
        if let Some(opaque) = &mut self.opaque {
            let mut cost = Cost::new(overhead, packets);
            if opaque.measure(server, piece, &mut cost, context, sink) {
                // A minute has passed without a secret: its row is out, and so are its bytes.
                return self.stop(sink);
            }
        }
        if self.session.blocked.is_some() {
            self.later.push_back((server, piece.data.to_vec()));
            self.keep(sink);
            if self.buffered > MAX_WAITING || sink.buffered > sink.options.max_buffer_bytes {
                sink.account.bound_hits += 1;
                self.give_up(context, sink);
            }
            return;
        }
        self.read(server, piece.data, context, sink);
        self.keep(sink);
        if self.buffered > MAX_WAITING {
            sink.account.bound_hits += 1;
            self.give_up(context, sink);
        }
    }

    fn repeated(&mut self, server: bool, repeat: &Repeat) -> bool {
        let opaque = self.opaque.as_mut();
        opaque.is_some_and(|opaque| opaque.repeated(server, repeat))
    }

    /// While it is not known whether it can be read, there is none.
    fn each_open(&mut self, ends: &Ends, visit: &mut Visit) {
        if let Some(inside) = &mut self.inside {
            inside.each_open(visit);
        }
        if let (Some(opaque), true) = (&mut self.opaque, self.given_up) {
            opaque.each_open(ends, visit);
        }
    }

    /// Goes on where one was missing.
    fn secrets_added(&mut self, context: &mut Context, sink: &mut Sink) {
        let Some(blocked) = self.session.blocked.filter(|_| !self.given_up) else {
            return;
        };
        self.read(blocked, &[], context, sink);
        while self.session.blocked.is_none() && !self.given_up {
            let Some((server, data)) = self.later.pop_front() else {
                break;
            };
            self.read(server, &data, context, sink);
        }
        self.keep(sink);
    }

    fn close(&mut self, in_order: bool, context: &mut Context, sink: &mut Sink) {
        self.secrets_added(context, sink);
        let waiting = self.offsets.iter().any(|o| o.waiting() > 0);
        if waiting && !self.given_up {
            self.give_up(context, sink);
        }
        if let Some(mut inside) = self.inside.take() {
            inside.close(true, sink);
        }
        if let Some(mut opaque) = self.opaque.take() {
            opaque.close(in_order, context, sink);
        }
        self.stop(sink);
    }
}
