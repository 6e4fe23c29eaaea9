//! replaykit's compiled engine: captured bytes in, Arrow columns out.
//!
//! No I/O, no clock, no unsafe code. `bytes` finds packets and segments, `tcp` their order; `http1` reads what is
//! said and hands on what is spoken otherwise (`http2`, `websocket`, `tls`, `tunnel`, `plugin`, `opaque`), each through
//! the traits of `protocol`; `exchange` measures, `increment` tells what has moved, `account` sees to it that every byte is booked.
#![forbid(unsafe_code)]

pub mod account;
pub mod anomaly;
pub mod bytes;
pub mod client_from;
pub mod dealer;
pub mod endpoint;
pub mod exchange;
pub mod filter;
pub mod gor;
mod grpc;
pub mod http1;
mod http2;
pub mod increment;
mod opaque;
pub mod options;
pub mod plugin;
pub mod protocol;
mod proxy_protocol;
mod tcp;
pub mod tls;
mod tunnel;
mod websocket;

use account::{Account, Cause};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use bytes::copies::Copies;
use bytes::decode::{Decoded, Decoder, Whole};
use bytes::link;
use bytes::segment::{Addr, Segment};
use bytes::source::Broken;
use bytes::source::{Block, File, Found};
use exchange::columns::{Addresses, Columns};
use exchange::{Counted, Ends, Exchange};
use gor::conversations::Conversations;
use gor::message;
use gor::message::Messages;
use hashbrown::{HashMap, HashSet};
use http1::connection::{Http, State};
use http1::memo::Memos;
use increment::{Clock, Increments};
use options::Options;
use plugin::pieces::Pieces;
use plugin::pieces::Reading;
use plugin::reading::Message;
use protocol::{Cost, Piece, Sink};
use tcp::table::Table;

pub struct Engine {
    decoder: Decoder,
    table: Table,
    sink: Sink,
    file: File,
    conversations: Conversations,
    streams: HashMap<u64, Http>,
    copies: Copies,
}

