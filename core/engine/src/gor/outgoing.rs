//! Recorded requests made ready for sending to a target.
//!
//! Owns what changes on the way: Host, a prefix or a fixed target, and the fields that speak of the
//! recorded connection and not of this one (RFC 9110 §7.6.1). What is sent is one message, ended by its
//! own framing: bytes beyond it are left out and counted, what has no clear end is not sent. A row for
//! every record of a batch.

use crate::anomaly::Anomaly;
use crate::gor::format;
use crate::gor::message::{Rows, SEPARATOR};
use crate::gor::rewrite::fnv;
use crate::http1::body::Body;
use crate::http1::edit;
use crate::http1::head::Parsed;
use crate::http1::head::{Coding, Length};
use crate::http1::{body, syntax};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array, UInt8Array};
use arrow_schema::ArrowError;
use memchr::memmem;
use std::sync::Arc;

/// What a row is: not to be sent, because it is no request; because it is not whole; because its
/// method needs a tunnel; or because it does not say where it ends.
pub const NO_REQUEST: u8 = 0;
pub const CUT: u8 = 1;
pub const TUNNEL: u8 = 2;
pub const UNFRAMED: u8 = 3;
/// To be sent: its response has no body; its method is safe or idempotent (RFC 9110 §9.2), or not.
pub const HEAD: u8 = 4;
pub const IDEMPOTENT: u8 = 5;
pub const OTHER: u8 = 6;

/// Fields of the recorded connection; `expect`, because the body follows at once.
const HOP_BY_HOP: [&[u8]; 4] = [b"connection", b"proxy-connection", b"keep-alive", b"expect"];

#[derive(Clone, Debug, Default)]
pub struct Target {
    /// None keeps the recorded Host.
    pub host: Option<Vec<u8>>,
    /// Put in front of every target.
    pub prefix: Vec<u8>,
    /// Takes every target's place.
    pub fixed: Option<Vec<u8>>,
}

#[derive(Default)]
pub struct Outgoing {
    pub data: Vec<u8>,
    pub what: Vec<u8>,
    pub time: Vec<i64>,
    pub start: Vec<u64>,
    pub end: Vec<u64>,
    /// Requests of one recorded connection share it.
    pub session: Vec<u32>,
    /// Where the id stands in the records.
    pub id_start: Vec<u64>,
    pub id_end: Vec<u64>,
    /// Bytes of the record beyond its request; they are not sent.
    pub beyond: Vec<u64>,
}

/// How much of a payload is its one request.
enum Whole {
    /// Bytes of its head and of head and body; the framing fields are to be written anew, as chunked or not.
    Yes(usize, usize, Option<bool>),
    Cut,
    Unframed,
}

/// Judges a request by its own framing (RFC 9112 §6.3).
fn whole(payload: &[u8]) -> Whole {
    let (head, size) = match syntax::parse(payload, false) {
        Parsed::Whole(head, size) => (head, size),
        Parsed::Partial => return Whole::Cut,
        Parsed::Invalid => return Whole::Unframed,
    };
    if memmem::find(&payload[..size], SEPARATOR).is_some() {
        return Whole::Unframed; // two records of a file that the reader could not tell apart
    }
    let odd = head.anomaly != Anomaly::None
        || memmem::find(&payload[..size], b"\n ").is_some()
        || memmem::find(&payload[..size], b"\n\t").is_some();
    match body::request_body(&head) {
        Body::Length(n) => match usize::try_from(n) {
            Ok(n) if n <= payload.len() - size => {
                let framed = odd && head.length != Length::None;
                Whole::Yes(size, size + n, framed.then_some(false))
            }
            _ => Whole::Cut,
        },
        Body::Chunked(_) if head.coding != Coding::Chunked => Whole::Unframed,
        Body::Chunked(mut state) => {
            let took = body::chunk(&mut state, &payload[size..]);
            if took.end {
                Whole::Yes(size, size + took.bytes, odd.then_some(true))
            } else if took.broken {
                Whole::Unframed
            } else {
                Whole::Cut
            }
        }
        Body::UntilClose | Body::Blind(_) => Whole::Unframed,
    }
}

/// The head with its framing fields written anew: a target that reads odd lines otherwise than we do
/// would find another end.
fn framed_anew(h: &[u8], chunked: bool, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(h.len() + 32);
    let mut dropping = false;
    for (i, line) in h.split_inclusive(|&c| c == b'\n').enumerate() {
        let folded = i > 0 && matches!(line.first(), Some(b' ' | b'\t'));
        let blank = matches!(line, b"\n" | b"\r\n");
        if !folded {
            let name = line
                .split(|&c| c == b':')
                .next()
                .unwrap_or(b"")
                .trim_ascii();
            dropping = i > 0
                && !blank
                && (name.eq_ignore_ascii_case(b"content-length")
                    || name.eq_ignore_ascii_case(b"transfer-encoding"));
        }
        if blank {
            if chunked {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            } else {
                out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
            }
        }
        if !dropping || blank {
            out.extend_from_slice(line);
        }
    }
    out
}

