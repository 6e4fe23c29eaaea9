//! GoReplay's files: records as messages go in and out.

pub mod conversations;
pub mod format;
pub mod message;
pub mod outgoing;
pub mod records;
pub mod rewrite;
