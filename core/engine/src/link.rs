//! From a captured frame to a TCP segment.
//!
//! Owns link types, VLAN tags, PPPoE, IPv4, IPv6 and IP fragments, and the walk through envelopes.
//! Never keeps a frame: a segment borrows its payload. Cost per packet is constant; at most
//! [`MAX_LAYERS`] headers are opened.

use crate::account::Cause;
use crate::envelope::{self, Next, Vxlan};
use std::collections::{HashMap, VecDeque};

pub const MAX_LAYERS: usize = 16;
const MAX_PAYLOAD: usize = 1 << 20;
const MAX_DATAGRAMS: usize = 1024;
const MAX_FRAGMENTS: usize = 256;
const FRAGMENT_TIMEOUT_NS: i64 = 30_000_000_000;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Addr {
    V4(u32),
    V6(u128),
}

impl From<std::net::IpAddr> for Addr {
    fn from(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(a) => Addr::V4(a.into()),
            std::net::IpAddr::V6(a) => Addr::V6(a.into()),
        }
    }
}

/// One TCP segment. `len` is the payload's length on the wire, `payload` what was captured of it.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub time: i64,
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload: &'a [u8],
    pub len: u32,
    /// Link bytes beside the payload: all headers and padding.
    pub overhead: u64,
    pub packets: u32,
    /// Of the IP header, 0 where there is none; and TCP's.
    pub identification: u16,
    pub checksum: u16,
}

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
    src: Addr,
    dst: Addr,
    protocol: u8,
    payload: Vec<u8>,
    /// Link bytes and packets.
    pub size: u64,
    packets: u32,
}

#[inline]
pub fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

#[inline]
pub fn be32(b: &[u8], at: usize) -> Option<u32> {
    let s: &[u8; 4] = b.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(*s))
}

/// What an IP header says of its payload.
struct Datagram {
    src: Addr,
    dst: Addr,
    protocol: u8,
    /// Where the transport header begins in the frame.
    at: usize,
    /// Length on the wire of what follows `at`; None where the header leaves it open (TSO).
    len: Option<usize>,
    identification: u16,
    /// Identification, offset in bytes, more-fragments.
    fragment: Option<(u32, usize, bool)>,
}

/// EtherType and offset of the network header; None where the link holds none that we read.
pub fn network(link: u32, b: &[u8]) -> Option<(u16, usize)> {
    let ip_version = |at: usize| match b.get(at)? >> 4 {
        4 => Some((0x0800, at)),
        6 => Some((0x86dd, at)),
        _ => None,
    };
    match link {
        1 => Some((be16(b, 12)?, 14)),
        // Cisco HDLC: address, control, EtherType.
        104 => Some((be16(b, 2)?, 4)),
        // BSD loopback: the address family, in the byte order of the host that captured.
        0 | 108 => ip_version(4),
        12 | 14 | 101 | 228 | 229 => ip_version(0),
        // Linux cooked v1: protocol at 14; v2: protocol first.
        113 => Some((be16(b, 14)?, 16)),
        276 => Some((be16(b, 0)?, 20)),
        // PPP, with or without address and control; PPP over Cisco HDLC framing.
        9 | 50 => ppp(b, if b.starts_with(&[0xff, 3]) { 2 } else { 0 }),
        _ => None,
    }
}

pub fn ppp(b: &[u8], at: usize) -> Option<(u16, usize)> {
    // RFC 1661 §6.5: an odd first byte is a protocol number of one byte.
    let first = u16::from(*b.get(at)?);
    let (protocol, next) = if first & 1 == 1 {
        (first, at + 1)
    } else {
        (be16(b, at)?, at + 2)
    };
    match protocol {
        0x0021 => Some((0x0800, next)),
        0x0057 => Some((0x86dd, next)),
        _ => None,
    }
}

fn ipv4(b: &[u8], at: usize) -> Option<Datagram> {
    let first = *b.get(at)?;
    let header = (first & 15) as usize * 4;
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    let total = be16(b, at + 2)? as usize;
    if total != 0 && total < header {
        return None;
    }
    let flags = be16(b, at + 6)?;
    let offset = (flags & 0x1fff) as usize * 8;
    let more = flags & 0x2000 != 0;
    Some(Datagram {
        src: Addr::V4(be32(b, at + 12)?),
        dst: Addr::V4(be32(b, at + 16)?),
        protocol: *b.get(at + 9)?,
        at: at + header,
        len: (total != 0).then(|| total - header),
        identification: be16(b, at + 4)?,
        fragment: (offset != 0 || more).then_some((be16(b, at + 4)? as u32, offset, more)),
    })
}

