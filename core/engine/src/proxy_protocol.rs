//! The PROXY protocol, versions 1 and 2 (HAProxy's specification): who a balancer speaks for.
//!
//! Owns the header's syntax alone.

use crate::bytes::segment::Addr;
use std::net::{Ipv4Addr, Ipv6Addr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const MAX_V1: usize = 107;
/// With the fields that may follow the addresses.
const MAX_V2: usize = 2048;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header: its size, and the client and server that it names, if any.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    pub size: usize,
    pub ends: Option<[(Addr, u16); 2]>,
}

/// The header at the start of these bytes. None: there is none, or it is not whole.
pub fn header(b: &[u8]) -> Option<Header> {
    if b.starts_with(SIGNATURE) {
        return version2(b);
    }
    let rest = b.strip_prefix(b"PROXY ")?;
    let end = rest.windows(2).take(MAX_V1).position(|w| w == b"\r\n")?;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    let size = 6 + end + 2;
    let words: Vec<&str> = line.split(' ').collect();
    if words[0] == "UNKNOWN" {
        return Some(Header { size, ends: None });
    }
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let address = |text: &str| -> Option<Addr> {
        match family {
            "TCP4" => Some(Addr::V4(text.parse::<Ipv4Addr>().ok()?.to_bits())),
            "TCP6" => Some(Addr::V6(text.parse::<Ipv6Addr>().ok()?.to_bits())),
            _ => None,
        }
    };
    let ends = [
        (address(source)?, source_port.parse().ok()?),
        (address(destination)?, destination_port.parse().ok()?),
    ];
    Some(Header {
        size,
        ends: Some(ends),
    })
}

/// Whether a header may begin here whose end is yet to come.
pub fn begins(b: &[u8]) -> bool {
    let v1 = b.len() < MAX_V1 && (b"PROXY ".starts_with(b) || b.starts_with(b"PROXY "));
    let v2 = b.len() < MAX_V2 && (SIGNATURE.starts_with(b) || b.starts_with(SIGNATURE));
    !b.is_empty() && (v1 && !b.ends_with(b"\n") || v2) && header(b).is_none()
}

fn version2(b: &[u8]) -> Option<Header> {
    let head = b.get(12..16)?;
    if head[0] >> 4 != 2 {
        return None;
    }
    let size = 16 + usize::from(u16::from_be_bytes([head[2], head[3]]));
    let body = b.get(16..size)?;
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let v4 = |at: usize| {
        let bytes: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
        Some(Addr::V4(u32::from_be_bytes(bytes)))
    };
    let v6 = |at: usize| {
        let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        Some(Addr::V6(u128::from_be_bytes(bytes)))
    };
    // The command LOCAL is the balancer's own connection: it speaks for nobody.
    let ends = match (head[0] & 15, head[1]) {
        (1, TCP4) => Some([(v4(0)?, port(8)?), (v4(4)?, port(10)?)]),
        (1, TCP6) => Some([(v6(0)?, port(32)?), (v6(16)?, port(34)?)]),
        _ => None,
    };
    Some(Header { size, ends })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let ends = Some([(Addr::V4(0xC633_6407), 51_000), (Addr::V4(0x0A00_0002), 80)]);
        let one = header(b"PROXY TCP4 198.51.100.7 10.0.0.2 51000 80\r\nGET / HTTP/1.1\r\n");
        assert_eq!(one, Some(Header { size: 43, ends }));
        let mut two = SIGNATURE.to_vec();
        two.extend_from_slice(&[
            0x21, TCP4, 0, 12, 198, 51, 100, 7, 10, 0, 0, 2, 0xC7, 0x38, 0, 80,
        ]);
        assert_eq!(header(&two), Some(Header { size: 28, ends }));
        assert_eq!(header(&two[..20]), None);
        two[12] = 0x20;
        assert_eq!(
            header(&two),
            Some(Header {
                size: 28,
                ends: None
            })
        );
        let unknown = header(b"PROXY UNKNOWN\r\nGET");
        assert_eq!(
            unknown,
            Some(Header {
                size: 15,
                ends: None
            })
        );
        let six = header(b"PROXY TCP6 2001:db8::1 ::1 5 6\r\n");
        let ends = [(Addr::V6(0x2001_0db8 << 96 | 1), 5), (Addr::V6(1), 6)];
        assert_eq!(
            six,
            Some(Header {
                size: 32,
                ends: Some(ends)
            })
        );
        for odd in [
            "PROXY",
            "PROXY TCP4 x y 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(header(odd.as_bytes()), None);
        }
    }
}
