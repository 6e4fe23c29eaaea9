//! Whom a request comes from, as the proxies before the server say: `X-Forwarded-For`, `Forwarded` (RFC 7239) and their like.
//!
//! Owns reading these fields. Each proxy appends whom it heard from, so the last value is the one that the nearest, trusted
//! proxy vouches for; what stands further to the left than the trusted hops is anybody's claim.

use crate::bytes::segment::Addr;
use crate::http1::syntax::fields;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrom {
    /// The field's name.
    pub field: String,
    /// Proxies that are trusted, from the right; at least 1.
    pub hops: usize,
}

impl ClientFrom {
    /// The client that a request's head names, its port 0 where it is not said.
    pub fn client(&self, head: &[u8]) -> Option<(Addr, u16)> {
        let forwarded = self.field.eq_ignore_ascii_case("forwarded");
        let mut hops = Vec::new();
        for (name, value) in fields(head) {
            if name.eq_ignore_ascii_case(self.field.as_bytes()) {
                hops.extend(value.split(|c| *c == b','));
            }
        }
        let at = hops.len().saturating_sub(self.hops);
        let hop = std::str::from_utf8(hops.get(at)?).ok()?.trim();
        address(if forwarded { node(hop)? } else { hop })
    }
}

/// The node of a `Forwarded` element: `for="[2001:db8::1]:4711";proto=https`.
fn node(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let plain = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        name.trim()
            .eq_ignore_ascii_case("for")
            .then_some(plain.unwrap_or(value))
    })
}

fn address(text: &str) -> Option<(Addr, u16)> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let (ip, port) = match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(ip) => (ip, 0),
        Err(_) => {
            let socket = text.parse::<SocketAddr>().ok()?;
            (socket.ip(), socket.port())
        }
    };
    Some((ip.to_canonical().into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(field: &str, hops: usize, head: &str) -> Option<String> {
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n");
        let field = field.into();
        let (ip, port) = ClientFrom { field, hops }.client(head.as_bytes())?;
        let ip = match ip {
            Addr::V4(a) => IpAddr::V4(a.into()),
            Addr::V6(a) => IpAddr::V6(a.into()),
        };
        Some(format!("{ip} {port}"))
    }

    #[test]
    fn the_nearest_proxy_is_believed() {
        let list = "X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\nx-forwarded-for: 10.0.0.9";
        for (hops, found) in [
            (1, "10.0.0.9 0"),
            (2, "1.2.3.4 0"),
            (3, "6.6.6.6 0"),
            (9, "6.6.6.6 0"),
        ] {
            assert_eq!(
                client("x-forwarded-for", hops, list).as_deref(),
                Some(found)
            );
        }
    }

    #[test]
    fn forms_of_an_address() {
        for (value, found) in [
            ("1.2.3.4", Some("1.2.3.4 0")),
            ("1.2.3.4:567", Some("1.2.3.4 567")),
            ("2001:db8::1", Some("2001:db8::1 0")),
            ("[2001:db8::1]", Some("2001:db8::1 0")),
            ("[2001:db8::1]:80", Some("2001:db8::1 80")),
            ("::ffff:1.2.3.4", Some("1.2.3.4 0")),
            ("unknown", None),
            ("", None),
            ("1.2.3.4.5", None),
        ] {
            assert_eq!(
                client("X-Real-IP", 1, &format!("X-Real-IP: {value}")).as_deref(),
                found
            );
        }
        assert_eq!(client("X-Real-IP", 1, "Other: 1.2.3.4"), None);
    }

    #[test]
    fn forwarded_has_elements() {
        let head = "Forwarded: for=192.0.2.60;proto=http;by=203.0.113.43, For=\"[2001:db8:cafe::17]:4711\"";
        assert_eq!(
            client("forwarded", 1, head).as_deref(),
            Some("2001:db8:cafe::17 4711")
        );
        assert_eq!(
            client("Forwarded", 2, head).as_deref(),
            Some("192.0.2.60 0")
        );
        for hidden in ["for=_hidden", "for=unknown", "proto=https"] {
            assert_eq!(
                client("forwarded", 1, &format!("Forwarded: {hidden}")),
                None
            );
        }
    }
}
