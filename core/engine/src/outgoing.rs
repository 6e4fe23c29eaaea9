//! Recorded requests made ready for sending to a target.
//!
//! Owns what changes on the way: Host, a prefix or a fixed target, and the fields that speak of the
//! recorded connection and not of this one (RFC 9110 §7.6.1). A row for every record of a batch. The
//! twin is `replaykit/traffic/outgoing.py`.

use crate::gor;
use crate::head;
use crate::message::SEPARATOR;
use crate::modifier::fnv;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array, UInt8Array};
use arrow_schema::ArrowError;
use memchr::memmem;
use std::sync::Arc;

/// What a row is: not to be sent, because it is no request; because its body is not whole; or
/// because its method needs a tunnel.
pub const NO_REQUEST: u8 = 0;
pub const CUT: u8 = 1;
pub const TUNNEL: u8 = 2;
/// To be sent: its answer has no body; its method is safe or idempotent (RFC 9110 §9.2), or not.
pub const HEAD: u8 = 3;
pub const IDEMPOTENT: u8 = 4;
pub const OTHER: u8 = 5;

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
}

impl Outgoing {
    /// Makes the requests of whole records ready.
    pub fn prepare(gor: &[u8], target: &Target) -> Self {
        let mut out = Outgoing::default();
        out.data.reserve(gor.len() + gor.len() / 16);
        let finder = memmem::Finder::new(SEPARATOR);
        let mut at = 0;
        while let Some(n) = finder.find(&gor[at..]) {
            if let Some(r) = gor::record(&gor[at..at + n]) {
                out.push(&r, at as u64 + 2, target);
            }
            at += n + SEPARATOR.len();
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
        ];
        Ok((
            UInt8Array::from(self.data),
            RecordBatch::try_from_iter(columns)?,
        ))
    }

    fn push(&mut self, r: &gor::Record, id_start: u64, target: &Target) {
        let start = self.data.len();
        let what = if r.kind == 1 {
            self.request(r.payload, target)
        } else {
            NO_REQUEST
        };
        if what < HEAD {
            self.data.truncate(start);
        }
        // GoReplay's id ends in a number of the message; what comes before is the connection's.
        let session = if r.id.len() == 24 { &r.id[..16] } else { r.id };
        self.what.push(what);
        self.time.push(r.time);
        self.start.push(start as u64);
        self.end.push(self.data.len() as u64);
        self.session.push(fnv(session));
        self.id_start.push(id_start);
        self.id_end.push(id_start + r.id.len() as u64);
    }

    fn request(&mut self, payload: &[u8], to: &Target) -> u8 {
        let Some((method, target)) = head::request(payload) else {
            return NO_REQUEST;
        };
        let what = match &payload[method] {
            b"CONNECT" => return TUNNEL,
            b"HEAD" => HEAD,
            b"GET" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE" => IDEMPOTENT,
            _ => OTHER,
        };
        let body = head::end(payload);
        let text = &payload[..body];
        if let Some(at) = head::value(text, b"content-length") {
            let length = std::str::from_utf8(&text[at])
                .ok()
                .and_then(|v| v.parse().ok());
            if head::value(text, b"transfer-encoding").is_none()
                && length != Some(payload.len() - body)
            {
                return CUT;
            }
        }
        let mut h = head::without(text, &HOP_BY_HOP);
        if let Some(fixed) = &to.fixed {
            head::splice(&mut h, target, fixed);
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
                head::splice(&mut h, target, &new);
            }
        }
        if let Some(host) = &to.host {
            head::set(&mut h, b"Host", host);
        }
        self.data.extend_from_slice(&h);
        self.data.extend_from_slice(&payload[body..]);
        what
    }
}
