//! TCP reassembly: segments of many connections to in-order bytes.
//!
//! Owns the connection table, sequence numbers, holes, repeats, handshakes and ends, and the bounds
//! on connections and held segments. Never looks at what the bytes say. A segment in order costs a
//! table look-up and a comparison; one out of order is copied and waits. Order between the two
//! directions is kept by acknowledgement numbers: bytes that acknowledge what was not seen yet wait
//! for it. Where several held segments overlap, the lowest sequence number is delivered first, then
//! the one that came first.

use crate::account::Cause;
use crate::connection::{distance, Chunks, Http, Sink, State, Visit};
use crate::link::{Addr, Segment, ACK, FIN, RST, SYN};
use hashbrown::HashMap;
use std::collections::VecDeque;

const SWEEP_NS: i64 = 1_000_000_000;
const RECENT: usize = 256;
/// No connection has this key: an address and a port take 48 bits.
const NOWHERE: (Key4, u32) = (Key4(u64::MAX, u64::MAX), 0);
/// An acknowledgement further ahead than this is no reason to wait.
const FAR: i32 = 1 << 24;
/// A hole of more bytes than any window is believed only if several segments lie beyond it (RFC 7323 §2.3).
const WIDEST: i32 = 1 << 26;
/// So long after a reset what was on its way may still arrive.
const RESET_NS: i64 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key4(u64, u64);
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key6(u128, u128, u32);

/// A segment that waits.
struct Held {
    seq: u32,
    len: u32,
    data: Vec<u8>,
    time: i64,
    ack: Option<u32>,
    flags: u8,
    overhead: u64,
    packets: u32,
    arrival: u64,
}

#[derive(Default)]
#[repr(C)]
struct Direction {
    next: u32,
    /// How far the other side has acknowledged this one.
    acked: Option<u32>,
    syn: Option<u32>,
    known: bool,
    ended: bool,
    held: VecDeque<Held>,
}

/// What every packet needs stands first, side by side.
#[repr(C)]
struct Connection {
    last: i64,
    waiting: u32,
    /// Both beginnings are known, or were settled without a handshake.
    settled: bool,
    over: bool,
    /// One side has reset it: what the other one had sent before it knew still arrives.
    reset: bool,
    directions: [Direction; 2],
    http: Http,
    key: (Addr, u16, Addr, u16),
    first: i64,
    over_at: i64,
    held_bytes: usize,
}

/// A segment's own facts without its payload.
#[derive(Clone, Copy)]
struct Meta {
    time: i64,
    seq: u32,
    len: u32,
    ack: Option<u32>,
    flags: u8,
    overhead: u64,
    packets: u32,
}

pub struct Table {
    v4: HashMap<Key4, u32, ahash::RandomState>,
    v6: HashMap<Key6, u32, ahash::RandomState>,
    slots: Vec<Option<Box<Connection>>>,
    free: Vec<u32>,
    /// Where connections were found lately, by their ports.
    recent: Box<[(Key4, u32); RECENT]>,
    /// Connections that are over, oldest first: slot and connection number.
    over: VecDeque<(u32, u64)>,
    over_count: usize,
    ports: Option<Box<[u64; 1024]>>,
    next_id: u64,
    arrivals: u64,
    swept: Option<i64>,
    since: usize,
}

impl Table {
    pub fn new(ports: &[u16], first: u64) -> Self {
        let ports = (!ports.is_empty()).then(|| {
            let mut bits = Box::new([0u64; 1024]);
            for &p in ports {
                bits[usize::from(p >> 6)] |= 1 << (p & 63);
            }
            bits
        });
        Table {
            v4: HashMap::default(),
            v6: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            recent: Box::new([NOWHERE; RECENT]),
            over: VecDeque::new(),
            over_count: 0,
            ports,
            next_id: first,
            arrivals: 0,
            swept: None,
            since: 0,
        }
    }

