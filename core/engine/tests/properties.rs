//! What holds for every conversation: each byte is booked once, however it is cut, lost, repeated or turned around.

mod packets;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use packets::{capture, frame, Frame};
use proptest::prelude::*;
use replaykit_engine::options::Options;
use replaykit_engine::Engine;
use std::collections::BTreeMap;

/// One exchange: the sizes of the bodies, and how the response says where its ends.
#[derive(Clone, Debug)]
struct Ask {
    body: usize,
    answer: usize,
    chunked: bool,
}

impl Ask {
    fn request(&self, n: usize) -> Vec<u8> {
        let head = format!(
            "POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            self.body
        );
        [head.as_bytes(), &vec![b'q'; self.body]].concat()
    }

    fn response(&self) -> Vec<u8> {
        let body = vec![b'a'; self.answer];
        if !self.chunked {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.answer);
            return [head.as_bytes(), &body].concat();
        }
        let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in body.chunks(300) {
            out.extend(format!("{:x}\r\n", piece.len()).bytes());
            out.extend(piece);
            out.extend(b"\r\n");
        }
        out.extend(b"0\r\n\r\n");
        out
    }
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = (0usize..2000, 0usize..4000, any::<bool>());
    let ask = ask.prop_map(|(body, answer, chunked)| Ask {
        body,
        answer,
        chunked,
    });
    prop::collection::vec(ask, 1..6)
}

/// The packets of a connection; each side's bytes are cut by `cuts`, over and over.
fn conversation(asks: &[Ask], cuts: &[usize]) -> Vec<Frame> {
    let mut cuts = cuts.iter().cycle();
    let (mut client, mut server) = (100u32, 500u32);
    let mut out = vec![frame(true, 99, 0, 2, b""), frame(false, 499, 100, 18, b"")];
    for (n, ask) in asks.iter().enumerate() {
        for (to_server, bytes) in [(true, ask.request(n)), (false, ask.response())] {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                let (seq, ack) = if to_server {
                    (client, server)
                } else {
                    (server, client)
                };
                out.push(frame(to_server, seq, ack, 24, piece));
                if to_server {
                    client += piece.len() as u32;
                } else {
                    server += piece.len() as u32;
                }
                rest = later;
            }
        }
    }
    out.push(frame(true, client, server, 17, b""));
    out.push(frame(false, server, client + 1, 17, b""));
    out
}

const COLUMNS: [&str; 7] = [
    "request_header_bytes",
    "request_body_bytes",
    "request_wire_bytes",
    "response_header_bytes",
    "response_body_bytes",
    "response_wire_bytes",
    "link_bytes",
];

fn column(batch: &RecordBatch, name: &str) -> Vec<i64> {
    let found = batch.column_by_name(name).unwrap();
    let numbers = found.as_primitive::<Int64Type>();
    (0..numbers.len())
        .map(|i| {
            if numbers.is_valid(i) {
                numbers.value(i)
            } else {
                0
            }
        })
        .collect()
}

fn numbers(batch: &RecordBatch) -> Vec<u64> {
    let found = batch.column_by_name("exchange").unwrap();
    found.as_primitive::<UInt64Type>().values().to_vec()
}

/// Ends the engine; its books must balance. The rows' sizes without what packets add.
fn rows(engine: &mut Engine, captured: u64) -> Vec<Vec<i64>> {
    engine.finish();
    let account = engine.account().clone();
    assert_eq!((account.bytes, account.pending_bytes()), (captured, 0));
    let batch = engine.take_exchanges().unwrap();
    let link: i64 = column(&batch, "link_bytes").iter().sum();
    assert_eq!(link as u64, account.exchange_bytes);
    let columns: Vec<_> = COLUMNS[..6]
        .iter()
        .map(|name| column(&batch, name))
        .collect();
    (0..batch.num_rows())
        .map(|i| columns.iter().map(|c| c[i]).collect())
        .collect()
}

fn fed(frames: &[Frame], options: Options) -> Engine {
    let mut engine = Engine::new(options);
    for (i, f) in frames.iter().enumerate() {
        engine.feed_packet(1, i as i64 * 1000, f.len() as u64, f);
    }
    engine
}

