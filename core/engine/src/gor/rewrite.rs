//! Rules over requests on the move: which pass, and how they are rewritten.
//!
//! Owns GoReplay's rules and their order: set, allow and deny, take a share by hash, rewrite. A rule
//! reads and edits one head; bodies are never touched.

use crate::filter::Filters;
use crate::http1::edit;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, Engine as _};
use regex::bytes::{Captures, Regex};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

pub type Named = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug, Default)]
pub struct Modifier {
    pub filters: Filters,
    pub set_headers: Vec<Named>,
    pub set_params: Vec<Named>,
    /// Patterns of which a request's credentials must match every one, if it has any.
    pub basic_auth: Vec<Regex>,
    /// Percent of requests that pass, by the hash of a field or parameter; without it they pass.
    pub header_limits: Vec<(Vec<u8>, u32)>,
    pub param_limits: Vec<(Vec<u8>, u32)>,
    /// The first that matches is applied.
    pub rewrite_urls: Vec<(Regex, Vec<u8>)>,
    pub rewrite_headers: Vec<(Vec<u8>, Regex, Vec<u8>)>,
}

/// What becomes of a message.
pub enum Verdict {
    Denied,
    Same,
    /// Its head is the one given, its body begins there.
    Changed(Vec<u8>, usize),
}

/// FNV-1a, 32 bits.
pub fn fnv(b: &[u8]) -> u32 {
    b.iter().fold(0x811c_9dc5, |hash, &c| {
        (hash ^ u32::from(c)).wrapping_mul(0x0100_0193)
    })
}

impl Modifier {
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && !self.edits() && !self.limits() && self.basic_auth.is_empty()
    }

    fn edits(&self) -> bool {
        !(self.set_headers.is_empty()
            && self.set_params.is_empty()
            && self.rewrite_urls.is_empty()
            && self.rewrite_headers.is_empty())
    }

    fn limits(&self) -> bool {
        !(self.header_limits.is_empty() && self.param_limits.is_empty())
    }

    /// Judges a request. What is none by its first line passes as it is.
    pub fn apply(&self, payload: &[u8]) -> Verdict {
        let Some((method, target)) = edit::request(payload) else {
            return Verdict::Same;
        };
        let body = edit::end(payload);
        if !self.edits() {
            let passes = self.passes(&payload[..body], method, target);
            return if passes {
                Verdict::Same
            } else {
                Verdict::Denied
            };
        }
        let mut h = payload[..body].to_vec();
        for (name, value) in &self.set_headers {
            edit::set(&mut h, name, value);
        }
        let mut target = target;
        for (name, value) in &self.set_params {
            set_parameter(&mut h, &mut target, name, value);
        }
        if !self.passes(&h, method, target.clone()) {
            return Verdict::Denied;
        }
        if let Some((pattern, with)) = self
            .rewrite_urls
            .iter()
            .find(|(p, _)| p.is_match(&h[target.clone()]))
        {
            let new = replaced(pattern, with, &h[target.clone()]);
            edit::splice(&mut h, target, &without_line_ends(&new));
        }
        for (name, pattern, with) in &self.rewrite_headers {
            if let Some(at) = edit::value(&h, name).filter(|at| !at.is_empty()) {
                let new = replaced(pattern, with, &h[at.clone()]);
                edit::splice(&mut h, at, &without_line_ends(&new));
            }
        }
        Verdict::Changed(h, body)
    }

    fn passes(
        &self,
        h: &[u8],
        method: std::ops::Range<usize>,
        target: std::ops::Range<usize>,
    ) -> bool {
        let target = &h[target];
        if !self.filters.passes(&h[method], target, h) {
            return false;
        }
        if !self.basic_auth.is_empty() {
            let credentials = edit::value(h, b"authorization").map(|at| &h[at]);
            if let Some(encoded) = credentials.and_then(|v| v.strip_prefix(b"Basic ")) {
                let plain = BASE64.decode(encoded).unwrap_or_default();
                if !self.basic_auth.iter().all(|r| r.is_match(&plain)) {
                    return false;
                }
            }
        }
        let within = |value: &[u8], percent: u32| fnv(value) % 100 < percent;
        self.header_limits.iter().all(|(name, percent)| {
            edit::value(h, name).is_none_or(|at| at.is_empty() || within(&h[at], *percent))
        }) && self.param_limits.iter().all(|(name, percent)| {
            edit::parameter(target, name).is_none_or(|at| within(&target[at], *percent))
        })
    }
}

fn replaced(pattern: &Regex, with: &[u8], text: &[u8]) -> Vec<u8> {
    pattern
        .replace_all(text, |found: &Captures| expanded(with, found))
        .into_owned()
}

/// A replacement as Go's regexp reads it: `$1`, `${name}`, the longest name after `$`, `$$`; nothing
/// for a group that is none; a `$` that begins none of these stands for itself.
fn expanded(template: &[u8], found: &Captures) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'$' {
            out.push(first);
            continue;
        }
        if let Some(after) = rest.strip_prefix(b"$") {
            out.push(b'$');
            rest = after;
            continue;
        }
        let braced = rest.first() == Some(&b'{');
        let inner = &rest[usize::from(braced)..];
        let word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
        let len = inner.iter().take_while(|c| word(c)).count();
        if len == 0 || (braced && inner.get(len) != Some(&b'}')) {
            out.push(b'$');
            continue;
        }
        let name = std::str::from_utf8(&inner[..len]).unwrap_or("");
        let group = if name.bytes().all(|c| c.is_ascii_digit()) {
            name.parse().ok().and_then(|n: usize| found.get(n))
        } else {
            found.name(name)
        };
        out.extend_from_slice(group.map_or(b"", |g| g.as_bytes()));
        rest = &inner[len + usize::from(braced)..];
    }
    out
}

/// What a pattern made of a line must stay one line.
fn without_line_ends(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|c| !matches!(c, b'\r' | b'\n'))
        .collect()
}

fn set_parameter(h: &mut Vec<u8>, target: &mut std::ops::Range<usize>, name: &[u8], value: &[u8]) {
    let before = h.len();
    let text = &h[target.clone()];
    if let Some(at) = edit::parameter(text, name) {
        edit::splice(h, target.start + at.start..target.start + at.end, value);
    } else {
        let mark: &[u8] = if text.contains(&b'?') { b"&" } else { b"?" };
        let pair = [mark, name, b"=", value].concat();
        edit::splice(h, target.end..target.end, &pair);
    }
    target.end = target.end + h.len() - before;
}
