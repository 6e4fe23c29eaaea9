//! TLS: read with a key log, or measured without.

pub mod connection;
mod handshake;
pub mod hello;
pub mod keys;
pub mod session;
pub mod unread;