    pub fn live(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn wanted(&self, port: u16) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|bits| bits[usize::from(port >> 6)] >> (port & 63) & 1 == 1)
    }

    /// The slot of a connection.
    #[inline]
    fn find(&mut self, key: &(Addr, u16, Addr, u16)) -> Option<u32> {
        match pack(key) {
            Ok(k) => {
                let recent = &mut self.recent[usize::from(key.1 ^ key.3) % RECENT];
                if recent.0 != k {
                    *recent = (k, *self.v4.get(&k)?);
                }
                Some(recent.1)
            }
            Err(k) => self.v6.get(&k).copied(),
        }
    }

    fn remove(&mut self, slot: u32) {
        if let Some(c) = self.slots[slot as usize].take() {
            if c.over {
                self.over_count -= 1;
            }
            match pack(&c.key) {
                Ok(k) => {
                    self.recent[usize::from(c.key.1 ^ c.key.3) % RECENT] = NOWHERE;
                    self.v4.remove(&k)
                }
                Err(k) => self.v6.remove(&k),
            };
            self.free.push(slot);
        }
    }

    /// One segment of the capture.
    pub fn segment(&mut self, s: &Segment, sink: &mut Sink) {
        let bytes = s.overhead + u64::from(s.len);
        if !self.wanted(s.sport) && !self.wanted(s.dport) {
            sink.account.add(Cause::Denied, bytes);
            return;
        }
        self.since += 1;
        match self.swept {
            None => self.swept = Some(s.time),
            Some(swept) if (0..SWEEP_NS).contains(&s.time.saturating_sub(swept)) => {}
            Some(_) if self.since < self.live() => {}
            Some(_) => self.walk(s.time, sink),
        }
        let swapped = match (s.src, s.dst) {
            (Addr::V4(a), Addr::V4(b)) => end4(a, s.sport) > end4(b, s.dport),
            _ => (s.src, s.sport) > (s.dst, s.dport),
        };
        let (d, key) = if swapped {
            (1, (s.dst, s.dport, s.src, s.sport))
        } else {
            (0, (s.src, s.sport, s.dst, s.dport))
        };
        let mut slot = self.find(&key);
        if let Some(at) = slot {
            if self.begins_anew(at, d, s) {
                self.end(at, false, sink);
                self.remove(at);
                slot = None;
            }
        }
        let slot = match slot {
            Some(slot) => slot,
            None if s.flags & SYN == 0 && s.len == 0 => {
                sink.account.add(Cause::ConnectionOverhead, bytes);
                return;
            }
            None => self.create(key, d, s, sink),
        };
        self.arrivals += 1;
        let arrival = self.arrivals;
        let Some(c) = self.slots[slot as usize].as_deref_mut() else {
            return; // not reached: the table names live slots only
        };
        c.last = s.time;
        if c.over {
            let cause = if s.len > 0 {
                Cause::Retransmission
            } else {
                Cause::ConnectionOverhead
            };
            sink.account.add(cause, bytes);
            return;
        }
        if c.take(d, s, arrival, sink) {
            self.end(slot, s.flags & RST != 0, sink);
        }
    }

    /// The ports are used again: a SYN that does not belong to the connection in the table, or bytes that it never
    /// had once it is over.
    #[inline]
    fn begins_anew(&self, slot: u32, d: usize, s: &Segment) -> bool {
        let Some(c) = self.slots[slot as usize].as_deref() else {
            return false;
        };
        let direction = &c.directions[d];
        if s.flags & SYN == 0 {
            let end = s.seq.wrapping_add(s.len);
            return c.over
                && s.len > 0
                && s.flags & RST == 0
                && direction.known
                && !(-WIDEST..=0).contains(&distance(end, direction.next));
        }
        match direction.syn {
            Some(isn) => isn != s.seq,
            None if c.over => true,
            None if c.settled && direction.known => {
                !(0..1 << 20).contains(&distance(direction.next, s.seq.wrapping_add(1)))
            }
            None => false,
        }
    }

    fn create(
        &mut self,
        key: (Addr, u16, Addr, u16),
        d: usize,
        s: &Segment,
        sink: &mut Sink,
    ) -> u32 {
        let limit = sink.options.max_connections.max(1);
        if self.live() - self.over_count >= limit {
            self.evict(limit, sink);
        }
        sink.account.connections += 1;
        let id = self.next_id;
        self.next_id += 1;
        let client = if s.flags & SYN != 0 {
            if s.flags & ACK == 0 {
                d
            } else {
                1 - d
            }
        } else {
            let (a, b) = (key.1, key.3);
            match (
                self.ports.is_some() && self.wanted(a),
                self.ports.is_some() && self.wanted(b),
            ) {
                (true, false) => 1,
                (false, true) => 0,
                // The lower port is more often the server's.
                _ => usize::from(a < b),
            }
        };
        let state = if s.flags & SYN != 0 {
            State::Idle
        } else {
            State::Skip(Cause::NotUnderstood)
        };
        let connection = Box::new(Connection {
            key,
            last: s.time,
            settled: false,
            first: s.time,
            over: false,
            reset: false,
            over_at: 0,
            waiting: 0,
            held_bytes: 0,
            directions: Default::default(),
            http: Http::new(id, [(key.0, key.1), (key.2, key.3)], client, state),
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(connection);
                slot
            }
            None => {
                self.slots.push(Some(connection));
                (self.slots.len() - 1) as u32
            }
        };
        match pack(&key) {
            Ok(k) => self.v4.insert(k, slot),
            Err(k) => self.v6.insert(k, slot),
        };
        slot
    }

    /// Ends the connections that have been silent longest: an eighth of what is allowed.
    fn evict(&mut self, limit: usize, sink: &mut Sink) {
        let mut all: Vec<(i64, u64, u32)> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(i, c)| {
                c.as_deref()
                    .filter(|c| !c.over)
                    .map(|c| (c.last, c.http.id, i as u32))
            })
            .collect();
        all.sort_unstable();
        for &(_, _, slot) in all.iter().take((limit / 8).max(1)) {
            sink.account.bound_hits += 1;
            self.end(slot, false, sink);
            self.remove(slot);
        }
    }

    /// Ends a connection; it stays in the table a while, so that repeats are known as such.
    fn end(&mut self, slot: u32, reset: bool, sink: &mut Sink) {
        let Some(c) = self.slots[slot as usize].as_deref_mut() else {
            return;
        };
        if c.over {
            return;
        }
        c.release(sink);
        c.http.close(reset || c.reset, sink);
        for direction in &mut c.directions {
            direction.held = VecDeque::new();
        }
        c.over = true;
        c.over_at = c.last;
        self.over.push_back((slot, c.http.id));
        self.over_count += 1;
        self.forget(
            c_now(&self.slots, slot),
            sink.options.max_ended,
            sink.options.linger_ns,
        );
    }

    /// Forgets ended connections that are too many or too old.
    fn forget(&mut self, now: i64, most: usize, linger: i64) {
        while let Some(&(slot, id)) = self.over.front() {
            let stale = match self.slots[slot as usize].as_deref() {
                Some(c) if c.over && c.http.id == id => {
                    if self.over_count <= most && now.saturating_sub(c.over_at) <= linger {
                        return;
                    }
                    true
                }
                _ => false,
            };
            self.over.pop_front();
            if stale {
                self.remove(slot);
            }
        }
    }

    /// Ends idle connections and gives up on holes that waited too long. Its cost is spread: it
    /// runs once a second of packet time, and only after as many segments as there are connections.
    fn walk(&mut self, now: i64, sink: &mut Sink) {
        self.swept = Some(now);
        self.since = 0;
        for slot in 0..self.slots.len() as u32 {
            let Some(c) = self.slots[slot as usize].as_deref_mut() else {
                continue;
            };
            if c.over {
                continue;
            }
            let silent = now.saturating_sub(c.last);
            if c.reset && silent > RESET_NS {
                self.end(slot, true, sink);
            } else if silent > sink.options.idle_ns {
                self.end(slot, false, sink);
                self.remove(slot);
            } else if c.waiting > 0 && c.patience(now, sink) {
                self.end(slot, false, sink);
            }
        }
        self.forget(now, sink.options.max_ended, sink.options.linger_ns);
    }

    /// Shows every exchange that is in flight.
    pub fn each_open(&mut self, visit: &mut Visit) {
        for c in self.slots.iter_mut().flatten() {
            c.http.each_open(visit);
        }
    }

    /// More TLS secrets are known.
    pub fn again(&mut self, sink: &mut Sink) {
        for c in self.slots.iter_mut().flatten() {
            c.http.again(sink);
        }
    }

    /// Tells the time of a live capture, so that silence ends things too.
    pub fn advance(&mut self, now: i64, sink: &mut Sink) {
        if self
            .swept
            .is_none_or(|swept| now.saturating_sub(swept) >= SWEEP_NS)
        {
            self.walk(now, sink);
        }
    }

    /// The capture is over: every connection is ended, the oldest first.
    pub fn finish(&mut self, sink: &mut Sink) {
        let mut all: Vec<(u64, u32)> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(i, c)| c.as_deref().map(|c| (c.http.id, i as u32)))
            .collect();
        all.sort_unstable();
        for (_, slot) in all {
            self.end(slot, false, sink);
        }
        self.recent.fill(NOWHERE);
        self.v4.clear();
        self.v6.clear();
        self.slots.clear();
        self.free.clear();
        self.over.clear();
        self.over_count = 0;
    }
}

