//! A .gor file as input: recorded messages to exchanges.
//!
//! Owns the pairing of request and response by id. The same HTTP code measures them; what only packets know
//! (their number, repeats) is zero. Requests without response wait in a bounded table.

use crate::bytes::segment::Addr;
use crate::gor::format::{each, record, Record};
use crate::gor::message::Rows;
use crate::http1::connection::{Http, State};
use crate::protocol::{Cost, Piece, Sink};
use hashbrown::HashMap;
use std::collections::VecDeque;

#[derive(Default)]
pub struct Conversations {
    waiting: HashMap<Vec<u8>, (u64, Http)>,
    order: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    /// Records that are none: their number.
    pub bad: u64,
}

/// Client port, server port and client address of GoReplay's id.
fn ends(id: &[u8]) -> [(Addr, u16); 2] {
    let hex = |from: usize, to: usize| {
        let text = id.get(from..to).filter(|_| id.len() == 24)?;
        u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
    };
    let client = (
        Addr::V4(hex(8, 16).unwrap_or(0)),
        hex(0, 4).unwrap_or(0) as u16,
    );
    [client, (Addr::V4(0), hex(4, 8).unwrap_or(0) as u16)]
}

impl Conversations {
    /// Reads whole records; returns how many bytes they took. `last`: nothing follows.
    pub fn feed(&mut self, b: &[u8], last: bool, sink: &mut Sink) -> usize {
        each(b, last, |found| match found {
            Some((_, r)) => self.take(r, sink),
            None => self.bad += 1,
        })
    }

    /// Takes messages whose places are known.
    pub fn feed_rows(&mut self, rows: &Rows, sink: &mut Sink) {
        for whole in rows.records() {
            match record(whole) {
                Some(r) => self.take(&r, sink),
                None => self.bad += 1,
            }
        }
    }

    fn take(&mut self, r: &Record, sink: &mut Sink) {
        if r.kind == 3 {
            return;
        }
        sink.account.packets += 1;
        sink.account.bytes += r.payload.len() as u64;
        let waiting = if r.kind == 2 {
            self.waiting.remove(r.id)
        } else {
            None
        };
        let mut http = waiting.map_or_else(
            || {
                sink.account.connections += 1;
                self.next += 1;
                Http::new(
                    sink.options.first_connection + self.next - 1,
                    ends(r.id),
                    0,
                    State::Idle,
                )
            },
            |(_, http)| http,
        );
        let lane = usize::from(r.kind == 2);
        let mut free = Cost::new(0, 0);
        http.feed(lane, &Piece::of(r.payload, r.time), &mut free, sink);
        http.last_byte(lane, r.time.wrapping_add(r.latency));
        let over = http.end(lane, sink);
        if over || r.kind == 2 {
            http.close(false, sink);
            return;
        }
        self.order.push_back((http.id, r.id.to_vec()));
        if let Some((_, mut earlier)) = self.waiting.insert(r.id.to_vec(), (http.id, http)) {
            earlier.close(false, sink);
        }
        while self.waiting.len() > sink.options.max_connections
            || self.order.len() > 2 * sink.options.max_connections
        {
            let Some((number, id)) = self.order.pop_front() else {
                break;
            };
            if self.waiting.get(&id).is_some_and(|(n, _)| *n == number) {
                if let Some((_, mut http)) = self.waiting.remove(&id) {
                    sink.account.bound_hits += 1;
                    http.close(false, sink);
                }
            }
        }
    }

    /// Ends every conversation, the oldest first.
    pub fn finish(&mut self, sink: &mut Sink) {
        let mut all: Vec<(u64, Http)> = self.waiting.drain().map(|(_, c)| c).collect();
        all.sort_by_key(|c| c.0);
        for (_, mut http) in all {
            http.close(false, sink);
        }
        self.order.clear();
    }
}
