//! gRPC's length-prefixed messages in one direction of a call.
//!
//! Owns counting them (gRPC over HTTP/2, "Length-Prefixed-Message"): a flag, four bytes of length, the message; and
//! gRPC-Web's last frame, which holds the trailers. Nothing else is kept.

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

const PREFIX: usize = 5;
/// The flag of gRPC-Web's frame of trailers.
const TRAILERS: u8 = 0x80;
const MAX_TRAILERS: usize = 4096;

/// Base64 as it comes, four characters at a time: each part of a gRPC-Web-Text stream may end with padding of its own.
#[derive(Default)]
struct Text {
    group: [u8; 4],
    have: usize,
}

impl Text {
    fn decode(&mut self, b: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(b.len() / 4 * 3 + 3);
        for &c in b.iter().filter(|c| !c.is_ascii_whitespace()) {
            self.group[self.have] = c;
            self.have += 1;
            if self.have == 4 {
                self.have = 0;
                out.extend_from_slice(&STANDARD.decode(self.group).ok()?);
            }
        }
        Some(out)
    }
}

#[derive(Default)]
pub struct Grpc {
    head: [u8; PREFIX],
    have: u8,
    left: u32,
    /// Messages begun, and their bytes without the prefix, as sent.
    pub messages: i64,
    pub bytes: i64,
    /// Data was not seen: what follows cannot be told apart.
    pub lost: bool,
    text: Option<Text>,
    trailers: Vec<u8>,
    in_trailers: bool,
}

/// The number of a `grpc-status` field.
pub fn status(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let sound = (1..=3).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    sound.then(|| text.parse().ok())?
}

/// Whether a message of this content type is gRPC's.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'-')))
}

impl Grpc {
    /// None where the content type says that there are no such messages.
    pub fn new(content_type: &[u8]) -> Option<Self> {
        is_grpc(content_type).then(|| Grpc {
            text: content_type
                .starts_with(b"application/grpc-web-text")
                .then(Text::default),
            ..Grpc::default()
        })
    }

    /// `n` bytes, of which `seen` were captured.
    pub fn feed(&mut self, seen: &[u8], n: usize) {
        let Some(text) = &mut self.text else {
            return self.frames(seen, n);
        };
        match text.decode(seen) {
            Some(plain) if seen.len() == n => self.frames(&plain, plain.len()),
            _ => self.lost = true,
        }
    }

    fn frames(&mut self, seen: &[u8], n: usize) {
        let mut at = 0;
        while at < n && !self.lost {
            if self.left > 0 {
                let k = (self.left as usize).min(n - at);
                self.left -= k as u32;
                if self.in_trailers {
                    let room = MAX_TRAILERS - self.trailers.len();
                    let part = seen.get(at..).unwrap_or(&[]);
                    self.trailers
                        .extend_from_slice(&part[..part.len().min(k).min(room)]);
                } else {
                    self.bytes += k as i64;
                }
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
            if usize::from(self.have) == PREFIX {
                let [flag, a, b, c, d] = self.head;
                self.left = u32::from_be_bytes([a, b, c, d]);
                self.have = 0;
                self.in_trailers = flag & TRAILERS != 0;
                self.messages += i64::from(!self.in_trailers);
            }
        }
    }

    /// What the frame of trailers says.
    pub fn status(&self) -> Option<i64> {
        self.trailers.split(|&c| c == b'\n').find_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let (name, value) = line.split_at(colon);
            name.eq_ignore_ascii_case(b"grpc-status")
                .then(|| status(&value[1..]))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_and_the_trailers_read() {
        let frames = b"\0\0\0\0\x03abc\0\0\0\0\0\x80\0\0\0\x0fgrpc-status:7\r\n";
        let text = STANDARD.encode(frames);
        for (kind, body) in [
            ("application/grpc-web+proto", &frames[..]),
            ("application/grpc-web-text", text.as_bytes()),
        ] {
            for size in 1..body.len() {
                let mut grpc = Grpc::new(kind.as_bytes()).unwrap();
                for part in body.chunks(size) {
                    grpc.feed(part, part.len());
                }
                assert_eq!((grpc.messages, grpc.bytes, grpc.status()), (2, 3, Some(7)));
            }
        }
        assert!(Grpc::new(b"text/html").is_none() && Grpc::new(b"application/grpcurl").is_none());
    }
}
