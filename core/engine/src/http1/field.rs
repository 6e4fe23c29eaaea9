//! Header lines: finding them, and reading those fields that matter.

use crate::anomaly::Anomaly;
use crate::http1::head::{Coding, Head, Length};
use memchr::memchr;
use wide::u8x16;

/// Where in sixteen bytes from `at` on a byte is, as bits; past the end there is nothing.
#[inline]
fn find16(b: &[u8], at: usize, c: u8) -> u32 {
    match b.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        Some(block) => u8x16::new(*block).simd_eq(u8x16::splat(c)).to_bitmask(),
        None => find_at_end(b.get(at..).unwrap_or(&[]), c),
    }
}

fn find_at_end(rest: &[u8], c: u8) -> u32 {
    let mut block = [!c; 16];
    block[..rest.len()].copy_from_slice(rest);
    u8x16::new(block).simd_eq(u8x16::splat(c)).to_bitmask()
}

/// First letters of the names that matter, without case: b, c, h, t, x.
const LETTERS: u32 = 1 << 2 | 1 << 3 | 1 << 8 | 1 << 20 | 1 << 24;

/// Reads the header lines in `b` to the blank one, and returns where that ends. Line ends are looked
/// for sixteen bytes at a time; of a line that cannot matter only the colon is.
#[inline]
pub(super) fn lines<'a>(head: &mut Head<'a>, b: &'a [u8]) -> Option<usize> {
    let mut line = 0; // where the line begins, its folds included
    let mut row = 0; // where the row begins, which is the line or one of its folds
    let mut at = 0;
    while at < b.len() {
        let mut ends = find16(b, at, b'\n');
        while ends != 0 {
            let n = at + ends.trailing_zeros() as usize;
            ends &= ends - 1;
            let begin = row;
            row = n + 1;
            if n - begin <= 1 {
                // Blank, or one byte that is no field.
                if begin == line && (n == begin || b[begin] == b'\r') {
                    return Some(row);
                }
            } else if matches!(b.get(row), Some(b' ' | b'\t')) {
                continue; // RFC 9112 §5.2: the next row goes on with the value (obs-fold)
            }
            let first = b[line];
            let colons = find16(b, line, b':');
            let colon = line + colons.trailing_zeros() as usize;
            let usual =
                colons != 0 && colon < n && colon > line && !matches!(b[colon - 1], b' ' | b'\t');
            if !usual || (first >= b'A' && LETTERS >> (first & 31) & 1 == 1) {
                let text = strip_cr(&b[line..n]);
                field(head, text, memchr(b':', text).unwrap_or(usize::MAX));
            }
            line = row;
        }
        at += 16;
    }
    None
}

/// One header line; only the names that matter here are looked at.
#[inline]
pub(super) fn field<'a>(head: &mut Head<'a>, line: &'a [u8], colon: usize) {
    let Some(mut name) = line.get(..colon) else {
        head.anomaly = Anomaly::BadHeaderLine;
        return;
    };
    if matches!(name, [] | [.., b' ' | b'\t']) {
        head.anomaly = Anomaly::BadHeaderLine;
        name = trim(name);
    }
    if let Some(name) = Name::of(name) {
        name.set(head, trim(&line[colon + 1..]));
    }
}

/// A field that matters here.
#[derive(Clone, Copy)]
pub(super) enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    ContentType,
    ContentEncoding,
    Traceparent,
    B3,
    B3TraceId,
}

