//! One TCP segment, and the addresses it has.

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
