//! HTTP/2 (RFC 9113) and HPACK (RFC 7541).

pub mod connection;
pub mod fields;
pub mod frame;
pub mod hpack;
pub mod lane;
pub mod messages;
pub mod stream;
