//! Capture formats: where one packet's record ends and the next begins.
//!
//! Owns pcap (µs and ns, both byte orders), pcapng (several sections and interfaces) and the
//! TPACKET_V3 ring block of Linux. Bytes in, records out: it never opens a file. A record is not
//! copied; cost per record is constant.

/// One captured packet: `data` lies at `start..end` of the buffer given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub time: i64,
    pub link: u32,
    /// Length on the wire, at least the captured length.
    pub orig: u64,
    pub start: usize,
    pub end: usize,
}

/// A Decryption Secrets Block, and its type for a TLS key log (draft-ietf-opsawg-pcapng §4.7).
const SECRETS: u32 = 10;
const TLS_KEY_LOG: u32 = 0x544c_534b;

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Packet(Record, usize),
    /// Nothing here for us; go on at this offset.
    Skip(usize),
    /// Where lines of a key log are, and the offset to go on at.
    Secrets(std::ops::Range<usize>, usize),
    /// The record is not whole: more bytes are needed.
    More,
}

/// What a record holds for us.
pub enum Found {
    Packet(Record),
    /// Where lines of a key log are.
    Secrets(std::ops::Range<usize>),
}

/// Broken framing, with the offset in the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    pub offset: u64,
    pub what: String,
}

const MAX_RECORD: usize = 64 << 20;
const MAX_INTERFACES: usize = 65_536;

#[derive(Clone, Copy)]
struct Interface {
    link: u32,
    snaplen: u32,
    resolution: u8,
    offset_s: i64,
}

enum Format {
    Unknown,
    Pcap {
        big: bool,
        nanos: bool,
        link: u32,
        header: usize,
    },
    Pcapng {
        big: bool,
        interfaces: Vec<Interface>,
    },
}

/// Brings a buffer into the cache a little ahead of who reads it.
///
/// A walk from header to header waits for memory at each of them, since where the next one is stands in this one.
/// Lines that are asked for together come together.
#[derive(Default)]
struct Ahead {
    upto: usize,
}

impl Ahead {
    const STEP: usize = 4096;
    const LINE: usize = 64;

    /// The reader is at `at`.
    #[inline]
    fn reach(&mut self, b: &[u8], at: usize) {
        if at + Self::STEP > self.upto {
            self.fetch(b, at);
        }
    }

    fn fetch(&mut self, b: &[u8], at: usize) {
        let from = self.upto.max(at).min(b.len());
        self.upto = (at + 2 * Self::STEP).min(b.len()).max(from);
        let lines = b[from..self.upto].iter().step_by(Self::LINE);
        std::hint::black_box(lines.fold(0u8, |all, line| all ^ line));
        if self.upto == b.len() {
            self.upto = usize::MAX - Self::STEP;
        }
    }
}

/// A capture file read in pieces.
pub struct File {
    format: Format,
    /// Offset in the file of the next buffer's first byte.
    pub offset: u64,
    last_time: i64,
}

fn u32_at(b: &[u8], at: usize, big: bool) -> u32 {
    let mut s = [0; 4];
    s.copy_from_slice(&b[at..at + 4]);
    if big {
        u32::from_be_bytes(s)
    } else {
        u32::from_le_bytes(s)
    }
}

fn u16_at(b: &[u8], at: usize, big: bool) -> u16 {
    let s = [b[at], b[at + 1]];
    if big {
        u16::from_be_bytes(s)
    } else {
        u16::from_le_bytes(s)
    }
}

impl Default for File {
    fn default() -> Self {
        File {
            format: Format::Unknown,
            offset: 0,
            last_time: 0,
        }
    }
}

impl File {
    /// Hands over what whole records of `b` hold; returns how many bytes they took. The rest is to be given again with
    /// what follows it.
    #[inline]
    pub fn each(&mut self, b: &[u8], mut take: impl FnMut(Found)) -> Result<usize, Broken> {
        let (mut at, mut ahead) = (0, Ahead::default());
        loop {
            ahead.reach(b, at);
            at = match self.step(b, at)? {
                Step::Packet(record, next) => {
                    take(Found::Packet(record));
                    next
                }
                Step::Secrets(keys, next) => {
                    take(Found::Secrets(keys));
                    next
                }
                Step::Skip(next) => next,
                Step::More => {
                    self.offset += at as u64;
                    return Ok(at);
                }
            };
        }
    }

