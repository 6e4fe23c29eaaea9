//! GoReplay's record (`kind id time latency`, payload, separator): where it ends, also when its payload holds the
//! separator, and what it says.

use crate::gor::message::{unescaped, ESCAPED, SEPARATOR};
use crate::http1::body::Body;
use crate::http1::head::{Kind, Parsed};
use crate::http1::{body, syntax};
use memchr::memmem;

/// A message whose framing asks for more is not waited for: what comes first ends the record.
const MAX_FRAMED: usize = 64 << 20;

/// The same for a head that does not end.
pub(super) const MAX_HEAD: usize = 1 << 20;

pub struct Record<'a> {
    pub kind: u8,
    pub id: &'a [u8],
    pub time: i64,
    pub latency: i64,
    pub payload: &'a [u8],
}

pub(super) fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A record without its separator; None where it is none.
pub fn record(b: &[u8]) -> Option<Record<'_>> {
    let end = memchr::memchr(b'\n', b)?;
    let line = b[..end].strip_suffix(b"\r").unwrap_or(&b[..end]);
    let mut parts = line.split(|&c| c == b' ');
    let kind = match parts.next()? {
        [digit @ b'1'..=b'3'] => digit - b'0',
        _ => return None,
    };
    let (id, time) = (parts.next()?, number(parts.next()?)?);
    let latency = parts.next().map_or(Some(0), number)?;
    Some(Record {
        kind,
        id,
        time,
        latency,
        payload: &b[end + 1..],
    })
}

/// How long a message is by its own framing.
enum Framed {
    Known(usize),
    /// Longer than what is there.
    Beyond,
    /// It does not say.
    Open,
}

/// `upto`: what comes before the first separator.
fn framed(payload: &[u8], upto: usize) -> Framed {
    let mut seen = &payload[..upto];
    let mut parsed = syntax::parse(seen, false);
    if matches!(parsed, Parsed::Partial) && payload.len() > upto {
        seen = &payload[..payload.len().min(MAX_HEAD)];
        parsed = syntax::parse(seen, false);
    }
    let (head, size) = match parsed {
        Parsed::Whole(head, size) => (head, size),
        Parsed::Partial if seen.len() < MAX_HEAD => return Framed::Beyond,
        Parsed::Partial | Parsed::Invalid => return Framed::Open,
    };
    let body = match head.kind {
        Kind::Request => body::request_body(&head),
        Kind::Response => body::response_body(&head, false, false),
    };
    match body {
        Body::Length(n) => {
            Framed::Known(size.saturating_add(usize::try_from(n).unwrap_or(usize::MAX)))
        }
        Body::Chunked(mut state) => {
            let took = body::chunk(&mut state, &payload[size..]);
            if took.end {
                Framed::Known(size + took.bytes)
            } else if took.broken {
                Framed::Open
            } else {
                Framed::Beyond
            }
        }
        Body::UntilClose | Body::Blind(_) => Framed::Open,
    }
}

/// Where the record at the start of `b` ends, and where the next one begins; None while more is needed.
///
/// A separator ends it unless the message's own framing says that it lies inside. `last`: nothing
/// follows `b`, so a whole message needs no separator.
fn ends_at(b: &[u8], first: Option<usize>, last: bool) -> Option<(usize, usize)> {
    if first.is_none() && !last {
        return None;
    }
    let at_first = first.map(|n| (n, n + SEPARATOR.len()));
    let upto = first.unwrap_or(b.len());
    let Some(line) = memchr::memchr(b'\n', &b[..upto]) else {
        return at_first;
    };
    if is_escaped(&b[..line]) {
        return at_first;
    }
    let begin = line + 1;
    match framed(&b[begin..], upto - begin) {
        Framed::Known(n) if begin.saturating_add(n) <= upto && first.is_some() => at_first,
        Framed::Known(n) if n > MAX_FRAMED => at_first,
        Framed::Known(n) => match b.get(begin + n..) {
            Some(rest) if rest.starts_with(SEPARATOR) => {
                Some((begin + n, begin + n + SEPARATOR.len()))
            }
            Some(rest) if SEPARATOR.starts_with(rest) => last.then_some((begin + n, b.len())),
            Some(_) => at_first,
            None if last => at_first,
            None => None,
        },
        Framed::Beyond if !last && b.len() <= MAX_FRAMED => None,
        Framed::Beyond | Framed::Open => at_first,
    }
}

fn is_escaped(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.splitn(5, |&c| c == b' ').nth(4) == Some(ESCAPED)
}

/// Hands each whole record to `take`, its first line beside it, or None for what is no record; returns
/// how many bytes they took.
pub fn each(b: &[u8], last: bool, mut take: impl FnMut(Option<(&[u8], &Record)>)) -> usize {
    let finder = memmem::Finder::new(SEPARATOR);
    let mut at = 0;
    while at < b.len() {
        let rest = &b[at..];
        let Some((end, next)) = ends_at(rest, finder.find(rest), last) else {
            break;
        };
        let plain = unescape(&rest[..end]);
        let whole = plain.as_deref().unwrap_or(&rest[..end]);
        match record(whole) {
            Some(r) => take(Some((&whole[..whole.len() - r.payload.len()], &r))),
            None => take(None),
        }
        at += next;
    }
    at
}

/// A record that was written escaped, as it was before.
fn unescape(b: &[u8]) -> Option<Vec<u8>> {
    let line = memchr::memchr(b'\n', b)?;
    if !is_escaped(&b[..line]) {
        return None;
    }
    let mut out = b[..line].strip_suffix(b"\r").unwrap_or(&b[..line]).to_vec();
    out.truncate(out.len() - ESCAPED.len() - 1);
    out.push(b'\n');
    out.extend_from_slice(&unescaped(&b[line + 1..]));
    Some(out)
}
