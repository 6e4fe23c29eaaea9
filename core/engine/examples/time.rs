use replaykit_engine::{options::Options, Engine};
use std::io::Read;
fn main() {
    let mut f = std::fs::File::open(std::env::args().nth(1).unwrap()).unwrap();
    let mut e = Engine::new(Options::default());
    let mut buf = vec![0u8; 8 << 20];
    let mut have = 0;
    let mut busy = std::time::Duration::ZERO;
    let mut take = std::time::Duration::ZERO;
    loop {
        let n = f.read(&mut buf[have..(have + (1 << 20))]).unwrap();
        if n == 0 {
            break;
        }
        have += n;
        let t = std::time::Instant::now();
        let k = e.feed_file(&buf[..have]).unwrap();
        busy += t.elapsed();
        buf.copy_within(k..have, 0);
        have -= k;
        if e.rows() > 131072 {
            let t = std::time::Instant::now();
            e.take_exchanges().unwrap();
            take += t.elapsed();
        }
    }
    let t = std::time::Instant::now();
    e.finish();
    println!(
        "feed {busy:?} take {take:?} finish {:?} packets {} exchanges {}",
        t.elapsed(),
        e.account().packets,
        e.account().exchanges
    );
}
