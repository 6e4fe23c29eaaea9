//! Exchanges in columns.
//!
//! Owns an exchange while it is being measured, the Arrow columns of the finished ones, and the
//! rule that a side that was not seen is null. Strings go through a dictionary per batch, so a row
//! costs no allocation. The schema's other half is `replaykit/wire/exchange.py`.

use crate::endpoint::Templates;
use crate::filter::Redaction;
use crate::http1::{Anomaly, ANOMALIES};
use crate::link::Addr;
use crate::options::Options;
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int16Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampNanosecondArray, UInt16Array, UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use hashbrown::HashTable;
use std::borrow::Cow;
use std::sync::Arc;

/// What an exchange was carried by; the column `protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// 1.0 or 1.1, as the message says.
    #[default]
    Http1,
    H2,
    WebSocket,
    Tls,
    Raw,
    /// Inside CONNECT, not read; the text of HOST is where it leads.
    Connect,
    /// Inside Upgrade, not read; the text of METHOD is the protocol.
    Upgrade,
    /// A plug-in's, by its place in `Options::protocols`; the text of HOST is the endpoint.
    Plugin(u8),
}

/// Measures that few exchanges have, each null unless set; see `EXTRA`.
#[derive(Clone, Debug)]
pub struct Extra([Option<i64>; EXTRA.len()]);

pub const EXTRA: [&str; 9] = [
    "request_uncompressed_header_bytes",
    "response_uncompressed_header_bytes",
    "request_messages",
    "response_messages",
    "request_message_bytes",
    "response_message_bytes",
    "request_decoded_bytes",
    "response_decoded_bytes",
    "grpc_status",
];

impl Default for Extra {
    fn default() -> Self {
        Extra([None; EXTRA.len()])
    }
}

impl Extra {
    /// The request's column; the response's follows.
    pub const UNCOMPRESSED: usize = 0;
    pub const MESSAGES: usize = 2;
    pub const MESSAGE_BYTES: usize = 4;
    pub const DECODED: usize = 6;
    /// Has no sides.
    pub const GRPC_STATUS: usize = 8;

    pub fn get(&self, column: usize, response: bool) -> Option<i64> {
        self.0[column + usize::from(response)]
    }

    pub fn set(&mut self, column: usize, response: bool, value: i64) {
        self.0[column + usize::from(response)] = Some(value);
    }
}

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

/// What of an exchange its increments have said so far; sizes as in `Side`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    request: [u64; 4],
    response: [u64; 4],
    pub link_bytes: u64,
    retransmitted: u64,
}

/// An exchange in the making. `text` holds its strings, `marks` their ends.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    pub request: Side,
    pub response: Side,
    pub status: u16,
    pub is_head: bool,
    pub is_connect: bool,
    /// It waits for a response before it sends its body (RFC 9110 §10.1.1).
    pub expects: bool,
    /// An extended CONNECT to WebSocket (RFC 8441).
    pub upgrades: bool,
    pub grpc: bool,
    pub https: bool,
    pub protocol: Protocol,
    pub denied: bool,
    pub anomaly: u8,
    pub link_bytes: u64,
    pub retransmitted: u64,
    pub missing: u64,
    pub stream: i32,
    pub id: [u8; 24],
    pub extra: Option<Box<Extra>>,
    /// None: it began in the slice that is running.
    pub counted: Option<Box<Counted>>,
    /// From 1, among the exchanges that have increments; 0: it has none.
    pub number: u64,
    text: Vec<u8>,
    marks: [u32; 7],
}

pub const METHOD: usize = 0;
pub const TARGET: usize = 1;
pub const HOST: usize = 2;
pub const TRACE: usize = 3;
pub const ALPN: usize = 4;
pub const CONTENT_TYPE: usize = 5;
pub const CONTENT_ENCODING: usize = 6;

