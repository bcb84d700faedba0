//! The locks of the crate: the standard library's, or loom's where a model of all
//! interleavings is run (`RUSTFLAGS="--cfg tollgate_loom"`).

#[cfg(tollgate_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(tollgate_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(all(tollgate_loom, any(feature = "jwt", feature = "jwt-rust-crypto")))]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(all(not(tollgate_loom), any(feature = "jwt", feature = "jwt-rust-crypto")))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
