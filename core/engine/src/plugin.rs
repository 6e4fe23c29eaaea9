//! Streams that protocol plug-ins read outside the engine: their bytes are handed over, their messages come back.
//!
//! Owns the rows: which bytes a message took and what they cost, and the pairing of requests with
//! responses, the oldest first. Every byte that was handed over is booked here.

use crate::account::Cause;
use crate::connection::{Context, Cost, Piece, Sink, Visit};
use crate::exchange::{Addresses, Ends, Exchange, Protocol, Side};
use crate::http1::Anomaly;
use crate::offsets::Offsets;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt64Array, UInt8Array};
use arrow_schema::ArrowError;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a piece is; the column `kind`.
const OPENED: u8 = 0;
const DATA: u8 = 1;
/// Bytes that the capture never held.
const MISSING: u8 = 2;
const CLOSED: u8 = 3;

/// Pieces in the order of the capture.
#[derive(Default)]
pub struct Pieces {
    pub bytes: Vec<u8>,
    kind: Vec<u8>,
    connection: Vec<u64>,
    /// 0 from the client, 1 from the server.
    direction: Vec<u8>,
    time: Vec<i64>,
    length: Vec<u64>,
    end: Vec<u64>,
}

impl Pieces {
    fn push(
        &mut self,
        kind: u8,
        connection: u64,
        direction: u8,
        time: i64,
        bytes: &[u8],
        length: u64,
    ) {
        self.bytes.extend_from_slice(bytes);
        self.kind.push(kind);
        self.connection.push(connection);
        self.direction.push(direction);
        self.time.push(time);
        self.length.push(length);
        self.end.push(self.bytes.len() as u64);
    }

    pub fn len(&self) -> usize {
        self.kind.len()
    }

    pub fn is_empty(&self) -> bool {
        self.kind.is_empty()
    }

    /// The bytes, and a row a piece: `length` was sent, up to `end` of the bytes captured.
    pub fn into_arrow(self) -> Result<(UInt8Array, RecordBatch), ArrowError> {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("kind", Arc::new(UInt8Array::from(self.kind))),
            ("connection", Arc::new(UInt64Array::from(self.connection))),
            ("direction", Arc::new(UInt8Array::from(self.direction))),
            ("time_ns", Arc::new(Int64Array::from(self.time))),
            ("length", Arc::new(UInt64Array::from(self.length))),
            ("end", Arc::new(UInt64Array::from(self.end))),
        ];
        Ok((
            UInt8Array::from(self.bytes),
            RecordBatch::try_from_iter(columns)?,
        ))
    }
}

/// One connection that is handed over.
/// A connection whose bytes are handed over.
#[derive(Default)]
pub struct Handover {
    opened: bool,
}

impl Handover {
    pub fn feed(
        &mut self,
        server: bool,
        p: &Piece,
        cost: &mut Cost,
        cx: &mut Context,
        sink: &mut Sink,
    ) {
        if !self.opened {
            self.opened = true;
            let ends = cx.described();
            sink.pieces
                .push(OPENED, cx.id, 0, p.time, ends.as_bytes(), 0);
            sink.handed.insert(cx.id, Reading::new(cx.ends()));
        }
        let length = p.len as u64;
        let kind = if p.missing {
            MISSING
        } else {
            let (bytes, packets) = cost.take(p.len);
            if let Some(reading) = sink.handed.get_mut(&cx.id) {
                let offsets = &mut reading.offsets[usize::from(server)];
                offsets.add(length, p.time, bytes - length, packets);
            } else {
                sink.account.add(Cause::Unparsed, bytes); // not reached: it is there until it is closed
            }
            DATA
        };
        let seen = &p.data[..p.data.len().min(p.len)];
        sink.pieces
            .push(kind, cx.id, u8::from(server), p.time, seen, length);
    }

