//! Which bytes of a stream came when, and what their packets cost.
//!
//! Owns booking a packet's headers with the first byte of its payload, for readers that take bytes
//! in pieces of their own (TLS records, messages of a plug-in).

use std::collections::VecDeque;

/// What a range of a stream's bytes cost. `time`: of its first byte; `end`: of its last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub time: i64,
    pub end: i64,
    pub overhead: u64,
    pub packets: u64,
}

struct Arrived {
    start: u64,
    time: i64,
    overhead: u64,
    packets: u64,
}

/// One direction's pieces, in order.
#[derive(Default)]
pub struct Offsets {
    pieces: VecDeque<Arrived>,
    added: u64,
    taken: u64,
    /// Overhead of the pieces that are not taken yet.
    overhead: u64,
}

impl Offsets {
    pub fn add(&mut self, length: u64, time: i64, overhead: u64, packets: u64) {
        self.pieces.push_back(Arrived {
            start: self.added,
            time,
            overhead,
            packets,
        });
        self.added += length;
        self.overhead += overhead;
    }

    /// Bytes that are not taken yet.
    pub fn waiting(&self) -> u64 {
        self.added - self.taken
    }

    /// Bytes that are not taken yet, with their packets' headers.
    pub fn waiting_link_bytes(&self) -> u64 {
        self.waiting() + self.overhead
    }

    /// The next `n` bytes' share.
    pub fn take(&mut self, n: u64) -> Share {
        let end = (self.taken + n).min(self.added);
        let mut out = Share::default();
        if let Some(first) = self.pieces.front() {
            (out.time, out.end) = (first.time, first.time);
        }
        while let Some(first) = self.pieces.front_mut() {
            if first.start >= end {
                break;
            }
            out.end = first.time;
            out.overhead += std::mem::take(&mut first.overhead);
            out.packets += std::mem::take(&mut first.packets);
            let following = self.pieces.get(1).map_or(self.added, |p| p.start);
            if following > end {
                break; // the rest of it comes later, at no cost
            }
            self.pieces.pop_front();
        }
        self.overhead -= out.overhead;
        self.taken = end;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packets_headers_go_with_its_first_byte() {
        let mut offsets = Offsets::default();
        offsets.add(10, 1, 54, 1);
        offsets.add(5, 2, 66, 1);
        assert_eq!(offsets.waiting_link_bytes(), 15 + 120);
        let share = |time, end, overhead, packets| Share {
            time,
            end,
            overhead,
            packets,
        };
        assert_eq!(offsets.take(4), share(1, 1, 54, 1));
        assert_eq!(offsets.take(8), share(1, 2, 66, 1));
        assert_eq!(offsets.take(3), share(2, 2, 0, 0));
        assert_eq!((offsets.waiting(), offsets.waiting_link_bytes()), (0, 0));
    }
}
