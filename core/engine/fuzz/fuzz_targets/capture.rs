//! Any bytes as a capture file: no crash, and every byte booked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use replaykit_engine::options::Options;
use replaykit_engine::Engine;

fuzz_target!(|data: &[u8]| {
    let options = Options { requests: true, responses: true, ..Options::default() };
    let mut engine = Engine::new(options);
    let _ = engine.feed_file(data);
    engine.finish();
    assert_eq!(engine.account().pending_bytes(), 0);
    assert_eq!(engine.held(), (0, 0));
    engine.take_exchanges().expect("columns of equal length");
});
