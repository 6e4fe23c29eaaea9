//! Link types: where the network header begins.

use crate::bytes::fields::{be16, ppp};

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
        105 => ieee802_11(b, 0),
        // Radiotap: its length, little-endian, at 2.
        127 => ieee802_11(b, usize::from(u16::from_le_bytes([*b.get(2)?, *b.get(3)?]))),
        239 => nflog(b),
        _ => None,
    }
}

/// A data frame of IEEE 802.11 that is not encrypted, with LLC and SNAP.
fn ieee802_11(b: &[u8], at: usize) -> Option<(u16, usize)> {
    const DATA: u8 = 0x08;
    const QOS: u8 = 0x80;
    const TO_AND_FROM: u8 = 0x03;
    const PROTECTED: u8 = 0x40;
    const ORDER: u8 = 0x80;
    const NO_PAYLOAD: u8 = 0x40;
    let (kind, flags) = (*b.get(at)?, *b.get(at + 1)?);
    if kind & 0x0c != DATA || kind & NO_PAYLOAD != 0 || flags & PROTECTED != 0 {
        return None;
    }
    let mut next = at + 24;
    if flags & TO_AND_FROM == TO_AND_FROM {
        next += 6;
    }
    if kind & QOS != 0 {
        next += 2;
        if flags & ORDER != 0 {
            next += 4;
        }
    }
    let snap = b.get(next..next + 6)?;
    (snap[..3] == [0xaa, 0xaa, 3]).then_some((be16(b, next + 6)?, next + 8))
}

/// Linux netfilter's log: the address family, then attributes with their lengths, of which one is the packet.
fn nflog(b: &[u8]) -> Option<(u16, usize)> {
    const PAYLOAD: u16 = 9;
    let kind = match b.first()? {
        2 => 0x0800,
        10 => 0x86dd,
        _ => return None,
    };
    let mut at = 4;
    loop {
        let number = |at: usize| Some(u16::from_le_bytes([*b.get(at)?, *b.get(at + 1)?]));
        let (length, attribute) = (usize::from(number(at)?), number(at + 2)?);
        if attribute & 0x7fff == PAYLOAD {
            return Some((kind, at + 4));
        }
        if length < 4 {
            return None;
        }
        at += length.next_multiple_of(4);
    }
}
