//! Which request a response answers (RFC 9112 §9.3.2), also where the capture has holes.

use crate::account::Cause;
use crate::anomaly::Anomaly;
use crate::exchange::Exchange;
use crate::http1::connection::Http;
use crate::protocol::{distance, MessageStart, Sink};

impl Http {
    #[inline]
    pub(super) fn current_request(&self) -> Option<usize> {
        if self
            .queue
            .back()
            .is_some_and(|exchange| !exchange.request.done)
        {
            return Some(self.queue.len() - 1);
        }
        self.queue
            .iter()
            .rposition(|exchange| !exchange.request.done)
    }

    #[inline]
    fn current_response(&self) -> Option<usize> {
        if self
            .queue
            .front()
            .is_some_and(|exchange| !exchange.response.done)
        {
            return Some(0);
        }
        self.queue
            .iter()
            .position(|exchange| !exchange.response.done)
    }

    /// The exchange whose message is passing in this direction.
    pub(super) fn current(&mut self, direction: usize) -> Option<&mut Exchange> {
        let i = if direction == self.client {
            self.current_request()
        } else {
            self.current_response()
        };
        self.queue.get_mut(i?).map(Box::as_mut)
    }

    pub(super) fn forget_oldest(&mut self, sink: &mut Sink) {
        sink.account.bound_hits += 1;
        if let Some(exchange) = self.queue.front_mut() {
            exchange.flag(Anomaly::PipelineBound);
            exchange.request.done = true;
            if !exchange.response.done && !exchange.response.seen {
                self.forgotten += 1;
            }
            exchange.response.done = true;
        }
        self.emit(sink);
    }

    pub(super) fn interim(&mut self, wire: usize, start: &MessageStart, sink: &mut Sink) {
        match self.current_response().and_then(|i| self.queue.get_mut(i)) {
            Some(exchange) => {
                exchange.response.wire += wire as u64;
                exchange.response.packets += start.packets;
                exchange.link_bytes += start.link;
                exchange.retransmitted += start.retransmitted;
            }
            None => sink.account.add(Cause::ConnectionOverhead, start.link),
        }
    }

    /// The exchange that a response answers. Acknowledgements tell what each side had received
    /// when it spoke: a response never comes before its request was read, and a client that has
    /// read past a lost response sends the next request with an acknowledgement beyond it.
    pub(super) fn pair(
        &mut self,
        direction: usize,
        start: &MessageStart,
        sink: &mut Sink,
    ) -> usize {
        let hole = self.lanes[direction].hole.take();
        if let Some(hole) = hole {
            while let Some(i) = self.current_response() {
                let next = self
                    .queue
                    .get(i + 1)
                    .and_then(|exchange| exchange.request.ack);
                if next.is_none_or(|ack| distance(ack, hole) <= 0) {
                    break;
                }
                self.queue[i].response.done = true;
            }
            self.emit(sink);
        }
        let at = self.current_response();
        let answers = at.is_some_and(|i| {
            let request = &self.queue[i].request;
            request.seen && start.ack.is_none_or(|ack| distance(request.seq, ack) < 0)
        });
        match at {
            Some(i) if answers && self.forgotten == 0 => {
                if hole.is_some() && i + 1 < self.queue.len() {
                    self.queue[i].flag(Anomaly::GuessedPairing);
                }
                i
            }
            _ => {
                self.forgotten = self.forgotten.saturating_sub(1);
                let i = at.unwrap_or(self.queue.len());
                let mut exchange = self.fresh();
                exchange.request.done = true;
                exchange.denied = !sink.options.filters.passes_unknown();
                exchange.set_request([b"", b"", b"", b""]);
                exchange.id = self.gor_id(Some(start.seq), sink);
                self.queue.insert(i, exchange);
                i
            }
        }
    }
}