    /// The record at `at`. Errors carry the offset in the file.
    #[inline]
    pub fn step(&mut self, b: &[u8], at: usize) -> Result<Step, Broken> {
        match &mut self.format {
            Format::Pcap {
                big,
                nanos,
                link,
                header,
            } => {
                let (big, nanos, link, header) = (*big, *nanos, *link, *header);
                let Some(h) = b.get(at..at + header) else {
                    return Ok(Step::More);
                };
                let captured = u32_at(h, 8, big) as usize;
                if captured > MAX_RECORD {
                    return self.broken(at, format!("a record of {captured} bytes"));
                }
                let start = at + header;
                if b.len() - start < captured {
                    return Ok(Step::More);
                }
                let fraction = i64::from(u32_at(h, 4, big)) * if nanos { 1 } else { 1000 };
                let time = i64::from(u32_at(h, 0, big)) * 1_000_000_000 + fraction;
                let orig = u64::from(u32_at(h, 12, big)).max(captured as u64);
                let end = start + captured;
                Ok(Step::Packet(
                    Record {
                        time,
                        link,
                        orig,
                        start,
                        end,
                    },
                    end,
                ))
            }
            Format::Pcapng { .. } => self.block(b, at),
            Format::Unknown => self.open(b, at),
        }
    }

    fn broken<T>(&self, at: usize, what: String) -> Result<T, Broken> {
        Err(Broken {
            offset: self.offset + at as u64,
            what,
        })
    }

    fn open(&mut self, b: &[u8], at: usize) -> Result<Step, Broken> {
        let Some(h) = b.get(at..at + 24) else {
            return Ok(Step::More);
        };
        let (big, nanos, header) = match u32_at(h, 0, false) {
            0xa1b2_c3d4 => (false, false, 16),
            0xd4c3_b2a1 => (true, false, 16),
            0xa1b2_3c4d => (false, true, 16),
            0x4d3c_b2a1 => (true, true, 16),
            0xa1b2_cd34 => (false, false, 24),
            0x34cd_b2a1 => (true, false, 24),
            0x0a0d_0d0a => {
                self.format = Format::Pcapng {
                    big: false,
                    interfaces: Vec::new(),
                };
                return self.block(b, at);
            }
            _ => return self.broken(at, "not a pcap or pcapng capture".into()),
        };
        let link = u32_at(h, 20, big) & 0x0fff_ffff;
        self.format = Format::Pcap {
            big,
            nanos,
            link,
            header,
        };
        Ok(Step::Skip(at + 24))
    }

    fn block(&mut self, b: &[u8], at: usize) -> Result<Step, Broken> {
        let Format::Pcapng { big, interfaces } = &mut self.format else {
            return Ok(Step::More);
        };
        let Some(h) = b.get(at..at + 12) else {
            return Ok(Step::More);
        };
        if u32_at(h, 0, false) == 0x0a0d_0d0a {
            *big = match u32_at(h, 8, false) {
                0x1a2b_3c4d => false,
                0x4d3c_2b1a => true,
                _ => return self.broken(at, "a section header without byte order".into()),
            };
            interfaces.clear();
        }
        let big = *big;
        let kind = u32_at(h, 0, big);
        let length = u32_at(h, 4, big) as usize;
        if length < 12 || !length.is_multiple_of(4) || length > MAX_RECORD {
            return self.broken(at, format!("a block of {length} bytes"));
        }
        if b.len() - at < length {
            return Ok(Step::More);
        }
        let body = &b[at + 8..at + length - 4];
        let next = at + length;
        let short = |n: usize| body.len() < n;
        let (interface, stamp, captured, orig, data) = match kind {
            1 => {
                if short(8) || interfaces.len() >= MAX_INTERFACES {
                    return self.broken(at, "a broken interface description".into());
                }
                interfaces.push(interface(body, big));
                return Ok(Step::Skip(next));
            }
            6 if !short(20) => {
                let stamp = u64::from(u32_at(body, 4, big)) << 32 | u64::from(u32_at(body, 8, big));
                let sizes = (u32_at(body, 12, big), u32_at(body, 16, big));
                (
                    u32_at(body, 0, big) as usize,
                    Some(stamp),
                    sizes.0,
                    sizes.1,
                    20,
                )
            }
            2 if !short(20) => {
                let stamp = u64::from(u32_at(body, 4, big)) << 32 | u64::from(u32_at(body, 8, big));
                let sizes = (u32_at(body, 12, big), u32_at(body, 16, big));
                (
                    u16_at(body, 0, big) as usize,
                    Some(stamp),
                    sizes.0,
                    sizes.1,
                    20,
                )
            }
            3 if !short(4) => {
                let orig = u32_at(body, 0, big);
                let snap = interfaces.first().map_or(0, |i| i.snaplen);
                let snap = if snap == 0 { u32::MAX } else { snap };
                (
                    0,
                    None,
                    orig.min(snap).min((body.len() - 4) as u32),
                    orig,
                    4,
                )
            }
            2 | 3 | 6 => return self.broken(at, "a packet block that is too short".into()),
            SECRETS if !short(8) && u32_at(body, 0, big) == TLS_KEY_LOG => {
                let size = (u32_at(body, 4, big) as usize).min(body.len() - 8);
                return Ok(Step::Secrets(at + 16..at + 16 + size, next));
            }
            _ => return Ok(Step::Skip(next)),
        };
        let Some(&i) = interfaces.get(interface) else {
            return self.broken(at, format!("a packet of unknown interface {interface}"));
        };
        let captured = captured as usize;
        if captured > body.len() - data {
            return self.broken(
                at,
                format!("a packet of {captured} bytes in a smaller block"),
            );
        }
        let time = stamp.map_or(self.last_time, |s| nanoseconds(s, i));
        self.last_time = time;
        let start = at + 8 + data;
        let orig = u64::from(orig).max(captured as u64);
        let record = Record {
            time,
            link: i.link,
            orig,
            start,
            end: start + captured,
        };
        Ok(Step::Packet(record, next))
    }
}

