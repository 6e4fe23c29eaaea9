//! Exchanges in columns.
//!
//! Owns the Arrow columns of the finished ones, and the rule that a side that was not seen is null. A row costs no
//! allocation. The schema's other half is `replaykit/records/exchange.py`.

use crate::anomaly::{Anomaly, ANOMALIES};
use crate::bytes::segment::Addr;
use crate::endpoint::Templates;
use crate::exchange::target::{plain_host, split_target};
use crate::exchange::values::{Numbers, Rare, Texts};
use crate::exchange::Counted;
use crate::exchange::{
    Ends, Exchange, Extra, Protocol, Secure, Side, ALPN, CONTENT_ENCODING, CONTENT_TYPE, EXTRA,
    HOST, METHOD, TARGET, TRACE,
};
use crate::filter::Redaction;
use crate::http1::syntax::SIMPLE;
use crate::options::Options;

/// A connection's addresses in the dictionary of one batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    pub(super) batch: u64,
    pub(super) client: i32,
    pub(super) server: i32,
    pub(super) proxy: i32,
}

/// Columns of dictionary keys, in `Row::keys` and `Columns::texts`.
pub(super) const PROTOCOL: usize = 0;
pub(super) const CLIENT_IP: usize = 1;
pub(super) const SERVER_IP: usize = 2;
pub(super) const METHODS: usize = 3;
pub(super) const SCHEME: usize = 4;
pub(super) const HOSTS: usize = 5;
pub(super) const TARGETS: usize = 6;
pub(super) const PATH: usize = 7;
pub(super) const ENDPOINT: usize = 8;
pub(super) const TYPES: usize = 9;
pub(super) const ENCODINGS: usize = 10;
pub(super) const TRACES: usize = 11;
pub(super) const ANOMALY: usize = 12;
pub(super) const ALPNS: usize = 13;
pub(super) const PROXY_IP: usize = 14;
const TEXTS: usize = 15;

/// No key: null.
pub(super) const ABSENT: i32 = -1;

/// A finished exchange before it is spread over the columns, some hundred at a time.
pub(super) struct Row {
    pub(super) time: i64,
    pub(super) response_time: i64,
    pub(super) last: i64,
    pub(super) connection: u64,
    pub(super) stream: i32,
    pub(super) keys: [i32; TEXTS],
    pub(super) client_port: u16,
    pub(super) server_port: u16,
    pub(super) proxy_port: u16,
    pub(super) status: i16,
    pub(super) request_seen: bool,
    pub(super) response_seen: bool,
    /// Durations say nothing.
    pub(super) response_first: bool,
    pub(super) complete: bool,
    pub(super) request: [i64; 4],
    pub(super) response: [i64; 4],
    pub(super) link_bytes: i64,
    pub(super) retransmitted: i64,
    pub(super) missing: i64,
    pub(super) number: u64,
    pub(super) extra: Option<Box<Extra>>,
}

const STAGE: usize = 256;

/// What a target says, by its number in the batch.
pub(super) struct Split {
    /// Absent until it is asked for: a plug-in's target has none.
    pub(super) path: i32,
    /// Of its shape; absent until it is asked for, as a gRPC path is its own endpoint.
    pub(super) endpoint: i32,
    pub(super) https: bool,
}

/// The finished exchanges of a batch.
#[derive(Default)]
pub struct Columns {
    pub rows: usize,
    pub(super) weight: f64,
    /// Names of plug-ins' protocols.
    plugins: Vec<String>,
    pub(super) stage: Vec<Row>,
    pub(super) time: Numbers<i64>,
    pub(super) response_time: Numbers<i64>,
    pub(super) duration: Numbers<i64>,
    pub(super) first_byte: Numbers<i64>,
    pub(super) connection: Vec<u64>,
    pub(super) stream: Vec<i32>,
    pub(super) client_port: Vec<u16>,
    pub(super) server_port: Vec<u16>,
    pub(super) proxy_port: Numbers<u16>,
    pub(super) texts: [Texts; TEXTS],
    pub(super) splits: Vec<Split>,
    pub(super) status: Numbers<i16>,
    pub(super) request: [Numbers<i64>; 4],
    pub(super) response: [Numbers<i64>; 4],
    pub(super) link_bytes: Vec<i64>,
    pub(super) retransmitted: Vec<i64>,
    pub(super) complete: Vec<bool>,
    pub(super) missing: Vec<i64>,
    /// Numbers of exchanges that have increments, 0 for the others; where anybody asks.
    pub(super) numbers: Option<Vec<u64>>,
    pub(super) extra: [Rare; EXTRA.len()],
    /// Some row of this batch has such measures.
    pub(super) extras: bool,
    /// Number of this batch, from 1.
    pub(super) batch: u64,
}

