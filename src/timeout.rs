//! Deadlines, where there is a timer to keep them.

use std::future::Future;
use std::time::Duration;

/// The answer, or nothing if it takes too long. Without tokio's timer it may take as
/// long as it likes.
pub(crate) async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Some(answer.await);
    }
    tokio::time::timeout(limit, answer).await.ok()
}
