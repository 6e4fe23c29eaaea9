//! Copies: one packet that was captured more than once.
//!
//! Owns telling them from repeats. A host sends a segment again with another identification in its IP header, or a
//! good while later; a bridge, a pair of interfaces or a mirror port hands the very same packet over within moments.

use crate::bytes::segment::{Addr, Segment};

const SLOTS: usize = 4096;
/// 2^64 over the golden ratio: spreads what is nearly alike.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// So long after a packet its copy may come.
const MOMENT_NS: i64 = 50_000_000;
/// The same where the packet has no identification (IPv6).
const SHORT_MOMENT_NS: i64 = 3_000_000;

pub struct Copies {
    /// What was seen last of each slot: a packet's digest, and when it came.
    seen: Box<[(u64, i64)]>,
    /// Of this run alone, so that nobody can make two packets look alike.
    secret: [u64; 4],
}

impl Default for Copies {
    fn default() -> Self {
        Copies {
            seen: vec![(0, i64::MIN); SLOTS].into_boxed_slice(),
            secret: std::array::from_fn(|i| ahash::RandomState::new().hash_one(i)),
        }
    }
}

impl Copies {
    /// A packet's slot, the same in every run, and its digest: of all that tells packets apart. A few multiplications,
    /// since each packet pays for them.
    #[inline]
    fn place(&self, s: &Segment) -> (usize, u64) {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let half = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
        let ends = match (s.src, s.dst) {
            (Addr::V4(src), Addr::V4(dst)) => pair(src, dst),
            (src, dst) => Self::fold(self.short(src), self.short(dst)),
        };
        let ports = pair(half(s.sport, s.dport), half(s.identification, s.checksum));
        let numbers = pair(s.seq, s.ack);
        let size = pair(s.len, u32::from(s.flags));
        let [a, b, c, d] = self.secret;
        let digest = Self::fold(ends ^ a, ports ^ b) ^ Self::fold(numbers ^ c, size ^ d);
        let slot = Self::fold(ports ^ numbers, GOLDEN) as usize % SLOTS;
        (slot, digest)
    }

    #[inline]
    fn fold(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    }

    fn short(&self, address: Addr) -> u64 {
        match address {
            Addr::V4(a) => u64::from(a),
            Addr::V6(a) => Self::fold((a >> 64) as u64 ^ self.secret[0], a as u64 ^ self.secret[1]),
        }
    }

    /// Whether this packet was seen a moment ago.
    #[inline]
    pub fn is_copy(&mut self, s: &Segment) -> bool {
        let (slot, digest) = self.place(s);
        let slot = &mut self.seen[slot];
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
