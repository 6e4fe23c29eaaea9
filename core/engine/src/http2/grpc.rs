//! gRPC's length-prefixed messages in the data of one direction of a stream.
//!
//! Owns counting them (gRPC over HTTP/2, "Length-Prefixed-Message"): a flag, four bytes of length,
//! the message. Nothing is kept.

#[derive(Default)]
pub struct Grpc {
    head: [u8; 5],
    have: u8,
    left: u32,
    /// Messages begun, and their bytes without the prefix, as sent.
    pub messages: i64,
    pub bytes: i64,
    /// Data was not seen: what follows cannot be told apart.
    pub lost: bool,
}

impl Grpc {
    /// `n` bytes, of which `seen` were captured.
    pub fn feed(&mut self, seen: &[u8], n: usize) {
        let mut at = 0;
        while at < n && !self.lost {
            if self.left > 0 {
                let k = (self.left as usize).min(n - at);
                self.left -= k as u32;
                self.bytes += k as i64;
                at += k;
                continue;
            }
            let Some(&byte) = seen.get(at) else {
                self.lost = true;
                return;
            };
            self.head[usize::from(self.have)] = byte;
            self.have += 1;
            at += 1;
            if self.have == 5 {
                let [_, a, b, c, d] = self.head;
                self.left = u32::from_be_bytes([a, b, c, d]);
                self.have = 0;
                self.messages += 1;
            }
        }
    }
}
