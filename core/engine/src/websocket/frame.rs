//! WebSocket frames (RFC 6455 §5.2): header lengths, and what begins with one.

pub(super) const FIN: u8 = 0x80;

pub(super) const RSV1: u8 = 0x40;

pub(super) const MAX_HEADER: usize = 14;

/// Opcodes (RFC 6455 §5.2) as the column `method` names them.
pub(super) fn name(opcode: u8) -> &'static [u8] {
    match opcode {
        0 => b"CONTINUATION",
        1 => b"TEXT",
        2 => b"BINARY",
        8 => b"CLOSE",
        9 => b"PING",
        10 => b"PONG",
        _ => b"RESERVED",
    }
}

/// Length of the header that begins so; at least two bytes are needed to tell.
pub(super) fn header_length(head: &[u8]) -> usize {
    match head {
        [_, b, ..] => {
            let length = match b & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            2 + length + if b & 0x80 != 0 { 4 } else { 0 }
        }
        _ => 2,
    }
}

/// Payload length; None where its highest bit is set (§5.2).
pub(super) fn payload_length(head: &[u8; MAX_HEADER]) -> Option<u64> {
    match head[1] & 0x7f {
        126 => Some(u64::from(u16::from_be_bytes([head[2], head[3]]))),
        127 => {
            let mut b = [0; 8];
            b.copy_from_slice(&head[2..10]);
            Some(u64::from_be_bytes(b)).filter(|&n| n >> 63 == 0)
        }
        n => Some(u64::from(n)),
    }
}

/// True if a segment begins with a frame, and after each whole one comes another or its end.
pub(super) fn clear_start(b: &[u8], masked: bool, compressed: bool) -> bool {
    let mut at = 0;
    while at < b.len() {
        let mut head = [0; MAX_HEADER];
        let rest = &b[at..];
        let k = rest.len().min(MAX_HEADER);
        head[..k].copy_from_slice(&rest[..k]);
        let (first, second) = (head[0], head[1]);
        let opcode = first & 15;
        let sound = matches!(opcode, 0..=2 | 8..=10)
            && first & 0x30 == 0
            && (first & RSV1 == 0 || (compressed && matches!(opcode, 1 | 2)))
            && (opcode < 8 || (first & FIN != 0 && second & 0x7f < 126))
            && (k < 2 || (second & 0x80 != 0) == masked);
        if !sound {
            return false;
        }
        let size = header_length(&head[..k]);
        if k < size {
            return at > 0;
        }
        let Some(n) = payload_length(&head) else {
            return false;
        };
        at = at
            .saturating_add(size)
            .saturating_add(n.min(1 << 40) as usize);
    }
    at > 0
}

/// True if the list of extensions has permessage-deflate, and whether client and server begin each
/// message with an empty window.
pub(super) fn extensions(text: &[u8]) -> (bool, [bool; 2]) {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    for extension in text.split(',') {
        let mut parts = extension
            .split(';')
            .map(|part| part.trim_matches([' ', '\t', '\r', '\n', '\x0b', '\x0c']));
        if parts.next() == Some("permessage-deflate") {
            let parts: Vec<&str> = parts.collect();
            let has = |name: &str| parts.contains(&name);
            return (
                true,
                [
                    has("client_no_context_takeover"),
                    has("server_no_context_takeover"),
                ],
            );
        }
    }
    (false, [false; 2])
}
