//! The locks of the crate: the standard library's, or loom's where a model of all
//! interleavings is run (`RUSTFLAGS="--cfg tollgate_loom"`).

#[cfg(not(tollgate_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(tollgate_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
