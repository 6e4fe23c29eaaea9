//! HTTP/1 syntax (RFC 9112): what a start looks like and how a head is read, no state of a connection.
//!
//! It is told bytes and gives back sizes and slices of them; it never copies. A head is read in one pass.

use crate::anomaly::Anomaly;
use crate::http1::field::strip_cr;
use crate::http1::field::{lines, trim};
use crate::http1::head::{Coding, Head, Kind, Length, Parsed};
use crate::http1::memo::Memos;
use memchr::{memchr, memmem};

pub const MAX_METHOD: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    No,
    /// Too short to tell.
    Maybe,
    /// With the length of its method.
    Request(usize),
    Response,
}

/// RFC 9110 §5.6.2
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = 0;
    while c < 256 {
        table[c] = (c as u8).is_ascii_alphanumeric();
        c += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] = true;
        i += 1;
    }
    table
};

#[inline]
pub fn is_token(c: u8) -> bool {
    TOKEN[c as usize]
}

/// `ICY 200 OK`, as SHOUTcast servers answer in place of HTTP/1.0.
#[inline]
fn is_icy(b: &[u8]) -> bool {
    b.starts_with(b"ICY ") && b.get(4).is_some_and(u8::is_ascii_digit)
}

/// What the first bytes could begin.
#[inline]
pub fn start(b: &[u8]) -> Start {
    const RESPONSE: &[u8] = b"HTTP/1.";
    if b.starts_with(RESPONSE) || is_icy(b) {
        return Start::Response;
    }
    if RESPONSE.starts_with(b) {
        return Start::Maybe;
    }
    let n = b.iter().take(MAX_METHOD + 1).position(|&c| !is_token(c));
    match n {
        Some(0) => Start::No,
        Some(n) if b[n] == b' ' => Start::Request(n),
        Some(_) => Start::No,
        None if b.len() > MAX_METHOD => Start::No,
        None => Start::Maybe,
    }
}

/// Whether these bytes may begin a response, as far as they go.
pub fn may_respond(b: &[u8]) -> bool {
    let begins = |with: &[u8]| with.starts_with(&b[..b.len().min(with.len())]);
    begins(b"HTTP/1.") || begins(b"ICY ")
}

/// Where a response clearly begins within these bytes.
pub fn find_response(b: &[u8]) -> Option<usize> {
    memmem::find_iter(b, b"HTTP/1.").find(|&at| clear_start(&b[at..]) == Some(Kind::Response))
}

const USUAL: [&[u8]; 9] = [
    b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE",
];

/// Bytes of the request before that this method begins with, as in `12345GET`: it is no method of anybody's own,
/// which would be of capital letters.
pub fn stray_prefix(method: &[u8]) -> usize {
    let prefix = USUAL
        .iter()
        .filter_map(|usual| method.strip_suffix(*usual))
        .find(|p| p.iter().any(|c| !matches!(c, b'A'..=b'Z' | b'-' | b'_')));
    prefix.map_or(0, <[u8]>::len)
}

/// The minor version of HTTP/0.9, which has none.
pub const SIMPLE: u8 = 9;

/// A request of HTTP/0.9, which is one line alone: `GET /target` (RFC 1945 §4.1).
pub fn simple_request(b: &[u8]) -> Option<Head<'_>> {
    let line = strip_cr(b.strip_suffix(b"\n")?);
    let target = line.strip_prefix(b"GET /")?;
    if target.iter().any(|c| *c <= b' ' || *c >= 0x7f) {
        return None;
    }
    Some(Head {
        method: &line[..3],
        target: &line[4..],
        ..Head::empty(Kind::Request, SIMPLE)
    })
}

/// A start so clear that reading may begin here after a hole: a whole first line, or a usual
/// method and the beginning of a target.
pub fn clear_start(b: &[u8]) -> Option<Kind> {
    match start(b) {
        Start::Response => status_line(first_line(b).unwrap_or(b)).map(|_| Kind::Response),
        Start::Request(space) => {
            if let Some(line) = first_line(b) {
                return request_line(line, space).map(|_| Kind::Request);
            }
            let target = *b.get(space + 1)?;
            (USUAL.contains(&&b[..space]) && (target == b'/' || target == b'h' || target == b'*'))
                .then_some(Kind::Request)
        }
        Start::No | Start::Maybe => None,
    }
}

fn first_line(b: &[u8]) -> Option<&[u8]> {
    Some(strip_cr(&b[..memchr(b'\n', b)?]))
}