impl Columns {
    /// `numbered`: with a column `exchange`, by which increments name their exchange.
    pub fn new(options: &Options, numbered: bool) -> Self {
        Columns {
            weight: options.weight,
            plugins: options.protocols.clone(),
            numbers: numbered.then(Vec::new),
            batch: 1,
            ..Columns::default()
        }
    }

    fn address(addr: Addr) -> String {
        match addr {
            Addr::V4(a) => std::net::Ipv4Addr::from(a).to_string(),
            Addr::V6(a) => std::net::Ipv6Addr::from(a).to_string(),
        }
    }

    fn ip(texts: &mut Texts, addr: Addr) -> i32 {
        texts.key(Self::address(addr).as_bytes())
    }

    /// Host and endpoint of what is not understood: where it went.
    fn opaque(&mut self, x: &Exchange, scheme: &str, place: String, keys: &mut [i32; TEXTS]) {
        let host = String::from_utf8_lossy(x.text(HOST));
        if !host.is_empty() {
            keys[HOSTS] = self.texts[HOSTS].key(x.text(HOST));
        }
        let place = if host.is_empty() { place.into() } else { host };
        keys[ENDPOINT] = self.texts[ENDPOINT].key(format!("{scheme}://{place}").as_bytes());
    }

    /// What a plug-in says stands for itself.
    fn plugin(&mut self, x: &Exchange, keys: &mut [i32; TEXTS]) {
        for (column, field) in [(METHODS, METHOD), (ENDPOINT, HOST)] {
            if !x.text(field).is_empty() || field == HOST {
                keys[column] = self.texts[column].key(x.text(field));
            }
        }
        if !x.text(TARGET).is_empty() {
            keys[TARGETS] = self.sent(x.text(TARGET)) as i32;
        }
    }

    /// A target's number in this batch.
    fn sent(&mut self, target: &[u8]) -> u32 {
        let (id, new) = self.texts[TARGETS].strings.intern(target);
        if new {
            self.splits.push(Split {
                path: ABSENT,
                endpoint: ABSENT,
                https: false,
            });
        }
        id
    }

    /// Adds a row; its sizes are what was moved beyond `before`.
    pub fn push(
        &mut self,
        x: &Exchange,
        before: &Counted,
        ends: &Ends,
        addresses: &mut Addresses,
        options: &Options,
    ) {
        let complete = x.complete();
        let (templates, redaction) = (&options.templates, &options.redaction);
        self.rows += 1;
        if addresses.batch != self.batch {
            *addresses = Addresses {
                batch: self.batch,
                client: Self::ip(&mut self.texts[CLIENT_IP], ends.client.0),
                server: Self::ip(&mut self.texts[SERVER_IP], ends.server.0),
                proxy: ends
                    .proxy
                    .map_or(ABSENT, |(ip, _)| Self::ip(&mut self.texts[PROXY_IP], ip)),
            };
        }
        let (q, r) = (&x.request, &x.response);
        let mut keys = [ABSENT; TEXTS];
        let minor = if q.seen { q.minor } else { r.minor };
        keys[PROTOCOL] = self.texts[PROTOCOL].key(match x.protocol {
            Protocol::Http1 if minor == 0 => b"http/1.0",
            Protocol::Http1 if minor == SIMPLE => b"http/0.9",
            Protocol::Http1 => b"http/1.1",
            Protocol::H2 => b"h2",
            Protocol::WebSocket => b"websocket",
            Protocol::Tls => b"tls",
            Protocol::Raw => b"raw",
            Protocol::Connect => b"connect",
            Protocol::Upgrade => b"upgrade",
            Protocol::Plugin(n) => self.plugins[usize::from(n)].as_bytes(),
        });
        keys[CLIENT_IP] = addresses.client;
        keys[PROXY_IP] = addresses.proxy;
        let (mut client_port, mut proxy_port) = (ends.client.1, ends.proxy.map_or(0, |p| p.1));
        if let Some(client) = &x.client {
            // Whoever is at the connection's other end speaks for the client.
            if ends.proxy.is_none() {
                keys[PROXY_IP] = Self::ip(&mut self.texts[PROXY_IP], ends.client.0);
                proxy_port = ends.client.1;
            }
            keys[CLIENT_IP] = Self::ip(&mut self.texts[CLIENT_IP], client.0);
            client_port = client.1;
        }
        keys[SERVER_IP] = addresses.server;
        match x.protocol {
            Protocol::Tls => self.opaque(x, "tls", Self::address(ends.server.0), &mut keys),
            Protocol::Raw => {
                let (addr, port) = ends.server;
                let place = match addr {
                    Addr::V4(_) => format!("{}:{port}", Self::address(addr)),
                    Addr::V6(_) => format!("[{}]:{port}", Self::address(addr)),
                };
                self.opaque(x, "tcp", place, &mut keys);
            }
            Protocol::Connect => self.opaque(x, "connect", Self::address(ends.server.0), &mut keys),
            Protocol::Upgrade => {
                let to = String::from_utf8_lossy(x.text(METHOD)).to_ascii_lowercase();
                self.opaque(x, "upgrade", to.clone(), &mut keys);
                keys[ENDPOINT] = self.texts[ENDPOINT].key(format!("upgrade://{to}").as_bytes());
            }
            Protocol::Plugin(_) => self.plugin(x, &mut keys),
            Protocol::WebSocket => self.target(x, ends, templates, redaction, &mut keys),
            _ if q.seen => self.target(x, ends, templates, redaction, &mut keys),
            _ => {}
        }
        let alpn = match ends.secure {
            Secure::No => x.text(ALPN),
            Secure::Unnamed => b"",
            Secure::Http11 => b"http/1.1",
            Secure::H2 => b"h2",
        };
        if !alpn.is_empty() {
            keys[ALPNS] = self.texts[ALPNS].key(alpn);
        }
        let given = [
            (TYPES, CONTENT_TYPE, r.seen),
            (ENCODINGS, CONTENT_ENCODING, r.seen),
            (TRACES, TRACE, true),
        ];
        for (column, field, seen) in given {
            let text = x.text(field);
            if seen && !text.is_empty() {
                keys[column] = self.texts[column].key(text);
            }
        }
        let response_first = q.seen && r.seen && r.time < q.time;
        let mut anomaly = x.anomaly;
        if response_first && anomaly == 0 && matches!(x.protocol, Protocol::Http1 | Protocol::H2) {
            anomaly = Anomaly::ResponseFirst as u8;
        }
        if anomaly != 0 {
            keys[ANOMALY] = self.texts[ANOMALY].key(ANOMALIES[anomaly as usize].as_bytes());
        }
        let sizes = |s: &Side, before: &[u64; 4]| {
            [
                s.header.wrapping_sub(before[0]) as i64,
                s.body.wrapping_sub(before[1]) as i64,
                s.wire.wrapping_sub(before[2]) as i64,
                s.packets.wrapping_sub(before[3]) as i64,
            ]
        };
        self.stage.push(Row {
            time: q.time,
            response_time: r.time,
            last: r.end,
            connection: ends.connection,
            stream: x.stream,
            keys,
            client_port,
            proxy_port,
            server_port: ends.server.1,
            status: x.status as i16,
            request_seen: q.seen,
            response_seen: r.seen,
            response_first,
            complete,
            request: sizes(q, &before.request),
            response: sizes(r, &before.response),
            link_bytes: x.link_bytes.wrapping_sub(before.link_bytes) as i64,
            retransmitted: x.retransmitted.wrapping_sub(before.retransmitted) as i64,
            missing: x.missing as i64,
            number: x.number,
            extra: x.extra.clone(),
        });
        if self.stage.len() >= STAGE {
            self.spread();
        }
    }

