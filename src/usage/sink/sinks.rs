//! [`Sinks`]: all that are told of the same items.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use crate::clock::{Clock, SystemClock};
use crate::usage::record::RecordId;
use crate::usage::sink::{Buffer, Item, Queue, Sink, SinkStatus};

/// The queues of all sinks. Dropped, it has what waits delivered, once.
pub(crate) struct Sinks<T: Item> {
    queues: Box<[Arc<Queue<T>>]>,
    /// Tells the ids of items from those of other processes.
    boot: u64,
    /// The number of the next item, which is the same at all sinks.
    next: AtomicU64,
}

/// Sinks before they are started.
pub(crate) struct SinksBuilder<T>(Vec<Arc<MakeQueue<T>>>);

type MakeQueue<T> = dyn Fn() -> Queue<T> + Send + Sync;

impl<T: Item> SinksBuilder<T> {
    pub(crate) fn add(&mut self, buffer: Buffer, sink: impl Sink<T>) {
        let sink = Arc::new(sink);
        self.0
            .push(Arc::new(move || Queue::new(Arc::clone(&sink), buffer)));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn build(&self) -> Sinks<T> {
        let boot = getrandom::u64().unwrap_or_else(|_| SystemClock.now().unix_nanos());
        Sinks {
            queues: self.0.iter().map(|queue| Arc::new(queue())).collect(),
            boot,
            next: AtomicU64::new(0),
        }
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
        if self.queues.is_empty() {
            return;
        }
        let id = RecordId {
            boot: self.boot,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        };
        for queue in &self.queues {
            queue.push(item, id);
        }
    }

    pub(crate) fn status(&self) -> Vec<SinkStatus> {
        self.queues.iter().map(|queue| queue.status()).collect()
    }

    /// Delivers what waits, for as long as there is time. The rest is lost.
    pub(crate) async fn shut_down(&self, deadline: Duration) {
        join_all(self.queues.iter().map(|queue| queue.shut_down(deadline))).await;
    }
}

impl<T: Item> Drop for Sinks<T> {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.abandon();
        }
    }
}
