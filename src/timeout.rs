//! Deadlines and waits, where there is a timer to keep them.

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

/// Tokio's timer, if the runtime has one. That can only be found out by trying, and
/// tokio panics where there is none: so a runtime is tried until that fails once.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    /// The last runtime that had none.
    missing_on: Mutex<Option<Id>>,
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
        let runtime = Handle::try_current().ok()?.id();
        let mut missing_on = self
            .missing_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *missing_on == Some(runtime) {
            return None;
        }
        let sleep = catch_unwind(|| tokio::time::sleep(duration)).ok();
        if sleep.is_none() {
            *missing_on = Some(runtime);
            tracing::warn!(target: "tollgate", "the runtime has no timer: deadlines are not kept");
        }
        sleep
    }
}
