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

/// Path parameters that say whose session it is, and not what is asked for.
const SESSIONS: [&str; 6] = [
    "jsessionid",
    "phpsessid",
    "sessionid",
    "sid",
    "cfid",
    "cftoken",
];

fn template(segment: &str, out: &mut String) {
    if !segment.contains(['%', ';', '(']) {
        return plain(segment, out);
    }
    let decoded = unescaped(segment);
    let (name, parameters) = decoded
        .split_once(';')
        .map_or((&decoded[..], None), |(name, rest)| (name, Some(rest)));
    match keys(name) {
        Some((resource, keys)) => {
            out.push_str(resource);
            out.push('(');
            values(keys, ',', out);
            out.push(')');
        }
        None => plain(name, out),
    }
    for parameter in parameters.iter().flat_map(|p| p.split(';')) {
        let name = parameter.split('=').next().unwrap_or("");
        if !SESSIONS.iter().any(|s| s.eq_ignore_ascii_case(name)) {
            out.push(';');
            values(parameter, ';', out);
        }
    }
}

/// `Orders(7)`, as OData writes keys: the resource, and what is between the parentheses.
fn keys(segment: &str) -> Option<(&str, &str)> {
    let (resource, rest) = segment.split_once('(')?;
    let keys = rest.strip_suffix(')')?;
    (!resource.is_empty() && !keys.is_empty()).then_some((resource, keys))
}

/// `a=1,b='x'` as `a={id},b={id}`, and a lone value as `{id}`.
fn values(list: &str, between: char, out: &mut String) {
    for (i, one) in list.split(between).enumerate() {
        if i > 0 {
            out.push(between);
        }
        if let Some((name, _)) = one.split_once('=') {
            out.push_str(name);
            out.push('=');
        }
        out.push_str("{id}");
    }
}

/// The segment with what need not be escaped (RFC 3986 §2.3), and braces, as they are meant.
fn unescaped(segment: &str) -> String {
    let b = segment.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut at = 0;
    while at < b.len() {
        let hex = |i: usize| b.get(i).and_then(|&c| (c as char).to_digit(16));
        let byte = match (b[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => Some((high << 4 | low) as u8),
            _ => None,
        };
        match byte {
            Some(c) if c.is_ascii_alphanumeric() || b"-._~@{}()',;=".contains(&c) => {
                out.push(c);
                at += 3;
            }
            _ => {
                out.push(b[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| segment.to_string())
}

/// A segment without parameters.
fn plain(segment: &str, out: &mut String) {
    let b = segment.as_bytes();
    let braced = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
    if let Some(name) = whole(braced.map_or(b, str::as_bytes)) {
        out.push_str(name);
        return;
    }
    if !b.iter().any(u8::is_ascii_digit) {
        out.push_str(segment);
        return;
    }
    if segment.split(',').all(is_decimal) {
        for i in 0..segment.split(',').count() {
            out.push_str(if i == 0 { "{number}" } else { ",{number}" });
        }
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

/// A number with a point, as coordinates have.
fn is_decimal(text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
    text.strip_prefix(['-', '+'])
        .unwrap_or(text)
        .split_once('.')
        .is_some_and(|(whole, rest)| digits(whole) && digits(rest))
}

fn is_address(b: &[u8]) -> bool {
    let shaped = |c: &u8| c.is_ascii_hexdigit() || matches!(c, b'.' | b':');
    let text = std::str::from_utf8(b).unwrap_or("");
    b.len() >= 3 && b.iter().all(shaped) && text.parse::<std::net::IpAddr>().is_ok()
}

/// A number with a sign, or in hexadecimal.
fn is_number(b: &[u8]) -> bool {
    match b {
        [b'+' | b'-', rest @ ..] => !rest.is_empty() && rest.iter().all(u8::is_ascii_digit),
        [b'0', b'x' | b'X', rest @ ..] => {
            !rest.is_empty() && rest.iter().all(u8::is_ascii_hexdigit)
        }
        _ => false,
    }
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
    if b.iter().all(u8::is_ascii_digit) || is_number(b) {
        return Some("{id}");
    }
    if is_address(b) {
        return Some("{ip}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let endpoint = |path: &str| Templates::default().endpoint(path);
        for (path, expected) in [
            ("/ip/10.1.2.3/info", "/ip/{ip}/info"),
            ("/ip/2001:db8::1/info", "/ip/{ip}/info"),
            ("/order;jsessionid=1A2B3C4D5E6F7A8B", "/order"),
            ("/order;JSESSIONID=1A/42;v=2", "/order/{id};v={id}"),
            ("/f/%7B3f2504e0-4f89-11d3-9a0c-0305e82c3301%7D", "/f/{uuid}"),
            ("/%75sers/1", "/users/{id}"),
            ("/users/jane%40example.com", "/users/{email}"),
            ("/ja/%E6%97%A5%E6%9C%AC", "/ja/%E6%97%A5%E6%9C%AC"),
            ("/o(12)/Name", "/o({id})/Name"),
            (
                "/Orders(CustomerID='X1',OrderID=7)",
                "/Orders(CustomerID={id},OrderID={id})",
            ),
            ("/f()", "/f()"),
            ("/geo/52.5200,13.4050", "/geo/{number},{number}"),
            ("/tel/+4930123456", "/tel/{id}"),
            ("/x/-5", "/x/{id}"),
            ("/x/0x1f", "/x/{id}"),
            ("/v1.2/a", "/v1.2/a"),
        ] {
            assert_eq!(endpoint(path), expected, "{path}");
        }
        assert_eq!(endpoint("/v1/app-2.0/x"), "/v1/app-2.0/x");
        assert_eq!(endpoint("/100%/%zz"), "/100%/%zz");
    }
}