impl Exchange {
    pub fn clear(&mut self) {
        self.text.clear();
        self.request = Side::default();
        self.response = Side::default();
        self.status = 0;
        self.is_head = false;
        self.is_connect = false;
        self.expects = false;
        self.upgrades = false;
        self.grpc = false;
        self.https = false;
        self.protocol = Protocol::Http1;
        self.extra = None;
        self.counted = None;
        self.number = 0;
        self.denied = false;
        self.anomaly = 0;
        self.link_bytes = 0;
        self.retransmitted = 0;
        self.missing = 0;
    }

    pub fn set_request(&mut self, fields: [&[u8]; 4]) {
        self.text.clear();
        for (i, field) in fields.iter().enumerate() {
            self.text.extend_from_slice(field);
            self.marks[i] = self.text.len() as u32;
        }
        self.marks[4..].fill(self.text.len() as u32);
    }

    /// To be set after the request's fields.
    pub fn set_alpn(&mut self, alpn: &[u8]) {
        self.text.extend_from_slice(alpn);
        self.marks[ALPN..].fill(self.text.len() as u32);
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

    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// All that it moved until now.
    pub fn moved(&self) -> Counted {
        // A side that has not begun is null, though interim responses may have been counted to it.
        let sizes = |s: &Side| {
            if s.seen {
                [s.header, s.body, s.wire, s.packets]
            } else {
                [0; 4]
            }
        };
        Counted {
            request: sizes(&self.request),
            response: sizes(&self.response),
            link_bytes: self.link_bytes,
            retransmitted: self.retransmitted,
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
    /// The connection is encrypted, but was read.
    pub secure: Secure,
}

/// What was negotiated inside TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secure {
    #[default]
    No,
    Unnamed,
    Http11,
    H2,
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

impl<T> Numbers<T> {
    /// Adds a value a row; `all` says that every row has one.
    #[inline]
    fn extend(
        &mut self,
        rows: &[Row],
        all: bool,
        value: impl Fn(&Row) -> T,
        valid: impl Fn(&Row) -> bool,
    ) {
        if !all && !self.nulls {
            self.nulls = true;
            self.valid.resize(self.values.len(), true);
        }
        self.values.extend(rows.iter().map(value));
        if self.nulls {
            self.valid.extend(rows.iter().map(valid));
        }
    }

    fn take(&mut self) -> (Vec<T>, Option<NullBuffer>) {
        let values = renew(&mut self.values);
        let nulls = self.nulls.then(|| NullBuffer::from(renew(&mut self.valid)));
        self.nulls = false;
        (values, nulls)
    }
}

/// A column that most batches have no value for.
#[derive(Default)]
struct Rare(Vec<Option<i64>>);

impl Rare {
    /// Adds the values of `rows` after `before` others.
    fn extend(&mut self, rows: &[Row], before: usize, i: usize) {
        let value = |r: &Row| r.extra.as_ref().and_then(|e| e.0[i]);
        if !self.0.is_empty() || rows.iter().any(|r| value(r).is_some()) {
            self.0.resize(before, None);
            self.0.extend(rows.iter().map(value));
        }
    }

    fn take(&mut self, nothing: &ArrayRef) -> ArrayRef {
        if self.0.is_empty() {
            return nothing.clone();
        }
        Arc::new(Int64Array::from(renew(&mut self.0)))
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
    fn key(&mut self, text: &[u8]) -> i32 {
        self.strings.intern(text).0 as i32
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

/// Columns of dictionary keys, in `Row::keys` and `Columns::texts`.
const PROTOCOL: usize = 0;
const CLIENT_IP: usize = 1;
const SERVER_IP: usize = 2;
const METHODS: usize = 3;
const SCHEME: usize = 4;
const HOSTS: usize = 5;
const TARGETS: usize = 6;
const PATH: usize = 7;
const ENDPOINT: usize = 8;
const TYPES: usize = 9;
const ENCODINGS: usize = 10;
const TRACES: usize = 11;
const ANOMALY: usize = 12;
const ALPNS: usize = 13;
const TEXTS: usize = 14;

/// No key: null.
const ABSENT: i32 = -1;

/// A finished exchange before it is spread over the columns, some hundred at a time.
struct Row {
    time: i64,
    response_time: i64,
    last: i64,
    connection: u64,
    stream: i32,
    keys: [i32; TEXTS],
    client_port: u16,
    server_port: u16,
    status: i16,
    request_seen: bool,
    response_seen: bool,
    /// Durations say nothing.
    response_first: bool,
    complete: bool,
    request: [i64; 4],
    response: [i64; 4],
    link_bytes: i64,
    retransmitted: i64,
    missing: i64,
    number: u64,
    extra: Option<Box<Extra>>,
}

const STAGE: usize = 256;

/// What a target says, by its number in the batch.
struct Split {
    /// Absent until it is asked for: a plug-in's target has none.
    path: i32,
    /// Of its shape; absent until it is asked for, as a gRPC path is its own endpoint.
    endpoint: i32,
    https: bool,
}

/// The finished exchanges of a batch.
#[derive(Default)]
pub struct Columns {
    pub rows: usize,
    weight: f64,
    /// Names of plug-ins' protocols.
    plugins: Vec<String>,
    stage: Vec<Row>,
    time: Numbers<i64>,
    response_time: Numbers<i64>,
    duration: Numbers<i64>,
    first_byte: Numbers<i64>,
    connection: Vec<u64>,
    stream: Vec<i32>,
    client_port: Vec<u16>,
    server_port: Vec<u16>,
    texts: [Texts; TEXTS],
    splits: Vec<Split>,
    status: Numbers<i16>,
    request: [Numbers<i64>; 4],
    response: [Numbers<i64>; 4],
    link_bytes: Vec<i64>,
    retransmitted: Vec<i64>,
    complete: Vec<bool>,
    missing: Vec<i64>,
    /// Numbers of exchanges that have increments, 0 for the others; where anybody asks.
    numbers: Option<Vec<u64>>,
    extra: [Rare; EXTRA.len()],
    /// Some row of this batch has such measures.
    extras: bool,
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

/// An authority as one name: without user and password, in lower case, without a last dot and the scheme's port.
fn plain_host(authority: &[u8], https: bool) -> Cow<'_, [u8]> {
    let usual = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-');
    if authority.iter().all(usual) && authority.last() != Some(&b'.') {
        return Cow::Borrowed(authority);
    }
    let host = authority.rsplit(|&c| c == b'@').next().unwrap_or(b"");
    let port: &[u8] = if https { b":443" } else { b":80" };
    let host = host.strip_suffix(port).unwrap_or(host);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let mut host = host.to_ascii_lowercase();
    if let Some(at) = memchr::memmem::find(&host, b".:") {
        host.remove(at);
    }
    Cow::Owned(host)
}

impl Columns {
    /// `numbered`: with a column `exchange`, by which increments name their exchange.
    pub fn new(options: &Options, numbered: bool) -> Self {
        Columns {
            weight: options.weight,
            plugins: options.protocols.clone(),
            numbers: numbered.then(Vec::new),
            batch: 1,
            ..Columns::default()
        }
    }

    fn address(addr: Addr) -> String {
        match addr {
            Addr::V4(a) => std::net::Ipv4Addr::from(a).to_string(),
            Addr::V6(a) => std::net::Ipv6Addr::from(a).to_string(),
        }
    }

    fn ip(texts: &mut Texts, addr: Addr) -> i32 {
        texts.key(Self::address(addr).as_bytes())
    }

    /// Host and endpoint of what is not understood: where it went.
    fn opaque(&mut self, x: &Exchange, scheme: &str, place: String, keys: &mut [i32; TEXTS]) {
        let host = String::from_utf8_lossy(x.text(HOST));
        if !host.is_empty() {
            keys[HOSTS] = self.texts[HOSTS].key(x.text(HOST));
        }
        let place = if host.is_empty() { place.into() } else { host };
        keys[ENDPOINT] = self.texts[ENDPOINT].key(format!("{scheme}://{place}").as_bytes());
    }

    /// What a plug-in says stands for itself.
    fn plugin(&mut self, x: &Exchange, keys: &mut [i32; TEXTS]) {
        for (column, field) in [(METHODS, METHOD), (ENDPOINT, HOST)] {
            if !x.text(field).is_empty() || field == HOST {
                keys[column] = self.texts[column].key(x.text(field));
            }
        }
        if !x.text(TARGET).is_empty() {
            keys[TARGETS] = self.sent(x.text(TARGET)) as i32;
        }
    }

    /// A target's number in this batch.
    fn sent(&mut self, target: &[u8]) -> u32 {
        let (id, new) = self.texts[TARGETS].strings.intern(target);
        if new {
            self.splits.push(Split {
                path: ABSENT,
                endpoint: ABSENT,
                https: false,
            });
        }
        id
    }

    /// Adds a row; its sizes are what was moved beyond `before`.
    pub fn push(
        &mut self,
        x: &Exchange,
        before: &Counted,
        ends: &Ends,
        addresses: &mut Addresses,
        options: &Options,
    ) {
        let complete = x.complete();
        let (templates, redaction) = (&options.templates, &options.redaction);
        self.rows += 1;
        if addresses.batch != self.batch {
            *addresses = Addresses {
                batch: self.batch,
                client: Self::ip(&mut self.texts[CLIENT_IP], ends.client.0),
                server: Self::ip(&mut self.texts[SERVER_IP], ends.server.0),
            };
        }
        let (q, r) = (&x.request, &x.response);
        let mut keys = [ABSENT; TEXTS];
        let minor = if q.seen { q.minor } else { r.minor };
        keys[PROTOCOL] = self.texts[PROTOCOL].key(match x.protocol {
            Protocol::Http1 if minor == 0 => b"http/1.0",
            Protocol::Http1 => b"http/1.1",
            Protocol::H2 => b"h2",
            Protocol::WebSocket => b"websocket",
            Protocol::Tls => b"tls",
            Protocol::Raw => b"raw",
            Protocol::Connect => b"connect",
            Protocol::Upgrade => b"upgrade",
            Protocol::Plugin(n) => self.plugins[usize::from(n)].as_bytes(),
        });
        keys[CLIENT_IP] = addresses.client;
        keys[SERVER_IP] = addresses.server;
        match x.protocol {
            Protocol::Tls => self.opaque(x, "tls", Self::address(ends.server.0), &mut keys),
            Protocol::Raw => {
                let (addr, port) = ends.server;
                let place = match addr {
                    Addr::V4(_) => format!("{}:{port}", Self::address(addr)),
                    Addr::V6(_) => format!("[{}]:{port}", Self::address(addr)),
                };
                self.opaque(x, "tcp", place, &mut keys);
            }
            Protocol::Connect => self.opaque(x, "connect", Self::address(ends.server.0), &mut keys),
            Protocol::Upgrade => {
                let to = String::from_utf8_lossy(x.text(METHOD)).to_ascii_lowercase();
                self.opaque(x, "upgrade", to.clone(), &mut keys);
                keys[ENDPOINT] = self.texts[ENDPOINT].key(format!("upgrade://{to}").as_bytes());
            }
            Protocol::Plugin(_) => self.plugin(x, &mut keys),
            Protocol::WebSocket => self.target(x, ends, templates, redaction, &mut keys),
            _ if q.seen => self.target(x, ends, templates, redaction, &mut keys),
            _ => {}
        }
        let alpn = match ends.secure {
            Secure::No => x.text(ALPN),
            Secure::Unnamed => b"",
            Secure::Http11 => b"http/1.1",
            Secure::H2 => b"h2",
        };
        if !alpn.is_empty() {
            keys[ALPNS] = self.texts[ALPNS].key(alpn);
        }
        let given = [
            (TYPES, CONTENT_TYPE, r.seen),
            (ENCODINGS, CONTENT_ENCODING, r.seen),
            (TRACES, TRACE, true),
        ];
        for (column, field, seen) in given {
            let text = x.text(field);
            if seen && !text.is_empty() {
                keys[column] = self.texts[column].key(text);
            }
        }
        let response_first = q.seen && r.seen && r.time < q.time;
        let mut anomaly = x.anomaly;
        if response_first && anomaly == 0 && matches!(x.protocol, Protocol::Http1 | Protocol::H2) {
            anomaly = Anomaly::ResponseFirst as u8;
        }
        if anomaly != 0 {
            keys[ANOMALY] = self.texts[ANOMALY].key(ANOMALIES[anomaly as usize].as_bytes());
        }
        let sizes = |s: &Side, before: &[u64; 4]| {
            [
                s.header.wrapping_sub(before[0]) as i64,
                s.body.wrapping_sub(before[1]) as i64,
                s.wire.wrapping_sub(before[2]) as i64,
                s.packets.wrapping_sub(before[3]) as i64,
            ]
        };
        self.stage.push(Row {
            time: q.time,
            response_time: r.time,
            last: r.end,
            connection: ends.connection,
            stream: x.stream,
            keys,
            client_port: ends.client.1,
            server_port: ends.server.1,
            status: x.status as i16,
            request_seen: q.seen,
            response_seen: r.seen,
            response_first,
            complete,
            request: sizes(q, &before.request),
            response: sizes(r, &before.response),
            link_bytes: x.link_bytes.wrapping_sub(before.link_bytes) as i64,
            retransmitted: x.retransmitted.wrapping_sub(before.retransmitted) as i64,
            missing: x.missing as i64,
            number: x.number,
            extra: x.extra.clone(),
        });
        if self.stage.len() >= STAGE {
            self.spread();
        }
    }

    fn target(
        &mut self,
        x: &Exchange,
        ends: &Ends,
        templates: &Templates,
        redaction: &Redaction,
        keys: &mut [i32; TEXTS],
    ) {
        let sent = x.text(TARGET);
        if !x.text(METHOD).is_empty() {
            keys[METHODS] = self.texts[METHODS].key(x.text(METHOD));
        }
        let https = x.https || ends.secure != Secure::No;
        keys[SCHEME] = self.texts[SCHEME].key(if https { b"https" } else { b"http" });
        if sent.is_empty() {
            // HTTP/2 whose fields could not be decoded.
            let host = plain_host(x.text(HOST), https);
            if !host.is_empty() {
                keys[HOSTS] = self.texts[HOSTS].key(&host);
            }
            return;
        }
        let shown;
        let target = if redaction.parameters.is_empty() {
            sent
        } else {
            shown = redaction.target(sent);
            &shown[..]
        };
        let id = self.sent(target);
        let split = &mut self.splits[id as usize];
        if split.path == ABSENT {
            let (path, _, https) = split_target(target);
            split.path = self.texts[PATH].key(path);
            split.https = https == Some(true);
        }
        let path = || String::from_utf8_lossy(split_target(target).0);
        keys[ENDPOINT] = if x.grpc {
            // A gRPC path names a method: /package.Service/Method.
            self.texts[ENDPOINT].key(path().as_bytes())
        } else {
            if split.endpoint == ABSENT {
                let endpoint = templates.endpoint(&path());
                split.endpoint = self.texts[ENDPOINT].key(endpoint.as_bytes());
            }
            split.endpoint
        };
        keys[TARGETS] = id as i32;
        keys[PATH] = split.path;
        let split_https = split.https;
        if split_https {
            keys[SCHEME] = self.texts[SCHEME].key(b"https");
        }
        // RFC 9112 §3.2.2: the authority in an absolute target overrides Host.
        let host = match target.first() {
            Some(b'/') => x.text(HOST),
            _ => split_target(target).1.unwrap_or(x.text(HOST)),
        };
        let host = plain_host(host, https || split_https);
        if !host.is_empty() {
            keys[HOSTS] = self.texts[HOSTS].key(&host);
        }
    }

    /// Spreads the staged rows over the columns, a column at a time.
    fn spread(&mut self) {
        let rows = &self.stage[..];
        let q = rows.iter().all(|r| r.request_seen);
        let p = rows.iter().all(|r| r.response_seen);
        self.time.extend(rows, q, |r| r.time, |r| r.request_seen);
        self.response_time
            .extend(rows, p, |r| r.response_time, |r| r.response_seen);
        let both = |r: &Row| r.request_seen && r.response_seen && !r.response_first;
        let all = rows.iter().all(both);
        self.duration
            .extend(rows, all, |r| r.last.wrapping_sub(r.time), both);
        self.first_byte
            .extend(rows, all, |r| r.response_time.wrapping_sub(r.time), both);
        self.connection.extend(rows.iter().map(|r| r.connection));
        self.stream.extend(rows.iter().map(|r| r.stream));
        self.client_port.extend(rows.iter().map(|r| r.client_port));
        self.server_port.extend(rows.iter().map(|r| r.server_port));
        for (i, texts) in self.texts.iter_mut().enumerate() {
            let all = rows.iter().all(|r| r.keys[i] != ABSENT);
            texts
                .keys
                .extend(rows, all, |r| r.keys[i].max(0), |r| r.keys[i] != ABSENT);
        }
        let answered = rows.iter().all(|r| r.status != 0);
        self.status
            .extend(rows, answered, |r| r.status, |r| r.status != 0);
        for i in 0..4 {
            self.request[i].extend(rows, q, |r| r.request[i], |r| r.request_seen);
            self.response[i].extend(rows, p, |r| r.response[i], |r| r.response_seen);
        }
        self.link_bytes.extend(rows.iter().map(|r| r.link_bytes));
        self.retransmitted
            .extend(rows.iter().map(|r| r.retransmitted));
        self.complete.extend(rows.iter().map(|r| r.complete));
        self.missing.extend(rows.iter().map(|r| r.missing));
        if let Some(numbers) = &mut self.numbers {
            numbers.extend(rows.iter().map(|r| r.number));
        }
        let before = self.missing.len() - rows.len();
        if self.extras || rows.iter().any(|r| r.extra.is_some()) {
            self.extras = true;
            for (i, column) in self.extra.iter_mut().enumerate() {
                column.extend(rows, before, i);
            }
        }
        self.stage.clear();
    }

    /// Takes the rows as one record batch.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.spread();
        let n = std::mem::take(&mut self.rows);
        self.splits.clear();
        self.batch += 1;
        let mut fields: Vec<Field> = Vec::with_capacity(48);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(48);
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
        add("protocol", self.texts[PROTOCOL].take()?, false);
        add("client_ip", self.texts[CLIENT_IP].take()?, false);
        add(
            "client_port",
            Arc::new(UInt16Array::from(renew(&mut self.client_port))),
            false,
        );
        add("server_ip", self.texts[SERVER_IP].take()?, false);
        add(
            "server_port",
            Arc::new(UInt16Array::from(renew(&mut self.server_port))),
            false,
        );
        add("method", self.texts[METHODS].take()?, true);
        add("scheme", self.texts[SCHEME].take()?, true);
        add("host", self.texts[HOSTS].take()?, true);
        add("target", self.texts[TARGETS].take()?, true);
        add("path", self.texts[PATH].take()?, true);
        add("endpoint", self.texts[ENDPOINT].take()?, true);
        let (status, nulls) = self.status.take();
        add(
            "status",
            Arc::new(Int16Array::new(status.into(), nulls)),
            true,
        );
        add("content_type", self.texts[TYPES].take()?, true);
        add("content_encoding", self.texts[ENCODINGS].take()?, true);
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
        add("trace_id", self.texts[TRACES].take()?, true);
        add(
            "weight",
            Arc::new(Float64Array::from(vec![self.weight; n])),
            false,
        );
        add("anomaly", self.texts[ANOMALY].take()?, true);
        add("alpn", self.texts[ALPNS].take()?, true);
        let nothing = arrow_array::new_null_array(&DataType::Int64, n);
        for (name, column) in EXTRA.iter().zip(&mut self.extra) {
            add(name, column.take(&nothing), true);
        }
        self.extras = false;
        if let Some(numbers) = &mut self.numbers {
            let numbers = UInt64Array::from(renew(numbers));
            add("exchange", Arc::new(numbers), false);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
    }
}