    pub fn close(&mut self, cx: &mut Context, sink: &mut Sink) {
        if self.opened {
            sink.pieces.push(CLOSED, cx.id, 0, 0, b"", 0);
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Waits for a response.
    Request,
    /// Answers the oldest request that waits.
    Response,
    /// A row of its own.
    Push,
    /// The connection's.
    Overhead,
}

/// The next `size` bytes of a direction's stream, and what they are. `protocol`: by its place in the options.
pub struct Message<'a> {
    pub kind: Kind,
    pub server: bool,
    pub size: u64,
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub endpoint: &'a [u8],
    pub status: i16,
    pub protocol: u8,
}

/// One connection that is handed over.
pub struct Reading {
    ends: Ends,
    addresses: Addresses,
    position: i32,
    pub offsets: [Offsets; 2],
    waiting: VecDeque<Box<Exchange>>,
    broken: bool,
}

impl Reading {
    pub fn new(ends: Ends) -> Self {
        Reading {
            ends,
            addresses: Addresses::default(),
            position: 0,
            offsets: Default::default(),
            waiting: VecDeque::new(),
            broken: false,
        }
    }

    fn push(&mut self, x: &Exchange, sink: &mut Sink) {
        sink.push(x, &self.ends, &mut self.addresses);
    }

    fn exchange(&mut self, m: &Message, sink: &Sink) -> Box<Exchange> {
        let mut x = Box::<Exchange>::default();
        x.protocol = Protocol::Plugin(m.protocol);
        x.stream = self.position;
        self.position = self.position.wrapping_add(1);
        x.denied = !sink.options.filters.passes_unknown();
        x.set_request([m.method, m.target, m.endpoint, b""]);
        x
    }

    /// Shows every exchange that waits for its response.
    pub fn each_open(&mut self, visit: &mut Visit) {
        for x in &mut self.waiting {
            visit(x, &self.ends);
        }
    }

    /// False: there are no such bytes.
    pub fn message(&mut self, m: &Message, sink: &mut Sink) -> bool {
        let offsets = &mut self.offsets[usize::from(m.server)];
        if self.broken || m.size == 0 || m.size > offsets.waiting() {
            return false;
        }
        let share = offsets.take(m.size);
        let link_bytes = m.size + share.overhead;
        if m.kind == Kind::Overhead {
            sink.account.add(Cause::ConnectionOverhead, link_bytes);
            return true;
        }
        let answered = match m.kind {
            Kind::Response => self.waiting.pop_front(),
            _ => None,
        };
        let mut x = answered.unwrap_or_else(|| self.exchange(m, sink));
        let side = Side {
            seen: true,
            done: true,
            whole: true,
            time: share.time,
            end: share.end,
            body: m.size,
            wire: m.size,
            packets: share.packets,
            ..Side::default()
        };
        x.link_bytes += link_bytes;
        if m.server {
            x.response = side;
            x.status = m.status as u16;
        } else {
            x.request = side;
        }
        if m.kind == Kind::Request {
            self.waiting.push_back(x);
            if self.waiting.len() > sink.options.max_pipeline {
                sink.account.bound_hits += 1;
                if let Some(mut oldest) = self.waiting.pop_front() {
                    oldest.flag(Anomaly::PipelineBound);
                    self.push(&oldest, sink);
                }
            }
            return true;
        }
        if m.kind == Kind::Push {
            (x.request.whole, x.response.whole) = (true, true);
        }
        self.push(&x, sink);
        true
    }

    /// The connection is not read any further; `missing` bytes of it were not captured.
    pub fn give_up(&mut self, missing: u64, sink: &mut Sink) {
        self.broken = true;
        for x in &mut self.waiting {
            x.missing += missing;
        }
        self.rest(sink);
    }

    /// Books what was handed over and is part of no message.
    pub fn rest(&mut self, sink: &mut Sink) {
        for offsets in &mut self.offsets {
            let left = offsets.waiting();
            let share = offsets.take(left);
            sink.account.add(Cause::Unparsed, left + share.overhead);
        }
    }

    /// The connection is over.
    pub fn close(&mut self, sink: &mut Sink) {
        self.rest(sink);
        while let Some(x) = self.waiting.pop_front() {
            self.push(&x, sink);
        }
    }
}
