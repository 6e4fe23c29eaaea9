//! From a captured frame to a TCP segment.
//!
//! Owns IP fragments and the walk through envelopes. Never keeps a frame: a segment borrows its payload. Cost per
//! packet is constant; at most [`MAX_LAYERS`] headers are opened.

use crate::account::Cause;
use crate::bytes::envelope;
use crate::bytes::envelope::{Next, Vxlan};
use crate::bytes::fields::{be16, be32, ppp};
use crate::bytes::ip::MAX_LAYERS;
use crate::bytes::ip::{ipv4, ipv6, Datagram};
use crate::bytes::segment::ACK;
use crate::bytes::segment::{Addr, Segment};
use hashbrown::HashMap;
use std::collections::VecDeque;

const MAX_PAYLOAD: usize = 1 << 20;
const MAX_DATAGRAMS: usize = 1024;
const MAX_FRAGMENTS: usize = 256;
const FRAGMENT_TIMEOUT_NS: i64 = 30_000_000_000;

pub enum Decoded<'a> {
    Tcp(Segment<'a>),
    /// Not a segment; the packet's bytes go to this cause.
    Other(Cause),
    /// A fragment whose datagram is not whole yet; its bytes are held.
    Held,
    /// A datagram that came in fragments is whole.
    Whole(Whole),
}

/// What came in fragments: the payload of an IP packet, and what its packets were.
pub struct Whole {
    pub(super) src: Addr,
    pub(super) dst: Addr,
    pub(super) protocol: u8,
    pub(super) payload: Vec<u8>,
    /// Link bytes and packets.
    pub size: u64,
    pub packets: u32,
}

/// RFC 791: source, destination, protocol, identification.
type Key = (Addr, Addr, u8, u32);

/// Decodes frames; holds IP fragments until their datagram is whole.
#[derive(Default)]
pub struct Decoder {
    datagrams: HashMap<Key, Partial>,
    pub(super) order: VecDeque<(Key, u64)>,
    born: u64,
    pub(super) vxlan: Vxlan,
}

/// What a segment or fragment cost: when it came, and its link bytes in so many packets.
#[derive(Clone, Copy)]
struct Cost {
    time: i64,
    size: u64,
    packets: u32,
}

pub(super) struct Partial {
    pub(super) pieces: Vec<(usize, Vec<u8>)>,
    pub(super) total: Option<usize>,
    pub(super) bytes: u64,
    pub(super) packets: u32,
    pub(super) time: i64,
    born: u64,
}

impl Decoder {
    pub fn new(vxlan: Vxlan) -> Self {
        Decoder {
            vxlan,
            ..Decoder::default()
        }
    }

