//! Hands the bytes of a connection over to a plug-in.

use crate::account::Cause;
use crate::exchange::Ends;
use crate::plugin::pieces::{Reading, CLOSED, DATA, MISSING, OPENED};
use crate::protocol::{Context, Cost, Piece, ProtocolReader, Repeat, Sink, Visit};

/// A connection whose bytes are handed over.
#[derive(Default)]
pub struct Handover {
    opened: bool,
}

impl ProtocolReader for Handover {
    fn feed(
        &mut self,
        server: bool,
        piece: &Piece,
        cost: &mut Cost,
        context: &mut Context,
        sink: &mut Sink,
    ) {
        if !self.opened {
            self.opened = true;
            let ends = context.described();
            sink.pieces
                .push(OPENED, context.id, 0, piece.time, ends.as_bytes(), 0);
            sink.handed.insert(context.id, Reading::new(context.ends()));
        }
        let length = piece.len as u64;
        let kind = if piece.missing {
            MISSING
        } else {
            let (bytes, packets) = cost.take(piece.len);
            if let Some(reading) = sink.handed.get_mut(&context.id) {
                let offsets = &mut reading.offsets[usize::from(server)];
                offsets.add(length, piece.time, bytes - length, packets);
            } else {
                sink.account.add(Cause::Unparsed, bytes); // not reached: it is there until it is closed
            }
            DATA
        };
        let seen = piece.seen();
        sink.pieces
            .push(kind, context.id, u8::from(server), piece.time, seen, length);
    }

    fn repeated(&mut self, _server: bool, _repeat: &Repeat) -> bool {
        false
    }

    /// What plug-ins read is shown by their readings.
    fn each_open(&mut self, _ends: &Ends, _visit: &mut Visit) {}

    fn close(&mut self, _in_order: bool, context: &mut Context, sink: &mut Sink) {
        if self.opened {
            sink.pieces.push(CLOSED, context.id, 0, 0, b"", 0);
        }
    }
}
