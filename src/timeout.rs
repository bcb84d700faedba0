//! Deadlines and waits, where there is a timer to keep them.

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::pin;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;
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
        match self.sleep(limit) {
            Some(sleep) => before(sleep, answer).await,
            None => Some(answer.await),
        }
    }

    /// The same, for once: without a timer, a thread keeps the time.
    pub(crate) async fn surely_within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        match self.sleep(limit) {
            Some(sleep) => before(sleep, answer).await,
            None => before(thread_sleep(limit), answer).await,
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

async fn before<T>(end: impl Future<Output = ()>, answer: impl Future<Output = T>) -> Option<T> {
    // The answer may use up the task's budget at each poll, which must not stop the time.
    let end = tokio::task::unconstrained(end);
    match select(pin!(answer), pin!(end)).await {
        Either::Left((answer, _)) => Some(answer),
        Either::Right(_) => None,
    }
}

/// A wait of a thread, which ends with it, given up or not; none where there is no thread to be
/// had.
async fn thread_sleep(duration: Duration) {
    let (_waits, given_up) = mpsc::channel::<()>();
    let (wakes, woken) = oneshot::channel::<()>();
    let sleep = move || {
        given_up.recv_timeout(duration).ok();
        drop(wakes);
    };
    let thread = thread::Builder::new().name("tollgate-deadline".to_owned());
    if thread.spawn(sleep).is_ok() {
        woken.await.ok();
    }
}
