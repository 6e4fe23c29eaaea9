//! Numbers in network byte order, and the protocol field of PPP.

#[inline]
pub fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

#[inline]
pub fn be32(b: &[u8], at: usize) -> Option<u32> {
    let s: &[u8; 4] = b.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(*s))
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
