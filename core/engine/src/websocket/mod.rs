//! WebSocket (RFC 6455).

pub mod connection;
pub mod frame;
pub mod inflate;
