//! The fields of an HTTP/2 message, by name, and as HTTP/1.1 writes them (RFC 9113 §8).

use crate::grpc;
use crate::http1::field;
use crate::http2::hpack;
use crate::http2::hpack::Fields;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::Engine as _;

/// The fields of a block that matter here.
#[derive(Default)]
pub(super) struct Named<'a> {
    pub(super) method: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) authority: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) scheme: &'a [u8],
    pub(super) protocol: &'a [u8],
    pub(super) status: &'a [u8],
    pub(super) content_type: &'a [u8],
    pub(super) content_encoding: &'a [u8],
    pub(super) traceparent: &'a [u8],
    pub(super) b3: &'a [u8],
    pub(super) b3_trace_id: &'a [u8],
    pub(super) grpc_status: &'a [u8],
    pub(super) extensions: &'a [u8],
    pub(super) has_length: bool,
}

impl<'a> Named<'a> {
    pub(super) fn of(fields: &'a Fields) -> Self {
        let mut named = Named::default();
        for (name, value) in fields.iter() {
            let place = match name {
                b":method" => &mut named.method,
                b":path" => &mut named.path,
                b":authority" => &mut named.authority,
                b":scheme" => &mut named.scheme,
                b":protocol" => &mut named.protocol,
                b":status" => &mut named.status,
                b"host" => &mut named.host,
                b"content-type" => &mut named.content_type,
                b"content-encoding" => &mut named.content_encoding,
                b"traceparent" => &mut named.traceparent,
                b"b3" => &mut named.b3,
                b"x-b3-traceid" => &mut named.b3_trace_id,
                b"grpc-status" => &mut named.grpc_status,
                b"sec-websocket-extensions" => &mut named.extensions,
                b"content-length" => {
                    named.has_length = true;
                    continue;
                }
                _ => continue,
            };
            *place = value;
        }
        named
    }

    pub(super) fn status(&self) -> u16 {
        match self.status {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => [a, b, c]
                .iter()
                .fold(0, |n, &&d| n * 10 + u16::from(d - b'0')),
            _ => 0,
        }
    }

    pub(super) fn trace(&self) -> &'a [u8] {
        field::trace(self.traceparent, self.b3, self.b3_trace_id)
    }

    pub(super) fn is_grpc(&self) -> bool {
        grpc::is_grpc(self.content_type)
    }
}

/// True if HTTP/1.1 can write these fields: names without what ends a name, no blanks in a start line.
pub(super) fn writable(fields: &Fields) -> bool {
    let odd = |c: &u8| *c <= b' ' || *c == b':';
    fields.iter().all(|(name, value)| match name {
        [b':', pseudo @ ..] => !pseudo.iter().any(odd) && !value.contains(&b' '),
        _ => !name.is_empty() && !name.iter().any(odd),
    })
}

/// A head as HTTP/1.1 writes it (RFC 9113 §8), without the blank line that ends it.
pub(super) fn http1_head(fields: &Fields, named: &Named, server: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if server {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(named.status);
        out.extend_from_slice(b" \r\n");
    } else {
        out.extend_from_slice(named.method);
        out.push(b' ');
        out.extend_from_slice(if named.path.is_empty() {
            named.authority
        } else {
            named.path
        });
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if !named.authority.is_empty() {
            out.extend_from_slice(b"host: ");
            out.extend_from_slice(named.authority);
            out.extend_from_slice(b"\r\n");
        }
    }
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in fields.iter() {
        match name {
            [b':', ..] => {}
            b"host" if !named.authority.is_empty() => {}
            // §8.2.3: cookies may come in pieces.
            b"cookie" => cookies.push(value),
            _ => line(&mut out, name, value),
        }
    }
    if !cookies.is_empty() {
        line(&mut out, b"cookie", &cookies.join(&b"; "[..]));
    }
    out
}

pub(super) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    match hpack::binary(name, value) {
        // As gRPC sends it to peers that take text only.
        Some(bytes) => out.extend_from_slice(STANDARD_NO_PAD.encode(bytes).as_bytes()),
        None => out.extend_from_slice(value),
    }
    out.extend_from_slice(b"\r\n");
}
