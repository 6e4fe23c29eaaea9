//! What is handed over to protocol plug-ins, and what is known of a connection that they read.

use crate::bytes::offsets::Offsets;
use crate::exchange::columns::Addresses;
use crate::exchange::{Ends, Exchange};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt64Array, UInt8Array};
use arrow_schema::ArrowError;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a piece is; the column `kind`.
pub const OPENED: u8 = 0;
pub const DATA: u8 = 1;
/// Bytes that the capture never held.
pub const MISSING: u8 = 2;
pub const CLOSED: u8 = 3;

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
    /// `length` bytes were sent; `bytes` were captured of them.
    pub fn push(
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
pub struct Reading {
    pub ends: Ends,
    pub addresses: Addresses,
    pub position: i32,
    pub offsets: [Offsets; 2],
    pub waiting: VecDeque<Box<Exchange>>,
    pub broken: bool,
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
}
