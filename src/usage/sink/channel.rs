//! [`ChannelSink`]: a sink that is a channel.

use std::fmt;

use tokio::sync::mpsc;

use crate::usage::sink::{Sink, SinkError};

/// A sink that is the sending end of a channel, for batches. Make it with
/// [`ChannelSink::new`].
///
/// A batch that is in the channel counts as delivered; what was not received when the process
/// ends is lost.
pub struct ChannelSink<T>(mpsc::Sender<Vec<T>>);

impl<T> ChannelSink<T> {
    /// The sink, with the end to receive from. There is room for so many batches.
    ///
    /// # Panics
    /// If there is room for none.
    #[must_use]
    #[track_caller]
    pub fn new(batches: usize) -> (Self, mpsc::Receiver<Vec<T>>) {
        let (sender, receiver) = mpsc::channel(batches);
        (Self(sender), receiver)
    }
}

impl<T: Clone + Send + Sync + 'static> Sink<T> for ChannelSink<T> {
    async fn deliver(&self, batch: &[T]) -> Result<(), SinkError> {
        let sent = self.0.send(batch.to_vec()).await;
        sent.map_err(|_| SinkError::rejected("nobody receives any more"))
    }
}

impl<T> Clone for ChannelSink<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for ChannelSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSink").finish_non_exhaustive()
    }
}
