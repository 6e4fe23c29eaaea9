//! The table of TCP connections: which one a segment belongs to, when they begin and when they are over.
//!
//! Owns the bounds on connections and how long ended ones are remembered. Never looks at what the bytes say.
//! A segment in order costs a table look-up and a comparison.

use crate::account::Cause;
use crate::bytes::segment::{Addr, Segment, ACK, RST, SYN};
use crate::http1::connection::{Http, State};
use crate::protocol::{distance, Sink, Visit};
use crate::tcp::connection::{Connection, WIDEST};
use hashbrown::HashMap;
use std::collections::VecDeque;

const SWEEP_NS: i64 = 1_000_000_000;
const RECENT: usize = 256;
/// No connection has this key: an address and a port take 48 bits.
const NOWHERE: (Key4, u32) = (Key4(u64::MAX, u64::MAX), 0);
/// So long after a reset what was on its way may still arrive.
const RESET_NS: i64 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key4(u64, u64);
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key6(u128, u128, u32);

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
        if let Some(connection) = self.slots[slot as usize].take() {
            if connection.over {
                self.over_count -= 1;
            }
            match pack(&connection.key) {
                Ok(k) => {
                    self.recent[usize::from(connection.key.1 ^ connection.key.3) % RECENT] =
                        NOWHERE;
                    self.v4.remove(&k)
                }
                Err(k) => self.v6.remove(&k),
            };
            self.free.push(slot);
        }
    }

    /// One segment of the capture.
    pub fn segment(&mut self, segment: &Segment, sink: &mut Sink) {
        let bytes = segment.overhead + u64::from(segment.len);
        if !self.wanted(segment.sport) && !self.wanted(segment.dport) {
            sink.account.add(Cause::Denied, bytes);
            return;
        }
        self.since += 1;
        match self.swept {
            None => self.swept = Some(segment.time),
            Some(swept) if (0..SWEEP_NS).contains(&segment.time.saturating_sub(swept)) => {}
            Some(_) if self.since < self.live() => {}
            Some(_) => self.walk(segment.time, sink),
        }
        let swapped = match (segment.src, segment.dst) {
            (Addr::V4(a), Addr::V4(b)) => end4(a, segment.sport) > end4(b, segment.dport),
            _ => (segment.src, segment.sport) > (segment.dst, segment.dport),
        };
        let (sender, key) = if swapped {
            (1, (segment.dst, segment.dport, segment.src, segment.sport))
        } else {
            (0, (segment.src, segment.sport, segment.dst, segment.dport))
        };
        let mut slot = self.find(&key);
        if let Some(at) = slot {
            if self.begins_anew(at, sender, segment) {
                self.end(at, false, sink);
                self.remove(at);
                slot = None;
            }
        }
        let slot = match slot {
            Some(slot) => slot,
            None if segment.flags & SYN == 0 && segment.len == 0 => {
                sink.account.add(Cause::ConnectionOverhead, bytes);
                return;
            }
            None => self.create(key, sender, segment, sink),
        };
        self.arrivals += 1;
        let arrival = self.arrivals;
        let Some(connection) = self.slots[slot as usize].as_deref_mut() else {
            return; // not reached: the table names live slots only
        };
        connection.last = segment.time;
        if connection.over {
            let cause = if segment.len > 0 {
                Cause::Retransmission
            } else {
                Cause::ConnectionOverhead
            };
            sink.account.add(cause, bytes);
            return;
        }
        if connection.take(sender, segment, arrival, sink) {
            self.end(slot, segment.flags & RST != 0, sink);
        }
    }

    /// The ports are used again: a SYN that does not belong to the connection in the table, or bytes that it never
    /// had once it is over.
    #[inline]
    fn begins_anew(&self, slot: u32, sender: usize, segment: &Segment) -> bool {
        let Some(connection) = self.slots[slot as usize].as_deref() else {
            return false;
        };
        let direction = &connection.directions[sender];
        if segment.flags & SYN == 0 {
            let end = segment.seq.wrapping_add(segment.len);
            return connection.over
                && segment.len > 0
                && segment.flags & RST == 0
                && direction.known
                && !(-WIDEST..=0).contains(&distance(end, direction.next));
        }
        match direction.syn {
            Some(isn) => isn != segment.seq,
            None if connection.over => true,
            None if connection.settled && direction.known => {
                !(0..1 << 20).contains(&distance(direction.next, segment.seq.wrapping_add(1)))
            }
            None => false,
        }
    }

    fn create(
        &mut self,
        key: (Addr, u16, Addr, u16),
        sender: usize,
        segment: &Segment,
        sink: &mut Sink,
    ) -> u32 {
        let limit = sink.options.max_connections.max(1);
        if self.live() - self.over_count >= limit {
            self.evict(limit, sink);
        }
        sink.account.connections += 1;
        let id = self.next_id;
        self.next_id += 1;
        let client = if segment.flags & SYN != 0 {
            if segment.flags & ACK == 0 {
                sender
            } else {
                1 - sender
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
        let state = if segment.flags & SYN != 0 {
            State::Idle
        } else {
            State::Skip(Cause::NotUnderstood)
        };
        let connection = Box::new(Connection {
            key,
            last: segment.time,
            settled: false,
            first: segment.time,
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
            .filter_map(|(i, connection)| {
                connection
                    .as_deref()
                    .filter(|connection| !connection.over)
                    .map(|connection| (connection.last, connection.http.id, i as u32))
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
        let Some(connection) = self.slots[slot as usize].as_deref_mut() else {
            return;
        };
        if connection.over {
            return;
        }
        connection.release(sink);
        connection.http.close(reset || connection.reset, sink);
        for direction in &mut connection.directions {
            direction.held = VecDeque::new();
        }
        connection.over = true;
        connection.over_at = connection.last;
        self.over.push_back((slot, connection.http.id));
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
                Some(connection) if connection.over && connection.http.id == id => {
                    if self.over_count <= most && now.saturating_sub(connection.over_at) <= linger {
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
            let Some(connection) = self.slots[slot as usize].as_deref_mut() else {
                continue;
            };
            if connection.over {
                continue;
            }
            let silent = now.saturating_sub(connection.last);
            if connection.reset && silent > RESET_NS {
                self.end(slot, true, sink);
            } else if silent > sink.options.idle_ns {
                self.end(slot, false, sink);
                self.remove(slot);
            } else if connection.waiting > 0 && connection.patience(now, sink) {
                self.end(slot, false, sink);
            }
        }
        self.forget(now, sink.options.max_ended, sink.options.linger_ns);
    }

    /// Shows every exchange that is in flight.
    pub fn each_open(&mut self, visit: &mut Visit) {
        for connection in self.slots.iter_mut().flatten() {
            connection.http.each_open(visit);
        }
    }

    /// More TLS secrets are known.
    pub fn secrets_added(&mut self, sink: &mut Sink) {
        for connection in self.slots.iter_mut().flatten() {
            connection.http.secrets_added(sink);
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
            .filter_map(|(i, connection)| {
                connection
                    .as_deref()
                    .map(|connection| (connection.http.id, i as u32))
            })
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
    slots[slot as usize]
        .as_deref()
        .map_or(0, |connection| connection.last)
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
