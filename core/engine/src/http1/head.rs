//! The head of an HTTP/1 message as it was read.

use crate::anomaly::Anomaly;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    #[default]
    None,
    Some(u64),
    Bad,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    #[default]
    None,
    Chunked,
    /// Chunked, and then another coding: RFC 9112 §6.1 forbids it; the chunks are read all the same.
    ChunkedInside,
    /// Transfer-Encoding present, without chunked.
    Other,
}

/// A head as read; slices lie in the bytes given.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub kind: Kind,
    pub minor: u8,
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub status: u16,
    pub length: Length,
    pub coding: Coding,
    pub host: &'a [u8],
    pub content_type: &'a [u8],
    pub content_encoding: &'a [u8],
    pub trace: &'a [u8],
    pub anomaly: Anomaly,
}

impl Head<'_> {
    /// A head that says nothing.
    pub fn empty(kind: Kind, minor: u8) -> Self {
        Head {
            kind,
            minor,
            method: b"",
            target: b"",
            status: 0,
            length: Length::None,
            coding: Coding::None,
            host: b"",
            content_type: b"",
            content_encoding: b"",
            trace: b"",
            anomaly: Anomaly::None,
        }
    }
}

#[derive(Debug)]
pub enum Parsed<'a> {
    /// A head and its length, blank line included.
    Whole(Head<'a>, usize),
    Partial,
    Invalid,
}
