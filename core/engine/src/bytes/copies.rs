//! Copies: one packet that was captured more than once.
//!
//! Owns telling them from repeats. A host sends a segment again with another identification in its IP header, or a
//! good while later; a bridge, a pair of interfaces or a mirror port hands the very same packet over within moments.

use crate::bytes::segment::Segment;
use ahash::RandomState;

const SLOTS: usize = 4096;
/// So long after a packet its copy may come.
const MOMENT_NS: i64 = 50_000_000;
/// The same where the packet has no identification (IPv6).
const SHORT_MOMENT_NS: i64 = 3_000_000;

pub struct Copies {
    /// What was seen last of each slot: a packet's digest, and when it came.
    seen: Box<[(u64, i64)]>,
    hasher: RandomState,
}

impl Default for Copies {
    fn default() -> Self {
        Copies {
            seen: vec![(0, i64::MIN); SLOTS].into_boxed_slice(),
            // The same every time: what collides makes no more than a copy missed.
            hasher: RandomState::with_seeds(1, 2, 3, 4),
        }
    }
}

impl Copies {
    /// Whether this packet was seen a moment ago.
    #[inline]
    pub fn is_copy(&mut self, s: &Segment) -> bool {
        let numbers = (s.seq, s.ack, s.len, s.flags, s.identification, s.checksum);
        let digest = self
            .hasher
            .hash_one((s.src, s.dst, s.sport, s.dport, numbers));
        let slot = &mut self.seen[digest as usize % SLOTS];
        let moment = if s.identification == 0 {
            SHORT_MOMENT_NS
        } else {
            MOMENT_NS
        };
        if slot.0 == digest && (0..moment).contains(&s.time.wrapping_sub(slot.1)) {
            return true;
        }
        *slot = (digest, s.time);
        false
    }
}
