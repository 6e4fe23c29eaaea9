//! Streams that are read above the engine: TLS with keys, protocol plug-ins.
//!
//! Owns the buffer in which in-order bytes are handed over. What is handed over stays pending in the
//! account until the reader books it.

use crate::connection::{Context, Cost, Piece, Sink};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt64Array, UInt8Array};
use arrow_schema::ArrowError;
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
    overhead: Vec<u64>,
    packets: Vec<u64>,
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
        cost: (u64, u64),
    ) {
        self.bytes.extend_from_slice(bytes);
        self.kind.push(kind);
        self.connection.push(connection);
        self.direction.push(direction);
        self.time.push(time);
        self.length.push(length);
        self.overhead.push(cost.0);
        self.packets.push(cost.1);
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
            ("overhead", Arc::new(UInt64Array::from(self.overhead))),
            ("packets", Arc::new(UInt64Array::from(self.packets))),
            ("end", Arc::new(UInt64Array::from(self.end))),
        ];
        Ok((
            UInt8Array::from(self.bytes),
            RecordBatch::try_from_iter(columns)?,
        ))
    }
}

/// One connection that is handed over.
#[derive(Default)]
pub struct Tap {
    opened: bool,
}

impl Tap {
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
                .push(OPENED, cx.id, 0, p.time, ends.as_bytes(), 0, (0, 0));
        }
        let (kind, cost) = if p.missing {
            (MISSING, (0, 0))
        } else {
            let (bytes, packets) = cost.take(p.len);
            (DATA, (bytes - p.len as u64, packets))
        };
        let seen = &p.data[..p.data.len().min(p.len)];
        let length = p.len as u64;
        sink.pieces
            .push(kind, cx.id, u8::from(server), p.time, seen, length, cost);
    }

    pub fn close(&mut self, cx: &mut Context, sink: &mut Sink) {
        if self.opened {
            sink.pieces.push(CLOSED, cx.id, 0, 0, b"", 0, (0, 0));
        }
    }
}
