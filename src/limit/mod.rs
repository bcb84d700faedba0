//! Limits.

pub(crate) mod gcra;
mod quota;

pub use quota::Quota;