fn ipv6(b: &[u8], at: usize) -> Option<Datagram> {
    if b.get(at)? >> 4 != 6 {
        return None;
    }
    let addr = |at: usize| -> Option<Addr> {
        let s: &[u8; 16] = b.get(at..at + 16)?.try_into().ok()?;
        Some(Addr::V6(u128::from_be_bytes(*s)))
    };
    let payload = be16(b, at + 4)? as usize;
    let mut out = Datagram {
        src: addr(at + 8)?,
        dst: addr(at + 24)?,
        protocol: *b.get(at + 6)?,
        at: at + 40,
        len: None,
        identification: 0,
        fragment: None,
    };
    // RFC 8200 §4: hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6.
    for _ in 0..MAX_LAYERS {
        let extension = match out.protocol {
            0 | 43 | 60 | 135 | 139 | 140 => (*b.get(out.at + 1)? as usize + 1) * 8,
            51 => (*b.get(out.at + 1)? as usize + 2) * 4,
            44 => {
                let flags = be16(b, out.at + 2)?;
                let offset = (flags & 0xfff8) as usize;
                let more = flags & 1 != 0;
                if offset != 0 || more {
                    out.fragment = Some((be32(b, out.at + 4)?, offset, more));
                }
                8
            }
            _ => break,
        };
        out.protocol = *b.get(out.at)?;
        out.at += extension;
        if out.fragment.is_some() {
            break;
        }
    }
    if payload != 0 {
        out.len = Some((at + 40 + payload).checked_sub(out.at)?);
    }
    Some(out)
}

/// RFC 791: source, destination, protocol, identification.
type Key = (Addr, Addr, u8, u32);

/// Decodes frames; holds IP fragments until their datagram is whole.
#[derive(Default)]
pub struct Decoder {
    datagrams: HashMap<Key, Partial>,
    order: VecDeque<(Key, u64)>,
    born: u64,
    vxlan: Vxlan,
}

struct Partial {
    pieces: Vec<(usize, Vec<u8>)>,
    total: Option<usize>,
    bytes: u64,
    packets: u32,
    time: i64,
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
        &'a mut self,
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
        self.walk(Ok((kind, at)), time, orig as usize, orig, 1, frame, lost)
    }

    /// What a datagram carries that came in fragments.
    pub fn inside<'a>(&mut self, w: &'a Whole, time: i64, lost: &mut u64) -> Decoded<'a> {
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
            return segment((w.src, w.dst, 0), time, b, b.len(), w.size, w.packets);
        }
        let next = envelope::open(protocol, b, 0, &self.vxlan);
        self.walk(next, time, b.len(), w.size, w.packets, b, lost)
    }

    /// Walks from one header to the next. `frame` is what was captured of `wire` bytes; the segment in
    /// it cost `size` link bytes in so many packets.
    fn walk<'a>(
        &mut self,
        mut next: Next,
        time: i64,
        wire: usize,
        size: u64,
        packets: u32,
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
                    4 | 6 | 17 | 41 | 47 | 60 => {
                        self.fragment(&d, time, size, packets, frame, lost)
                    }
                    _ => Decoded::Other(Cause::NotTcp),
                };
            }
            if d.protocol == 6 {
                let rest = wire.saturating_sub(d.at);
                let len = d.len.unwrap_or(rest).min(rest);
                let captured = frame.get(d.at..).unwrap_or(&[]);
                let captured = &captured[..captured.len().min(len)];
                let from = (d.src, d.dst, d.identification);
                return segment(from, time, captured, len, size, packets);
            }
            next = envelope::open(d.protocol, frame, d.at, &self.vxlan);
        }
        Decoded::Other(Cause::NotTcp)
    }

    fn fragment<'a>(
        &mut self,
        d: &Datagram,
        time: i64,
        size: u64,
        packets: u32,
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
fn segment<'a>(
    ip: (Addr, Addr, u16),
    time: i64,
    b: &'a [u8],
    len: usize,
    bytes: u64,
    packets: u32,
) -> Decoded<'a> {
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
        time,
        src: ip.0,
        dst: ip.1,
        sport,
        dport,
        seq,
        ack: if flags & ACK != 0 { ack } else { 0 },
        flags,
        payload: b.get(header..).unwrap_or(&[]),
        len: len as u32,
        overhead: bytes - len as u64,
        packets,
        identification: ip.2,
        checksum: be16(b, 16).unwrap_or(0),
    })
}