    /// `frame` is what was captured of a packet of `orig` bytes, `entry` what [`network`] says of
    /// it. Bytes given up from the fragment table are added to `lost`.
    pub fn decode<'a>(
        &mut self,
        entry: Option<(u16, usize)>,
        time: i64,
        orig: u64,
        frame: &'a [u8],
        lost: &mut u64,
    ) -> Decoded<'a> {
        let Some((kind, at)) = entry else {
            return Decoded::Other(Cause::NotTcp);
        };
        if kind == 0x0800 {
            if let Some(segment) = plain(time, orig, frame, at) {
                return Decoded::Tcp(segment);
            }
        }
        let cost = Cost {
            time,
            size: orig,
            packets: 1,
        };
        self.walk(Ok((kind, at)), orig as usize, cost, frame, lost)
    }

    /// What a datagram carries that came in fragments.
    pub fn inside<'a>(&mut self, w: &'a Whole, time: i64, lost: &mut u64) -> Decoded<'a> {
        let cost = Cost {
            time,
            size: w.size,
            packets: w.packets,
        };
        let mut b = &w.payload[..];
        let mut protocol = w.protocol;
        // RFC 8200 §4.5: destination options may be part of what was fragmented.
        for _ in 0..MAX_LAYERS {
            let (60, Some(&[next, length])) = (protocol, b.first_chunk::<2>()) else {
                break;
            };
            let size = (usize::from(length) + 1) * 8;
            protocol = next;
            b = b.get(size..).unwrap_or(&[]);
        }
        if protocol == 6 {
            return segment((w.src, w.dst, 0), b, b.len(), cost);
        }
        let next = envelope::open(protocol, b, 0, &self.vxlan);
        self.walk(next, b.len(), cost, b, lost)
    }

    /// Walks from one header to the next. `frame` is what was captured of `wire` bytes; the segment in
    /// it cost `cost`.
    fn walk<'a>(
        &mut self,
        mut next: Next,
        wire: usize,
        cost: Cost,
        frame: &'a [u8],
        lost: &mut u64,
    ) -> Decoded<'a> {
        for _ in 0..MAX_LAYERS {
            let (kind, at) = match next {
                Ok(place) => place,
                Err(cause) => return Decoded::Other(cause),
            };
            let datagram = match kind {
                0x0800 => ipv4(frame, at),
                0x86dd => ipv6(frame, at),
                _ => {
                    next = match kind {
                        0x8100 | 0x88a8 | 0x9100 => be16(frame, at + 2)
                            .map(|k| (k, at + 4))
                            .ok_or(Cause::Malformed),
                        envelope::ETHERNET => be16(frame, at + 12)
                            .map(|k| (k, at + 14))
                            .ok_or(Cause::Malformed),
                        // PPPoE session (RFC 2516): six bytes, then PPP's protocol.
                        0x8864 => ppp(frame, at + 6).ok_or(Cause::NotTcp),
                        0x8847 | 0x8848 => envelope::mpls(frame, at),
                        _ => Err(Cause::NotTcp),
                    };
                    continue;
                }
            };
            let Some(d) = datagram else {
                return Decoded::Other(Cause::Malformed);
            };
            if d.fragment.is_some() {
                return match d.protocol {
                    4 | 6 | 17 | 41 | 47 | 60 => self.fragment(&d, cost, frame, lost),
                    _ => Decoded::Other(Cause::NotTcp),
                };
            }
            if d.protocol == 6 {
                let rest = wire.saturating_sub(d.at);
                let len = d.len.unwrap_or(rest).min(rest);
                let captured = frame.get(d.at..).unwrap_or(&[]);
                let captured = &captured[..captured.len().min(len)];
                let from = (d.src, d.dst, d.identification);
                return segment(from, captured, len, cost);
            }
            next = envelope::open(d.protocol, frame, d.at, &self.vxlan);
        }
        Decoded::Other(Cause::NotTcp)
    }

    fn fragment<'a>(
        &mut self,
        d: &Datagram,
        cost: Cost,
        frame: &[u8],
        lost: &mut u64,
    ) -> Decoded<'a> {
        let Some((id, offset, more)) = d.fragment else {
            return Decoded::Other(Cause::Malformed);
        };
        let captured = frame.get(d.at..).unwrap_or(&[]);
        let len = d.len.unwrap_or(captured.len());
        let bad = len == 0 || (more && !len.is_multiple_of(8)) || offset + len > 65_535;
        if bad {
            return Decoded::Other(Cause::Malformed);
        }
        if captured.len() < len {
            return Decoded::Other(Cause::Truncated);
        }
        let key = (d.src, d.dst, d.protocol, id);
        let Cost {
            time,
            size,
            packets,
        } = cost;
        self.expire(time, lost);
        if !self.datagrams.contains_key(&key) {
            self.born += 1;
            self.order.push_back((key, self.born));
            let born = self.born;
            self.datagrams.insert(
                key,
                Partial {
                    pieces: Vec::new(),
                    total: None,
                    bytes: 0,
                    packets: 0,
                    time,
                    born,
                },
            );
        }
        let Some(partial) = self.datagrams.get_mut(&key) else {
            return Decoded::Other(Cause::Malformed);
        };
        partial.bytes += size;
        partial.packets += packets;
        if partial.pieces.len() < MAX_FRAGMENTS {
            partial.pieces.push((offset, captured[..len].to_vec()));
        }
        if !more {
            partial.total = Some(offset + len);
        }
        let Some(total) = partial.total else {
            return Decoded::Held;
        };
        partial.pieces.sort_by_key(|piece| piece.0);
        let mut payload = Vec::new();
        for (offset, piece) in &partial.pieces {
            if *offset > payload.len() {
                return Decoded::Held;
            }
            let known = payload.len() - offset;
            payload.extend_from_slice(piece.get(known..).unwrap_or(&[]));
        }
        if payload.len() < total {
            return Decoded::Held;
        }
        payload.truncate(total);
        let whole = Whole {
            src: d.src,
            dst: d.dst,
            protocol: d.protocol,
            payload,
            size: partial.bytes,
            packets: partial.packets,
        };
        self.datagrams.remove(&key);
        Decoded::Whole(whole)
    }

    fn expire(&mut self, now: i64, lost: &mut u64) {
        while let Some(&(key, born)) = self.order.front() {
            let stale = match self.datagrams.get(&key) {
                Some(p) if p.born == born => {
                    self.datagrams.len() >= MAX_DATAGRAMS
                        || now.saturating_sub(p.time) > FRAGMENT_TIMEOUT_NS
                }
                _ => {
                    self.order.pop_front();
                    continue;
                }
            };
            if !stale {
                break;
            }
            self.order.pop_front();
            if let Some(p) = self.datagrams.remove(&key) {
                *lost += p.bytes;
            }
        }
    }

    /// Gives up on every datagram that is not whole; returns their bytes.
    pub fn finish(&mut self) -> u64 {
        self.order.clear();
        self.datagrams.drain().map(|(_, p)| p.bytes).sum()
    }
}

