//! The engine without Python: packets in, columns and counters out.

mod packets;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use packets::frame;
use replaykit_engine::http1::body::{self, Chunk};
use replaykit_engine::http1::head::{Length, Parsed};
use replaykit_engine::http1::syntax;
use replaykit_engine::options::Options;
use replaykit_engine::Engine;

fn feed(engine: &mut Engine, frames: &[Vec<u8>]) {
    for (i, f) in frames.iter().enumerate() {
        engine.feed_packet(1, i as i64 * 1000, f.len() as u64, f);
    }
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn conversation() -> Vec<Vec<u8>> {
    let (q, r) = (GET.len() as u32, OK.len() as u32);
    vec![
        frame(true, 99, 0, 2, b""),
        frame(false, 499, 100, 18, b""),
        frame(true, 100, 500, 24, GET),
        frame(false, 500, 100 + q, 24, OK),
        frame(true, 100 + q, 500 + r, 17, b""),
        frame(false, 500 + r, 101 + q, 17, b""),
    ]
}

#[test]
fn an_exchange_is_measured_and_every_byte_booked() {
    let mut engine = Engine::new(Options::default());
    feed(&mut engine, &conversation());
    engine.finish();
    let account = engine.account().clone();
    assert_eq!(
        (account.packets, account.exchanges, account.pending_bytes()),
        (6, 1, 0)
    );
    assert_eq!(account.exchange_bytes, (GET.len() + OK.len() + 108) as u64);
    let batch = engine.take_exchanges().unwrap();
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .unwrap()
            .as_primitive::<Int64Type>()
            .value(0)
    };
    assert_eq!(column("request_header_bytes"), GET.len() as i64);
    assert_eq!(column("response_body_bytes"), 5);
    assert_eq!(column("duration_ns"), 1000);
}

#[test]
fn order_does_not_matter() {
    let frames = conversation();
    for turn in 0..frames.len() {
        let mut turned = frames.clone();
        turned.rotate_left(turn);
        let mut engine = Engine::new(Options::default());
        feed(&mut engine, &turned);
        engine.finish();
        assert_eq!(
            (engine.account().exchanges, engine.account().incomplete),
            (1, 0),
            "turned by {turn}"
        );
    }
}

#[test]
fn messages_are_gor_records() {
    let options = Options {
        requests: true,
        responses: true,
        ..Options::default()
    };
    let mut engine = Engine::new(options);
    feed(&mut engine, &conversation());
    let messages = engine.take_messages();
    assert_eq!(messages.kind, [1, 2]);
    let text = String::from_utf8(messages.gor).unwrap();
    assert!(text.starts_with("1 0fa000500a000001000001f4 2000 0\nGET /a"));
    assert!(text.ends_with("hello\n🐵🙈🙉\n"));
}

#[test]
fn a_head_is_read_the_same_however_long_it_is() {
    for pad in 0..80 {
        let head = format!(
            "GET /x HTTP/1.1\r\nX-Pad: {}\r\nHost: example\r\nContent-Length: 7\r\n\r\n",
            "p".repeat(pad)
        );
        let Parsed::Whole(parsed, n) = syntax::parse(head.as_bytes(), false) else {
            panic!("{head:?}");
        };
        assert_eq!(
            (n, parsed.host, parsed.length),
            (head.len(), &b"example"[..], Length::Some(7))
        );
        for cut in 1..head.len() {
            assert!(matches!(
                syntax::parse(&head.as_bytes()[..cut], false),
                Parsed::Partial
            ));
        }
    }
}

#[test]
fn chunks_may_be_cut_anywhere() {
    let body = b"5;name=value\r\nhello\r\n0\r\nTrailer: x\r\n\r\n";
    for cut in 0..body.len() {
        let mut state = Chunk::Size(0, 0);
        let first = body::chunk(&mut state, &body[..cut]);
        let second = body::chunk(&mut state, &body[cut..]);
        assert_eq!(
            (first.bytes, first.content + second.content, second.end),
            (cut, 5, true)
        );
    }
}
