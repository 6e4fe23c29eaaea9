//! How long a body is (RFC 9112 §6, §7.1), and the chunk decoder, which reads chunk lines only.

use crate::anomaly::Anomaly;
use crate::http1::head::{Coding, Head, Length};
use memchr::memchr;

/// Where a body's bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    /// Framing is lost: all bytes are body until something clear begins. `true`: chunked before.
    Blind(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the size: its value and digits so far.
    Size(u64, u8),
    Extension(u64),
    Data(u64),
    /// The line end after data.
    End,
    /// In the trailer section; bytes on the line so far (0, 1 = only CR, 2 = more).
    Trailer(u8),
}

/// What a request's head announces (RFC 9112 §6.3).
pub fn request_body(h: &Head) -> Body {
    match (h.coding, h.length) {
        _ if h.anomaly == Anomaly::HeadCut => Body::Blind(h.coding == Coding::Chunked),
        (Coding::Chunked | Coding::ChunkedInside, _) => Body::Chunked(Chunk::Size(0, 0)),
        (Coding::Other, _) | (_, Length::Bad) => Body::Blind(false),
        (_, Length::Some(n)) => Body::Length(n),
        (_, Length::None) => Body::Length(0),
    }
}

/// What a response's head announces. `head` and `connect` say the request was one.
pub fn response_body(h: &Head, head: bool, connect: bool) -> Body {
    let tunnel = connect && (200..300).contains(&h.status);
    if head || tunnel || h.status < 200 || h.status == 204 || h.status == 304 {
        return Body::Length(0);
    }
    match (h.coding, h.length) {
        _ if h.anomaly == Anomaly::HeadCut => Body::Blind(h.coding == Coding::Chunked),
        (Coding::Chunked | Coding::ChunkedInside, _) => Body::Chunked(Chunk::Size(0, 0)),
        (Coding::Other, _) | (_, Length::Bad | Length::None) => Body::UntilClose,
        (_, Length::Some(n)) => Body::Length(n),
    }
}

/// Result of [`chunk`]: how many bytes were taken, how many of them are content, whether the body
/// ended or broke.
#[derive(Debug, PartialEq, Eq)]
pub struct Took {
    pub bytes: usize,
    pub content: usize,
    pub end: bool,
    pub broken: bool,
}

/// Advances a chunked body over `b` (RFC 9112 §7.1), at most to its end.
pub fn chunk(state: &mut Chunk, b: &[u8]) -> Took {
    let mut took = Took {
        bytes: 0,
        content: 0,
        end: false,
        broken: false,
    };
    while took.bytes < b.len() {
        let rest = &b[took.bytes..];
        match *state {
            Chunk::Data(left) => {
                let n = left.min(rest.len() as u64);
                took.bytes += n as usize;
                took.content += n as usize;
                *state = if n == left {
                    Chunk::End
                } else {
                    Chunk::Data(left - n)
                };
            }
            Chunk::Size(value, digits) => {
                let c = rest[0];
                if let Some(digit) = (c as char).to_digit(16) {
                    if digits >= 15 {
                        took.broken = true;
                        return took;
                    }
                    *state = Chunk::Size(value * 16 + u64::from(digit), digits + 1);
                } else if digits > 0 && matches!(c, b';' | b'\r' | b' ' | b'\t') {
                    *state = Chunk::Extension(value);
                } else if digits > 0 && c == b'\n' {
                    *state = if value == 0 {
                        Chunk::Trailer(0)
                    } else {
                        Chunk::Data(value)
                    };
                } else {
                    took.broken = true;
                    return took;
                }
                took.bytes += 1;
            }
            Chunk::Extension(value) => match memchr(b'\n', rest) {
                Some(n) => {
                    took.bytes += n + 1;
                    *state = if value == 0 {
                        Chunk::Trailer(0)
                    } else {
                        Chunk::Data(value)
                    };
                }
                None => took.bytes = b.len(),
            },
            Chunk::End => match rest[0] {
                b'\r' => took.bytes += 1,
                b'\n' => {
                    took.bytes += 1;
                    *state = Chunk::Size(0, 0);
                }
                _ => {
                    took.broken = true;
                    return took;
                }
            },
            Chunk::Trailer(line) => {
                took.bytes += 1;
                match (rest[0], line) {
                    (b'\n', 0 | 1) => {
                        took.end = true;
                        return took;
                    }
                    (b'\n', _) => *state = Chunk::Trailer(0),
                    (b'\r', 0) => *state = Chunk::Trailer(1),
                    _ => *state = Chunk::Trailer(2),
                }
            }
        }
    }
    took
}

impl Body {
    /// Hands the content of the next `n` bytes of this body to `take`, of which `seen` were captured.
    pub fn each_content(self, seen: &[u8], n: usize, mut take: impl FnMut(&[u8], usize)) {
        let Body::Chunked(mut state) = self else {
            return take(seen, n);
        };
        let mut at = 0;
        while at < n {
            let rest = seen.get(at..).unwrap_or(&[]);
            if let Chunk::Data(left) = state {
                let k = left.min((n - at) as u64) as usize;
                take(&rest[..rest.len().min(k)], k);
                state = if k as u64 == left {
                    Chunk::End
                } else {
                    Chunk::Data(left - k as u64)
                };
                at += k;
                continue;
            }
            if rest.is_empty() || chunk(&mut state, &rest[..1]).broken {
                return;
            }
            at += 1;
        }
    }
}
