//! What every protocol of a connection is told, and where it puts what it finds.
//!
//! Owns the words that protocols share: the bytes they are fed, the place that finished things go to, and the
//! traits through which a connection hands its bytes to whatever is spoken on it. No protocol needs to know another.

use crate::account::{Account, Cause};
use crate::bytes::segment::Addr;
use crate::exchange::columns::{Addresses, Columns};
use crate::exchange::{Counted, Ends, Exchange, Protocol};
use crate::gor::message::{gor_id, Messages};
use crate::http1::memo::Memos;
use crate::increment::{Clock, Increments};
use crate::options::Options;
use crate::plugin::pieces::{Pieces, Reading};
use crate::tls::keys::KeyLog;
use hashbrown::HashMap;

/// Where finished things go.
pub struct Sink {
    pub options: Options,
    pub columns: Columns,
    pub messages: Messages,
    pub account: Account,
    /// Bytes in all buffers of all connections.
    pub buffered: usize,
    pub memos: Memos,
    pub pieces: Pieces,
    /// What TLS is read with.
    pub keys: KeyLog,
    /// TLS connections that were read.
    pub tls_read: u64,
    /// Streams that are read by plug-ins, by their connections.
    pub handed: HashMap<u64, Reading>,
    pub increments: Increments,
    pub clock: Clock,
    /// Exchanges that have increments.
    pub numbered: u64,
}

impl Sink {
    /// An exchange has ended: its row, or its bytes under their cause if it is denied.
    pub fn push(&mut self, exchange: &Exchange, ends: &Ends, addresses: &mut Addresses) {
        if exchange.denied {
            let counted = exchange.counted.as_ref().map_or(0, |c| c.link_bytes);
            self.account
                .add(Cause::Denied, exchange.link_bytes - counted);
            return;
        }
        self.account.exchanges += 1;
        self.account.exchange_bytes += exchange.link_bytes;
        self.account.incomplete += u64::from(!exchange.complete());
        let all = Counted::default();
        self.columns
            .push(exchange, &all, ends, addresses, &self.options);
        if let Some(before) = exchange.counted.as_deref() {
            self.account.in_flight_bytes -= before.link_bytes;
            let slice = self.clock.start();
            self.increments
                .push(exchange, before, ends, &self.options, slice, true);
        }
    }

    /// A slice has ended amid an exchange.
    pub fn increment(&mut self, exchange: &mut Exchange, ends: &Ends) {
        let moved = exchange.moved();
        let before = exchange.counted.as_deref().copied().unwrap_or_default();
        if moved == before {
            return;
        }
        if exchange.number == 0 && !exchange.denied {
            self.numbered += 1;
            exchange.number = self.numbered;
        }
        let link_bytes = moved.link_bytes - before.link_bytes;
        if exchange.denied {
            self.account.add(Cause::Denied, link_bytes);
        } else {
            self.account.in_flight_bytes += link_bytes;
            let slice = self.clock.start();
            self.increments
                .push(exchange, &before, ends, &self.options, slice, false);
        }
        match exchange.counted.as_deref_mut() {
            Some(kept) => *kept = moved,
            None => exchange.counted = Some(Box::new(moved)),
        }
    }
}

/// Looks at an exchange that is in flight.
pub type Visit<'a> = dyn FnMut(&mut Exchange, &Ends) + 'a;

/// A packet's headers, booked once, with its first byte.
pub struct Cost {
    pub overhead: u64,
    pub packets: u64,
}

impl Cost {
    pub fn new(overhead: u64, packets: u64) -> Self {
        Cost { overhead, packets }
    }

    pub fn take(&mut self, n: usize) -> (u64, u64) {
        let bytes = n as u64 + std::mem::take(&mut self.overhead);
        (bytes, std::mem::take(&mut self.packets))
    }
}

/// A head that is not whole yet, or one just read: when and where it began, what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageStart {
    pub time: i64,
    pub end: i64,
    pub seq: u32,
    pub ack: Option<u32>,
    pub link: u64,
    pub packets: u64,
    pub retransmitted: u64,
}

impl MessageStart {
    pub fn at(time: i64, seq: u32) -> Self {
        MessageStart {
            time,
            end: time,
            seq,
            ..MessageStart::default()
        }
    }

    pub fn pay(&mut self, (link, packets): (u64, u64)) {
        self.link += link;
        self.packets += packets;
    }
}

/// In-order bytes of a connection, or a hole in them: `data` was captured of the `len` that were sent.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub data: &'a [u8],
    pub len: usize,
    pub time: i64,
    pub seq: u32,
    /// The acknowledgement that came with them.
    pub ack: Option<u32>,
    /// A segment begins here.
    pub first: bool,
    /// The capture never held it.
    pub missing: bool,
}

impl<'a> Piece<'a> {
    /// Bytes of a stream that have no packets of their own: they were decrypted, or recorded.
    pub fn of(data: &'a [u8], time: i64) -> Self {
        Piece {
            data,
            len: data.len(),
            time,
            seq: 0,
            ack: None,
            first: true,
            missing: false,
        }
    }

    /// What is left of it after `at` bytes.
    #[inline]
    pub fn from(&self, at: usize) -> Piece<'a> {
        Piece {
            data: self.data.get(at..).unwrap_or(&[]),
            len: self.len - at,
            seq: self.seq.wrapping_add(at as u32),
            first: self.first && at == 0,
            ..*self
        }
    }

    /// Its first `n` bytes.
    pub fn upto(&self, n: usize) -> Piece<'a> {
        Piece {
            data: &self.data[..self.data.len().min(n)],
            len: n,
            ..*self
        }
    }

    /// What was captured of it.
    pub fn seen(&self) -> &'a [u8] {
        &self.data[..self.data.len().min(self.len)]
    }

    /// Why reading got out of step here.
    pub fn lost(&self, otherwise: Cause) -> Cause {
        if self.missing {
            Cause::Gap
        } else if self.data.len() < self.len {
            Cause::Truncated
        } else {
            otherwise
        }
    }
}

