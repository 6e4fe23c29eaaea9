//! Protocols that plug-ins read outside the engine.

pub mod handover;
pub mod pieces;
pub mod reading;
