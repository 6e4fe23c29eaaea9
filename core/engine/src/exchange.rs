//! Exchanges in columns.
//!
//! Owns an exchange while it is being measured, the Arrow columns of the finished ones, and the
//! rule that a side that was not seen is null. Strings go through a dictionary per batch, so a row
//! costs no allocation. The schema's other half is `replaykit/wire/exchange.py`.

use crate::account::{Account, Cause};
use crate::endpoint::Templates;
use crate::filter::Redaction;
use crate::http1::{Anomaly, ANOMALIES};
use crate::link::Addr;
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int16Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampNanosecondArray, UInt16Array, UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, Field, Schema};
use hashbrown::HashTable;
use std::sync::Arc;

/// One direction of an exchange, as far as it was seen.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub seen: bool,
    /// All of it has passed, or no more will.
    pub done: bool,
    /// Nothing of it is missing.
    pub whole: bool,
    pub time: i64,
    pub end: i64,
    pub seq: u32,
    /// The acknowledgement on the first byte's packet: what the sender had received by then.
    pub ack: Option<u32>,
    pub minor: u8,
    pub header: u64,
    pub body: u64,
    pub wire: u64,
    pub packets: u64,
}

/// An exchange in the making. `text` holds its strings, `marks` their ends.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    pub request: Side,
    pub response: Side,
    pub status: u16,
    pub is_head: bool,
    pub is_connect: bool,
    pub denied: bool,
    pub anomaly: u8,
    pub link_bytes: u64,
    pub retransmitted: u64,
    pub missing: u64,
    pub stream: i32,
    pub id: [u8; 24],
    text: Vec<u8>,
    marks: [u32; 7],
}

pub const METHOD: usize = 0;
pub const TARGET: usize = 1;
pub const HOST: usize = 2;
pub const TRACE: usize = 3;
pub const CONTENT_TYPE: usize = 5;
pub const CONTENT_ENCODING: usize = 6;

impl Exchange {
    pub fn clear(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        *self = Exchange {
            text,
            ..Exchange::default()
        };
    }

    pub fn set_request(&mut self, fields: [&[u8]; 4]) {
        self.text.clear();
        for (i, field) in fields.iter().enumerate() {
            self.text.extend_from_slice(field);
            self.marks[i] = self.text.len() as u32;
        }
        self.marks[4] = self.text.len() as u32;
    }

    pub fn set_response(&mut self, content_type: &[u8], content_encoding: &[u8]) {
        let from = self.marks[4] as usize;
        self.text.truncate(from);
        self.text.extend_from_slice(content_type);
        self.marks[5] = self.text.len() as u32;
        self.text.extend_from_slice(content_encoding);
        self.marks[6] = self.text.len() as u32;
    }

    pub fn text(&self, i: usize) -> &[u8] {
        let from = if i == 0 {
            0
        } else {
            self.marks[i - 1] as usize
        };
        &self.text[from..self.marks[i] as usize]
    }

    pub fn flag(&mut self, anomaly: Anomaly) {
        if self.anomaly == Anomaly::None as u8 {
            self.anomaly = anomaly as u8;
        }
    }

    pub fn complete(&self) -> bool {
        self.request.whole && self.response.whole && self.missing == 0
    }

    pub fn size(&self) -> usize {
        std::mem::size_of::<Exchange>() + self.text.capacity()
    }
}

/// Whose exchange it is: what every row of a connection shares.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub connection: u64,
    pub client: (Addr, u16),
    pub server: (Addr, u16),
}

/// A connection's addresses in the dictionary of one batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    batch: u64,
    client: i32,
    server: i32,
}

/// A dictionary of strings for one batch.
#[derive(Default)]
struct Strings {
    table: HashTable<u32>,
    offsets: Vec<i32>,
    values: Vec<u8>,
    hasher: ahash::RandomState,
    last: Option<u32>,
}

impl Strings {
    fn get(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let from = if i == 0 {
            0
        } else {
            self.offsets[i - 1] as usize
        };
        &self.values[from..self.offsets[i] as usize]
    }

