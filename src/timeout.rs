//! Deadlines and waits, where there is a timer to keep them.

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::Sleep;

/// Tokio's timer, if the runtime has one. That can only be found out by trying, and
/// tokio panics where there is none: so it is tried until it fails once.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    is_missing: AtomicBool,
}

impl Timer {
    /// The answer, or nothing if it takes too long. Without a timer it may take as long
    /// as it likes.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let Some(sleep) = self.sleep(limit) else {
            return Some(answer.await);
        };
        match select(pin!(answer), pin!(sleep)).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }

    /// A wait, if there is a timer for it.
    pub(crate) fn sleep(&self, duration: Duration) -> Option<Sleep> {
        let is_missing = self.is_missing.load(Ordering::Relaxed);
        if is_missing || tokio::runtime::Handle::try_current().is_err() {
            return None;
        }
        let sleep = catch_unwind(|| tokio::time::sleep(duration)).ok();
        if sleep.is_none() {
            self.is_missing.store(true, Ordering::Relaxed);
            tracing::warn!(target: "tollgate", "the runtime has no timer: deadlines are not kept");
        }
        sleep
    }
}
