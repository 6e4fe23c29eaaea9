//! replaykit's compiled engine: captured bytes in, Arrow columns out.
//!
//! No I/O, no clock, no unsafe code. `source` finds the packets, `link` the segments, `tcp` the
//! order, `connection`, `http1`, `http2` and `websocket` the messages, `exchange` measures, `account` sees to it that
//! every byte is booked. Each file has a twin in `replaykit/wire`, which is the specification.
#![forbid(unsafe_code)]
#![allow(clippy::too_many_arguments)] // one chunk of bytes is described by where, when, what it cost

pub mod account;
pub mod answer;
pub mod connection;
pub mod endpoint;
pub mod envelope;
pub mod exchange;
pub mod filter;
pub mod gor;
pub mod grpc;
pub mod head;
pub mod hpack;
pub mod http1;
pub mod http2;
pub mod link;
pub mod message;
pub mod modifier;
pub mod opaque;
pub mod options;
pub mod outgoing;
pub mod records;
pub mod source;
pub mod tap;
pub mod tcp;
pub mod websocket;

use account::{Account, Cause};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use connection::{Chunks, Http, Sink, State};
use exchange::Columns;
use hashbrown::HashMap;
use http1::Memos;
use link::{Addr, Decoded, Decoder, Whole};
use message::Messages;
use options::Options;
use source::{Block, Broken, File, Step};
use tap::Pieces;
use tcp::Table;

pub struct Engine {
    decoder: Decoder,
    table: Table,
    sink: Sink,
    file: File,
    conversations: gor::Conversations,
    /// Connections whose plaintext comes from above.
    plain: HashMap<u64, Http>,
}

impl Engine {
    pub fn new(options: Options) -> Self {
        Engine {
            decoder: Decoder::new(options.vxlan.clone()),
            table: Table::new(&options.ports, options.first_connection),
            file: File::default(),
            conversations: gor::Conversations::default(),
            plain: HashMap::default(),
            sink: Sink {
                columns: Columns::new(options.weight),
                options,
                messages: Messages::default(),
                account: Account::default(),
                buffered: 0,
                memos: Memos::default(),
                pieces: Pieces::default(),
            },
        }
    }

    /// Begins another capture file; connections go on.
    pub fn next_file(&mut self) {
        self.file = File::default();
    }

    /// Reads whole records of a capture file from `b`; returns how many bytes they took. The rest
    /// is to be given again with what follows it.
    pub fn feed_file(&mut self, b: &[u8]) -> Result<usize, Broken> {
        let mut at = 0;
        loop {
            match self.file.step(b, at)? {
                Step::Packet(r, next) => {
                    let frame = &b[r.start..r.end];
                    self.packet(link::network(r.link, frame), r.time, r.orig, frame);
                    at = next;
                }
                Step::Skip(next) => at = next,
                Step::More => {
                    self.file.offset += at as u64;
                    return Ok(at);
                }
            }
        }
    }

    /// Reads whole records of a .gor file; returns how many bytes they took. `last`: nothing follows.
    pub fn feed_gor(&mut self, b: &[u8], last: bool) -> usize {
        self.conversations.feed(b, last, &mut self.sink)
    }

    /// Takes messages whose places are known.
    pub fn feed_rows(&mut self, rows: &message::Rows) {
        self.conversations.feed_rows(rows, &mut self.sink);
    }

    /// Records of .gor input that were none.
    pub fn bad_records(&self) -> u64 {
        self.conversations.bad
    }

    /// Reads a TPACKET_V3 block; returns its packets.
    pub fn feed_block(&mut self, block: &[u8]) -> usize {
        let mut n = 0;
        for live in Block::new(block) {
            let r = live.record;
            let frame = &block[r.start..r.end];
            self.packet(Some((live.ethertype, live.network)), r.time, r.orig, frame);
            n += 1;
        }
        n
    }

    /// Reads one packet of a link type.
    pub fn feed_packet(&mut self, link: u32, time: i64, orig: u64, frame: &[u8]) {
        self.packet(
            link::network(link, frame),
            time,
            orig.max(frame.len() as u64),
            frame,
        );
    }

    #[inline]
    fn packet(&mut self, entry: Option<(u16, usize)>, time: i64, orig: u64, frame: &[u8]) {
        self.sink.account.packets += 1;
        self.sink.account.bytes += orig;
        let mut lost = 0;
        match self.decoder.decode(entry, time, orig, frame, &mut lost) {
            Decoded::Tcp(segment) => self.table.segment(&segment, &mut self.sink),
            Decoded::Other(cause) => self.sink.account.add(cause, orig),
            Decoded::Held => {}
            Decoded::Whole(datagram) => self.datagram(&datagram, time, &mut lost),
        }
        self.sink.account.add(Cause::Gap, lost);
    }