    /// The string's number, and whether it is new.
    #[inline]
    fn intern(&mut self, text: &[u8]) -> (u32, bool) {
        if let Some(last) = self.last {
            if self.get(last) == text {
                return (last, false);
            }
        }
        let hash = self.hasher.hash_one(text);
        if let Some(&id) = self.table.find(hash, |&id| self.get(id) == text) {
            self.last = Some(id);
            return (id, false);
        }
        let id = self.offsets.len() as u32;
        self.values.extend_from_slice(text);
        self.offsets.push(self.values.len() as i32);
        let (offsets, values, hasher) = (&self.offsets, &self.values, &self.hasher);
        self.table.insert_unique(hash, id, |&id| {
            let i = id as usize;
            let from = if i == 0 { 0 } else { offsets[i - 1] as usize };
            hasher.hash_one(&values[from..offsets[i] as usize])
        });
        self.last = Some(id);
        (id, true)
    }

    /// The values as Arrow strings; bytes that are not UTF-8 become U+FFFD.
    fn take(&mut self) -> Result<StringArray, ArrowError> {
        let values = std::mem::take(&mut self.values);
        let mut offsets = Vec::with_capacity(self.offsets.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.offsets);
        self.table.clear();
        self.last = None;
        let clean = std::str::from_utf8(&values)
            .is_ok_and(|text| offsets.iter().all(|&at| text.is_char_boundary(at as usize)));
        if clean {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            return StringArray::try_new(offsets, values.into(), None);
        }
        Ok(StringArray::from_iter_values(offsets.windows(2).map(|w| {
            String::from_utf8_lossy(&values[w[0] as usize..w[1] as usize]).into_owned()
        })))
    }
}

/// Takes a column's values; the next batch is likely to be as long.
fn renew<T>(column: &mut Vec<T>) -> Vec<T> {
    let room = column.len();
    std::mem::replace(column, Vec::with_capacity(room))
}

/// A nullable column of numbers.
struct Numbers<T> {
    values: Vec<T>,
    valid: Vec<bool>,
    nulls: bool,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Numbers {
            values: Vec::new(),
            valid: Vec::new(),
            nulls: false,
        }
    }
}

impl<T: Default> Numbers<T> {
    #[inline]
    fn push(&mut self, value: Option<T>) {
        match value {
            Some(v) => {
                self.values.push(v);
                if self.nulls {
                    self.valid.push(true);
                }
            }
            None => {
                if !self.nulls {
                    self.nulls = true;
                    self.valid.clear();
                    self.valid.resize(self.values.len(), true);
                }
                self.values.push(T::default());
                self.valid.push(false);
            }
        }
    }

    fn take(&mut self) -> (Vec<T>, Option<NullBuffer>) {
        let values = renew(&mut self.values);
        let nulls = self.nulls.then(|| NullBuffer::from(renew(&mut self.valid)));
        self.nulls = false;
        (values, nulls)
    }
}

/// A column of dictionary keys.
#[derive(Default)]
struct Texts {
    keys: Numbers<i32>,
    strings: Strings,
}

impl Texts {
    #[inline]
    fn push(&mut self, text: Option<&[u8]>) {
        let key = text.map(|t| self.strings.intern(t).0 as i32);
        self.keys.push(key);
    }

    fn take(&mut self) -> Result<ArrayRef, ArrowError> {
        let (keys, nulls) = self.keys.take();
        let keys = Int32Array::new(keys.into(), nulls);
        let values = self.strings.take()?;
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(
            keys,
            Arc::new(values),
        )?))
    }
}

/// What a target says, by its number in the batch.
struct Split {
    path: i32,
    endpoint: i32,
    https: bool,
}

/// The finished exchanges of a batch.
#[derive(Default)]
pub struct Columns {
    pub rows: usize,
    weight: f64,
    time: Numbers<i64>,
    response_time: Numbers<i64>,
    duration: Numbers<i64>,
    first_byte: Numbers<i64>,
    connection: Vec<u64>,
    stream: Vec<i32>,
    protocol: Texts,
    client_ip: Texts,
    client_port: Vec<u16>,
    server_ip: Texts,
    server_port: Vec<u16>,
    method: Texts,
    scheme: Texts,
    host: Texts,
    target: Texts,
    splits: Vec<Split>,
    path: Texts,
    endpoint: Texts,
    status: Numbers<i16>,
    content_type: Texts,
    content_encoding: Texts,
    request: [Numbers<i64>; 4],
    response: [Numbers<i64>; 4],
    link_bytes: Vec<i64>,
    retransmitted: Vec<i64>,
    complete: Vec<bool>,
    missing: Vec<i64>,
    trace: Texts,
    anomaly: Texts,
    /// Number of this batch, from 1.
    batch: u64,
}

