//! What a run may be told. Every bound has a sound default.

use crate::bytes::envelope::Vxlan;
use crate::client_from::ClientFrom;
use crate::endpoint::Templates;
use crate::filter::{Filters, Redaction};

#[derive(Clone, Debug)]
pub struct Options {
    /// Ports of the servers looked at; empty means every TCP connection.
    pub ports: Vec<u16>,
    /// A field of this name with the client's address is set in every request; empty: none.
    pub real_ip_header: String,
    /// The field that names a request's client.
    pub client_from: Option<ClientFrom>,
    /// Messages with bytes missing from their body are handed out without them.
    pub allow_incomplete: bool,
    /// 1 / sampling probability.
    pub weight: f64,
    /// Which messages are handed out.
    pub requests: bool,
    pub responses: bool,
    /// Length of the slices in which increments are told, ns; 0: none are.
    pub slice_ns: i64,
    /// The first connection's number.
    pub first_connection: u64,
    pub max_connections: usize,
    /// Ended connections remembered, so that late repeats are known as such.
    pub max_ended: usize,
    /// Bytes buffered for one connection (out-of-order data), for one head, one message, in all.
    pub max_connection_bytes: usize,
    pub max_head_bytes: usize,
    pub max_message_bytes: usize,
    pub max_buffer_bytes: usize,
    /// Requests waiting for their responses on one connection.
    pub max_pipeline: usize,
    /// Out-of-order segments held for one direction.
    pub max_held: usize,
    pub idle_ns: i64,
    pub linger_ns: i64,
    /// How long a hole may wait once the receiver has acknowledged it, and without that.
    pub reorder_ns: i64,
    pub hole_ns: i64,
    /// How long, and for how many segments, a connection without a seen handshake is held back
    /// so that its beginning is not mistaken.
    pub settle_ns: i64,
    pub settle_segments: usize,
    pub filters: Filters,
    pub redaction: Redaction,
    pub templates: Templates,
    pub vxlan: Vxlan,
    /// Every connection is a stream of bytes, no protocol is looked for.
    pub raw: bool,
    /// Names of the protocols that plug-ins read; connections of these servers' ports are handed to
    /// them, and, where there are any, those that nothing here understands.
    pub protocols: Vec<String>,
    pub plugin_ports: Vec<u16>,
    /// Secrets will be fed: TLS waits for them.
    pub tls_keys: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            ports: Vec::new(),
            real_ip_header: String::new(),
            client_from: None,
            allow_incomplete: false,
            weight: 1.0,
            requests: false,
            responses: false,
            slice_ns: 0,
            first_connection: 1,
            max_connections: 100_000,
            max_ended: 16_384,
            max_connection_bytes: 1 << 20,
            max_head_bytes: 64 << 10,
            max_message_bytes: 16 << 20,
            max_buffer_bytes: 96 << 20,
            max_pipeline: 1024,
            max_held: 1024,
            idle_ns: 300_000_000_000,
            linger_ns: 5_000_000_000,
            reorder_ns: 100_000_000,
            hole_ns: 5_000_000_000,
            settle_ns: 1_000_000_000,
            settle_segments: 64,
            filters: Filters::default(),
            redaction: Redaction::default(),
            templates: Templates::default(),
            vxlan: Vxlan::default(),
            raw: false,
            protocols: Vec::new(),
            plugin_ports: Vec::new(),
            tls_keys: false,
        }
    }
}
