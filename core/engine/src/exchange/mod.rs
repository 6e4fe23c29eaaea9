//! An exchange while it is being measured, and whose it is.

mod batch;
pub mod columns;
mod target;
mod values;

use crate::anomaly::Anomaly;
use crate::bytes::segment::Addr;

/// What an exchange was carried by; the column `protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// 1.0 or 1.1, as the message says.
    #[default]
    Http1,
    H2,
    WebSocket,
    Tls,
    Raw,
    /// Inside CONNECT, not read; the text of HOST is where it leads.
    Connect,
    /// Inside Upgrade, not read; the text of METHOD is the protocol.
    Upgrade,
    /// A plug-in's, by its place in `Options::protocols`; the text of HOST is the endpoint.
    Plugin(u8),
}

/// Measures that few exchanges have, each null unless set; see `EXTRA`.
#[derive(Clone, Debug)]
pub struct Extra([Option<i64>; EXTRA.len()]);

pub const EXTRA: [&str; 9] = [
    "request_uncompressed_header_bytes",
    "response_uncompressed_header_bytes",
    "request_messages",
    "response_messages",
    "request_message_bytes",
    "response_message_bytes",
    "request_decoded_bytes",
    "response_decoded_bytes",
    "grpc_status",
];

impl Default for Extra {
    fn default() -> Self {
        Extra([None; EXTRA.len()])
    }
}

impl Extra {
    /// The request's column; the response's follows.
    pub const UNCOMPRESSED: usize = 0;
    pub const MESSAGES: usize = 2;
    pub const MESSAGE_BYTES: usize = 4;
    pub const DECODED: usize = 6;
    /// Has no sides.
    pub const GRPC_STATUS: usize = 8;

    pub fn get(&self, column: usize, response: bool) -> Option<i64> {
        self.0[column + usize::from(response)]
    }

    pub fn set(&mut self, column: usize, response: bool, value: i64) {
        self.0[column + usize::from(response)] = Some(value);
    }
}

/// One direction of an exchange, as far as it was seen.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub seen: bool,
    /// All of it has passed, or no more will.
    pub done: bool,
    /// Nothing of it is missing.
    pub whole: bool,
    pub time: i64,
    pub end: i64,
    pub seq: u32,
    /// The acknowledgement on the first byte's packet: what the sender had received by then.
    pub ack: Option<u32>,
    pub minor: u8,
    pub header: u64,
    pub body: u64,
    pub wire: u64,
    pub packets: u64,
}

/// What of an exchange its increments have said so far; sizes as in `Side`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    request: [u64; 4],
    response: [u64; 4],
    pub link_bytes: u64,
    retransmitted: u64,
}

/// An exchange in the making. `text` holds its strings, `marks` their ends.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    pub request: Side,
    pub response: Side,
    pub status: u16,
    pub is_head: bool,
    pub is_connect: bool,
    /// It waits for a response before it sends its body (RFC 9110 §10.1.1).
    pub expects: bool,
    /// An extended CONNECT to WebSocket (RFC 8441).
    pub upgrades: bool,
    pub grpc: bool,
    pub https: bool,
    pub protocol: Protocol,
    pub denied: bool,
    pub anomaly: u8,
    pub link_bytes: u64,
    pub retransmitted: u64,
    pub missing: u64,
    pub stream: i32,
    pub id: [u8; 24],
    pub extra: Option<Box<Extra>>,
    /// Whom the request names as its client.
    pub client: Option<Box<(Addr, u16)>>,
    /// None: it began in the slice that is running.
    pub counted: Option<Box<Counted>>,
    /// From 1, among the exchanges that have increments; 0: it has none.
    pub number: u64,
    text: Vec<u8>,
    marks: [u32; 7],
}

pub const METHOD: usize = 0;

pub const TARGET: usize = 1;

pub const HOST: usize = 2;

pub const TRACE: usize = 3;

pub const ALPN: usize = 4;

pub const CONTENT_TYPE: usize = 5;

pub const CONTENT_ENCODING: usize = 6;

impl Exchange {
    pub fn clear(&mut self) {
        self.text.clear();
        self.request = Side::default();
        self.response = Side::default();
        self.status = 0;
        self.is_head = false;
        self.is_connect = false;
        self.expects = false;
        self.upgrades = false;
        self.grpc = false;
        self.https = false;
        self.protocol = Protocol::Http1;
        self.extra = None;
        self.client = None;
        self.counted = None;
        self.number = 0;
        self.denied = false;
        self.anomaly = 0;
        self.link_bytes = 0;
        self.retransmitted = 0;
        self.missing = 0;
    }

    pub fn set_request(&mut self, fields: [&[u8]; 4]) {
        self.text.clear();
        for (i, field) in fields.iter().enumerate() {
            self.text.extend_from_slice(field);
            self.marks[i] = self.text.len() as u32;
        }
        self.marks[4..].fill(self.text.len() as u32);
    }

    /// To be set after the request's fields.
    pub fn set_alpn(&mut self, alpn: &[u8]) {
        self.text.extend_from_slice(alpn);
        self.marks[ALPN..].fill(self.text.len() as u32);
    }

    pub fn set_response(&mut self, content_type: &[u8], content_encoding: &[u8]) {
        let from = self.marks[4] as usize;
        self.text.truncate(from);
        self.text.extend_from_slice(content_type);
        self.marks[5] = self.text.len() as u32;
        self.text.extend_from_slice(content_encoding);
        self.marks[6] = self.text.len() as u32;
    }

    pub fn text(&self, i: usize) -> &[u8] {
        let from = if i == 0 {
            0
        } else {
            self.marks[i - 1] as usize
        };
        &self.text[from..self.marks[i] as usize]
    }

    pub fn flag(&mut self, anomaly: Anomaly) {
        if self.anomaly == Anomaly::None as u8 {
            self.anomaly = anomaly as u8;
        }
    }

    pub fn side(&self, server: bool) -> &Side {
        if server {
            &self.response
        } else {
            &self.request
        }
    }

    pub fn side_mut(&mut self, server: bool) -> &mut Side {
        if server {
            &mut self.response
        } else {
            &mut self.request
        }
    }

    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// All that it moved until now.
    pub fn moved(&self) -> Counted {
        // A side that has not begun is null, though interim responses may have been counted to it.
        let sizes = |s: &Side| {
            if s.seen {
                [s.header, s.body, s.wire, s.packets]
            } else {
                [0; 4]
            }
        };
        Counted {
            request: sizes(&self.request),
            response: sizes(&self.response),
            link_bytes: self.link_bytes,
            retransmitted: self.retransmitted,
        }
    }

    pub fn complete(&self) -> bool {
        self.request.whole && self.response.whole && self.missing == 0
    }

    pub fn size(&self) -> usize {
        std::mem::size_of::<Exchange>() + self.text.capacity()
    }
}

/// Whose exchange it is: what every row of a connection shares.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub connection: u64,
    pub client: (Addr, u16),
    pub server: (Addr, u16),
    /// The balancer that speaks for the client.
    pub proxy: Option<(Addr, u16)>,
    /// The connection is encrypted, but was read.
    pub secure: Secure,
}

/// What was negotiated inside TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secure {
    #[default]
    No,
    Unnamed,
    Http11,
    H2,
}

impl Secure {
    /// By the name that ALPN gives it (RFC 7301).
    pub fn negotiated(alpn: &[u8]) -> Self {
        match alpn {
            b"http/1.1" => Secure::Http11,
            b"h2" => Secure::H2,
            _ => Secure::Unnamed,
        }
    }
}
