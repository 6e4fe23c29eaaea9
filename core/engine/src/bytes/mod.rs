//! From captured bytes to TCP segments.

pub mod copies;
pub mod decode;
pub mod envelope;
pub mod fields;
pub mod ip;
pub mod link;
pub mod offsets;
pub mod segment;
pub mod source;
