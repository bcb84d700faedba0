//! [`Sinks`]: all that are told of the same items.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::clock::{Clock, SystemClock};
use crate::usage::sink::{Buffer, Item, Queue, Sink, SinkStatus};

/// The queues of all sinks. Dropped, it has what waits delivered, once.
pub(crate) struct Sinks<T: Item>(Box<[Arc<Queue<T>>]>);

/// Sinks before they are started.
pub(crate) struct SinksBuilder<T>(Vec<Arc<MakeQueue<T>>>);

type MakeQueue<T> = dyn Fn(u64) -> Queue<T> + Send + Sync;

impl<T: Item> SinksBuilder<T> {
    pub(crate) fn add(&mut self, buffer: Buffer, sink: impl Sink<T>) {
        let sink = Arc::new(sink);
        self.0.push(Arc::new(move |boot| {
            Queue::new(Arc::clone(&sink), buffer, boot)
        }));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn build(&self) -> Sinks<T> {
        let boot = getrandom::u64().unwrap_or_else(|_| SystemClock.now().unix_nanos());
        Sinks(self.0.iter().map(|queue| Arc::new(queue(boot))).collect())
    }
}

impl<T> Default for SinksBuilder<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Clone for SinksBuilder<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Item> Sinks<T> {
    /// Lets an item wait for each of them. Never waits itself.
    pub(crate) fn push(&self, item: &T) {
        for queue in &self.0 {
            queue.push(item);
        }
    }

    pub(crate) fn status(&self) -> Vec<SinkStatus> {
        self.0.iter().map(|queue| queue.status()).collect()
    }

    /// Delivers what waits, for as long as there is time. The rest is lost.
    pub(crate) async fn shut_down(&self, deadline: Duration) {
        join_all(self.0.iter().map(|queue| queue.shut_down(deadline))).await;
    }
}

impl<T: Item> Drop for Sinks<T> {
    fn drop(&mut self) {
        for queue in &self.0 {
            queue.abandon();
        }
    }
}