impl Name {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let first = name.first()? | 0x20;
        let (found, usual): (Name, &[u8]) = match (name.len(), first) {
            (4, b'h') => (Name::Host, b"Host"),
            (14, b'c') => (Name::ContentLength, b"Content-Length"),
            (17, b't') => (Name::TransferEncoding, b"Transfer-Encoding"),
            (12, b'c') => (Name::ContentType, b"Content-Type"),
            (16, b'c') => (Name::ContentEncoding, b"Content-Encoding"),
            (11, b't') => (Name::Traceparent, b"traceparent"),
            (2, b'b') => (Name::B3, b"b3"),
            (12, b'x') => (Name::B3TraceId, b"X-B3-TraceId"),
            _ => return None,
        };
        // Most write names in the usual way, which is the quicker comparison.
        (name == usual || name.eq_ignore_ascii_case(usual)).then_some(found)
    }

    /// Mostly another value with every message.
    pub(super) fn varies(self) -> bool {
        use Name::{B3TraceId, ContentLength, Traceparent, B3};
        matches!(self, ContentLength | Traceparent | B3 | B3TraceId)
    }

    #[inline]
    pub(super) fn set<'a>(self, head: &mut Head<'a>, value: &'a [u8]) {
        match self {
            Name::Host if head.host.is_empty() => head.host = value,
            Name::Host => {}
            Name::ContentLength => head.length = content_length(head.length, value),
            Name::TransferEncoding => head.coding = transfer_encoding(head.coding, value),
            Name::ContentType => head.content_type = value,
            Name::ContentEncoding => head.content_encoding = value,
            Name::Traceparent => head.trace = traceparent(value).unwrap_or(head.trace),
            Name::B3 if head.trace.is_empty() => head.trace = b3(value).unwrap_or(b""),
            Name::B3TraceId if head.trace.is_empty() => head.trace = trace_id(value).unwrap_or(b""),
            Name::B3 | Name::B3TraceId => {}
        }
    }
}

/// W3C Trace Context: version-traceid-spanid-flags.
pub(super) fn traceparent(value: &[u8]) -> Option<&[u8]> {
    let id = value.get(3..35)?;
    let dashes = value[2] == b'-' && value.get(35) == Some(&b'-');
    (dashes && id.iter().all(u8::is_ascii_hexdigit)).then_some(id)
}

pub(super) fn b3(value: &[u8]) -> Option<&[u8]> {
    trace_id(&value[..memchr(b'-', value)?])
}

pub(super) fn trace_id(value: &[u8]) -> Option<&[u8]> {
    (matches!(value.len(), 16 | 32) && value.iter().all(u8::is_ascii_hexdigit)).then_some(value)
}

/// The trace of a message with these fields, which may be empty.
pub fn trace<'a>(parent: &'a [u8], b3_value: &'a [u8], b3_trace_id: &'a [u8]) -> &'a [u8] {
    traceparent(parent)
        .or_else(|| b3(b3_value))
        .or_else(|| trace_id(b3_trace_id))
        .unwrap_or(b"")
}

/// RFC 9112 §6.3: a list of equal numbers counts as that number.
#[inline]
fn content_length(known: Length, value: &[u8]) -> Length {
    if let (Length::None, Some(n)) = (known, decimal(value)) {
        return Length::Some(n);
    }
    let mut out = known;
    for part in value.split(|&c| c == b',') {
        let Some(n) = decimal(trim(part)) else {
            return Length::Bad;
        };
        out = match out {
            Length::None => Length::Some(n),
            Length::Some(m) if m == n => out,
            Length::Some(_) | Length::Bad => return Length::Bad,
        };
    }
    out
}

/// 1*DIGIT, with at most 18 of them after leading zeros.
#[inline]
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let zeros = text.iter().take_while(|&&c| c == b'0').count();
    if text.is_empty() || text.len() - zeros > 18 {
        return None;
    }
    let digit = |n: u64, &c: &u8| c.is_ascii_digit().then(|| n * 10 + u64::from(c - b'0'));
    text[zeros..].iter().try_fold(0, digit)
}

fn transfer_encoding(known: Coding, value: &[u8]) -> Coding {
    value
        .split(|&c| c == b',')
        .map(trim)
        .fold(known, |known, coding| {
            if coding.eq_ignore_ascii_case(b"chunked") {
                Coding::Chunked
            } else if coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") {
                known // RFC 2616's name for no coding
            } else if matches!(known, Coding::Chunked | Coding::ChunkedInside) {
                Coding::ChunkedInside
            } else {
                Coding::Other
            }
        })
}

#[inline]
pub(super) fn trim(mut v: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = v {
        v = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = v {
        v = rest;
    }
    v
}

#[inline]
pub(super) fn strip_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
