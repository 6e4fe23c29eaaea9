//! HTTP/2 frames (RFC 9113 §4, §6): their headers, and what a segment that begins with one looks like.

/// RFC 9113 §3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;

pub(super) const HEADERS: u8 = 1;

pub(super) const RST_STREAM: u8 = 3;

pub(super) const SETTINGS: u8 = 4;

pub(super) const PUSH_PROMISE: u8 = 5;

pub(super) const PING: u8 = 6;

pub(super) const GOAWAY: u8 = 7;

pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;

pub(super) const END_HEADERS: u8 = 4;

pub(super) const PADDED: u8 = 8;

const PRIORITY: u8 = 32;

pub(super) const FRAME: usize = 9;

/// Kind, flags, stream and payload length of a frame's first nine bytes.
pub(super) fn header(b: &[u8; FRAME]) -> (u8, u8, u32, u32) {
    let length = u32::from_be_bytes([0, b[0], b[1], b[2]]);
    let stream = u32::from_be_bytes([b[5], b[6], b[7], b[8]]) & 0x7fff_ffff;
    (b[3], b[4], stream, length)
}

/// True for nine bytes that are most likely a frame's: known kind, on a stream where it may be, of a
/// length that it may have.
pub(super) fn likely(b: &[u8; FRAME]) -> bool {
    let (kind, flags, stream, length) = header(b);
    let (on_stream, sized, known) = match kind {
        DATA => (true, length <= 1 << 20, END_STREAM | PADDED),
        HEADERS => (
            true,
            (1..=1 << 16).contains(&length),
            END_STREAM | END_HEADERS | PADDED | PRIORITY,
        ),
        2 => (true, length == 5, 0),
        RST_STREAM => (true, length == 4, 0),
        SETTINGS => (
            false,
            length % 6 == 0 && length < 256 && (flags == 0 || length == 0),
            1,
        ),
        PUSH_PROMISE => (true, (5..=1 << 16).contains(&length), END_HEADERS | PADDED),
        PING => (false, length == 8, 1),
        GOAWAY => (false, (8..1 << 16).contains(&length), 0),
        8 => (stream != 0, length == 4, 0),
        CONTINUATION => (true, (1..=1 << 16).contains(&length), END_HEADERS),
        _ => return false,
    };
    b[5] & 0x80 == 0 && on_stream == (stream != 0) && sized && flags & !known == 0
}

/// True if a segment begins with a frame, and after each whole one comes another or its end.
pub fn clear_start(b: &[u8]) -> bool {
    let mut at = 0;
    while let Some(head) = b.get(at..).and_then(|rest| rest.first_chunk()) {
        if !likely(head) {
            return false;
        }
        at += FRAME + header(head).3 as usize;
    }
    at > 0 // what is left is less than a frame's header
}

/// True if a server may open with these bytes: its SETTINGS.
pub fn server_start(b: &[u8]) -> bool {
    b.first_chunk()
        .is_some_and(|head| likely(head) && head[3] == SETTINGS && head[4] == 0)
}

/// What a frame's payload holds beside the fragment: the promised stream, and the fragment.
pub(super) fn inside(kind: u8, flags: u8, payload: &[u8]) -> Option<(u32, &[u8])> {
    let mut b = payload;
    let mut pad = 0;
    if flags & PADDED != 0 {
        let (first, rest) = b.split_first()?;
        pad = usize::from(*first);
        b = rest;
    }
    let mut promised = 0;
    if kind == PUSH_PROMISE {
        promised = u32::from_be_bytes(*b.first_chunk()?) & 0x7fff_ffff;
        b = &b[4..];
        if promised == 0 {
            return None;
        }
    } else if flags & PRIORITY != 0 {
        b = b.get(5..)?;
    }
    Some((promised, b.get(..b.len().checked_sub(pad)?)?))
}
