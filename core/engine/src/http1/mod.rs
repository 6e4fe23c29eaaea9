//! HTTP/1 (RFC 9110, RFC 9112), and what a connection may switch to.

pub mod answer;
pub mod body;
pub mod connection;
pub mod edit;
pub mod field;
pub mod head;
pub mod heads;
pub mod memo;
pub mod message;
pub mod pairing;
pub mod switch;
pub mod syntax;
