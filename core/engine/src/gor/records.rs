//! Records of .gor on the move: read, judged by rules, put in order of time, handed out in batches.
//!
//! Owns reading of whole records from any bytes, the fate of responses (they share their request's), and
//! the order: within a batch, and by `depth` records held back across batches. Memory is bounded by
//! the bytes fed at a time, the records held back, and a bounded table of denied requests.

use crate::gor::format;
use crate::gor::message::{Messages, Rows};
use crate::gor::rewrite::{Modifier, Verdict};
use hashbrown::HashSet;
use std::collections::VecDeque;

/// Denied requests whose responses are still awaited.
const MAX_DENIED: usize = 100_000;
/// Bytes of records held back for the sake of order.
const MAX_HELD_BYTES: usize = 64 << 20;

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub records: u64,
    pub requests: u64,
    pub denied: u64,
    pub bad: u64,
    pub disordered: u64,
    /// Of the denied records, the requests.
    pub denied_requests: u64,
}

#[derive(Default)]
pub struct Records {
    pub modifier: Modifier,
    /// Records held back between batches, so that later ones may come before them.
    pub depth: usize,
    pub counts: Counts,
    out: Messages,
    denied: HashSet<Vec<u8>>,
    order: VecDeque<Vec<u8>>,
    newest: i64,
}

impl Records {
    pub fn new(modifier: Modifier, depth: usize) -> Self {
        Records {
            modifier,
            depth,
            newest: i64::MIN,
            ..Records::default()
        }
    }

    /// Reads whole records; returns how many bytes they took. `last`: nothing follows.
    pub fn feed(&mut self, b: &[u8], last: bool) -> usize {
        format::each(b, last, |found| match found {
            Some((line, r)) => self.take(line, r),
            None => self.counts.bad += 1,
        })
    }

    /// Takes messages whose places are known.
    pub fn feed_rows(&mut self, rows: &Rows) {
        for whole in rows.records() {
            match format::record(whole) {
                Some(r) => self.take(&whole[..whole.len() - r.payload.len()], &r),
                None => self.counts.bad += 1,
            }
        }
    }

    fn take(&mut self, line: &[u8], r: &format::Record) {
        self.counts.records += 1;
        let verdict = if r.kind == 1 {
            self.counts.requests += 1;
            if self.modifier.is_empty() {
                Verdict::Same
            } else {
                self.modifier.apply(r.payload)
            }
        } else if !self.denied.is_empty() && self.denied.contains(r.id) {
            Verdict::Denied
        } else {
            Verdict::Same
        };
        let (h, body): (&[u8], &[u8]) = match &verdict {
            Verdict::Denied => {
                self.counts.denied += 1;
                if r.kind == 1 {
                    self.counts.denied_requests += 1;
                    self.deny(r.id);
                }
                return;
            }
            Verdict::Same => (&[], r.payload),
            Verdict::Changed(h, body) => (h, &r.payload[*body..]),
        };
        if r.time < self.newest {
            self.counts.disordered += 1;
        }
        self.newest = self.newest.max(r.time);
        self.out.copy(line, r.kind, r.time, r.latency, &[h, body]);
    }

    fn deny(&mut self, id: &[u8]) {
        if self.denied.insert(id.to_vec()) {
            self.order.push_back(id.to_vec());
        }
        if self.order.len() > MAX_DENIED {
            if let Some(oldest) = self.order.pop_front() {
                self.denied.remove(&oldest);
            }
        }
    }

    /// Records read, held back or not.
    pub fn rows(&self) -> usize {
        self.out.kind.len()
    }

    pub fn bytes(&self) -> usize {
        self.out.gor.len()
    }

    /// What was read, in order of time; all but `depth` records unless it is the `last`.
    pub fn take_messages(&mut self, last: bool) -> Messages {
        let mut out = std::mem::take(&mut self.out);
        if !out.time.is_sorted() {
            out.sort_by_time();
        }
        if !last {
            let n = out.kind.len();
            let mut keep = n.saturating_sub(self.depth);
            let mut bytes = 0;
            for row in (keep..n).rev() {
                bytes += (out.end[row] - out.record[row]) as usize;
                if bytes > MAX_HELD_BYTES {
                    keep = row + 1;
                    break;
                }
            }
            self.out = out.split_off(keep);
        }
        out
    }
}
