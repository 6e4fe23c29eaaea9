//! A TLS connection that is not read: how much of it is application data, and whom its hellos name.

use super::hello::Records;
use crate::protocol::Sink;
use crate::tls::hello::hello;

pub struct Unread {
    pub records: [Records; 2],
    /// First bytes of client and server until the hello is read.
    pub hello: [Option<Vec<u8>>; 2],
    pub host: Vec<u8>,
    pub alpn: Vec<u8>,
}

impl Unread {
    /// `fresh`: the connection's beginning was seen.
    pub fn new(fresh: bool) -> Self {
        let hello = || fresh.then(Vec::new);
        Unread {
            records: Default::default(),
            hello: [hello(), hello()],
            host: Vec::new(),
            alpn: Vec::new(),
        }
    }

    /// Looks for host and ALPN in what a direction said first.
    pub fn read(&mut self, server: bool, seen: &[u8], cut: bool, sink: &mut Sink) {
        let Some(stream) = &mut self.hello[usize::from(server)] else {
            return;
        };
        stream.extend_from_slice(seen);
        sink.buffered += seen.len();
        let found = match hello(stream, !server) {
            None if !cut && sink.buffered <= sink.options.max_buffer_bytes => return,
            found => found.flatten(),
        };
        sink.buffered -= stream.len();
        self.hello[usize::from(server)] = None;
        if let Some(found) = found {
            if !server {
                self.host = found.host;
            }
            // What the server chose, if it says so in the clear, else what the client offered.
            if !found.alpn.is_empty() {
                self.alpn = found.alpn;
            }
        }
    }
}
