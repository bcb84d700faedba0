//! [`Buffer`]: the settings of what waits for a sink, and [`SinkStatus`].

use std::time::Duration;

/// How items wait for a sink. What does not fit is added to what is like it; and lost, and
/// counted as that, only where there are too many kinds.
///
/// ```
/// use std::time::Duration;
/// use tollgate::usage::{Buffer, TracingSink, Usage};
///
/// let buffer = Buffer::new().capacity(50_000).batch(1_000).every(Duration::from_secs(10));
/// let usage = Usage::builder().sink_with(buffer, TracingSink::new()).build();
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Buffer {
    pub(super) capacity: usize,
    pub(super) kinds: usize,
    pub(super) batch: usize,
    pub(super) every: Duration,
    pub(super) limit: Duration,
    pub(super) pause: Duration,
}

impl Buffer {
    /// Room for 8,192 items and 1,024 sums, batches of 100, at least one a second; ten
    /// seconds for the sink to take one, and a pause of 100 ms before it is asked again, which
    /// doubles up to half a minute.
    pub const fn new() -> Self {
        Self {
            capacity: 8_192,
            kinds: 1_024,
            batch: 100,
            every: Duration::from_secs(1),
            limit: Duration::from_secs(10),
            pause: Duration::from_millis(100),
        }
    }

    /// Sets how many items wait at most, besides a batch that is on its way. At least one.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items.max(1);
        self
    }

    /// Sets how many sums of items wait at most once there is no room for single ones.
    pub const fn sums(mut self, sums: usize) -> Self {
        self.kinds = sums;
        self
    }

    /// Sets how many items a batch has at most. At least one.
    pub fn batch(mut self, items: usize) -> Self {
        self.batch = items.max(1);
        self
    }

    /// Sets how long items wait until a batch is full.
    pub const fn every(mut self, time: Duration) -> Self {
        self.every = time;
        self
    }

    /// Sets how long a sink may take for a batch.
    pub const fn limit(mut self, time: Duration) -> Self {
        self.limit = time;
        self
    }

    /// Sets the pause before a sink is asked for the second time.
    pub const fn pause(mut self, time: Duration) -> Self {
        self.pause = time;
        self
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// How a sink stands, in what its items stand for, which of records are requests: `recorded` is
/// the sum of `delivered`, `lost` and `waiting`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SinkStatus {
    /// What it was to be told of.
    pub recorded: u64,
    /// What it has taken.
    pub delivered: u64,
    /// What it will never hear of.
    pub lost: u64,
    /// What waits, and what is on its way.
    pub waiting: u64,
    /// How often it did not take a batch.
    pub failures: u64,
}

impl SinkStatus {
    /// What waited has become something else.
    pub(super) fn move_waiting(&mut self, count: u64, to: impl FnOnce(&mut Self) -> &mut u64) {
        self.waiting = self.waiting.saturating_sub(count);
        add(to(self), count);
    }
}

pub(super) fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}