fn c_now(slots: &[Option<Box<Connection>>], slot: u32) -> i64 {
    slots[slot as usize].as_deref().map_or(0, |c| c.last)
}

#[inline]
fn end4(address: u32, port: u16) -> u64 {
    u64::from(address) << 16 | u64::from(port)
}

#[inline]
fn pack(key: &(Addr, u16, Addr, u16)) -> Result<Key4, Key6> {
    match (key.0, key.2) {
        (Addr::V4(a), Addr::V4(b)) => Ok(Key4(end4(a, key.1), end4(b, key.3))),
        (a, b) => Err(Key6(
            wide(a),
            wide(b),
            u32::from(key.1) << 16 | u32::from(key.3),
        )),
    }
}

fn wide(a: Addr) -> u128 {
    match a {
        Addr::V4(a) => u128::from(a),
        Addr::V6(a) => a,
    }
}

impl Connection {
    /// Takes a segment in; true if the connection is over by it.
    #[inline]
    fn take(&mut self, d: usize, s: &Segment, arrival: u64, sink: &mut Sink) -> bool {
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
            self.handshake(d, s, sink);
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
    fn repeat(&mut self, d: usize, m: &Meta, sink: &mut Sink) {
        let bytes = m.overhead + u64::from(m.len);
        if m.len == 0 {
            sink.account.add(Cause::ConnectionOverhead, bytes);
        } else {
            self.http.repeated(
                d,
                m.seq,
                bytes,
                u64::from(m.len),
                u64::from(m.packets),
                sink,
            );
        }
    }

    fn handshake(&mut self, d: usize, s: &Segment, sink: &mut Sink) {
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
            self.settle(sink);
        }
    }

    /// The beginnings are known, or are taken to be the lowest sequence numbers held.
    fn settle(&mut self, _sink: &mut Sink) {
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
            self.http
                .repeated(d, m.seq, bytes, u64::from(old), u64::from(count), sink);
        }
        if new > 0 {
            let chunks = Chunks {
                data: payload.get(old as usize..).unwrap_or(&[]),
                len: new as usize,
                time: m.time,
                seq: m.seq.wrapping_add(old),
                ack: m.ack,
                overhead: std::mem::take(&mut overhead),
                packets,
            };
            self.http.feed(d, &chunks, sink);
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
    fn pop(&mut self, d: usize, sink: &mut Sink) -> Option<(Meta, Vec<u8>)> {
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
    fn oldest(&self) -> Option<(usize, i64, bool)> {
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
    fn patience(&mut self, now: i64, sink: &mut Sink) -> bool {
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
                self.settle(sink);
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
    fn release(&mut self, sink: &mut Sink) {
        if !self.settled {
            self.settle(sink);
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