impl Outgoing {
    /// Makes the requests of a batch ready; a row for each of its rows.
    pub fn prepare(rows: &Rows, target: &Target) -> Self {
        let mut out = Outgoing::default();
        for (whole, &begin) in rows.records().zip(rows.begins()) {
            match format::record(whole) {
                Some(r) => out.push(&r, begin + 2, target),
                None => out.row(NO_REQUEST, 0, out.data.len(), b"", begin, 0),
            }
        }
        out
    }

    /// The bytes to send, and a row a record.
    pub fn into_arrow(self) -> Result<(UInt8Array, RecordBatch), ArrowError> {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("what", Arc::new(UInt8Array::from(self.what))),
            ("time_ns", Arc::new(Int64Array::from(self.time))),
            ("start", Arc::new(UInt64Array::from(self.start))),
            ("end", Arc::new(UInt64Array::from(self.end))),
            ("session", Arc::new(UInt32Array::from(self.session))),
            ("id_start", Arc::new(UInt64Array::from(self.id_start))),
            ("id_end", Arc::new(UInt64Array::from(self.id_end))),
            ("beyond", Arc::new(UInt64Array::from(self.beyond))),
        ];
        Ok((
            UInt8Array::from(self.data),
            RecordBatch::try_from_iter(columns)?,
        ))
    }

    fn push(&mut self, r: &format::Record, id_start: u64, target: &Target) {
        let start = self.data.len();
        let (what, beyond) = if r.kind == 1 {
            self.request(r.payload, target)
        } else {
            (NO_REQUEST, 0)
        };
        if what < HEAD {
            self.data.truncate(start);
        }
        self.row(what, r.time, start, r.id, id_start, beyond);
    }

    fn row(&mut self, what: u8, time: i64, start: usize, id: &[u8], id_start: u64, beyond: usize) {
        // GoReplay's id ends in a number of the message; what comes before is the connection's.
        let session = if id.len() == 24 { &id[..16] } else { id };
        self.what.push(what);
        self.time.push(time);
        self.start.push(start as u64);
        self.end.push(self.data.len() as u64);
        self.session.push(fnv(session));
        self.id_start.push(id_start);
        self.id_end.push(id_start + id.len() as u64);
        self.beyond.push(beyond as u64);
    }

    /// What the request is, and how many bytes follow it.
    fn request(&mut self, payload: &[u8], to: &Target) -> (u8, usize) {
        let Some((method, target)) = edit::request(payload) else {
            return (NO_REQUEST, 0);
        };
        let what = match &payload[method] {
            b"CONNECT" => return (TUNNEL, 0),
            b"HEAD" => HEAD,
            b"GET" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE" => IDEMPOTENT,
            _ => OTHER,
        };
        let (body, end, anew) = match whole(payload) {
            Whole::Yes(body, end, anew) => (body, end, anew),
            Whole::Cut => return (CUT, 0),
            Whole::Unframed => return (UNFRAMED, 0),
        };
        let beyond = payload.len() - end;
        let anew = anew.map(|chunked| framed_anew(&payload[..body], chunked, end - body));
        let text = anew.as_deref().unwrap_or(&payload[..body]);
        let mut h = edit::without(text, &HOP_BY_HOP);
        if let Some(fixed) = &to.fixed {
            edit::splice(&mut h, target, fixed);
        } else {
            // An absolute form is for proxies (RFC 9112 §3.2.2); its path is what is meant.
            let mut path = target.clone();
            if let Some(n) = memmem::find(&h[target.clone()], b"://") {
                let after = target.start + n + 3;
                path.start = memchr::memchr2(b'/', b'?', &h[after..target.end])
                    .map_or(target.end, |n| after + n);
                if !h[target.start..target.start + n]
                    .iter()
                    .all(u8::is_ascii_alphanumeric)
                {
                    path = target.clone();
                }
            }
            if path.start != target.start || !to.prefix.is_empty() {
                let rest = h[path].to_vec();
                let slash: &[u8] = if rest.first() == Some(&b'/') || &rest == b"*" {
                    b""
                } else {
                    b"/"
                };
                let new = [&to.prefix, slash, &rest].concat();
                edit::splice(&mut h, target, &new);
            }
        }
        if let Some(host) = &to.host {
            edit::set(&mut h, b"Host", host);
        }
        self.data.extend_from_slice(&h);
        self.data.extend_from_slice(&payload[body..end]);
        (what, beyond)
    }
}
