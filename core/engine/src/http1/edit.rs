//! The head of an HTTP/1 message, as bytes to be looked at and edited.
//!
//! Owns where a head ends, its request line, its fields by name, and the edits of one: everything
//! that is not edited stays byte for byte.

use crate::http1::syntax::is_token;
use std::ops::Range;

const MAX_METHOD: usize = 32;

/// Bytes of the head, blank line included; all of `b` where there is none.
pub fn end(b: &[u8]) -> usize {
    let mut at = 0;
    while let Some(n) = memchr::memchr(b'\n', &b[at..]) {
        at += n + 1;
        match &b[at..] {
            [b'\n', ..] => return at + 1,
            [b'\r', b'\n', ..] => return at + 2,
            _ => {}
        }
    }
    b.len()
}

/// Where method and target of a request line stand; None where the first line is none.
pub fn request(b: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    let n = memchr::memchr(b'\n', b)?;
    let line = b[..n].strip_suffix(b"\r").unwrap_or(&b[..n]);
    let first = memchr::memchr(b' ', line)?;
    let last = memchr::memrchr(b' ', line)?;
    let version = &line[last + 1..];
    let sound = (1..=MAX_METHOD).contains(&first)
        && first < last
        && version.len() == 8
        && version.starts_with(b"HTTP/1.")
        && version[7].is_ascii_digit()
        && line[..first].iter().all(|&c| is_token(c));
    sound.then_some((0..first, first + 1..last))
}

/// Where the lines after the first begin and end, without line ends.
fn lines(head: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = memchr::memchr(b'\n', head).map_or(head.len(), |n| n + 1);
    std::iter::from_fn(move || {
        let n = memchr::memchr(b'\n', head.get(at..)?)?;
        let mut line = at..at + n;
        at += n + 1;
        if line.end > line.start && head[line.end - 1] == b'\r' {
            line.end -= 1;
        }
        Some(line)
    })
}

/// Where the value of a field's first line stands.
pub fn value(head: &[u8], name: &[u8]) -> Option<Range<usize>> {
    lines(head).find_map(|line| {
        let text = &head[line.clone()];
        let rest = text.get(name.len()..)?;
        if rest.first() != Some(&b':') || !text[..name.len()].eq_ignore_ascii_case(name) {
            return None;
        }
        let blank = |c: &u8| matches!(c, b' ' | b'\t');
        let begin = line.start + name.len() + 1;
        let value = &head[begin..line.end];
        let lead = value.iter().take_while(|c| blank(c)).count();
        let trail = value[lead..].iter().rev().take_while(|c| blank(c)).count();
        Some(begin + lead..line.end - trail)
    })
}

/// Replaces a range by other bytes.
pub fn splice(head: &mut Vec<u8>, at: Range<usize>, with: &[u8]) {
    head.splice(at, with.iter().copied());
}

/// Sets a field: its first line's value is replaced, or the line comes first.
pub fn set(head: &mut Vec<u8>, name: &[u8], value_: &[u8]) {
    if let Some(at) = value(head, name) {
        return splice(head, at, value_);
    }
    let at = memchr::memchr(b'\n', head).map_or(head.len(), |n| n + 1);
    let line = [name, b": ", value_, b"\r\n"].concat();
    splice(head, at..at, &line);
}

/// The head without the lines of these fields (names in lower case).
pub fn without(head: &[u8], names: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len());
    for (i, line) in head.split_inclusive(|&c| c == b'\n').enumerate() {
        let named = |name: &&[u8]| {
            line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name)
        };
        if i == 0 || !names.iter().any(named) {
            out.extend_from_slice(line);
        }
    }
    out
}

/// Where the value of a query parameter stands in a target.
pub fn parameter(target: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let mut at = memchr::memchr(b'?', target)? + 1;
    loop {
        let end = memchr::memchr(b'&', &target[at..]).map_or(target.len(), |n| at + n);
        let pair = &target[at..end];
        if pair.starts_with(name) && pair.get(name.len()) == Some(&b'=') {
            return Some(at + name.len() + 1..end);
        }
        if end == target.len() {
            return None;
        }
        at = end + 1;
    }
}
