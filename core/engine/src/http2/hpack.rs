//! HPACK (RFC 7541): header blocks to fields, with a table whose beginning may be unknown.
//!
//! Owns the static and the dynamic table and the Huffman code. A decoder that did not see a
//! connection begin, or lost a block, goes on: an index it cannot know gives a field without value,
//! and what is inserted from then on is known again. Memory is bounded by [`CAP`] a table and by
//! `room` a block; a field beyond that is measured but not kept.

use memchr::memchr3;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// The largest table kept, whatever the encoder asks for.
pub const CAP: usize = 64 << 10;
const DEFAULT: usize = 4096;
/// RFC 7541 §4.1: what an entry counts beside its strings.
const ENTRY: usize = 32;

/// RFC 7541 appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Lengths of the Huffman codes (RFC 7541 appendix B), which are canonical: by length, then by symbol.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const EOS: u16 = 256;

/// States are inner nodes of the code's tree, four bits a step: the next state, and the symbol passed
/// on the way, if any. The shortest code has five bits, so there is at most one.
struct Huffman {
    steps: Vec<[(u16, u16); 16]>,
    /// RFC 7541 §5.2: where a string may end, on less than eight bits, all ones.
    ends: Vec<bool>,
}

const NO_SYMBOL: u16 = 0xffff;
const BROKEN: u16 = 0xffff;

fn huffman() -> &'static Huffman {
    static TABLE: OnceLock<Huffman> = OnceLock::new();
    TABLE.get_or_init(|| {
        // Children of inner nodes: another node, or 0x8000 | symbol.
        let mut nodes = vec![[0u16; 2]];
        let mut order: Vec<u16> = (0..257).collect();
        order.sort_by_key(|&s| (LENGTHS[usize::from(s)], s));
        let (mut code, mut last) = (0u32, 0);
        for symbol in order {
            let length = LENGTHS[usize::from(symbol)];
            code <<= length - last;
            last = length;
            let mut at = 0;
            for bit in (0..length).rev() {
                let side = (code >> bit & 1) as usize;
                if bit == 0 {
                    nodes[at][side] = 0x8000 | symbol;
                } else {
                    if nodes[at][side] == 0 {
                        nodes[at][side] = nodes.len() as u16;
                        nodes.push([0; 2]);
                    }
                    at = usize::from(nodes[at][side]);
                }
            }
            code += 1;
        }
        let step = |node: usize, nibble: usize| {
            let (mut at, mut passed) = (node as u16, NO_SYMBOL);
            for bit in (0..4).rev() {
                at = nodes[usize::from(at)][nibble >> bit & 1];
                if at == 0x8000 | EOS {
                    return (BROKEN, NO_SYMBOL);
                }
                if at & 0x8000 != 0 {
                    passed = at & 0x7fff;
                    at = 0;
                }
            }
            (at, passed)
        };
        let steps = (0..nodes.len())
            .map(|node| std::array::from_fn(|nibble| step(node, nibble)))
            .collect();
        let mut ends = vec![false; nodes.len()];
        let mut at = 0;
        for _ in 0..8 {
            ends[at] = true;
            at = usize::from(nodes[at][1]);
        }
        Huffman { steps, ends }
    })
}

/// Decodes a Huffman string to the end of `out`; false if it is none.
fn unpack(b: &[u8], out: &mut Vec<u8>) -> bool {
    let table = huffman();
    let mut at = 0;
    for &byte in b {
        for nibble in [byte >> 4, byte & 15] {
            let (next, symbol) = table.steps[at][usize::from(nibble)];
            if next == BROKEN {
                return false;
            }
            if symbol != NO_SYMBOL {
                out.push(symbol as u8);
            }
            at = usize::from(next);
        }
    }
    table.ends[at]
}

/// A decoded header block: names and values one after the other.
#[derive(Default)]
pub struct Fields {
    text: Vec<u8>,
    /// Ends of name and value; whether both are known.
    marks: Vec<(u32, u32, bool)>,
    /// What the fields measure as HTTP/1.1 writes them: name, value, colon, blank, line end.
    pub size: u64,
    /// Some field stayed unknown.
    pub unknown: bool,
    /// Some field was beyond the room given.
    pub cut: bool,
}

impl Fields {
    pub fn clear(&mut self) {
        self.text.clear();
        self.marks.clear();
        self.size = 0;
        self.unknown = false;
        self.cut = false;
    }

    /// Some field holds what none may (RFC 9113 §8.2.1): as HTTP/1.1 it would be read as something else.
    pub fn hostile(&self) -> bool {
        memchr3(b'\r', b'\n', 0, &self.text).is_some()
            && self.iter().any(|(name, value)| {
                let odd = |text| memchr3(b'\r', b'\n', 0, text).is_some();
                odd(name) || (odd(value) && binary(name, value).is_none())
            })
    }

    /// Names and values of the fields that are known.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut from = 0;
        self.marks.iter().filter_map(move |&(name, value, known)| {
            let start = std::mem::replace(&mut from, value as usize);
            let (name, value) = (name as usize, value as usize);
            known.then(|| (&self.text[start..name], &self.text[name..value]))
        })
    }
}

/// The bytes of gRPC's binary metadata that is sent as it is, behind a NUL (gRPC over HTTP/2, "true binary metadata").
pub fn binary<'a>(name: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    name.ends_with(b"-bin")
        .then(|| value.strip_prefix(&[0]))
        .flatten()
}