impl Engine {
    pub fn new(options: Options) -> Self {
        Engine {
            decoder: Decoder::new(options.vxlan.clone()),
            table: Table::new(&options.ports, options.first_connection),
            file: File::default(),
            conversations: Conversations::default(),
            streams: HashMap::default(),
            copies: Copies::default(),
            sink: Sink {
                columns: Columns::new(&options, options.slice_ns > 0),
                messages: Messages::default(),
                account: Account::default(),
                buffered: 0,
                memos: Memos::default(),
                pieces: Pieces::default(),
                keys: tls::keys::KeyLog::default(),
                tls_read: 0,
                handed: HashMap::default(),
                increments: Increments::new(&options),
                clock: Clock::new(options.slice_ns),
                numbered: 0,
                options,
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
        let mut file = std::mem::take(&mut self.file);
        let end = file.each(b, |found| match found {
            Found::Packet(r) => {
                let frame = &b[r.start..r.end];
                self.packet(link::network(r.link, frame), r.time, r.orig, frame);
            }
            Found::Secrets(keys) => self.add_keys(&b[keys], false),
        });
        self.file = file;
        end
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
        if self.sink.clock.ends_before(time) {
            self.cut(time);
        }
        self.sink.account.packets += 1;
        self.sink.account.bytes += orig;
        let mut lost = 0;
        match self.decoder.decode(entry, time, orig, frame, &mut lost) {
            Decoded::Tcp(segment) => self.segment(&segment, orig),
            Decoded::Other(cause) => self.sink.account.add(cause, orig),
            Decoded::Held => {}
            Decoded::Whole(datagram) => self.datagram(&datagram, time, &mut lost),
        }
        self.sink.account.add(Cause::Gap, lost);
    }

    #[inline]
    fn segment(&mut self, segment: &Segment, orig: u64) {
        if self.copies.is_copy(segment) {
            self.sink.account.add(Cause::Copy, orig);
        } else {
            self.table.segment(segment, &mut self.sink);
        }
    }

    /// A segment that a dealer found.
    #[inline]
    fn dealt_segment(&mut self, segment: &Segment) {
        let size = segment.overhead + u64::from(segment.len);
        self.dealt(segment.time, size, segment.packets);
        self.segment(segment, size);
    }

    /// A datagram with a segment in it.
    fn dealt_datagram(&mut self, datagram: &Whole, time: i64) {
        self.dealt(time, datagram.size, datagram.packets);
        self.datagram(datagram, time, &mut 0);
    }

    #[inline]
    fn dealt(&mut self, time: i64, size: u64, packets: u32) {
        if self.sink.clock.ends_before(time) {
            self.cut(time);
        }
        self.sink.account.packets += u64::from(packets);
        self.sink.account.bytes += size;
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
        if self.sink.clock.ends_before(now) {
            self.cut(now);
        }
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

    /// A slice has ended; `time` is in the next one.
    #[cold]
    fn cut(&mut self, time: i64) {
        let Engine { table, sink, .. } = self;
        table.each_open(&mut |x, ends| sink.increment(x, ends));
        let mut handed = std::mem::take(&mut sink.handed);
        for reading in handed.values_mut() {
            reading.each_open(&mut |x, ends| sink.increment(x, ends));
        }
        sink.handed = handed;
        sink.clock.begin(time);
    }

    /// What exchanges in flight moved in the slices that have ended since the last time, and at their own end.
    pub fn take_increments(&mut self) -> Result<RecordBatch, ArrowError> {
        self.sink.increments.take()
    }

    /// Increments to take.
    pub fn increments(&self) -> usize {
        self.sink.increments.len()
    }

    /// Every exchange that is in flight, with what it has moved until now.
    pub fn in_flight(&mut self) -> Result<RecordBatch, ArrowError> {
        let options = &self.sink.options;
        let mut columns = Columns::new(options, false);
        let mut add = |x: &mut Exchange, ends: &Ends| {
            if !x.denied {
                let all = Counted::default();
                columns.push(x, &all, ends, &mut Addresses::default(), options);
            }
        };
        self.table.each_open(&mut add);
        for reading in self.sink.handed.values_mut() {
            reading.each_open(&mut add);
        }
        columns.take()
    }

    pub fn take_messages(&mut self) -> Messages {
        let next = self.sink.messages.alike();
        std::mem::replace(&mut self.sink.messages, next)
    }

    /// What plug-ins are to read.
    pub fn take_pieces(&mut self) -> Pieces {
        std::mem::take(&mut self.sink.pieces)
    }

    /// Pieces that wait to be taken.
    pub fn pieces(&self) -> usize {
        self.sink.pieces.len()
    }

    /// A stream whose bytes are fed as they are, without packets: its ends, client first.
    pub fn open_stream(&mut self, connection: u64, ends: [(Addr, u16); 2]) {
        self.streams
            .insert(connection, Http::new(connection, ends, 0, State::Idle));
    }

    /// Bytes of a stream, in order.
    pub fn feed_stream(&mut self, connection: u64, server: bool, time: i64, data: &[u8]) {
        let Some(http) = self.streams.get_mut(&connection) else {
            return;
        };
        self.sink.account.bytes += data.len() as u64;
        let mut free = Cost::new(0, 0);
        http.feed(
            usize::from(server),
            &Piece::of(data, time),
            &mut free,
            &mut self.sink,
        );
    }

    /// Both sides of a stream have ended.
    pub fn close_stream(&mut self, connection: u64) {
        if let Some(mut http) = self.streams.remove(&connection) {
            http.end_both(&mut self.sink);
        }
    }

    /// More of a key log; `restart`: the log was begun anew. TLS that waited goes on.
    pub fn add_keys(&mut self, bytes: &[u8], restart: bool) {
        let before = self.sink.keys.added;
        self.sink.keys.feed(bytes, restart);
        if self.sink.keys.added > before {
            self.table.secrets_added(&mut self.sink);
        }
    }

    /// Notes the client randoms of TLS connections from now on, for `noted_randoms`.
    pub fn note_randoms(&mut self) {
        self.sink.keys.noted = Some(HashSet::new());
    }

    /// The client randoms that were noted, one after the other.
    pub fn noted_randoms(&self) -> Vec<u8> {
        self.sink
            .keys
            .noted
            .iter()
            .flatten()
            .flatten()
            .copied()
            .collect()
    }

    /// Begins the key log anew, of which only the secrets of these client randoms are kept.
    pub fn keep_keys_of(&mut self, randoms: &[u8]) {
        self.sink.keys.begin_with(randoms);
    }

    /// Secrets that were forgotten for newer ones.
    pub fn keys_forgotten(&self) -> u64 {
        self.sink.keys.forgotten
    }

    /// Secrets that were added, and TLS connections that were read with them.
    pub fn keys(&self) -> (u64, u64) {
        (self.sink.keys.added, self.sink.tls_read)
    }

    /// A plug-in has read a message of a connection; false: there are no such bytes.
    pub fn plugin_message(&mut self, connection: u64, message: &Message) -> bool {
        self.with_reading(connection, |reading, sink| reading.message(message, sink))
            .unwrap_or(false)
    }

    /// A plug-in reads a connection no further; `missing` bytes were not captured.
    pub fn plugin_give_up(&mut self, connection: u64, missing: u64) {
        self.with_reading(connection, |reading, sink| reading.give_up(missing, sink));
    }

    /// Books what was handed over of a connection that no plug-in reads any further.
    pub fn plugin_rest(&mut self, connection: u64) {
        self.with_reading(connection, |reading, sink| reading.rest(sink));
    }

    /// A connection that was handed over has ended, and its plug-in with it.
    pub fn plugin_close(&mut self, connection: u64) {
        self.with_reading(connection, |reading, sink| reading.close(sink));
        self.sink.handed.remove(&connection);
    }

    fn with_reading<T>(
        &mut self,
        connection: u64,
        work: impl FnOnce(&mut Reading, &mut Sink) -> T,
    ) -> Option<T> {
        let mut reading = self.sink.handed.remove(&connection)?;
        let out = work(&mut reading, &mut self.sink);
        self.sink.handed.insert(connection, reading);
        Some(out)
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
    let mut decoder = Decoder::default();
    file.each(b, |found| {
        let Found::Packet(r) = found else {
            return;
        };
        let frame = &b[r.start..r.end];
        let network = link::network(r.link, frame);
        totals[0] += 1;
        totals[1] += r.orig;
        if let Decoded::Tcp(s) = decoder.decode(network, r.time, r.orig, frame, &mut 0) {
            totals[2] += u64::from(s.len);
        }
    })
}
