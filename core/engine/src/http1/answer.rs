//! Responses as a client reads them from its connection: where each ends.
//!
//! Owns the state between pieces. What a head and its framing say is judged by `http1`, so that capture
//! and replay agree about the same bytes.

use crate::http1::body::Body;
use crate::http1::head::Kind;
use crate::http1::head::{Head, Parsed};
use crate::http1::{body, syntax};

const MAX_HEAD: usize = 256 << 10;

#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    More,
    /// The final status, and how many bytes of the piece the response took.
    Done(u16, usize),
    /// No response.
    Invalid,
}

#[derive(Default)]
pub struct Answers {
    head: Vec<u8>,
    body: Option<Body>,
    status: u16,
    to_head: bool,
    /// The connection may be used again after this response (RFC 9112 §9.3).
    pub keep: bool,
}

impl Answers {
    /// The next response is to a request; `head`: of this method.
    pub fn begin(&mut self, head: bool) {
        *self = Answers {
            to_head: head,
            ..Answers::default()
        };
    }

    pub fn feed(&mut self, b: &[u8]) -> Fed {
        let mut at = 0;
        while self.body.is_none() {
            if self.head.is_empty() {
                // Line ends that a response before had too many.
                at += b[at..]
                    .iter()
                    .take_while(|c| matches!(c, b'\r' | b'\n'))
                    .count();
            }
            let held = self.head.len();
            self.head.extend_from_slice(&b[at..]);
            let head = std::mem::take(&mut self.head);
            match syntax::parse(&head, false) {
                Parsed::Invalid => return Fed::Invalid,
                Parsed::Partial if head.len() > MAX_HEAD => return Fed::Invalid,
                Parsed::Partial => {
                    self.head = head;
                    return Fed::More;
                }
                Parsed::Whole(h, _) if h.kind != Kind::Response => return Fed::Invalid,
                Parsed::Whole(h, size) => {
                    at += size - held;
                    if h.status == 101 {
                        return Fed::Done(101, b.len());
                    }
                    if h.status >= 200 {
                        self.status = h.status;
                        self.keep = keeps(&h, &head[..size]);
                        self.body = Some(body::response_body(&h, self.to_head, false));
                    }
                }
            }
        }
        let rest = &b[at..];
        match self.body.as_mut() {
            Some(Body::Length(left)) => {
                let n = (*left).min(rest.len() as u64);
                *left -= n;
                if *left == 0 {
                    return Fed::Done(self.status, at + n as usize);
                }
            }
            Some(Body::Chunked(state)) => {
                let took = body::chunk(state, rest);
                if took.broken {
                    return Fed::Invalid;
                }
                if took.end {
                    return Fed::Done(self.status, at + took.bytes);
                }
            }
            Some(Body::UntilClose | Body::Blind(_)) | None => {}
        }
        Fed::More
    }

    /// The connection has ended: the status of a response that ends with it.
    pub fn end(&self) -> Option<u16> {
        matches!(self.body, Some(Body::UntilClose | Body::Blind(_))).then_some(self.status)
    }
}

fn keeps(h: &Head, head: &[u8]) -> bool {
    let mut keep = h.minor > 0;
    for (name, value) in syntax::fields(head) {
        if name.trim_ascii().eq_ignore_ascii_case(b"connection") {
            for option in value.split(|&c| c == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    return false;
                }
                keep |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    keep
}