/// The usual packet, without a branch too many: TCP in IPv4 without options or fragments, headers
/// whole. Anything else takes the long way, which gives the same for these.
#[inline]
fn plain(time: i64, orig: u64, frame: &[u8], at: usize) -> Option<Segment<'_>> {
    let h: &[u8; 40] = frame.get(at..at + 40)?.try_into().ok()?;
    let word = |i: usize| u32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
    let half = |i: usize| u16::from_be_bytes([h[i], h[i + 1]]);
    let total = usize::from(half(2));
    let header = usize::from(h[32] >> 4) * 4;
    let usual = h[0] == 0x45 && h[9] == 6 && half(6) & 0x3fff == 0 && header >= 20;
    if !usual || total < 20 + header || orig < (at + total) as u64 {
        return None;
    }
    let len = total - 20 - header;
    let from = (at + 20 + header).min(frame.len());
    let flags = h[33];
    Some(Segment {
        time,
        src: Addr::V4(word(12)),
        dst: Addr::V4(word(16)),
        sport: half(20),
        dport: half(22),
        seq: word(24),
        ack: if flags & ACK != 0 { word(28) } else { 0 },
        flags,
        payload: &frame[from..(from + len).min(frame.len())],
        len: len as u32,
        overhead: orig - len as u64,
        packets: 1,
        identification: half(4),
        checksum: half(36),
    })
}

/// `ip`: source, destination and identification.
fn segment<'a>(ip: (Addr, Addr, u16), b: &'a [u8], len: usize, cost: Cost) -> Decoded<'a> {
    let parts = || {
        let header = (*b.get(12)? >> 4) as usize * 4;
        Some((
            be16(b, 0)?,
            be16(b, 2)?,
            be32(b, 4)?,
            be32(b, 8)?,
            *b.get(13)?,
            header,
        ))
    };
    let Some((sport, dport, seq, ack, flags, header)) = parts() else {
        // Cut inside the TCP header: by the snap length where the packet was longer.
        let cause = if b.len() < len.min(14) {
            Cause::Truncated
        } else {
            Cause::Malformed
        };
        return Decoded::Other(cause);
    };
    if header < 20 || header > len || len - header > MAX_PAYLOAD {
        return Decoded::Other(Cause::Malformed);
    }
    let len = len - header;
    Decoded::Tcp(Segment {
        time: cost.time,
        src: ip.0,
        dst: ip.1,
        sport,
        dport,
        seq,
        ack: if flags & ACK != 0 { ack } else { 0 },
        flags,
        payload: b.get(header..).unwrap_or(&[]),
        len: len as u32,
        overhead: cost.size - len as u64,
        packets: cost.packets,
        identification: ip.2,
        checksum: be16(b, 16).unwrap_or(0),
    })
}
