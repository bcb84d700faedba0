//! The locks of the crate: the standard library's, or loom's where a model of all
//! interleavings is run (`RUSTFLAGS="--cfg tollgate_loom"`).

#[cfg(tollgate_loom)]
use loom::sync as from;
#[cfg(not(tollgate_loom))]
use std::sync as from;

#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub(crate) use from::atomic::{AtomicU64, Ordering};
pub(crate) use from::{Mutex, MutexGuard};
