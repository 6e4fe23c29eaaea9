//! Envelopes: what carries whole packets inside packets.
//!
//! Owns MPLS, GRE with ERSPAN, VXLAN, Geneve, GTP-U and IP in IP: where the inner packet begins, or
//! why it is not opened. Each function looks at one header and never beyond it; `link` walks from one
//! to the next.

use crate::account::Cause;
use crate::bytes::fields::{be16, be32, ppp};

/// An EtherType for "an Ethernet frame comes next" (IEEE 802.1 calls it transparent bridging).
pub const ETHERNET: u16 = 0x6558;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const GENEVE: u16 = 6081;
const GTP_U: u16 = 2152;

/// Which VXLAN traffic is opened.
#[derive(Clone, Debug)]
pub struct Vxlan {
    pub ports: Vec<u16>,
    /// Network identifiers; a negative one is left out. Without a positive one, all others are taken.
    pub vnis: Vec<i64>,
}

impl Default for Vxlan {
    fn default() -> Self {
        Vxlan {
            ports: vec![4789, 8472],
            vnis: Vec::new(),
        }
    }
}

impl Vxlan {
    fn wants(&self, vni: i64) -> bool {
        let listed = self.vnis.contains(&vni);
        !self.vnis.contains(&-vni) && (listed || self.vnis.iter().all(|&v| v < 0))
    }
}

pub type Next = Result<(u16, usize), Cause>;

fn ip(b: &[u8], at: usize) -> Next {
    match b.get(at).map(|first| first >> 4) {
        Some(4) => Ok((IPV4, at)),
        Some(6) => Ok((IPV6, at)),
        Some(_) => Err(Cause::NotTcp),
        None => Err(Cause::Malformed),
    }
}

/// RFC 3032: labels to the bottom of the stack. Below it IP, or a control word and Ethernet (RFC 4448).
pub fn mpls(b: &[u8], mut at: usize) -> Next {
    loop {
        let label = be32(b, at).ok_or(Cause::Malformed)?;
        at += 4;
        if label & 0x100 != 0 {
            break;
        }
    }
    match ip(b, at) {
        Err(Cause::NotTcp) if b[at] >> 4 == 0 => Ok((ETHERNET, at + 4)),
        other => other,
    }
}

/// What a protocol above IP carries, if it is an envelope.
pub fn open(protocol: u8, b: &[u8], at: usize, vxlan: &Vxlan) -> Next {
    match protocol {
        4 => Ok((IPV4, at)),
        41 => Ok((IPV6, at)),
        47 => gre(b, at).ok_or(Cause::Malformed)?,
        17 => udp(b, at, vxlan).ok_or(Cause::Malformed)?,
        _ => Err(Cause::NotTcp),
    }
}

/// RFC 2784, 2890; version 1 is RFC 2637 (PPTP).
fn gre(b: &[u8], at: usize) -> Option<Next> {
    let flags = be16(b, at)?;
    let kind = be16(b, at + 2)?;
    let word = |bit: u16| if flags & bit != 0 { 4 } else { 0 };
    match flags & 7 {
        0 if flags & 0x4000 == 0 => {}
        1 => {
            let from = at + 8 + word(0x1000) + word(0x0080);
            return Some(if kind == 0x880b {
                ppp(b, from).ok_or(Cause::NotTcp)
            } else {
                Err(Cause::NotTcp)
            });
        }
        _ => return Some(Err(Cause::NotTcp)),
    }
    let from = at + 4 + word(0x8000) + word(0x2000) + word(0x1000);
    Some(Ok(match kind {
        // ERSPAN: type I has neither sequence number nor header, type II has both, type III more.
        0x88be if flags & 0x1000 == 0 => (ETHERNET, from),
        0x88be => (ETHERNET, from + 8),
        0x22eb => {
            let more = if b.get(from + 11)? & 1 != 0 { 8 } else { 0 };
            (ETHERNET, from + 12 + more)
        }
        _ => (kind, from),
    }))
}

fn udp(b: &[u8], at: usize, vxlan: &Vxlan) -> Option<Next> {
    let port = be16(b, at + 2)?;
    let from = at + 8;
    if vxlan.ports.contains(&port) {
        // RFC 7348 §5
        let flags = *b.get(from)?;
        let vni = i64::from(be32(b, from + 4)? >> 8);
        return Some(if flags & 0x08 == 0 {
            Err(Cause::NotTcp)
        } else if vxlan.wants(vni) {
            Ok((ETHERNET, from + 8))
        } else {
            Err(Cause::Denied)
        });
    }
    match port {
        GENEVE => {
            // RFC 8926 §3.4
            let first = *b.get(from)?;
            let kind = be16(b, from + 2)?;
            let options = usize::from(first & 0x3f) * 4;
            Some(if first >> 6 == 0 {
                Ok((kind, from + 8 + options))
            } else {
                Err(Cause::NotTcp)
            })
        }
        GTP_U => gtp(b, from),
        _ => Some(Err(Cause::NotTcp)),
    }
}

/// 3GPP TS 29.281 §5.1: a G-PDU, with its extension headers.
fn gtp(b: &[u8], at: usize) -> Option<Next> {
    let (first, kind) = (*b.get(at)?, *b.get(at + 1)?);
    if first >> 5 != 1 || first & 0x10 == 0 || kind != 0xff {
        return Some(Err(Cause::NotTcp));
    }
    let mut from = at + 8;
    if first & 7 != 0 {
        from += 4;
        let mut next = if first & 4 != 0 { *b.get(from - 1)? } else { 0 };
        while next != 0 {
            let length = usize::from(*b.get(from)?) * 4;
            if length == 0 {
                return None;
            }
            from += length;
            next = *b.get(from - 1)?;
        }
    }
    Some(ip(b, from))
}