/// An interface description's link type and its options if_tsresol (9) and if_tsoffset (14).
fn interface(body: &[u8], big: bool) -> Interface {
    let mut out = Interface {
        link: u32::from(u16_at(body, 0, big)),
        snaplen: u32_at(body, 4, big),
        resolution: 6,
        offset_s: 0,
    };
    let mut at = 8;
    while body.len() >= at + 4 {
        let (code, len) = (u16_at(body, at, big), u16_at(body, at + 2, big) as usize);
        let Some(value) = body.get(at + 4..at + 4 + len) else {
            break;
        };
        match (code, len) {
            (0, _) => break,
            (9, 1) => out.resolution = value[0],
            (14, 8) => {
                let mut s = [0; 8];
                s.copy_from_slice(value);
                out.offset_s = if big {
                    i64::from_be_bytes(s)
                } else {
                    i64::from_le_bytes(s)
                };
            }
            _ => {}
        }
        at += 4 + len.div_ceil(4) * 4;
    }
    out
}

fn nanoseconds(stamp: u64, i: Interface) -> i64 {
    let stamp = i128::from(stamp);
    let n = u32::from(i.resolution & 0x7f);
    let ns = if i.resolution & 0x80 != 0 {
        (stamp * 1_000_000_000) >> n
    } else if n <= 9 {
        stamp * 10_i128.pow(9 - n)
    } else {
        stamp / 10_i128.pow((n - 9).min(30))
    };
    let ns = ns + i128::from(i.offset_s) * 1_000_000_000;
    ns.clamp(i128::from(i64::MIN / 4), i128::from(i64::MAX / 4)) as i64
}

/// A TPACKET_V3 ring block (linux/if_packet.h), packet by packet.
pub struct Block<'a> {
    block: &'a [u8],
    at: usize,
    left: u32,
}

/// A packet of a ring block: EtherType and where the network header begins, relative to `start`.
pub struct Live {
    pub record: Record,
    pub ethertype: u16,
    pub network: usize,
}

const VLAN_VALID: u32 = 1 << 4;

impl<'a> Block<'a> {
    pub fn new(block: &'a [u8]) -> Self {
        let (left, at) = if block.len() < 48 {
            (0, 0)
        } else {
            (
                u32_at(block, 12, cfg!(target_endian = "big")),
                u32_at(block, 16, cfg!(target_endian = "big")) as usize,
            )
        };
        Block { block, at, left }
    }
}

impl Iterator for Block<'_> {
    type Item = Live;

    #[inline]
    fn next(&mut self) -> Option<Live> {
        let big = cfg!(target_endian = "big");
        if self.left == 0 {
            return None;
        }
        let h = self.block.get(self.at..self.at + 68)?;
        self.left -= 1;
        let at = self.at;
        let next = u32_at(h, 0, big) as usize;
        self.left = if next == 0 { 0 } else { self.left };
        self.at += next;
        let (mac, net) = (u16_at(h, 24, big) as usize, u16_at(h, 26, big) as usize);
        let start = at + mac;
        let end = start + u32_at(h, 12, big) as usize;
        if end > self.block.len() || net < mac {
            return None;
        }
        let tag = if u32_at(h, 20, big) & VLAN_VALID != 0 {
            4
        } else {
            0
        };
        let time = i64::from(u32_at(h, 4, big)) * 1_000_000_000 + i64::from(u32_at(h, 8, big));
        let orig = u64::from(u32_at(h, 16, big)).max((end - start) as u64) + tag;
        // sockaddr_ll follows the 48-byte header; its protocol is in network byte order.
        let ethertype = u16::from_be_bytes([h[50], h[51]]);
        Some(Live {
            record: Record {
                time,
                link: 1,
                orig,
                start,
                end,
            },
            ethertype,
            network: net - mac,
        })
    }
}
