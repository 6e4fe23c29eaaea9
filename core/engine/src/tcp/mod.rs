//! TCP reassembly: segments of many connections to in-order bytes.

pub mod connection;
pub mod table;
