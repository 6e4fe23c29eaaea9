//! HTTP/1 syntax (RFC 9112): heads and framing, no state of a connection.
//!
//! Owns what a start looks like, how a head is read, which body framing it announces and the chunk
//! decoder. It is told bytes and gives back sizes and slices of them; it never copies. A head is
//! read in one pass, a chunked body at its chunk lines only.

use memchr::{memchr, memmem};
use wide::u8x16;

pub const MAX_METHOD: usize = 32;

/// Things a message gets wrong but that do not stop us: the `anomaly` column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Anomaly {
    #[default]
    None,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.3).
    ConflictingFraming,
    /// Content-Length that is no number, too large, or given twice differently.
    BadContentLength,
    /// Transfer-Encoding whose last coding is not chunked, or in HTTP/1.0.
    BadTransferEncoding,
    /// A chunk size that is none.
    BadChunk,
    /// A header line without a colon, or with a blank before it (RFC 9112 §5.1).
    BadHeaderLine,
    /// The head has a hole, or was cut by the snap length or the end.
    HeadCut,
    /// A hole or the snap length hides chunk sizes: the body's size includes framing.
    ChunksHidden,
    /// The connection ended before the message did.
    ClosedEarly,
    /// More requests wait on this connection than the bound allows.
    PipelineBound,
    /// The stream was reset or refused (RFC 9113 §6.4, §6.8).
    StreamReset,
    /// Fields refer to a table whose beginning was not captured, or were not captured themselves.
    UndecodedHeaders,
    /// A header block that is none (RFC 7541).
    BadHeaderBlock,
    /// A frame that breaks RFC 6455 §5.
    BadFrame,
    /// Which request it answers is a guess: something before it was lost or unreadable.
    GuessedPairing,
    /// The response was captured before its request: there are no durations.
    ResponseFirst,
}

pub const ANOMALIES: [&str; 16] = [
    "",
    "conflicting_framing",
    "bad_content_length",
    "bad_transfer_encoding",
    "bad_chunk",
    "bad_header_line",
    "head_cut",
    "chunks_hidden",
    "closed_early",
    "pipeline_bound",
    "stream_reset",
    "undecoded_headers",
    "bad_header_block",
    "bad_frame",
    "guessed_pairing",
    "response_first",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

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

#[inline]
fn strip_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[inline]
fn trim(mut v: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = v {
        v = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = v {
        v = rest;
    }
    v
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    #[default]
    None,
    Some(u64),
    Bad,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    #[default]
    None,
    Chunked,
    /// Chunked, and then another coding: RFC 9112 §6.1 forbids it; the chunks are read all the same.
    ChunkedInside,
    /// Transfer-Encoding present, without chunked.
    Other,
}

/// A head as read; slices lie in the bytes given.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub kind: Kind,
    pub minor: u8,
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub status: u16,
    pub length: Length,
    pub coding: Coding,
    pub host: &'a [u8],
    pub content_type: &'a [u8],
    pub content_encoding: &'a [u8],
    pub trace: &'a [u8],
    pub anomaly: Anomaly,
}

#[derive(Debug)]
pub enum Parsed<'a> {
    /// A head and its length, blank line included.
    Whole(Head<'a>, usize),
    Partial,
    Invalid,
}

/// Header lines read before, of which new ones differ in values that do not matter, such as dates and
/// request ids: they need not be taken apart again.
#[derive(Default)]
struct Memo {
    lines: Vec<u8>,
    /// 0xff where a byte may be another one, if it is no line end.
    free: Vec<u8>,
    fields: Fields,
    /// Values to read again, as they matter and mostly differ, and where they lie.
    again: Vec<(Name, u32, u32)>,
}

/// What header lines say, as ranges within them.
#[derive(Clone, Copy, Default)]
struct Fields {
    coding: Coding,
    anomaly: Anomaly,
    ranges: [(u32, u32); 3],
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
    fn read<'a>(&mut self, speaker: u32, head: &mut Head<'a>, b: &'a [u8]) -> Option<usize> {
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
    fn fits(&self, b: &[u8]) -> bool {
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
    let mut head = Head {
        kind,
        minor: 1,
        method: b"",
        target: b"",
        status: 0,
        length: Length::None,
        coding: Coding::None,
        host: b"",
        content_type: b"",
        content_encoding: b"",
        trace: b"",
        anomaly: Anomaly::None,
    };
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
fn lines<'a>(head: &mut Head<'a>, b: &'a [u8]) -> Option<usize> {
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
fn field<'a>(head: &mut Head<'a>, line: &'a [u8], colon: usize) {
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
enum Name {
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
    fn of(name: &[u8]) -> Option<Self> {
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
    fn varies(self) -> bool {
        use Name::{B3TraceId, ContentLength, Traceparent, B3};
        matches!(self, ContentLength | Traceparent | B3 | B3TraceId)
    }

    #[inline]
    fn set<'a>(self, head: &mut Head<'a>, value: &'a [u8]) {
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
fn traceparent(value: &[u8]) -> Option<&[u8]> {
    let id = value.get(3..35)?;
    let dashes = value[2] == b'-' && value.get(35) == Some(&b'-');
    (dashes && id.iter().all(u8::is_ascii_hexdigit)).then_some(id)
}

fn b3(value: &[u8]) -> Option<&[u8]> {
    trace_id(&value[..memchr(b'-', value)?])
}

fn trace_id(value: &[u8]) -> Option<&[u8]> {
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
fn decimal(text: &[u8]) -> Option<u64> {
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

/// What is known of a request whose first line is longer than what is kept of it.
pub fn cut_request_line(b: &[u8]) -> Option<Head<'_>> {
    let Start::Request(method) = start(b) else {
        return None;
    };
    Some(Head {
        kind: Kind::Request,
        minor: 1,
        method: &b[..method],
        target: trim(&b[method + 1..]),
        status: 0,
        length: Length::None,
        coding: Coding::None,
        host: b"",
        content_type: b"",
        content_encoding: b"",
        trace: b"",
        anomaly: Anomaly::HeadCut,
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

/// Name and value of each header line of a head.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|&c| c == b'\n').skip(1).filter_map(|line| {
        let line = strip_cr(line);
        let colon = memchr(b':', line)?;
        Some((&line[..colon], trim(&line[colon + 1..])))
    })
}