    /// A datagram that came in fragments; what it carries may be in fragments again.
    fn datagram(&mut self, datagram: &Whole, time: i64, lost: &mut u64) {
        match self.decoder.inside(datagram, time, lost) {
            Decoded::Tcp(segment) => self.table.segment(&segment, &mut self.sink),
            Decoded::Other(cause) => self.sink.account.add(cause, datagram.size),
            Decoded::Held => {}
            Decoded::Whole(inner) => self.datagram(&inner, time, lost),
        }
    }

    /// Tells the time of a live capture, in ns since the epoch.
    pub fn advance(&mut self, now: i64) {
        self.table.advance(now, &mut self.sink);
    }

    /// Ends every connection; afterwards every byte is booked.
    pub fn finish(&mut self) {
        self.table.finish(&mut self.sink);
        self.conversations.finish(&mut self.sink);
        let lost = self.decoder.finish();
        self.sink.account.add(Cause::Gap, lost);
    }

    pub fn rows(&self) -> usize {
        self.sink.columns.rows
    }

    pub fn take_exchanges(&mut self) -> Result<RecordBatch, ArrowError> {
        self.sink.columns.take()
    }

    pub fn take_messages(&mut self) -> Messages {
        let next = self.sink.messages.alike();
        std::mem::replace(&mut self.sink.messages, next)
    }

    /// What is to be read above the engine, see `tap`.
    pub fn take_pieces(&mut self) -> Pieces {
        std::mem::take(&mut self.sink.pieces)
    }

    /// Pieces that wait to be taken.
    pub fn pieces(&self) -> usize {
        self.sink.pieces.len()
    }

    /// A connection whose plaintext will be fed: its ends, client first, and the protocol inside.
    pub fn open_plain(&mut self, connection: u64, ends: [(Addr, u16); 2], alpn: &[u8]) {
        let mut http = Http::new(connection, ends, 0, State::Idle);
        http.secure(alpn);
        self.plain.insert(connection, http);
    }

    /// Bytes that were handed over, read as this connection's plaintext; `overhead` beside them.
    pub fn feed_plain(
        &mut self,
        connection: u64,
        server: bool,
        time: i64,
        data: &[u8],
        overhead: u64,
        packets: u32,
    ) {
        let Some(http) = self.plain.get_mut(&connection) else {
            return;
        };
        let chunks = Chunks {
            data,
            len: data.len(),
            time,
            seq: 0,
            ack: None,
            overhead,
            packets,
        };
        http.feed(usize::from(server), &chunks, &mut self.sink);
    }

    /// `length` bytes of a connection's plaintext will never be seen.
    pub fn gap_plain(&mut self, connection: u64, server: bool, length: u32) {
        if let Some(http) = self.plain.get_mut(&connection) {
            http.gap(usize::from(server), 0, length, &mut self.sink);
        }
    }

    /// A connection whose plaintext was fed is over.
    pub fn close_plain(&mut self, connection: u64) {
        if let Some(mut http) = self.plain.remove(&connection) {
            for d in 0..2 {
                http.end(d, &mut self.sink);
            }
            http.close(false, &mut self.sink);
        }
    }

    /// Books bytes that were handed over: to a cause, or to exchanges made above the engine.
    pub fn book(&mut self, cause: Option<Cause>, bytes: u64, exchanges: u64, incomplete: u64) {
        let account = &mut self.sink.account;
        match cause {
            Some(cause) => account.add(cause, bytes),
            None => account.exchange_bytes += bytes,
        }
        account.exchanges += exchanges;
        account.incomplete += incomplete;
    }

    pub fn message_bytes(&self) -> usize {
        self.sink.messages.gor.len()
    }

    pub fn account(&self) -> &Account {
        &self.sink.account
    }

    /// Connections in the table, and bytes in all buffers.
    pub fn held(&self) -> (usize, usize) {
        (self.table.live(), self.sink.buffered)
    }
}

/// A loop that only walks a capture file's headers: the floor that benchmarks compare with.
pub fn walk(b: &[u8], totals: &mut [u64; 3], file: &mut File) -> Result<usize, Broken> {
    let mut at = 0;
    let mut decoder = Decoder::default();
    loop {
        match file.step(b, at)? {
            Step::Packet(r, next) => {
                let frame = &b[r.start..r.end];
                let mut lost = 0;
                totals[0] += 1;
                totals[1] += r.orig;
                if let Decoded::Tcp(s) = decoder.decode(
                    link::network(r.link, frame),
                    r.time,
                    r.orig,
                    frame,
                    &mut lost,
                ) {
                    totals[2] += u64::from(s.len);
                }
                at = next;
            }
            Step::Skip(next) => at = next,
            Step::More => {
                file.offset += at as u64;
                return Ok(at);
            }
        }
    }
}
