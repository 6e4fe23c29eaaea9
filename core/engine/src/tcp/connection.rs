//! One TCP connection: segments of two directions to bytes in order.
//!
//! Owns sequence numbers, holes, repeats, handshakes and ends. Order between the two directions is kept by
//! acknowledgement numbers: bytes that acknowledge what was not seen yet wait for it.

use crate::account::Cause;
use crate::bytes::segment::{Addr, Segment, ACK, FIN, RST, SYN};
use crate::http1::connection::{Http, State};
use crate::protocol::{distance, Cost, Piece, Repeat, Sink};
use std::collections::VecDeque;

/// An acknowledgement further ahead than this is no reason to wait.
const FAR: i32 = 1 << 24;

/// A hole of more bytes than any window is believed only if several segments lie beyond it (RFC 7323 §2.3).
pub(super) const WIDEST: i32 = 1 << 26;

/// A segment that waits.
pub(super) struct Held {
    pub(super) seq: u32,
    pub(super) len: u32,
    pub(super) data: Vec<u8>,
    pub(super) time: i64,
    pub(super) ack: Option<u32>,
    pub(super) flags: u8,
    pub(super) overhead: u64,
    pub(super) packets: u32,
    pub(super) arrival: u64,
}

#[derive(Default)]
#[repr(C)]
pub(super) struct Direction {
    pub(super) next: u32,
    /// How far the other side has acknowledged this one.
    acked: Option<u32>,
    pub(super) syn: Option<u32>,
    pub(super) known: bool,
    pub(super) ended: bool,
    pub(super) held: VecDeque<Held>,
}

/// What every packet needs stands first, side by side.
#[repr(C)]
pub(super) struct Connection {
    pub(super) last: i64,
    pub(super) waiting: u32,
    /// Both beginnings are known, or were settled without a handshake.
    pub(super) settled: bool,
    pub(super) over: bool,
    /// One side has reset it: what the other one had sent before it knew still arrives.
    pub(super) reset: bool,
    pub(super) directions: [Direction; 2],
    pub(super) http: Http,
    pub(super) key: (Addr, u16, Addr, u16),
    pub(super) first: i64,
    pub(super) over_at: i64,
    pub(super) held_bytes: usize,
}

/// A segment's own facts without its payload.
#[derive(Clone, Copy)]
pub(super) struct Meta {
    pub(super) time: i64,
    pub(super) seq: u32,
    pub(super) len: u32,
    pub(super) ack: Option<u32>,
    pub(super) flags: u8,
    pub(super) overhead: u64,
    pub(super) packets: u32,
}

impl Connection {
    /// Takes a segment in; true if the connection is over by it.
    #[inline]
    pub(super) fn take(
        &mut self,
        sender: usize,
        segment: &Segment,
        arrival: u64,
        sink: &mut Sink,
    ) -> bool {
        let ack = (segment.flags & ACK != 0).then_some(segment.ack);
        let mut meta = Meta {
            time: segment.time,
            seq: segment.seq,
            len: segment.len,
            ack,
            flags: segment.flags,
            overhead: segment.overhead,
            packets: segment.packets,
        };
        if segment.flags & SYN != 0 {
            self.handshake(sender, segment);
            meta.seq = segment.seq.wrapping_add(1);
            if segment.len == 0 {
                sink.account
                    .add(Cause::ConnectionOverhead, segment.overhead);
                return self.pump(sink) || self.patience(segment.time, sink);
            }
        }
        if let (Some(ack), true) = (ack, self.directions[1 - sender].known) {
            let other = &mut self.directions[1 - sender];
            if other.acked.is_none_or(|known| distance(ack, known) > 0) {
                other.acked = Some(ack);
            }
        }
        let ends = segment.flags & (FIN | RST) != 0;
        if segment.len == 0 && !ends {
            sink.account
                .add(Cause::ConnectionOverhead, segment.overhead);
            return self.waiting > 0 && self.patience(segment.time, sink);
        }
        if self.settled {
            if !self.directions[sender].known {
                self.directions[sender].known = true;
                self.directions[sender].next = meta.seq;
            }
            let next = self.directions[sender].next;
            let ahead = distance(meta.seq, next);
            if ahead == 0 && self.waiting == 0 && !self.gated(sender, ack) {
                return self.deliver(sender, &meta, segment.payload, sink);
            }
            if segment.flags & RST != 0 && ahead < 0 {
                // RFC 5961 §3: a TCP ignores it, as it is outside of the window.
                self.repeat(sender, &meta, sink);
                return false;
            }
            let end = ahead.saturating_add(segment.len.min(i32::MAX as u32) as i32);
            if ahead < 0
                && end <= 0
                && (segment.flags & FIN == 0 || self.directions[sender].ended || end < 0)
            {
                self.repeat(sender, &meta, sink);
                return self.waiting > 0 && self.patience(segment.time, sink);
            }
        }
        self.hold(sender, &meta, segment.payload, arrival, sink);
        self.pump(sink) || self.patience(segment.time, sink)
    }

