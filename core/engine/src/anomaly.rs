//! What messages get wrong without stopping us: the column `anomaly`.

/// Things a message gets wrong but that do not stop us: the `anomaly` column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Anomaly {
    #[default]
    None,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.3).
    ConflictingFraming,
    /// Content-Length that is no number, too large, or given twice differently.
    BadContentLength,
    /// Transfer-Encoding whose last coding is not chunked, or in HTTP/1.0.
    BadTransferEncoding,
    /// A chunk size that is none.
    BadChunk,
    /// A header line without a colon, or with a blank before it (RFC 9112 §5.1).
    BadHeaderLine,
    /// The head has a hole, or was cut by the snap length or the end.
    HeadCut,
    /// A hole or the snap length hides chunk sizes: the body's size includes framing.
    ChunksHidden,
    /// The connection ended before the message did.
    ClosedEarly,
    /// More requests wait on this connection than the bound allows.
    PipelineBound,
    /// The stream was reset or refused (RFC 9113 §6.4, §6.8).
    StreamReset,
    /// Fields refer to a table whose beginning was not captured, or were not captured themselves.
    UndecodedHeaders,
    /// A header block that is none (RFC 7541).
    BadHeaderBlock,
    /// A frame that breaks RFC 6455 §5.
    BadFrame,
    /// Which request it answers is a guess: something before it was lost or unreadable.
    GuessedPairing,
    /// The response was captured before its request: there are no durations.
    ResponseFirst,
}

pub const ANOMALIES: [&str; 16] = [
    "",
    "conflicting_framing",
    "bad_content_length",
    "bad_transfer_encoding",
    "bad_chunk",
    "bad_header_line",
    "head_cut",
    "chunks_hidden",
    "closed_early",
    "pipeline_bound",
    "stream_reset",
    "undecoded_headers",
    "bad_header_block",
    "bad_frame",
    "guessed_pairing",
    "response_first",
];
