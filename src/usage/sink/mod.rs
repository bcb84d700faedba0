//! [`Sink`]: where items go in batches, and those that are supplied.

mod buffer;
mod channel;
mod json_lines;
mod queue;
mod sinks;
mod sums;
mod tracing;

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

pub use buffer::{Buffer, SinkStatus};
pub use channel::ChannelSink;
pub use json_lines::JsonLinesSink;
pub(crate) use queue::{Item, Queue};
pub(crate) use sinks::{Sinks, SinksBuilder};
pub use tracing::TracingSink;

/// Takes items in batches, away from the requests: a [`Record`](crate::usage::Record) for each
/// request, for instance. How they wait for it says a [`Buffer`].
///
/// # What a wrong answer costs
/// An `Ok` for what was not kept is something that nobody ever hears of; an `Err` for what was
/// kept is seen twice, under the same id.
pub trait Sink<T>: Send + Sync + 'static {
    /// Takes all of a batch or none. What is refused is offered again, the same batch, until
    /// it is taken; after a panic and after too long a time, too.
    ///
    /// # Cancellation
    /// The future is dropped when it takes too long, or the process has no time left.
    fn deliver(&self, batch: &[T]) -> impl Future<Output = Result<(), SinkError>> + Send;
}

impl<T, K: Sink<T>> Sink<T> for Arc<K> {
    fn deliver(&self, batch: &[T]) -> impl Future<Output = Result<(), SinkError>> + Send {
        (**self).deliver(batch)
    }
}

/// A sink has not taken a batch. What the source says is written to the log, so it must have
/// no password of a connection in it.
#[derive(Clone, Debug)]
pub struct SinkError {
    source: Arc<dyn StdError + Send + Sync>,
    is_final: bool,
}

impl SinkError {
    /// The sink may take it later.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            source: source.into().into(),
            is_final: false,
        }
    }

    /// The sink will never take it: the batch is lost, and counted as that.
    pub fn rejected(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            is_final: true,
            ..Self::unavailable(source)
        }
    }

    /// What the sink said, for the log.
    fn reason(&self) -> String {
        self.source.to_string()
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_final {
            "the sink will not take this batch"
        } else {
            "the sink is unavailable"
        })
    }
}

impl StdError for SinkError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
