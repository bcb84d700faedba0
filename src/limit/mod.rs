//! How much: the arithmetic that the gates count with.

pub(crate) mod gcra;
