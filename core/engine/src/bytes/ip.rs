//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use crate::bytes::fields::{be16, be32};
use crate::bytes::segment::Addr;

pub const MAX_LAYERS: usize = 16;

/// What an IP header says of its payload.
pub(super) struct Datagram {
    pub(super) src: Addr,
    pub(super) dst: Addr,
    pub(super) protocol: u8,
    /// Where the transport header begins in the frame.
    pub(super) at: usize,
    /// Length on the wire of what follows `at`; None where the header leaves it open (TSO).
    pub(super) len: Option<usize>,
    pub(super) identification: u16,
    /// Identification, offset in bytes, more-fragments.
    pub(super) fragment: Option<(u32, usize, bool)>,
}

pub(super) fn ipv4(b: &[u8], at: usize) -> Option<Datagram> {
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

pub(super) fn ipv6(b: &[u8], at: usize) -> Option<Datagram> {
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