/// Books `n` bytes of a piece to a cause; a hole's bytes were never captured.
pub fn book(piece: &Piece, cause: Cause, n: usize, cost: &mut Cost, sink: &mut Sink) {
    if !piece.missing {
        sink.account.add(cause, cost.take(n).0);
    }
}

/// An address as people write it.
pub fn address(addr: Addr) -> String {
    match addr {
        Addr::V4(a) => std::net::Ipv4Addr::from(a).to_string(),
        Addr::V6(a) => std::net::Ipv6Addr::from(a).to_string(),
    }
}

/// What a protocol above HTTP/1 knows of its connection.
pub struct Context<'a> {
    pub id: u64,
    pub ends: Ends,
    pub addresses: &'a mut Addresses,
    pub position: &'a mut i32,
    pub carried: Carry,
}

impl Context<'_> {
    /// Reads what this connection carries as a connection of its own.
    pub fn carry(&self, ends: [(Addr, u16); 2], inside: Inside) -> Box<dyn Carried> {
        (self.carried)(self.id, ends, inside)
    }

    /// Hands out an exchange.
    pub fn push(&mut self, exchange: &Exchange, sink: &mut Sink) {
        sink.push(exchange, &self.ends, self.addresses);
    }

    /// The position of a message that came after `origin`: its stream's number in HTTP/2.
    pub fn number(&mut self, origin: &Exchange) -> i32 {
        if origin.protocol == Protocol::H2 {
            return origin.stream;
        }
        self.next_position()
    }

    /// The next position on the connection.
    pub fn next_position(&mut self) -> i32 {
        let n = *self.position;
        *self.position = n.wrapping_add(1);
        n
    }

    /// The positions up to here were given to messages that were read in its place.
    pub fn go_on_from(&mut self, n: i32) {
        *self.position = n;
    }

    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// The position that the next message will have.
    pub fn position(&self) -> i32 {
        *self.position
    }

    pub fn client_address(&self) -> String {
        address(self.ends.client.0)
    }

    /// Both ends, the client's first: address, port, address, port.
    pub fn described(&self) -> String {
        let ((c, cp), (s, sp)) = (self.ends.client, self.ends.server);
        format!("{} {cp} {} {sp}", address(c), address(s))
    }

    pub fn gor_id(&self, seq: u32, sink: &Sink) -> [u8; 24] {
        if !sink.options.requests && !sink.options.responses {
            return [0; 24];
        }
        let (client, port) = self.ends.client;
        gor_id(port, self.ends.server.1, last_bytes(client), seq)
    }
}

/// The last four bytes of an address.
pub fn last_bytes(addr: Addr) -> u32 {
    match addr {
        Addr::V4(a) => a,
        Addr::V6(a) => a as u32,
    }
}

/// a - b on the circle of sequence numbers.
#[inline]
pub fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// A segment that came again: where it began, and what it cost.
#[derive(Clone, Copy)]
pub struct Repeat {
    pub seq: u32,
    pub link_bytes: u64,
    pub payload: u64,
    pub packets: u64,
}

impl Repeat {
    /// Books it to an exchange's side.
    pub fn book(&self, exchange: &mut Exchange, server: bool) {
        exchange.link_bytes += self.link_bytes;
        exchange.retransmitted += self.payload;
        exchange.side_mut(server).packets += self.packets;
    }
}

/// Reads what is spoken on a connection that is not, or no longer, HTTP/1.
pub trait ProtocolReader: Send + Sync {
    /// In-order bytes of the client (`server` false) or the server, or a hole.
    fn feed(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    );

    /// A segment came again; true if its bytes have been booked.
    fn repeated(&mut self, server: bool, repeat: &Repeat) -> bool;

    /// Shows every exchange that is in flight.
    fn each_open(&mut self, ends: &Ends, visit: &mut Visit);

    /// More TLS secrets are known.
    fn secrets_added(&mut self, _context: &mut Context, _sink: &mut Sink) {}

    /// The connection is over, by a reset or in silence if not in order: what is unfinished is handed out as it stands.
    fn close(&mut self, in_order: bool, context: &mut Context, sink: &mut Sink);
}

/// What is known of a connection that another one carries.
pub enum Inside {
    /// The plaintext of TLS, with the protocol that was negotiated there.
    Decrypted(Vec<u8>),
    /// A tunnel's. Positions go on from here.
    Tunnelled(i32),
}

/// A connection whose bytes another one carries.
pub trait Carried: Send + Sync {
    /// In-order bytes, or a hole, of the client (0) or the server (1).
    fn feed(&mut self, direction: usize, piece: &Piece, cost: &mut Cost, sink: &mut Sink);
    fn each_open(&mut self, visit: &mut Visit);
    fn secrets_added(&mut self, sink: &mut Sink);
    fn close(&mut self, in_order: bool, sink: &mut Sink);
    /// Positions that were given to messages.
    fn positions(&self) -> i32;
}

/// Makes the reader of a connection that is carried: its number and its ends, the client's first.
pub type Carry = fn(u64, [(Addr, u16); 2], Inside) -> Box<dyn Carried>;