/// What is wrong with a block: RFC 9113 §4.3 calls it COMPRESSION_ERROR.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
    known: bool,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY
    }
}

pub struct Decoder {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// Nothing was missed: an index beyond the table is an error, not something unknown.
    whole: bool,
}

impl Decoder {
    /// `whole`: the connection's beginning was seen.
    pub fn new(whole: bool) -> Self {
        Decoder {
            entries: VecDeque::new(),
            size: 0,
            max: DEFAULT,
            whole,
        }
    }

    /// Bytes in the table.
    pub fn held(&self) -> usize {
        self.size
    }

    /// A block was missed: what the table holds is unknown.
    pub fn lose(&mut self) {
        self.entries.clear();
        self.size = 0;
        self.whole = false;
    }

    fn insert(&mut self, entry: Entry) {
        self.size += entry.size();
        self.entries.push_front(entry);
        self.fit();
    }

    fn fit(&mut self) {
        while self.size > self.max {
            match self.entries.pop_back() {
                Some(old) => self.size -= old.size(),
                None => break,
            }
        }
    }

    /// Decodes a whole block, keeping at most `room` bytes of it. On an error the fields before it
    /// stand, and the table is lost.
    pub fn block(&mut self, b: &[u8], room: usize, out: &mut Fields) -> Result<(), Broken> {
        out.clear();
        let mut at = 0;
        while at < b.len() {
            let (text, marks) = (out.text.len(), out.marks.len());
            if self.field(b, &mut at, room, out).is_none() {
                out.text.truncate(text);
                out.marks.truncate(marks);
                self.lose();
                return Err(Broken);
            }
        }
        Ok(())
    }

    fn field(&mut self, b: &[u8], at: &mut usize, room: usize, out: &mut Fields) -> Option<()> {
        let first = b[*at];
        if first & 0xe0 == 0x20 {
            // §6.3: the table's size changes.
            let max = integer(b, at, 5)?;
            if max > CAP {
                self.whole = false; // we keep less than the encoder may use
            }
            self.max = max.min(CAP);
            self.fit();
            return Some(());
        }
        let start = out.text.len();
        let mut known = true;
        if first & 0x80 != 0 {
            // §6.1: an indexed field.
            let index = integer(b, at, 7)?;
            known = self.copy(index, true, out)?;
            let name = out.marks.last()?.0 as usize;
            self.measure(start, name, known, room, out);
            return Some(());
        }
        let insert = first & 0x40 != 0;
        let index = integer(b, at, if insert { 6 } else { 4 })?;
        if index == 0 {
            string(b, at, &mut out.text)?;
            let name = out.text.len() as u32;
            out.marks.push((name, name, true));
        } else {
            known = self.copy(index, false, out)?;
        }
        let name = out.marks.last()?.0 as usize;
        string(b, at, &mut out.text)?;
        if insert {
            let entry = Entry {
                name: out.text[start..name].into(),
                value: out.text[name..].into(),
                known,
            };
            if entry.size() > self.max {
                self.entries.clear(); // §4.4
                self.size = 0;
            } else {
                self.insert(entry);
            }
        }
        self.measure(start, name, known, room, out);
        Some(())
    }

    /// Closes the field that ends `out.text`.
    fn measure(&self, start: usize, name: usize, known: bool, room: usize, out: &mut Fields) {
        out.unknown |= !known;
        out.size += (out.text.len() - start + 4) as u64;
        if out.text.len() > room {
            out.cut = true;
            out.text.truncate(start);
            out.marks.pop();
        } else if let Some(mark) = out.marks.last_mut() {
            *mark = (name as u32, out.text.len() as u32, known);
        }
    }

    /// Appends an entry's name, and its value if asked; returns whether it is known.
    fn copy(&self, index: usize, value: bool, out: &mut Fields) -> Option<bool> {
        let nothing: &[u8] = &[];
        let (name, text, known) = match index {
            0 => return None,
            1..=61 => {
                let (name, text) = STATIC[index - 1];
                (name.as_bytes(), text.as_bytes(), true)
            }
            _ => match self.entries.get(index - 62) {
                Some(e) => (&e.name[..], &e.value[..], e.known),
                None if self.whole => return None,
                None => (nothing, nothing, false),
            },
        };
        out.text.extend_from_slice(name);
        let end = out.text.len() as u32;
        out.marks.push((end, end, known));
        if value {
            out.text.extend_from_slice(text);
        }
        Some(known)
    }
}

/// RFC 7541 §5.1; at most four bytes beyond the prefix, as no length or index is larger.
#[inline]
fn integer(b: &[u8], at: &mut usize, prefix: u8) -> Option<usize> {
    let mask = (1usize << prefix) - 1;
    let mut n = usize::from(*b.get(*at)?) & mask;
    *at += 1;
    if n < mask {
        return Some(n);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*b.get(*at)?);
        *at += 1;
        n += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// RFC 7541 §5.2, to the end of `out`.
#[inline]
fn string(b: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Option<()> {
    let packed = b.get(*at)? & 0x80 != 0;
    let n = integer(b, at, 7)?;
    let text = b.get(*at..at.checked_add(n)?)?;
    *at += n;
    if !packed {
        out.extend_from_slice(text);
    } else if !unpack(text, out) {
        return None;
    }
    Some(())
}