    /// A repeated segment's bytes, all of them.
    pub(super) fn repeat(&mut self, sender: usize, meta: &Meta, sink: &mut Sink) {
        let bytes = meta.overhead + u64::from(meta.len);
        if meta.len == 0 {
            sink.account.add(Cause::ConnectionOverhead, bytes);
        } else {
            let repeat = Repeat {
                seq: meta.seq,
                link_bytes: bytes,
                payload: u64::from(meta.len),
                packets: u64::from(meta.packets),
            };
            self.http.repeated(sender, &repeat, sink);
        }
    }

    pub(super) fn handshake(&mut self, sender: usize, segment: &Segment) {
        if self.directions[sender].syn.is_none() && !self.settled {
            self.http.lanes[sender].state = State::Idle;
            self.http.lanes[1 - sender].state = State::Idle;
            let direction = &mut self.directions[sender];
            direction.next = segment.seq.wrapping_add(1);
            direction.known = true;
            if segment.flags & ACK != 0 {
                self.http.client = 1 - sender;
                let other = &mut self.directions[1 - sender];
                if !other.known {
                    other.known = true;
                    other.next = segment.ack;
                    other.syn = Some(segment.ack.wrapping_sub(1));
                }
            } else {
                self.http.client = sender;
            }
        }
        self.directions[sender].syn.get_or_insert(segment.seq);
        if !self.settled && self.directions[0].known && self.directions[1].known {
            self.settle();
        }
    }

    /// The beginnings are known, or are taken to be the lowest sequence numbers held.
    pub(super) fn settle(&mut self) {
        self.settled = true;
        for direction in &mut self.directions {
            let Some(first) = direction.held.front().map(|held| held.seq) else {
                continue;
            };
            if !direction.known {
                let lowest = direction
                    .held
                    .iter()
                    .map(|held| distance(held.seq, first))
                    .min()
                    .unwrap_or(0);
                direction.next = first.wrapping_add(lowest as u32);
                direction.known = true;
            }
            let next = direction.next;
            direction
                .held
                .make_contiguous()
                .sort_by_key(|held| (distance(held.seq, next), held.arrival));
        }
    }

    /// True if bytes with this acknowledgement must wait for the other direction.
    #[inline]
    fn gated(&self, sender: usize, ack: Option<u32>) -> bool {
        let other = &self.directions[1 - sender];
        match ack {
            Some(ack) if other.known => (1..FAR).contains(&distance(ack, other.next)),
            _ => false,
        }
    }

    fn hold(&mut self, sender: usize, meta: &Meta, payload: &[u8], arrival: u64, sink: &mut Sink) {
        let held = Held {
            seq: meta.seq,
            len: meta.len,
            data: payload.to_vec(),
            time: meta.time,
            ack: meta.ack,
            flags: meta.flags,
            overhead: meta.overhead,
            packets: meta.packets,
            arrival,
        };
        self.held_bytes += payload.len();
        sink.buffered += payload.len();
        self.waiting += 1;
        let direction = &mut self.directions[sender];
        if self.settled {
            let next = direction.next;
            let at = direction
                .held
                .partition_point(|held| distance(held.seq, next) <= distance(meta.seq, next));
            direction.held.insert(at, held);
        } else {
            direction.held.push_back(held);
        }
    }

    /// In-order bytes of a segment, whose beginning may have passed already.
    #[inline]
    fn deliver(&mut self, sender: usize, meta: &Meta, payload: &[u8], sink: &mut Sink) -> bool {
        let direction = &mut self.directions[sender];
        let old = direction.next.wrapping_sub(meta.seq).min(meta.len);
        let new = meta.len - old;
        let mut overhead = meta.overhead;
        let mut packets = meta.packets;
        direction.next = direction.next.wrapping_add(new);
        if old > 0 {
            let alone = new == 0;
            let bytes = u64::from(old)
                + if alone {
                    std::mem::take(&mut overhead)
                } else {
                    0
                };
            let count = if alone {
                std::mem::take(&mut packets)
            } else {
                0
            };
            let repeat = Repeat {
                seq: meta.seq,
                link_bytes: bytes,
                payload: u64::from(old),
                packets: u64::from(count),
            };
            self.http.repeated(sender, &repeat, sink);
        }
        if new > 0 {
            let piece = Piece {
                data: payload.get(old as usize..).unwrap_or(&[]),
                len: new as usize,
                time: meta.time,
                seq: meta.seq.wrapping_add(old),
                ack: meta.ack,
                first: true,
                missing: false,
            };
            let mut cost = Cost::new(std::mem::take(&mut overhead), u64::from(packets));
            self.http.feed(sender, &piece, &mut cost, sink);
        }
        sink.account.add(Cause::ConnectionOverhead, overhead);
        if meta.flags & RST != 0 {
            let both = self.reset || self.directions[1 - sender].ended;
            self.reset = true;
            return both;
        }
        if meta.flags & FIN != 0 && !self.directions[sender].ended {
            self.directions[sender].ended = true;
            self.directions[sender].next = self.directions[sender].next.wrapping_add(1);
            return self.http.end(sender, sink);
        }
        false
    }