fn size(frames: &[Frame]) -> u64 {
    frames.iter().map(|f| f.len() as u64).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn segments_make_no_difference(asks in asks(), cuts in prop::collection::vec(1usize..1500, 1..20)) {
        let (one, other) = (conversation(&asks, &[1460]), conversation(&asks, &cuts));
        let found = rows(&mut fed(&one, Options::default()), size(&one));
        prop_assert_eq!(found.len(), asks.len());
        for (row, ask) in found.iter().zip(&asks) {
            prop_assert_eq!((row[1], row[4]), (ask.body as i64, ask.answer as i64));
        }
        prop_assert_eq!(found, rows(&mut fed(&other, Options::default()), size(&other)));
    }

    #[test]
    fn pieces_of_a_file_make_no_difference(asks in asks(), cuts in prop::collection::vec(1usize..900, 1..30)) {
        let frames = conversation(&asks, &[700]);
        let file = capture(&frames);
        let mut whole = Engine::new(Options::default());
        prop_assert_eq!(whole.feed_file(&file).unwrap(), file.len());
        let (mut engine, mut held) = (Engine::new(Options::default()), Vec::new());
        let (mut rest, mut cuts) = (&file[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            held.extend(piece);
            held.drain(..engine.feed_file(&held).unwrap());
            rest = later;
        }
        prop_assert!(held.is_empty());
        prop_assert_eq!(rows(&mut engine, size(&frames)), rows(&mut whole, size(&frames)));
    }

    #[test]
    fn turned_around_it_is_the_same(asks in asks(), swaps in prop::collection::vec((2usize..60, 0usize..4), 0..8)) {
        let frames = conversation(&asks, &[900]);
        let mut turned = frames.clone();
        for (at, by) in swaps {
            if at + by < turned.len() - 2 {
                turned.swap(at, at + by);
            }
        }
        let found = rows(&mut fed(&turned, Options::default()), size(&turned));
        prop_assert_eq!(rows(&mut fed(&frames, Options::default()), size(&frames)), found);
    }

    #[test]
    fn whatever_happens_every_byte_is_booked_and_increments_add_up(
        asks in asks(),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        cut in prop::collection::vec((any::<prop::sample::Index>(), 0usize..1500), 0..3),
    ) {
        let mut frames: Vec<(Frame, u64)> =
            conversation(&asks, &[1200]).into_iter().map(|f| { let n = f.len() as u64; (f, n) }).collect();
        for at in again {
            let at = at.index(frames.len());
            frames.insert((at + 3).min(frames.len()), frames[at].clone());
        }
        for at in lost {
            frames.remove(at.index(frames.len()));
        }
        for (at, keep) in cut {
            if !frames.is_empty() {
                let at = at.index(frames.len());
                frames[at].0.truncate(keep);
            }
        }
        let options = Options { slice_ns: 3000, ..Options::default() };
        let mut engine = Engine::new(options);
        for (i, (f, orig)) in frames.iter().enumerate() {
            engine.feed_packet(1, i as i64 * 1000, *orig, f);
        }
        engine.finish();
        let account = engine.account().clone();
        prop_assert_eq!(account.bytes, frames.iter().map(|f| f.1).sum::<u64>());
        prop_assert_eq!(account.pending_bytes(), 0);
        // The increments of an exchange are its row.
        let (batch, moved) = (engine.take_exchanges().unwrap(), engine.take_increments().unwrap());
        for name in COLUMNS {
            let mut sums: BTreeMap<u64, i64> = BTreeMap::new();
            for (number, n) in numbers(&moved).into_iter().zip(column(&moved, name)) {
                *sums.entry(number).or_default() += n;
            }
            let mut known: BTreeMap<u64, i64> = BTreeMap::new();
            for (number, n) in numbers(&batch).into_iter().zip(column(&batch, name)) {
                if number > 0 {
                    known.insert(number, n);
                }
            }
            prop_assert_eq!(sums, known, "{}", name);
        }
    }
}
