//! Which exchanges are wanted, and what of them may be shown.
//!
//! Owns allow and deny rules over a request's head, and redaction of header values and query
//! parameters. Rules read the bytes of one head; what they deny is never copied.

use crate::http1::syntax::fields;
use regex::bytes::Regex;

/// Header name and what its value must match; without a pattern, presence is enough.
pub type HeaderRule = (String, Option<Regex>);

/// An exchange passes if it meets every header rule of `allow_headers`, none of `deny_headers`, one
/// of `allow_urls` and of `allow_methods` where there are any, and none of the denied ones.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub allow_headers: Vec<HeaderRule>,
    pub deny_headers: Vec<HeaderRule>,
    pub allow_methods: Vec<Regex>,
    pub deny_methods: Vec<Regex>,
    pub allow_urls: Vec<Regex>,
    pub deny_urls: Vec<Regex>,
    /// Of repeated fields the first alone counts, as GoReplay has it.
    pub first_field_only: bool,
}

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.allow_headers.is_empty()
            && self.deny_headers.is_empty()
            && !self.restricts()
            && self.deny_methods.is_empty()
            && self.deny_urls.is_empty()
    }

    fn restricts(&self) -> bool {
        !self.allow_methods.is_empty() || !self.allow_urls.is_empty()
    }

    /// A response whose request was not seen passes only where nothing must be present.
    pub fn passes_unknown(&self) -> bool {
        self.allow_headers.is_empty() && !self.restricts()
    }

    pub fn passes(&self, method: &[u8], target: &[u8], head: &[u8]) -> bool {
        let any = |rules: &[Regex], text: &[u8]| rules.iter().any(|r| r.is_match(text));
        if any(&self.deny_urls, target) || any(&self.deny_methods, method) {
            return false;
        }
        if !self.allow_urls.is_empty() && !any(&self.allow_urls, target) {
            return false;
        }
        if !self.allow_methods.is_empty() && !any(&self.allow_methods, method) {
            return false;
        }
        let present = |rule: &HeaderRule| {
            let named = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(rule.0.as_bytes());
            let most = if self.first_field_only { 1 } else { usize::MAX };
            let mut values = fields(head).filter(named).take(most);
            values.any(|(_, value)| rule.1.as_ref().is_none_or(|r| r.is_match(value)))
        };
        self.allow_headers.iter().all(present) && !self.deny_headers.iter().any(present)
    }
}

pub const MASK: &[u8] = b"***";

/// Names of headers and query parameters whose values are replaced by `***`.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    pub headers: Vec<String>,
    pub parameters: Vec<String>,
}

impl Redaction {
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.parameters.is_empty()
    }

    fn hides(names: &[String], name: &[u8]) -> bool {
        names
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
    }

    /// The target with the values of the named query parameters replaced.
    pub fn target(&self, target: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(target.len());
        let Some(query) = target.iter().position(|&c| c == b'?') else {
            return target.to_vec();
        };
        out.extend_from_slice(&target[..=query]);
        for (i, pair) in target[query + 1..].split(|&c| c == b'&').enumerate() {
            if i > 0 {
                out.push(b'&');
            }
            match pair.iter().position(|&c| c == b'=') {
                Some(eq) if Self::hides(&self.parameters, &pair[..eq]) => {
                    out.extend_from_slice(&pair[..=eq]);
                    out.extend_from_slice(MASK);
                }
                _ => out.extend_from_slice(pair),
            }
        }
        out
    }

    /// A head with the named values replaced; everything else byte for byte.
    pub fn head(&self, head: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(head.len());
        let mut hidden = false;
        for (i, line) in head.split_inclusive(|&c| c == b'\n').enumerate() {
            if i == 0 {
                let target = line.iter().position(|&c| c == b' ').map_or(0, |p| p + 1);
                let end = line.iter().rposition(|&c| c == b' ').unwrap_or(0);
                if line.starts_with(b"HTTP/") || end < target {
                    out.extend_from_slice(line);
                } else {
                    out.extend_from_slice(&line[..target]);
                    out.extend_from_slice(&self.target(&line[target..end]));
                    out.extend_from_slice(&line[end..]);
                }
                continue;
            }
            if hidden && matches!(line.first(), Some(b' ' | b'\t')) {
                continue; // the folded rest of a hidden value
            }
            let name = line.iter().position(|&c| c == b':');
            hidden = name.is_some_and(|n| Self::hides(&self.headers, trim_end(&line[..n])));
            match name {
                Some(n) if hidden => {
                    out.extend_from_slice(&line[..=n]);
                    out.push(b' ');
                    out.extend_from_slice(MASK);
                    out.extend_from_slice(if line.ends_with(b"\r\n") {
                        b"\r\n"
                    } else {
                        b"\n"
                    });
                }
                _ => out.extend_from_slice(line),
            }
        }
        out
    }
}

fn trim_end(mut v: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = v {
        v = rest;
    }
    v
}