    fn target(
        &mut self,
        x: &Exchange,
        ends: &Ends,
        templates: &Templates,
        redaction: &Redaction,
        keys: &mut [i32; TEXTS],
    ) {
        let sent = x.text(TARGET);
        if !x.text(METHOD).is_empty() {
            keys[METHODS] = self.texts[METHODS].key(x.text(METHOD));
        }
        let https = x.https || ends.secure != Secure::No;
        keys[SCHEME] = self.texts[SCHEME].key(if https { b"https" } else { b"http" });
        if sent.is_empty() {
            // HTTP/2 whose fields could not be decoded.
            let host = plain_host(x.text(HOST), https);
            if !host.is_empty() {
                keys[HOSTS] = self.texts[HOSTS].key(&host);
            }
            return;
        }
        let shown;
        let target = if redaction.parameters.is_empty() {
            sent
        } else {
            shown = redaction.target(sent);
            &shown[..]
        };
        let id = self.sent(target);
        let split = &mut self.splits[id as usize];
        if split.path == ABSENT {
            let (path, _, https) = split_target(target);
            split.path = self.texts[PATH].key(path);
            split.https = https == Some(true);
        }
        let path = || String::from_utf8_lossy(split_target(target).0);
        keys[ENDPOINT] = if x.grpc {
            // A gRPC path names a method: /package.Service/Method.
            self.texts[ENDPOINT].key(path().as_bytes())
        } else {
            if split.endpoint == ABSENT {
                let endpoint = templates.endpoint(&path());
                split.endpoint = self.texts[ENDPOINT].key(endpoint.as_bytes());
            }
            split.endpoint
        };
        keys[TARGETS] = id as i32;
        keys[PATH] = split.path;
        let split_https = split.https;
        if split_https {
            keys[SCHEME] = self.texts[SCHEME].key(b"https");
        }
        // RFC 9112 §3.2.2: the authority in an absolute target overrides Host.
        let host = match target.first() {
            Some(b'/') => x.text(HOST),
            _ => split_target(target).1.unwrap_or(x.text(HOST)),
        };
        let host = plain_host(host, https || split_https);
        if !host.is_empty() {
            keys[HOSTS] = self.texts[HOSTS].key(&host);
        }
    }
}
