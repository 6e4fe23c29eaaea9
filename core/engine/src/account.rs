//! Where every captured byte went: the law of conservation.
//!
//! Owns the named causes and their counters. A byte that reached the capture is either part of an
//! exchange (`exchange_bytes`) or counted under exactly one [`Cause`]. Sizes are link bytes: what
//! the packet measured on the wire, its headers included.

/// Why a byte belongs to no exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// No TCP inside: ARP, UDP, ICMP, or a link type that holds no IP.
    NotTcp,
    /// The capture began in the middle of a message of this connection.
    NotUnderstood,
    /// Handshakes, bare acknowledgements, FIN and RST, blank lines between messages.
    ConnectionOverhead,
    /// Received, but what came before was lost, so it belongs to no known message.
    Gap,
    /// Sent again, and the exchange it repeats has ended or is unknown.
    Retransmission,
    /// Broken packets, or bytes that break the protocol the connection spoke before.
    Malformed,
    /// A connection that never spoke HTTP/1.
    UnknownProtocol,
    /// After CONNECT or an upgrade: another protocol's bytes.
    Switched,
    /// Given to a plug-in that could not read it.
    Unparsed,
    /// The same packet again: from another interface, or twice from a mirror port.
    Copy,
    /// A filter of the user's.
    Denied,
    /// The snap length cut away what was needed to understand it.
    Truncated,
    /// A memory bound was reached.
    MemoryBound,
}

pub const CAUSES: [(Cause, &str); 13] = [
    (Cause::NotTcp, "not_tcp"),
    (Cause::NotUnderstood, "not_understood"),
    (Cause::ConnectionOverhead, "connection_overhead"),
    (Cause::Gap, "gap"),
    (Cause::Retransmission, "retransmission"),
    (Cause::Malformed, "malformed"),
    (Cause::UnknownProtocol, "unknown_protocol"),
    (Cause::Switched, "switched_protocol"),
    (Cause::Unparsed, "unparsed"),
    (Cause::Copy, "copies"),
    (Cause::Denied, "denied"),
    (Cause::Truncated, "truncated"),
    (Cause::MemoryBound, "memory_bound"),
];

#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Packets seen and their link bytes.
    pub packets: u64,
    pub bytes: u64,
    /// Link bytes of emitted exchanges.
    pub exchange_bytes: u64,
    /// Link bytes of exchanges that are in flight, as far as increments have said.
    pub in_flight_bytes: u64,
    pub causes: [u64; CAUSES.len()],
    pub exchanges: u64,
    pub incomplete: u64,
    pub connections: u64,
    /// Stream bytes that the capture never held (not part of `bytes`).
    pub missing_bytes: u64,
    /// Connections ended and holds released early because a memory bound was reached.
    pub bound_hits: u64,
    /// Messages asked for but not whole (a hole, the snap length, a bound), so not handed out.
    pub messages_cut: u64,
}

impl Account {
    #[inline]
    pub fn add(&mut self, cause: Cause, bytes: u64) {
        self.causes[cause as usize] += bytes;
    }

    /// Bytes held in buffers, and in exchanges of the slice that is running; zero after `finish`.
    pub fn pending_bytes(&self) -> u64 {
        self.bytes - self.exchange_bytes - self.in_flight_bytes - self.causes.iter().sum::<u64>()
    }

    /// Name and value of every counter, in a fixed order.
    pub fn entries(&self) -> Vec<(&'static str, u64)> {
        let mut all = vec![
            ("packets", self.packets),
            ("bytes", self.bytes),
            ("exchange_bytes", self.exchange_bytes),
            ("in_flight_bytes", self.in_flight_bytes),
            ("pending_bytes", self.pending_bytes()),
            ("exchanges", self.exchanges),
            ("incomplete", self.incomplete),
            ("connections", self.connections),
            ("missing_bytes", self.missing_bytes),
            ("bound_hits", self.bound_hits),
            ("messages_cut", self.messages_cut),
        ];
        all.extend(
            CAUSES
                .iter()
                .map(|&(cause, name)| (name, self.causes[cause as usize])),
        );
        all
    }
}
