//! Who uses the bandwidth: exchanges added up by key, and the names of endpoints.
//!
//! No I/O, no unsafe code. `folding` makes one name of very many siblings, `summary` adds up; both in bounded memory.
#![forbid(unsafe_code)]

pub mod buckets;
pub mod folding;
pub mod summary;
