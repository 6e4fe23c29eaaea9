//! One direction of an HTTP/2 connection: the frame that is passing, and the header block that is put together.

use crate::account::Cause;
use crate::http2::frame::FRAME;
use crate::http2::hpack::Decoder;
use crate::protocol::{MessageStart, Sink};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// In the preface, so many bytes have passed.
    Preface(u8),
    /// In a frame's header, so many bytes have passed.
    Header(u8),
    Payload,
    /// Not in step: bytes go to the cause until a segment begins with a frame.
    Lost(Cause),
}

/// The frame that is passing.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: u32,
    /// Payload still to come, and of that padding.
    pub(super) left: u32,
    pub(super) padding: u32,
    /// The pad length has been read, where there is one.
    pub(super) opened: bool,
    /// Not all of its payload was seen.
    pub(super) cut: bool,
    pub(super) start: MessageStart,
}

/// The header block that is being put together.
#[derive(Default)]
pub(super) struct Block {
    pub(super) open: bool,
    pub(super) stream: u32,
    pub(super) promised: u32,
    pub(super) end_stream: bool,
    pub(super) cut: bool,
    pub(super) bytes: Vec<u8>,
    /// Payloads as sent, and with frame headers.
    pub(super) payload: u64,
    pub(super) wire: u64,
    pub(super) start: MessageStart,
}

pub(super) struct Lane {
    pub(super) step: Step,
    pub(super) head: [u8; FRAME],
    pub(super) frame: Frame,
    pub(super) payload: Vec<u8>,
    pub(super) block: Block,
    pub(super) hpack: Decoder,
    /// The stream that spoke last, to which repeats are booked.
    pub(super) last: u32,
}

impl Lane {
    pub(super) fn lose_table(&mut self, sink: &mut Sink) {
        sink.buffered -= self.hpack.held();
        self.hpack.lose();
    }
}
