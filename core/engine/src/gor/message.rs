//! Messages as they leave the engine: one buffer of .gor records and an index into it.
//!
//! Owns GoReplay's record: `kind id time latency\n`, the payload, a line with three monkeys. Append
//! only; a message is copied once.

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, UInt64Array, UInt8Array};
use arrow_schema::ArrowError;
use memchr::memmem;
use std::sync::Arc;

/// Ends every record of a .gor file.
pub const SEPARATOR: &[u8] = "\n🐵🙈🙉\n".as_bytes();

/// What the separator is made of, between its line ends.
const MARK: &[u8] = "🐵🙈🙉".as_bytes();
/// The fifth word of a record's first line where the payload is written escaped: a line of it that is the
/// mark and any number of backslashes has one backslash more than the message.
pub const ESCAPED: &[u8] = b"escaped";

/// A payload that was written escaped, as it was before.
pub fn unescaped(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len());
    let mut done = 0;
    for at in memmem::find_iter(payload, MARK) {
        let tail = at + MARK.len();
        let slashes = payload[tail..].iter().take_while(|&&c| c == b'\\').count();
        let alone = at == 0 || payload[at - 1] == b'\n';
        let ends = matches!(payload.get(tail + slashes), None | Some(b'\n'));
        if alone && ends && slashes > 0 {
            out.extend_from_slice(&payload[done..tail]);
            done = tail + 1;
        }
    }
    out.extend_from_slice(&payload[done..]);
    out
}

/// Messages whose places in a buffer are known: nothing is searched for.
pub struct Rows<'a> {
    gor: &'a [u8],
    record: &'a [u64],
    end: &'a [u64],
}

impl<'a> Rows<'a> {
    /// None where a place lies outside the buffer.
    pub fn new(gor: &'a [u8], record: &'a [u64], end: &'a [u64]) -> Option<Self> {
        let sound = record.len() == end.len()
            && record
                .iter()
                .zip(end)
                .all(|(from, to)| from <= to && *to <= gor.len() as u64);
        sound.then_some(Rows { gor, record, end })
    }

    /// Each record, first line and payload.
    pub fn records(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        let gor = self.gor;
        let places = self.record.iter().zip(self.end);
        places.map(move |(&from, &to)| &gor[from as usize..to as usize])
    }

    /// Where each record begins.
    pub fn begins(&self) -> &'a [u64] {
        self.record
    }

    pub fn len(&self) -> usize {
        self.record.len()
    }

    pub fn is_empty(&self) -> bool {
        self.record.is_empty()
    }
}

#[derive(Default)]
pub struct Messages {
    /// Whole .gor records, one after the other.
    pub gor: Vec<u8>,
    pub kind: Vec<u8>,
    pub time: Vec<i64>,
    pub latency: Vec<i64>,
    /// Where each record and each payload begins, and where the payload ends.
    pub record: Vec<u64>,
    pub start: Vec<u64>,
    pub end: Vec<u64>,
    pub connection: Vec<u64>,
    pub stream: Vec<i32>,
}

/// What a record's first line holds.
pub struct Meta {
    pub kind: u8,
    pub id: [u8; 24],
    pub time: i64,
    pub latency: i64,
    pub connection: u64,
    pub stream: i32,
}

