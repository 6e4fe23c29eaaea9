//! Counts what a compressed message inflates to (RFC 7692), without keeping it.

use flate2::{Decompress, FlushDecompress, Status};

/// What an inflater holds: its window, and tables.
pub(super) const INFLATE_BYTES: usize = 48 << 10;

/// One direction's permessage-deflate.
pub(super) struct Inflate {
    pub(super) stream: Decompress,
    /// §7.1.1: each message begins with an empty window.
    pub(super) fresh: bool,
    /// The window is not what the sender's is: nothing more can be told.
    pub(super) lost: bool,
    /// Bytes that the message's payload has become so far.
    pub(super) out: u64,
}

impl Inflate {
    pub(super) fn new(fresh: bool) -> Self {
        Inflate {
            stream: Decompress::new(false),
            fresh,
            lost: false,
            out: 0,
        }
    }

    pub(super) fn begin(&mut self) {
        self.out = 0;
        if self.fresh {
            self.stream.reset(false);
            self.lost = false;
        }
    }

    /// Inflates payload and adds to `out`; more than `limit` is not followed.
    pub(super) fn feed(&mut self, b: &[u8], limit: u64, scratch: &mut Vec<u8>) {
        scratch.resize(16 << 10, 0);
        let mut at = 0;
        while !self.lost {
            let (before, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(&b[at..], scratch, FlushDecompress::None);
            let taken = (self.stream.total_in() - before) as usize;
            at += taken;
            let made = self.stream.total_out() - made;
            self.out += made;
            if matches!(status, Ok(Status::StreamEnd)) {
                // RFC 7692 §7.2.3.5: a final block ends no message; another follows it.
                self.stream.reset(false);
            } else {
                self.lost = !matches!(status, Ok(Status::Ok | Status::BufError));
            }
            self.lost |= self.out > limit;
            if (at == b.len() && made < scratch.len() as u64) || (taken == 0 && made == 0) {
                return;
            }
        }
    }
}
