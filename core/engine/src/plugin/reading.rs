//! Messages that plug-ins have found: their rows, and the pairing of requests with responses, the oldest first.
//!
//! Owns which bytes a message took and what they cost. Every byte that was handed over is booked here.

use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::exchange::{Exchange, Protocol, Side};
use crate::plugin::pieces::Reading;
use crate::protocol::{Sink, Visit};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Waits for a response.
    Request,
    /// Answers the oldest request that waits.
    Response,
    /// A row of its own.
    Push,
    /// The connection's.
    Overhead,
}

/// The next `size` bytes of a direction's stream, and what they are. `protocol`: by its place in the options.
pub struct Message<'a> {
    pub kind: Kind,
    pub server: bool,
    pub size: u64,
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub endpoint: &'a [u8],
    pub status: i16,
    pub protocol: u8,
}

impl Reading {
    fn push(&mut self, exchange: &Exchange, sink: &mut Sink) {
        sink.push(exchange, &self.ends, &mut self.addresses);
    }

    fn exchange(&mut self, message: &Message, sink: &Sink) -> Box<Exchange> {
        let mut exchange = Box::<Exchange>::default();
        exchange.protocol = Protocol::Plugin(message.protocol);
        exchange.stream = self.position;
        self.position = self.position.wrapping_add(1);
        exchange.denied = !sink.options.filters.passes_unknown();
        exchange.set_request([message.method, message.target, message.endpoint, b""]);
        exchange
    }

    /// Shows every exchange that waits for its response.
    pub fn each_open(&mut self, visit: &mut Visit) {
        for exchange in &mut self.waiting {
            visit(exchange, &self.ends);
        }
    }

    /// False: there are no such bytes.
    pub fn message(&mut self, message: &Message, sink: &mut Sink) -> bool {
        let offsets = &mut self.offsets[usize::from(message.server)];
        if self.broken || message.size == 0 || message.size > offsets.waiting() {
            return false;
        }
        let share = offsets.take(message.size);
        let link_bytes = message.size + share.overhead;
        if message.kind == Kind::Overhead {
            sink.account.add(Cause::ConnectionOverhead, link_bytes);
            return true;
        }
        let answered = match message.kind {
            Kind::Response => self.waiting.pop_front(),
            _ => None,
        };
        let mut exchange = answered.unwrap_or_else(|| self.exchange(message, sink));
        let side = Side {
            seen: true,
            done: true,
            whole: true,
            time: share.time,
            end: share.end,
            body: message.size,
            wire: message.size,
            packets: share.packets,
            ..Side::default()
        };
        exchange.link_bytes += link_bytes;
        if message.server {
            exchange.response = side;
            exchange.status = message.status as u16;
        } else {
            exchange.request = side;
        }
        if message.kind == Kind::Request {
            self.waiting.push_back(exchange);
            if self.waiting.len() > sink.options.max_pipeline {
                sink.account.bound_hits += 1;
                if let Some(mut oldest) = self.waiting.pop_front() {
                    oldest.flag(Anomaly::PipelineBound);
                    self.push(&oldest, sink);
                }
            }
            return true;
        }
        if message.kind == Kind::Push {
            (exchange.request.whole, exchange.response.whole) = (true, true);
        }
        self.push(&exchange, sink);
        true
    }

    /// The connection is not read any further; `missing` bytes of it were not captured.
    pub fn give_up(&mut self, missing: u64, sink: &mut Sink) {
        self.broken = true;
        for exchange in &mut self.waiting {
            exchange.missing += missing;
        }
        self.rest(sink);
    }

    /// Books what was handed over and is part of no message.
    pub fn rest(&mut self, sink: &mut Sink) {
        for offsets in &mut self.offsets {
            let left = offsets.waiting();
            let share = offsets.take(left);
            sink.account.add(Cause::Unparsed, left + share.overhead);
        }
    }

    /// The connection is over.
    pub fn close(&mut self, sink: &mut Sink) {
        self.rest(sink);
        while let Some(exchange) = self.waiting.pop_front() {
            self.push(&exchange, sink);
        }
    }
}