fn decimal(out: &mut Vec<u8>, n: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

impl Messages {
    /// An empty batch with room for as much as this one holds.
    pub fn alike(&self) -> Self {
        let n = self.kind.len();
        Messages {
            gor: Vec::with_capacity(self.gor.len() + self.gor.len() / 8),
            kind: Vec::with_capacity(n),
            time: Vec::with_capacity(n),
            latency: Vec::with_capacity(n),
            record: Vec::with_capacity(n),
            start: Vec::with_capacity(n),
            end: Vec::with_capacity(n),
            connection: Vec::with_capacity(n),
            stream: Vec::with_capacity(n),
        }
    }

    /// The records' bytes, and a row a message: where it lies and what its first line says.
    pub fn into_arrow(self) -> Result<(UInt8Array, RecordBatch), ArrowError> {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("kind", Arc::new(UInt8Array::from(self.kind))),
            ("time_ns", Arc::new(Int64Array::from(self.time))),
            ("latency_ns", Arc::new(Int64Array::from(self.latency))),
            ("record", Arc::new(UInt64Array::from(self.record))),
            ("start", Arc::new(UInt64Array::from(self.start))),
            ("end", Arc::new(UInt64Array::from(self.end))),
            ("connection", Arc::new(UInt64Array::from(self.connection))),
            ("stream", Arc::new(Int32Array::from(self.stream))),
        ];
        Ok((
            UInt8Array::from(self.gor),
            RecordBatch::try_from_iter(columns)?,
        ))
    }

    /// A record as it was read: its first line, and the payload in parts.
    pub fn copy(&mut self, line: &[u8], kind: u8, time: i64, latency: i64, payload: &[&[u8]]) {
        self.record.push(self.gor.len() as u64);
        self.gor.extend_from_slice(line);
        self.start.push(self.gor.len() as u64);
        for part in payload {
            self.gor.extend_from_slice(part);
        }
        self.end.push(self.gor.len() as u64);
        self.gor.extend_from_slice(SEPARATOR);
        self.kind.push(kind);
        self.time.push(time);
        self.latency.push(latency);
        self.connection.push(0);
        self.stream.push(0);
    }

    /// The same records in order of time; those of one time keep theirs.
    pub fn sort_by_time(&mut self) {
        let mut rows: Vec<usize> = (0..self.kind.len()).collect();
        rows.sort_by_key(|&row| self.time[row]);
        let mut out = self.alike();
        for row in rows {
            out.copy_row(self, row);
        }
        *self = out;
    }

    /// The records of several batches, by time; those of one keep their order.
    pub fn merged(batches: &[Messages]) -> Self {
        let rows = batches.iter().map(|b| b.kind.len()).sum();
        let mut out = Messages {
            gor: Vec::with_capacity(batches.iter().map(|b| b.gor.len()).sum()),
            ..Messages::default()
        };
        let mut next = vec![0; batches.len()];
        for _ in 0..rows {
            let ahead = |&i: &usize| batches[i].time.get(next[i]);
            let oldest = (0..batches.len())
                .filter(|i| ahead(i).is_some())
                .min_by_key(|i| ahead(i));
            if let Some(i) = oldest {
                out.copy_row(&batches[i], next[i]);
                next[i] += 1;
            }
        }
        out
    }

    fn copy_row(&mut self, from: &Messages, row: usize) {
        let part = |a: u64, b: u64| &from.gor[a as usize..b as usize];
        let line = part(from.record[row], from.start[row]);
        let payload = part(from.start[row], from.end[row]);
        let (kind, time, latency) = (from.kind[row], from.time[row], from.latency[row]);
        self.copy(line, kind, time, latency, &[payload]);
        let at = self.kind.len() - 1;
        self.connection[at] = from.connection[row];
        self.stream[at] = from.stream[row];
    }

    /// Splits the rows from `at` on off, into a batch of their own.
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut out = Messages::default();
        for row in at..self.kind.len() {
            out.copy_row(self, row);
        }
        if at < self.kind.len() {
            self.gor.truncate(self.record[at] as usize);
        }
        self.kind.truncate(at);
        self.time.truncate(at);
        self.latency.truncate(at);
        self.record.truncate(at);
        self.start.truncate(at);
        self.end.truncate(at);
        self.connection.truncate(at);
        self.stream.truncate(at);
        out
    }

    pub fn push(&mut self, meta: &Meta, payload: &[u8]) {
        self.record.push(self.gor.len() as u64);
        self.gor.extend_from_slice(&[b'0' + meta.kind, b' ']);
        self.gor.extend_from_slice(&meta.id);
        self.gor.push(b' ');
        decimal(&mut self.gor, meta.time);
        self.gor.push(b' ');
        decimal(&mut self.gor, meta.latency);
        self.gor.push(b'\n');
        self.start.push(self.gor.len() as u64);
        self.gor.extend_from_slice(payload);
        self.end.push(self.gor.len() as u64);
        self.gor.extend_from_slice(SEPARATOR);
        self.kind.push(meta.kind);
        self.time.push(meta.time);
        self.latency.push(meta.latency);
        self.connection.push(meta.connection);
        self.stream.push(meta.stream);
    }
}

/// GoReplay's id: client port, server port, last four bytes of the client's address, and the
/// server's sequence number where the response begins, in hex.
pub fn gor_id(client_port: u16, server_port: u16, client_ip: u32, seq: u32) -> [u8; 24] {
    let mut raw = [0u8; 12];
    raw[..2].copy_from_slice(&client_port.to_be_bytes());
    raw[2..4].copy_from_slice(&server_port.to_be_bytes());
    raw[4..8].copy_from_slice(&client_ip.to_be_bytes());
    raw[8..].copy_from_slice(&seq.to_be_bytes());
    let mut hex = [0u8; 24];
    for (i, byte) in raw.iter().enumerate() {
        hex[i * 2] = b"0123456789abcdef"[(byte >> 4) as usize];
        hex[i * 2 + 1] = b"0123456789abcdef"[(byte & 15) as usize];
    }
    hex
}
