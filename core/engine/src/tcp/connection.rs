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
    pub(super) fn take(&mut self, d: usize, s: &Segment, arrival: u64, sink: &mut Sink) -> bool {
        let ack = (s.flags & ACK != 0).then_some(s.ack);
        let mut m = Meta {
            time: s.time,
            seq: s.seq,
            len: s.len,
            ack,
            flags: s.flags,
            overhead: s.overhead,
            packets: s.packets,
        };
        if s.flags & SYN != 0 {
            self.handshake(d, s);
            m.seq = s.seq.wrapping_add(1);
            if s.len == 0 {
                sink.account.add(Cause::ConnectionOverhead, s.overhead);
                return self.pump(sink) || self.patience(s.time, sink);
            }
        }
        if let (Some(ack), true) = (ack, self.directions[1 - d].known) {
            let other = &mut self.directions[1 - d];
            if other.acked.is_none_or(|known| distance(ack, known) > 0) {
                other.acked = Some(ack);
            }
        }
        let ends = s.flags & (FIN | RST) != 0;
        if s.len == 0 && !ends {
            sink.account.add(Cause::ConnectionOverhead, s.overhead);
            return self.waiting > 0 && self.patience(s.time, sink);
        }
        if self.settled {
            if !self.directions[d].known {
                self.directions[d].known = true;
                self.directions[d].next = m.seq;
            }
            let next = self.directions[d].next;
            let ahead = distance(m.seq, next);
            if ahead == 0 && self.waiting == 0 && !self.gated(d, ack) {
                return self.deliver(d, &m, s.payload, sink);
            }
            if s.flags & RST != 0 && ahead < 0 {
                // RFC 5961 §3: a TCP ignores it, as it is outside of the window.
                self.repeat(d, &m, sink);
                return false;
            }
            let end = ahead.saturating_add(s.len.min(i32::MAX as u32) as i32);
            if ahead < 0 && end <= 0 && (s.flags & FIN == 0 || self.directions[d].ended || end < 0)
            {
                self.repeat(d, &m, sink);
                return self.waiting > 0 && self.patience(s.time, sink);
            }
        }
        self.hold(d, &m, s.payload, arrival, sink);
        self.pump(sink) || self.patience(s.time, sink)
    }

    /// A repeated segment's bytes, all of them.
    pub(super) fn repeat(&mut self, d: usize, m: &Meta, sink: &mut Sink) {
        let bytes = m.overhead + u64::from(m.len);
        if m.len == 0 {
            sink.account.add(Cause::ConnectionOverhead, bytes);
        } else {
            let repeat = Repeat {
                seq: m.seq,
                link_bytes: bytes,
                payload: u64::from(m.len),
                packets: u64::from(m.packets),
            };
            self.http.repeated(d, &repeat, sink);
        }
    }

    pub(super) fn handshake(&mut self, d: usize, s: &Segment) {
        if self.directions[d].syn.is_none() && !self.settled {
            self.http.lanes[d].state = State::Idle;
            self.http.lanes[1 - d].state = State::Idle;
            let direction = &mut self.directions[d];
            direction.next = s.seq.wrapping_add(1);
            direction.known = true;
            if s.flags & ACK != 0 {
                self.http.client = 1 - d;
                let other = &mut self.directions[1 - d];
                if !other.known {
                    other.known = true;
                    other.next = s.ack;
                    other.syn = Some(s.ack.wrapping_sub(1));
                }
            } else {
                self.http.client = d;
            }
        }
        self.directions[d].syn.get_or_insert(s.seq);
        if !self.settled && self.directions[0].known && self.directions[1].known {
            self.settle();
        }
    }

    /// The beginnings are known, or are taken to be the lowest sequence numbers held.
    pub(super) fn settle(&mut self) {
        self.settled = true;
        for direction in &mut self.directions {
            let Some(first) = direction.held.front().map(|h| h.seq) else {
                continue;
            };
            if !direction.known {
                let lowest = direction
                    .held
                    .iter()
                    .map(|h| distance(h.seq, first))
                    .min()
                    .unwrap_or(0);
                direction.next = first.wrapping_add(lowest as u32);
                direction.known = true;
            }
            let next = direction.next;
            direction
                .held
                .make_contiguous()
                .sort_by_key(|h| (distance(h.seq, next), h.arrival));
        }
    }

    /// True if bytes with this acknowledgement must wait for the other direction.
    #[inline]
    fn gated(&self, d: usize, ack: Option<u32>) -> bool {
        let other = &self.directions[1 - d];
        match ack {
            Some(ack) if other.known => (1..FAR).contains(&distance(ack, other.next)),
            _ => false,
        }
    }

    fn hold(&mut self, d: usize, m: &Meta, payload: &[u8], arrival: u64, sink: &mut Sink) {
        let held = Held {
            seq: m.seq,
            len: m.len,
            data: payload.to_vec(),
            time: m.time,
            ack: m.ack,
            flags: m.flags,
            overhead: m.overhead,
            packets: m.packets,
            arrival,
        };
        self.held_bytes += payload.len();
        sink.buffered += payload.len();
        self.waiting += 1;
        let direction = &mut self.directions[d];
        if self.settled {
            let next = direction.next;
            let at = direction
                .held
                .partition_point(|h| distance(h.seq, next) <= distance(m.seq, next));
            direction.held.insert(at, held);
        } else {
            direction.held.push_back(held);
        }
    }

    /// In-order bytes of a segment, whose beginning may have passed already.
    #[inline]
    fn deliver(&mut self, d: usize, m: &Meta, payload: &[u8], sink: &mut Sink) -> bool {
        let direction = &mut self.directions[d];
        let old = direction.next.wrapping_sub(m.seq).min(m.len);
        let new = m.len - old;
        let mut overhead = m.overhead;
        let mut packets = m.packets;
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
                seq: m.seq,
                link_bytes: bytes,
                payload: u64::from(old),
                packets: u64::from(count),
            };
            self.http.repeated(d, &repeat, sink);
        }
        if new > 0 {
            let piece = Piece {
                data: payload.get(old as usize..).unwrap_or(&[]),
                len: new as usize,
                time: m.time,
                seq: m.seq.wrapping_add(old),
                ack: m.ack,
                first: true,
                missing: false,
            };
            let mut cost = Cost::new(std::mem::take(&mut overhead), u64::from(packets));
            self.http.feed(d, &piece, &mut cost, sink);
        }
        sink.account.add(Cause::ConnectionOverhead, overhead);
        if m.flags & RST != 0 {
            let both = self.reset || self.directions[1 - d].ended;
            self.reset = true;
            return both;
        }
        if m.flags & FIN != 0 && !self.directions[d].ended {
            self.directions[d].ended = true;
            self.directions[d].next = self.directions[d].next.wrapping_add(1);
            return self.http.end(d, sink);
        }
        false
    }

    /// Takes the first held segment of a direction out.
    pub(super) fn pop(&mut self, d: usize, sink: &mut Sink) -> Option<(Meta, Vec<u8>)> {
        let h = self.directions[d].held.pop_front()?;
        self.waiting -= 1;
        self.held_bytes -= h.data.len();
        sink.buffered -= h.data.len();
        let m = Meta {
            time: h.time,
            seq: h.seq,
            len: h.len,
            ack: h.ack,
            flags: h.flags,
            overhead: h.overhead,
            packets: h.packets,
        };
        Some((m, h.data))
    }

    /// Delivers what no longer has to wait; true if the connection is over by it.
    fn pump(&mut self, sink: &mut Sink) -> bool {
        if !self.settled {
            return false;
        }
        while self.waiting > 0 {
            let mut best: Option<(u64, usize)> = None;
            for d in 0..2 {
                let Some(h) = self.directions[d].held.front() else {
                    continue;
                };
                let ready = distance(h.seq, self.directions[d].next) <= 0 && !self.gated(d, h.ack);
                if ready && best.is_none_or(|(arrival, _)| h.arrival < arrival) {
                    best = Some((h.arrival, d));
                }
            }
            let Some((_, d)) = best else {
                return false;
            };
            if let Some((m, data)) = self.pop(d, sink) {
                if self.deliver(d, &m, &data, sink) {
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
        for d in 0..2 {
            if let Some(h) = self.directions[d].held.front() {
                if best.is_none_or(|(arrival, _)| h.arrival < arrival) {
                    best = Some((h.arrival, d));
                }
            }
        }
        let (_, d) = best?;
        let direction = &self.directions[d];
        let h = direction.held.front()?;
        let hole = distance(h.seq, direction.next) > 0;
        let passed = !hole
            || direction
                .acked
                .is_some_and(|a| distance(a, direction.next) > 0);
        Some((d, h.time, passed))
    }

    /// Gives up waiting where time or a bound is exceeded; true if the connection is over by it.
    pub(super) fn patience(&mut self, now: i64, sink: &mut Sink) -> bool {
        while self.waiting > 0 {
            let o = &sink.options;
            let full = self.held_bytes > o.max_connection_bytes
                || self.waiting as usize > o.max_held
                || sink.buffered > o.max_buffer_bytes;
            if !self.settled {
                let settle = full
                    || self.waiting as usize >= o.settle_segments
                    || now.saturating_sub(self.first) > o.settle_ns;
                if !settle {
                    return false;
                }
                self.settle();
                if self.pump(sink) {
                    return true;
                }
                continue;
            }
            let Some((d, since, passed)) = self.oldest() else {
                return false;
            };
            let waited = now.saturating_sub(since);
            let late = waited > if passed { o.reorder_ns } else { o.hole_ns };
            if !full && !late {
                return false;
            }
            sink.account.bound_hits += u64::from(full);
            if self.force(d, sink) {
                return true;
            }
        }
        false
    }

    /// Stops waiting for what the first held segment of `d` waits for: its hole is lost, or the
    /// order between the directions is given up.
    fn force(&mut self, d: usize, sink: &mut Sink) -> bool {
        let Some(seq) = self.directions[d].held.front().map(|h| h.seq) else {
            return false;
        };
        let next = self.directions[d].next;
        let hole = distance(seq, next);
        if hole > WIDEST && self.directions[d].held.len() == 1 {
            if let Some((m, _)) = self.pop(d, sink) {
                sink.account
                    .add(Cause::Malformed, m.overhead + u64::from(m.len));
            }
            return false;
        }
        if hole > 0 {
            self.directions[d].next = seq;
            self.http.gap(d, next, hole as u32, sink);
        }
        match self.pop(d, sink) {
            Some((m, data)) => self.deliver(d, &m, &data, sink) || self.pump(sink),
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
            let Some((d, _, _)) = self.oldest() else {
                break;
            };
            if self.force(d, sink) {
                return self.discard(sink);
            }
        }
    }

    /// What is still held after the end repeats what has passed, or follows a reset.
    fn discard(&mut self, sink: &mut Sink) {
        for d in 0..2 {
            while let Some((m, _)) = self.pop(d, sink) {
                let cause = if m.len > 0 {
                    Cause::Retransmission
                } else {
                    Cause::ConnectionOverhead
                };
                sink.account.add(cause, m.overhead + u64::from(m.len));
            }
        }
    }
}
