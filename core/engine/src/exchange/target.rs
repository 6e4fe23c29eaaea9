//! What a request's target says (RFC 9112 §3.2).

use std::borrow::Cow;

/// Path of a target (RFC 9112 §3.2), and host and scheme where the target holds them.
pub(super) fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>, Option<bool>) {
    let cut = |t: &[u8]| {
        t.iter()
            .position(|&c| c == b'?' || c == b'#')
            .unwrap_or(t.len())
    };
    for (prefix, https) in [(&b"http://"[..], false), (&b"https://"[..], true)] {
        let named = target
            .get(..prefix.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(prefix));
        if named {
            let rest = &target[prefix.len()..];
            let end = rest
                .iter()
                .position(|&c| c == b'/')
                .unwrap_or(rest.len())
                .min(cut(rest));
            let path = &rest[end..];
            let path = &path[..cut(path)];
            let path = if path.is_empty() { &b"/"[..] } else { path };
            return (path, Some(&rest[..end]), Some(https));
        }
    }
    (&target[..cut(target)], None, None)
}

/// An authority as one name: without user and password, in lower case, without a last dot and the scheme's port.
pub(super) fn plain_host(authority: &[u8], https: bool) -> Cow<'_, [u8]> {
    let usual = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-');
    if authority.iter().all(usual) && authority.last() != Some(&b'.') {
        return Cow::Borrowed(authority);
    }
    let host = authority.rsplit(|&c| c == b'@').next().unwrap_or(b"");
    let port: &[u8] = if https { b":443" } else { b":80" };
    let host = host.strip_suffix(port).unwrap_or(host);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let mut host = host.to_ascii_lowercase();
    if let Some(at) = memchr::memmem::find(&host, b".:") {
        host.remove(at);
    }
    Cow::Owned(host)
}
