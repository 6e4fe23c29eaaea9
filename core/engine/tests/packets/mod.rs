//! Packets to test with.

pub type Frame = Vec<u8>;

/// An Ethernet frame with one TCP segment between 10.0.0.1:4000 and 10.0.0.2:80.
pub fn frame(to_server: bool, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Frame {
    let total = (40 + payload.len()) as u16;
    let (src, dst, sport, dport) = if to_server {
        (1, 2, 4000u16, 80u16)
    } else {
        (2, 1, 80, 4000)
    };
    let mut f = vec![0; 12];
    f.extend([8, 0, 0x45, 0]);
    f.extend(total.to_be_bytes());
    f.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, src, 10, 0, 0, dst]);
    f.extend(sport.to_be_bytes());
    f.extend(dport.to_be_bytes());
    f.extend(seq.to_be_bytes());
    f.extend(ack.to_be_bytes());
    f.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    f.extend(payload);
    f
}

/// A pcap of them, a microsecond apart.
#[allow(dead_code)]
pub fn capture(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
        out.extend(word.to_le_bytes());
    }
    for (i, f) in frames.iter().enumerate() {
        for word in [0, i as u32, f.len() as u32, f.len() as u32] {
            out.extend(word.to_le_bytes());
        }
        out.extend(f);
    }
    out
}
