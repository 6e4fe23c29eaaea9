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
        _ => None,
    }
}
