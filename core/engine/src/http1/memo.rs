//! Header lines that were read before, so that the usual ones need not be taken apart again.

use crate::anomaly::Anomaly;
use crate::http1::field::{lines, trim, Name};
use crate::http1::head::{Coding, Head};
use memchr::memchr;
use wide::u8x16;

/// Header lines read before, of which new ones differ in values that do not matter, such as dates and
/// request ids: they need not be taken apart again.
#[derive(Default)]
struct Memo {
    pub(super) lines: Vec<u8>,
    /// 0xff where a byte may be another one, if it is no line end.
    pub(super) free: Vec<u8>,
    pub(super) fields: Fields,
    /// Values to read again, as they matter and mostly differ, and where they lie.
    pub(super) again: Vec<(Name, u32, u32)>,
}

/// What header lines say, as ranges within them.
#[derive(Clone, Copy, Default)]
pub(super) struct Fields {
    pub(super) coding: Coding,
    pub(super) anomaly: Anomaly,
    pub(super) ranges: [(u32, u32); 3],
}

/// Memos by who speaks. Bounded: [`SPEAKERS`] sets of [`WAYS`], at most [`MEMO_BYTES`] of lines each.
pub struct Memos {
    sets: Vec<[Memo; WAYS]>,
    /// Which of a set was right last, and which is to be replaced next.
    hints: Vec<(u8, u8)>,
}

const SPEAKERS: usize = 32;

const WAYS: usize = 4;

const MEMO_BYTES: usize = 1024;

const BLOCK: usize = 16;

impl Default for Memos {
    fn default() -> Self {
        Memos {
            sets: (0..SPEAKERS).map(|_| Default::default()).collect(),
            hints: vec![(0, 0); SPEAKERS],
        }
    }
}

impl Memos {
    /// Reads the header lines in `b` into `head`; returns their size, blank line included.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        speaker: u32,
        head: &mut Head<'a>,
        b: &'a [u8],
    ) -> Option<usize> {
        let at = (speaker.wrapping_mul(0x9e37_79b1) >> 27) as usize % SPEAKERS;
        let (set, (recent, next)) = (&mut self.sets[at], &mut self.hints[at]);
        for i in 0..WAYS as u8 {
            let way = *recent ^ i;
            let memo = &set[usize::from(way)];
            if memo.fits(b) {
                *recent = way;
                memo.restore(head, b);
                return Some(memo.lines.len());
            }
        }
        let size = lines(head, b)?;
        if (BLOCK..=MEMO_BYTES).contains(&size) {
            *next = (*next + 1) % WAYS as u8;
            *recent = *next;
            set[usize::from(*next)].learn(head, &b[..size]);
        }
        Some(size)
    }
}

/// True if bytes from `at` on are others than those known, where these are not free, or line ends where they are.
#[inline(always)]
fn differ(new: &[u8], old: &[u8], free: &[u8], at: usize, width: usize) -> bool {
    let range = at..at + width;
    let (new, old, free) = (&new[range.clone()], &old[range.clone()], &free[range]);
    let mut differs = u8x16::splat(0);
    let blocks = new
        .as_chunks()
        .0
        .iter()
        .zip(old.as_chunks().0)
        .zip(free.as_chunks().0);
    for ((new, old), free) in blocks {
        let (new, old, free) = (u8x16::new(*new), u8x16::new(*old), u8x16::new(*free));
        differs |= ((new ^ old) & !free) | (new.simd_eq(u8x16::splat(b'\n')) & free);
    }
    differs.simd_eq(u8x16::splat(0)).to_bitmask() != 0xffff
}

impl Memo {
    /// True if `b` begins with these lines, but for what is free to differ.
    #[inline]
    pub(super) fn fits(&self, b: &[u8]) -> bool {
        let n = self.lines.len();
        let Some(b) = b.get(..n).filter(|_| n > 0) else {
            return false;
        };
        let differ = |at: usize, width: usize| differ(b, &self.lines, &self.free, at, width);
        let wide = n / (4 * BLOCK) * (4 * BLOCK);
        let whole = n / BLOCK * BLOCK;
        !(0..wide).step_by(4 * BLOCK).any(|at| differ(at, 4 * BLOCK))
            && !(wide..whole).step_by(BLOCK).any(|at| differ(at, BLOCK))
            && !differ(n - BLOCK, BLOCK)
    }

    #[inline]
    fn restore<'a>(&self, head: &mut Head<'a>, b: &'a [u8]) {
        let part =
            |i: usize| &b[self.fields.ranges[i].0 as usize..self.fields.ranges[i].1 as usize];
        head.coding = self.fields.coding;
        head.anomaly = self.fields.anomaly;
        head.host = part(0);
        head.content_type = part(1);
        head.content_encoding = part(2);
        for &(name, from, to) in &self.again {
            name.set(head, trim(&b[from as usize..to as usize]));
        }
    }

    fn learn(&mut self, head: &Head, b: &[u8]) {
        let range = |part: &[u8]| {
            // Parts are slices of `b`, or empty.
            let from = (part.as_ptr() as usize).wrapping_sub(b.as_ptr() as usize);
            if part.is_empty() {
                (0, 0)
            } else {
                (from as u32, (from + part.len()) as u32)
            }
        };
        self.fields = Fields {
            coding: head.coding,
            anomaly: head.anomaly,
            ranges: [
                range(head.host),
                range(head.content_type),
                range(head.content_encoding),
            ],
        };
        self.lines.clear();
        self.lines.extend_from_slice(b);
        self.free.clear();
        self.free.resize(b.len(), 0);
        self.again.clear();
        let mut line = 0;
        while let Some(end) = memchr(b'\n', &b[line..]).map(|n| line + n) {
            // A folded line is compared whole: its first row may look as if it stood alone.
            let folded = |at: usize| matches!(b.get(at), Some(b' ' | b'\t'));
            if let Some(colon) = memchr(b':', &b[line..end]).map(|n| line + n) {
                let plain = !folded(line) && !folded(end + 1) && !folded(colon.wrapping_sub(1));
                let name = Name::of(&b[line..colon]);
                if plain && colon > line && name.is_none_or(Name::varies) {
                    self.free[colon + 1..end].fill(0xff);
                    if let Some(name) = name {
                        self.again.push((name, colon as u32 + 1, end as u32));
                    }
                }
            }
            line = end + 1;
        }
    }
}