/// Method, target, minor version; the method's length is known.
#[inline]
fn request_line(line: &[u8], method: usize) -> Option<(&[u8], &[u8], u8)> {
    let line = trim_end_spaces(line);
    let n = line.len();
    if n < 8 || &line[n - 8..n - 1] != b"HTTP/1." || !line[n - 1].is_ascii_digit() {
        return None;
    }
    if method > n {
        return None;
    }
    let target = if method + 1 == n - 8 {
        // "GET HTTP/1.1": the version stands where the target should.
        &line[n - 8..]
    } else if line[n - 9] == b' ' && method < n - 9 {
        trim(&line[method + 1..n - 9])
    } else {
        return None;
    };
    Some((&line[..method], target, line[n - 1] - b'0'))
}

fn trim_end_spaces(mut v: &[u8]) -> &[u8] {
    while let [rest @ .., b' '] = v {
        v = rest;
    }
    v
}

/// Minor version and status code.
fn status_line(line: &[u8]) -> Option<(u8, u16)> {
    if is_icy(line) {
        return status_line(&[b"HTTP/1.0", &line[3..]].concat());
    }
    let b = line.get(..12)?;
    if &b[..7] != b"HTTP/1." || !b[7].is_ascii_digit() || b[8] != b' ' {
        return None;
    }
    if !b[9..12].iter().all(u8::is_ascii_digit) || b[9] == b'0' {
        return None;
    }
    if line.len() > 12 && line[12] != b' ' {
        return None;
    }
    let code = b[9..12]
        .iter()
        .fold(0, |n, &c| n * 10 + u16::from(c - b'0'));
    Some((b[7] - b'0', code))
}

/// Reads the head at the start of `b`. With `cut`, an unfinished head with a whole first line
/// counts as whole, and is flagged.
pub fn parse(b: &[u8], cut: bool) -> Parsed<'_> {
    parse_with(b, cut, None)
}

/// The same, with what this speaker is known to say.
pub fn parse_with<'a>(b: &'a [u8], cut: bool, memos: Option<(&mut Memos, u32)>) -> Parsed<'a> {
    let (kind, method) = match start(b) {
        Start::No => return Parsed::Invalid,
        Start::Maybe => return Parsed::Partial,
        Start::Request(method) => (Kind::Request, method),
        Start::Response => (Kind::Response, 0),
    };
    let Some(end) = memchr(b'\n', b) else {
        return Parsed::Partial;
    };
    let mut head = Head::empty(kind, 1);
    let line = strip_cr(&b[..end]);
    if kind == Kind::Response {
        let Some((minor, status)) = status_line(line) else {
            return Parsed::Invalid;
        };
        head.minor = minor;
        head.status = status;
    } else {
        let Some((method, target, minor)) = request_line(line, method) else {
            return Parsed::Invalid;
        };
        head.method = method;
        head.target = target;
        head.minor = minor;
    }
    let rest = &b[end + 1..];
    let size = match memos {
        Some((memos, speaker)) => memos.read(speaker, &mut head, rest),
        None => lines(&mut head, rest),
    };
    let Some(size) = size else {
        if cut {
            head.anomaly = Anomaly::HeadCut;
            return Parsed::Whole(head, b.len());
        }
        return Parsed::Partial;
    };
    if head.coding != Coding::None {
        if head.length != Length::None {
            head.anomaly = Anomaly::ConflictingFraming;
        } else if head.coding != Coding::Chunked || head.minor == 0 {
            head.anomaly = Anomaly::BadTransferEncoding;
        }
    } else if head.length == Length::Bad {
        head.anomaly = Anomaly::BadContentLength;
    }
    Parsed::Whole(head, end + 1 + size)
}

/// What is known of a request whose first line is longer than what is kept of it.
pub fn cut_request_line(b: &[u8]) -> Option<Head<'_>> {
    let Start::Request(method) = start(b) else {
        return None;
    };
    Some(Head {
        method: &b[..method],
        target: trim(&b[method + 1..]),
        anomaly: Anomaly::HeadCut,
        ..Head::empty(Kind::Request, 1)
    })
}

/// End of the head that begins at 0, searching from `from`; the first line is never blank.
pub fn head_end(b: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let n = at + memchr(b'\n', &b[at..])?;
        match (b.get(n + 1), b.get(n + 2)) {
            (Some(b'\n'), _) => return Some(n + 2),
            (Some(b'\r'), Some(b'\n')) => return Some(n + 3),
            _ => at = n + 1,
        }
    }
}

/// Name and value of each header line of a head.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|&c| c == b'\n').skip(1).filter_map(|line| {
        let line = strip_cr(line);
        let colon = memchr(b':', line)?;
        Some((&line[..colon], trim(&line[colon + 1..])))
    })
}
