//! Path templates: `/users/42` belongs to `/users/{id}`.
//!
//! Owns what makes a path segment variable. Patterns given by the user come first, the one with
//! the most literal segments wins; without a match the shape of each segment decides. No state:
//! the same path always gives the same endpoint. Cost grows with the path's length.

const MAX_SEGMENTS: usize = 12;
const MAX_SEGMENT: usize = 64;

/// A pattern such as `/users/{id}/files/*`.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    segments: Vec<Option<String>>,
    open: bool,
    literals: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Templates {
    patterns: Vec<Pattern>,
}

impl Templates {
    /// `{name}` stands for one segment, a last `*` for any rest.
    pub fn new(patterns: &[String]) -> Self {
        let mut patterns: Vec<Pattern> = patterns
            .iter()
            .map(|text| {
                let mut parts: Vec<&str> = text.split('/').collect();
                let open = parts.last() == Some(&"*");
                if open {
                    parts.pop();
                }
                let segments: Vec<Option<String>> = parts
                    .iter()
                    .map(|s| (!(s.starts_with('{') && s.ends_with('}'))).then(|| (*s).to_string()))
                    .collect();
                let literals = segments.iter().flatten().count();
                Pattern {
                    text: text.clone(),
                    segments,
                    open,
                    literals,
                }
            })
            .collect();
        patterns.sort_by_key(|p| (p.open, std::cmp::Reverse(p.literals)));
        Templates { patterns }
    }

    /// The endpoint of a path without query.
    pub fn endpoint(&self, path: &str) -> String {
        for p in &self.patterns {
            if p.matches(path) {
                return p.text.clone();
            }
        }
        let mut out = String::with_capacity(path.len());
        for (i, segment) in path.split('/').enumerate() {
            if i > 0 {
                out.push('/');
            }
            if i > MAX_SEGMENTS {
                out.push_str("{rest}");
                break;
            }
            template(segment, &mut out);
        }
        out
    }
}

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        for want in &self.segments {
            match (want, parts.next()) {
                (_, None) => return false,
                (Some(w), Some(p)) if w != p => return false,
                (None, Some("")) => return false,
                _ => {}
            }
        }
        self.open || parts.next().is_none()
    }
}

fn template(segment: &str, out: &mut String) {
    let b = segment.as_bytes();
    if let Some(name) = whole(b) {
        out.push_str(name);
        return;
    }
    if !b.iter().any(u8::is_ascii_digit) {
        out.push_str(segment);
        return;
    }
    // Part by part: app.3f2a9c1b.js, order-12345, report_2024-01-02.pdf
    let mut from = 0;
    for (i, c) in segment.char_indices() {
        if matches!(c, '.' | '-' | '_') {
            part(&segment[from..i], out);
            out.push(c);
            from = i + 1;
        }
    }
    part(&segment[from..], out);
}

fn part(text: &str, out: &mut String) {
    let b = text.as_bytes();
    if b.len() >= 2 && b.iter().all(u8::is_ascii_digit) {
        out.push_str("{id}");
    } else if is_hash(b) {
        out.push_str("{hash}");
    } else {
        out.push_str(text);
    }
}

fn is_hash(b: &[u8]) -> bool {
    b.len() >= 8
        && b.iter().all(u8::is_ascii_hexdigit)
        && (b.len() >= 16 || b.iter().any(u8::is_ascii_digit))
}

/// What a whole segment is, if it is variable as a whole.
fn whole(b: &[u8]) -> Option<&'static str> {
    if b.is_empty() {
        return None;
    }
    if b.iter().all(u8::is_ascii_digit) {
        return Some("{id}");
    }
    if b.len() == 36
        && b.iter().enumerate().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => *c == b'-',
            _ => c.is_ascii_hexdigit(),
        })
    {
        return Some("{uuid}");
    }
    if b.len() == 10
        && b.iter().enumerate().all(|(i, c)| match i {
            4 | 7 => *c == b'-',
            _ => c.is_ascii_digit(),
        })
    {
        return Some("{date}");
    }
    if is_hash(b) {
        return Some("{hash}");
    }
    if b.iter().skip(1).any(|&c| c == b'@') {
        return Some("{email}");
    }
    if b.len() > MAX_SEGMENT {
        return Some("{long}");
    }
    let plain = b
        .iter()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'='));
    let digits = b.iter().filter(|c| c.is_ascii_digit()).count();
    let upper = b.iter().any(u8::is_ascii_uppercase);
    let lower = b.iter().any(u8::is_ascii_lowercase);
    let separators = b.iter().filter(|c| matches!(c, b'-' | b'_')).count();
    if b.len() >= 16 && plain && digits >= 2 && separators <= 2 && ((upper && lower) || digits >= 4)
    {
        return Some("{token}");
    }
    None
}