    /// Takes the first held segment of a direction out.
    pub(super) fn pop(&mut self, sender: usize, sink: &mut Sink) -> Option<(Meta, Vec<u8>)> {
        let held = self.directions[sender].held.pop_front()?;
        self.waiting -= 1;
        self.held_bytes -= held.data.len();
        sink.buffered -= held.data.len();
        let meta = Meta {
            time: held.time,
            seq: held.seq,
            len: held.len,
            ack: held.ack,
            flags: held.flags,
            overhead: held.overhead,
            packets: held.packets,
        };
        Some((meta, held.data))
    }

    /// Delivers what no longer has to wait; true if the connection is over by it.
    fn pump(&mut self, sink: &mut Sink) -> bool {
        if !self.settled {
            return false;
        }
        while self.waiting > 0 {
            let mut best: Option<(u64, usize)> = None;
            for sender in 0..2 {
                let Some(held) = self.directions[sender].held.front() else {
                    continue;
                };
                let ready = distance(held.seq, self.directions[sender].next) <= 0
                    && !self.gated(sender, held.ack);
                if ready && best.is_none_or(|(arrival, _)| held.arrival < arrival) {
                    best = Some((held.arrival, sender));
                }
            }
            let Some((_, sender)) = best else {
                return false;
            };
            if let Some((meta, data)) = self.pop(sender, sink) {
                if self.deliver(sender, &meta, &data, sink) {
                    return true;
                }
            }
        }
        false
    }

    /// Which direction's first held segment came first, when that was, and whether what it waits
    /// for has passed by: acknowledged, or hidden in the other direction.
    pub(super) fn oldest(&self) -> Option<(usize, i64, bool)> {
        let mut best: Option<(u64, usize)> = None;
        for sender in 0..2 {
            if let Some(held) = self.directions[sender].held.front() {
                if best.is_none_or(|(arrival, _)| held.arrival < arrival) {
                    best = Some((held.arrival, sender));
                }
            }
        }
        let (_, sender) = best?;
        let direction = &self.directions[sender];
        let held = direction.held.front()?;
        let hole = distance(held.seq, direction.next) > 0;
        let passed = !hole
            || direction
                .acked
                .is_some_and(|a| distance(a, direction.next) > 0);
        Some((sender, held.time, passed))
    }

    /// Gives up waiting where time or a bound is exceeded; true if the connection is over by it.
    pub(super) fn patience(&mut self, now: i64, sink: &mut Sink) -> bool {
        while self.waiting > 0 {
            let options = &sink.options;
            let full = self.held_bytes > options.max_connection_bytes
                || self.waiting as usize > options.max_held
                || sink.buffered > options.max_buffer_bytes;
            if !self.settled {
                let settle = full
                    || self.waiting as usize >= options.settle_segments
                    || now.saturating_sub(self.first) > options.settle_ns;
                if !settle {
                    return false;
                }
                self.settle();
                if self.pump(sink) {
                    return true;
                }
                continue;
            }
            let Some((sender, since, passed)) = self.oldest() else {
                return false;
            };
            let waited = now.saturating_sub(since);
            let late = waited
                > if passed {
                    options.reorder_ns
                } else {
                    options.hole_ns
                };
            if !full && !late {
                return false;
            }
            sink.account.bound_hits += u64::from(full);
            if self.force(sender, sink) {
                return true;
            }
        }
        false
    }

    /// Stops waiting for what the first held segment of `d` waits for: its hole is lost, or the
    /// order between the directions is given up.
    fn force(&mut self, sender: usize, sink: &mut Sink) -> bool {
        let Some(seq) = self.directions[sender].held.front().map(|held| held.seq) else {
            return false;
        };
        let next = self.directions[sender].next;
        let hole = distance(seq, next);
        if hole > WIDEST && self.directions[sender].held.len() == 1 {
            if let Some((meta, _)) = self.pop(sender, sink) {
                sink.account
                    .add(Cause::Malformed, meta.overhead + u64::from(meta.len));
            }
            return false;
        }
        if hole > 0 {
            self.directions[sender].next = seq;
            self.http.gap(sender, next, hole as u32, sink);
        }
        match self.pop(sender, sink) {
            Some((meta, data)) => self.deliver(sender, &meta, &data, sink) || self.pump(sink),
            None => false,
        }
    }

    /// Delivers everything held, whatever is missing.
    pub(super) fn release(&mut self, sink: &mut Sink) {
        if !self.settled {
            self.settle();
            if self.pump(sink) {
                return self.discard(sink);
            }
        }
        while self.waiting > 0 {
            let Some((sender, _, _)) = self.oldest() else {
                break;
            };
            if self.force(sender, sink) {
                return self.discard(sink);
            }
        }
    }

    /// What is still held after the end repeats what has passed, or follows a reset.
    fn discard(&mut self, sink: &mut Sink) {
        for sender in 0..2 {
            while let Some((meta, _)) = self.pop(sender, sink) {
                let cause = if meta.len > 0 {
                    Cause::Retransmission
                } else {
                    Cause::ConnectionOverhead
                };
                sink.account.add(cause, meta.overhead + u64::from(meta.len));
            }
        }
    }
}