/// Path of a target (RFC 9112 §3.2), and host and scheme where the target holds them.
fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>, Option<bool>) {
    let cut = |t: &[u8]| {
        t.iter()
            .position(|&c| c == b'?' || c == b'#')
            .unwrap_or(t.len())
    };
    for (prefix, https) in [(&b"http://"[..], false), (&b"https://"[..], true)] {
        let named = target
            .get(..prefix.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(prefix));
        if named {
            let rest = &target[prefix.len()..];
            let end = rest
                .iter()
                .position(|&c| c == b'/')
                .unwrap_or(rest.len())
                .min(cut(rest));
            let path = &rest[end..];
            let path = &path[..cut(path)];
            let path = if path.is_empty() { &b"/"[..] } else { path };
            return (path, Some(&rest[..end]), Some(https));
        }
    }
    (&target[..cut(target)], None, None)
}

impl Columns {
    pub fn new(weight: f64) -> Self {
        Columns {
            weight,
            batch: 1,
            ..Columns::default()
        }
    }

    fn ip(texts: &mut Texts, addr: Addr) -> i32 {
        let text = match addr {
            Addr::V4(a) => std::net::Ipv4Addr::from(a).to_string(),
            Addr::V6(a) => std::net::Ipv6Addr::from(a).to_string(),
        };
        texts.strings.intern(text.as_bytes()).0 as i32
    }

