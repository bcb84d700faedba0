//! [`Pending`]: an answer that is known, or a future of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An answer that is there already, or one that must be waited for.
///
/// The seams on the hot path return this in place of a future: what a memory
/// store or a cache knows costs no allocation, what needs I/O costs one box.
#[expect(clippy::exhaustive_enums, reason = "an answer is known or it is not")]
pub enum Pending<T> {
    /// The answer is known.
    Ready(T),
    /// The answer must be waited for.
    Later(Pin<Box<dyn Future<Output = T> + Send>>),
}

impl<T> Pending<T> {
    /// An answer that must be waited for.
    pub fn later(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T> Pending<T> {
    /// Waits for the answer.
    ///
    /// # Cancellation
    /// Dropping the future drops the work behind it.
    pub async fn wait(self) -> T {
        match self {
            Self::Ready(answer) => answer,
            Self::Later(future) => future.await,
        }
    }

    /// Polls without taking a ready answer apart: `Ok` is the answer, `Err` is
    /// what to poll again.
    pub(crate) fn poll_once(self, cx: &mut Context<'_>) -> Result<T, Self> {
        match self {
            Self::Ready(answer) => Ok(answer),
            Self::Later(mut future) => match future.as_mut().poll(cx) {
                Poll::Ready(answer) => Ok(answer),
                Poll::Pending => Err(Self::Later(future)),
            },
        }
    }
}

impl<T> From<T> for Pending<T> {
    fn from(answer: T) -> Self {
        Self::Ready(answer)
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready(..)",
            Self::Later(_) => "Later(..)",
        })
    }
}