    /// Adds a row, or books a denied exchange; the account is kept either way.
    pub fn push(
        &mut self,
        x: &Exchange,
        ends: &Ends,
        addresses: &mut Addresses,
        templates: &Templates,
        redaction: &Redaction,
        account: &mut Account,
    ) {
        if x.denied {
            account.add(Cause::Denied, x.link_bytes);
            return;
        }
        account.exchanges += 1;
        account.exchange_bytes += x.link_bytes;
        let complete = x.complete();
        account.incomplete += u64::from(!complete);
        self.rows += 1;
        let (q, r) = (&x.request, &x.response);
        self.time.push(q.seen.then_some(q.time));
        self.response_time.push(r.seen.then_some(r.time));
        let both = q.seen && r.seen;
        self.duration.push(both.then(|| r.end.wrapping_sub(q.time)));
        self.first_byte
            .push(both.then(|| r.time.wrapping_sub(q.time)));
        self.connection.push(ends.connection);
        self.stream.push(x.stream);
        let minor = if q.seen { q.minor } else { r.minor };
        self.protocol
            .push(Some(if minor == 0 { b"http/1.0" } else { b"http/1.1" }));
        if addresses.batch != self.batch {
            *addresses = Addresses {
                batch: self.batch,
                client: Self::ip(&mut self.client_ip, ends.client.0),
                server: Self::ip(&mut self.server_ip, ends.server.0),
            };
        }
        self.client_ip.keys.push(Some(addresses.client));
        self.client_port.push(ends.client.1);
        self.server_ip.keys.push(Some(addresses.server));
        self.server_port.push(ends.server.1);
        if q.seen {
            self.push_target(x, templates, redaction);
        } else {
            for texts in [
                &mut self.method,
                &mut self.scheme,
                &mut self.host,
                &mut self.target,
                &mut self.path,
                &mut self.endpoint,
            ] {
                texts.push(None);
            }
        }
        self.status.push(r.seen.then_some(x.status as i16));
        let text = |i: usize| (r.seen && !x.text(i).is_empty()).then(|| x.text(i));
        self.content_type.push(text(CONTENT_TYPE));
        self.content_encoding.push(text(CONTENT_ENCODING));
        for (columns, side) in [(&mut self.request, q), (&mut self.response, r)] {
            let values = [side.header, side.body, side.wire, side.packets];
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(side.seen.then_some(value as i64));
            }
        }
        self.link_bytes.push(x.link_bytes as i64);
        self.retransmitted.push(x.retransmitted as i64);
        self.complete.push(complete);
        self.missing.push(x.missing as i64);
        let trace = x.text(TRACE);
        self.trace
            .push((q.seen && !trace.is_empty()).then_some(trace));
        self.anomaly
            .push((x.anomaly != 0).then(|| ANOMALIES[x.anomaly as usize].as_bytes()));
    }

    fn push_target(&mut self, x: &Exchange, templates: &Templates, redaction: &Redaction) {
        self.method.push(Some(x.text(METHOD)));
        let sent = x.text(TARGET);
        let shown;
        let target = if redaction.parameters.is_empty() {
            sent
        } else {
            shown = redaction.target(sent);
            &shown[..]
        };
        let (id, new) = self.target.strings.intern(target);
        self.target.keys.push(Some(id as i32));
        if new {
            let (path, _, https) = split_target(target);
            let path_id = self.path.strings.intern(path).0;
            let endpoint = templates.endpoint(&String::from_utf8_lossy(path));
            let endpoint = self.endpoint.strings.intern(endpoint.as_bytes()).0;
            self.splits.push(Split {
                path: path_id as i32,
                endpoint: endpoint as i32,
                https: https == Some(true),
            });
        }
        let split = &self.splits[id as usize];
        self.path.keys.push(Some(split.path));
        self.endpoint.keys.push(Some(split.endpoint));
        self.scheme
            .push(Some(if split.https { b"https" } else { b"http" }));
        // RFC 9112 §3.2.2: the authority in an absolute target overrides Host.
        let host = match target.first() {
            Some(b'/') => x.text(HOST),
            _ => split_target(target).1.unwrap_or(x.text(HOST)),
        };
        self.host.push((!host.is_empty()).then_some(host));
    }

    /// Takes the rows as one record batch.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let n = std::mem::take(&mut self.rows);
        self.splits.clear();
        self.batch += 1;
        let mut fields: Vec<Field> = Vec::with_capacity(36);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(36);
        let mut add = |name: &str, array: ArrayRef, nullable: bool| {
            fields.push(Field::new(name, array.data_type().clone(), nullable));
            arrays.push(array);
        };
        let int64 = |column: &mut Numbers<i64>| -> ArrayRef {
            let (values, nulls) = column.take();
            Arc::new(Int64Array::new(values.into(), nulls))
        };
        let plain =
            |column: &mut Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(renew(column))) };
        let stamp = |column: &mut Numbers<i64>| -> ArrayRef {
            let (values, nulls) = column.take();
            Arc::new(TimestampNanosecondArray::new(values.into(), nulls).with_timezone("UTC"))
        };
        add("time", stamp(&mut self.time), true);
        add("response_time", stamp(&mut self.response_time), true);
        add("duration_ns", int64(&mut self.duration), true);
        add("first_byte_ns", int64(&mut self.first_byte), true);
        add(
            "connection",
            Arc::new(UInt64Array::from(renew(&mut self.connection))),
            false,
        );
        add(
            "stream",
            Arc::new(Int32Array::from(renew(&mut self.stream))),
            false,
        );
        add("protocol", self.protocol.take()?, false);
        add("client_ip", self.client_ip.take()?, false);
        add(
            "client_port",
            Arc::new(UInt16Array::from(renew(&mut self.client_port))),
            false,
        );
        add("server_ip", self.server_ip.take()?, false);
        add(
            "server_port",
            Arc::new(UInt16Array::from(renew(&mut self.server_port))),
            false,
        );
        add("method", self.method.take()?, true);
        add("scheme", self.scheme.take()?, true);
        add("host", self.host.take()?, true);
        add("target", self.target.take()?, true);
        add("path", self.path.take()?, true);
        add("endpoint", self.endpoint.take()?, true);
        let (status, nulls) = self.status.take();
        add(
            "status",
            Arc::new(Int16Array::new(status.into(), nulls)),
            true,
        );
        add("content_type", self.content_type.take()?, true);
        add("content_encoding", self.content_encoding.take()?, true);
        let sizes = ["header_bytes", "body_bytes", "wire_bytes", "packets"];
        for (i, size) in sizes.iter().enumerate() {
            add(
                &format!("request_{size}"),
                int64(&mut self.request[i]),
                true,
            );
            add(
                &format!("response_{size}"),
                int64(&mut self.response[i]),
                true,
            );
        }
        add("link_bytes", plain(&mut self.link_bytes), false);
        add("retransmitted_bytes", plain(&mut self.retransmitted), false);
        add(
            "complete",
            Arc::new(BooleanArray::from(renew(&mut self.complete))),
            false,
        );
        add("missing_bytes", plain(&mut self.missing), false);
        add("trace_id", self.trace.take()?, true);
        add(
            "weight",
            Arc::new(Float64Array::from(vec![self.weight; n])),
            false,
        );
        add("anomaly", self.anomaly.take()?, true);
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
    }
}
