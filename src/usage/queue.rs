//! What waits for a sink, and the task that takes it there.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::FutureExt;
use futures_util::future::select;
use hashbrown::HashTable;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::timeout::Timer;
use crate::usage::buffer::{Buffer, SinkStatus};
use crate::usage::record::{Record, RecordId};
use crate::usage::sink::{SinkError, UsageSink};

type Delivered<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// A [`UsageSink`] whose type is forgotten.
trait Deliver: Send + Sync {
    fn deliver<'a>(&'a self, batch: &'a [Record]) -> Delivered<'a>;
}

impl<K: UsageSink> Deliver for K {
    fn deliver<'a>(&'a self, batch: &'a [Record]) -> Delivered<'a> {
        Box::pin(UsageSink::deliver(self, batch))
    }
}

pub(super) struct Queue {
    sink: Box<dyn Deliver>,
    buffer: Buffer,
    timer: Timer,
    seed: RandomState,
    boot: u64,
    state: Mutex<State>,
    /// There is something to do.
    work: Notify,
    /// Nothing waits any more.
    settled: Notify,
}

struct State {
    waiting: VecDeque<Record>,
    sums: HashTable<Record>,
    next: u64,
    status: SinkStatus,
    phase: Phase,
    /// There is a task that delivers.
    is_worked: bool,
    worker: Option<AbortHandle>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    Open,
    /// What waits is to be delivered, soon.
    Draining,
    /// As before, and nobody is there to wait for a second try.
    Abandoned,
    /// Nothing is delivered any more.
    Closed,
}

/// What the task is to do next.
enum Step {
    Deliver(Batch),
    /// There are a few, which may become more.
    Gather,
    Sleep,
    Leave,
}

impl Queue {
    pub(super) fn new(sink: impl UsageSink, buffer: Buffer, boot: u64) -> Self {
        Self {
            sink: Box::new(sink),
            buffer,
            timer: Timer::default(),
            seed: RandomState::default(),
            boot,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                sums: HashTable::new(),
                next: 0,
                status: SinkStatus::default(),
                phase: Phase::Open,
                is_worked: false,
                worker: None,
            }),
            work: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Lets a record wait. Never does so itself.
    pub(super) fn push(self: &Arc<Self>, record: &Record) {
        let mut state = self.state.lock();
        state.status.recorded += record.requests;
        if state.phase == Phase::Closed {
            state.status.lost += record.requests;
            return;
        }
        state.status.waiting += record.requests;
        let id = RecordId {
            boot: self.boot,
            number: state.next,
        };
        state.next += 1;
        if state.waiting.len() < self.buffer.capacity {
            state.waiting.push_back(Record {
                id,
                ..record.clone()
            });
        } else {
            self.merge(&mut state, record, id);
        }
        let waiting = state.waiting.len();
        let is_news = waiting == 1 || waiting == self.buffer.batch;
        let is_worked = state.is_worked;
        drop(state);
        if !is_worked {
            self.start();
        }
        if is_news {
            self.work.notify_one();
        }
    }

    /// Adds it to what is like it.
    fn merge(&self, state: &mut State, record: &Record, id: RecordId) {
        let hash = record.likeness(&self.seed);
        if let Some(sum) = state.sums.find_mut(hash, |sum| sum.is_like(record)) {
            sum.merge(record);
        } else if state.sums.len() < self.buffer.kinds {
            let record = Record {
                id,
                ..record.clone()
            };
            let rehash = |sum: &Record| sum.likeness(&self.seed);
            state.sums.insert_unique(hash, record, rehash);
        } else {
            state.status.waiting -= record.requests;
            state.status.lost += record.requests;
        }
    }

    /// Starts the task, where there is a runtime for it; else somebody may come by with one.
    fn start(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if mem::replace(&mut self.state.lock().is_worked, true) {
            return;
        }
        // A runtime that is about to end drops it at once, and that needs the lock.
        let task = runtime.spawn(Worker(Arc::clone(self)).run());
        self.state.lock().worker = Some(task.abort_handle());
    }

    pub(super) fn status(&self) -> SinkStatus {
        self.state.lock().status
    }

    /// Nobody is left who counts: what waits is delivered, once.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Closed {
            state.phase = Phase::Abandoned;
        }
        drop(state);
        self.work.notify_one();
    }

    /// Delivers what waits, for as long as there is time. The rest is lost.
    pub(super) async fn shut_down(self: &Arc<Self>, limit: Duration) {
        if self.hurry() > 0 {
            self.start();
        }
        self.work.notify_one();
        let settled = async {
            loop {
                let settled = self.settled.notified();
                if self.status().waiting == 0 {
                    return;
                }
                settled.await;
            }
        };
        // Without a timer, or anybody who delivers, there is no waiting for it.
        if self.state.lock().is_worked && self.timer.sleep(limit).is_some() {
            self.timer.within(limit, settled).await;
        }
        if let Some(worker) = self.close() {
            worker.abort();
        }
    }

    /// Says how many wait.
    fn hurry(&self) -> u64 {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        state.status.waiting
    }

    fn close(&self) -> Option<AbortHandle> {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.waiting.clear();
        state.sums.clear();
        let left = mem::take(&mut state.status.waiting);
        state.status.lost += left;
        state.worker.take()
    }

    fn step(self: &Arc<Self>) -> Step {
        let mut state = self.state.lock();
        let is_open = state.phase == Phase::Open;
        if state.phase == Phase::Closed {
            return Step::Leave;
        }
        let waiting = state.waiting.len();
        if waiting + state.sums.len() == 0 {
            if state.phase == Phase::Abandoned {
                return Step::Leave;
            }
            return Step::Sleep;
        }
        if is_open && waiting < self.buffer.batch && state.sums.is_empty() {
            return Step::Gather;
        }
        Step::Deliver(self.take(&mut state))
    }

    fn take(self: &Arc<Self>, state: &mut State) -> Batch {
        let count = self.buffer.batch;
        let singles = state.waiting.len().min(count);
        let mut records: Vec<_> = state.waiting.drain(..singles).collect();
        let sums = count - singles;
        // Sums come after the single ones that they were too many for.
        if state.sums.len() <= sums {
            records.extend(state.sums.drain());
        } else {
            let some = state.sums.extract_if(|_| true).take(sums);
            records.extend(some);
        }
        Batch {
            queue: Arc::clone(self),
            records,
        }
    }
}

/// What is on its way. If nobody says what has become of it, it waits again.
struct Batch {
    queue: Arc<Queue>,
    records: Vec<Record>,
}

impl Batch {
    fn delivered(self) {
        self.settle(|status| &mut status.delivered);
    }

    fn lost(self) {
        self.settle(|status| &mut status.lost);
    }

    fn settle(mut self, account: impl FnOnce(&mut SinkStatus) -> &mut u64) {
        let requests: u64 = self.records.drain(..).map(|record| record.requests).sum();
        let mut state = self.queue.state.lock();
        // Else all of this was counted as lost already.
        if state.phase != Phase::Closed {
            state.status.waiting -= requests;
            *account(&mut state.status) += requests;
        }
        let is_settled = state.status.waiting == 0;
        drop(state);
        if is_settled {
            self.queue.settled.notify_waiters();
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let mut state = self.queue.state.lock();
        if state.phase != Phase::Closed {
            for record in self.records.drain(..).rev() {
                state.waiting.push_front(record);
            }
        }
    }
}

/// The task, however it ends. The next record starts another.
struct Worker(Arc<Queue>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.state.lock().is_worked = false;
    }
}

impl Worker {
    async fn run(self) {
        let queue = &self.0;
        loop {
            let batch = match queue.step() {
                Step::Deliver(batch) => batch,
                Step::Gather => self.gather().await,
                Step::Sleep => {
                    queue.work.notified().await;
                    continue;
                }
                Step::Leave => return,
            };
            self.deliver(batch).await;
        }
    }

    /// Waits until a batch is full, or has waited for long enough.
    async fn gather(&self) -> Batch {
        let queue = &self.0;
        let full = async {
            loop {
                queue.work.notified().await;
                if let step @ (Step::Deliver(_) | Step::Leave) = queue.step() {
                    return step;
                }
            }
        };
        let is_full = match queue.timer.sleep(queue.buffer.every) {
            Some(_) => queue.timer.within(queue.buffer.every, full).await,
            None => None,
        };
        match is_full {
            Some(Step::Deliver(batch)) => batch,
            _ => queue.take(&mut queue.state.lock()),
        }
    }

    async fn deliver(&self, batch: Batch) {
        let queue = &self.0;
        let mut pause = queue.buffer.pause;
        while !batch.records.is_empty() {
            let outcome = AssertUnwindSafe(queue.timer.within(queue.buffer.limit, async {
                let outcome = queue.sink.deliver(&batch.records).await;
                // Its text is a user's code too.
                outcome.map_err(|error| (error.reason(), error.is_final))
            }));
            let (reason, is_final) = match outcome.catch_unwind().await {
                Ok(Some(Ok(()))) => return batch.delivered(),
                Ok(Some(Err(failed))) => failed,
                Ok(None) => ("it took too long".to_owned(), false),
                Err(_) => ("it panicked".to_owned(), false),
            };
            let phase = {
                let mut state = queue.state.lock();
                state.status.failures += 1;
                state.phase
            };
            let records = batch.records.len();
            tracing::warn!(target: "tollgate::usage", records, reason, is_final, "a sink failed");
            match phase {
                _ if is_final => return batch.lost(),
                Phase::Abandoned | Phase::Closed => return batch.lost(),
                Phase::Draining => pause = pause.min(queue.buffer.pause),
                Phase::Open => {}
            }
            match queue.timer.sleep(pause) {
                Some(sleep) => self.rest(sleep, phase).await,
                // Until the next record comes by.
                None => queue.work.notified().await,
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Waits, unless there is suddenly no time to.
    async fn rest(&self, sleep: Sleep, phase: Phase) {
        let queue = &self.0;
        let hurried = async {
            loop {
                queue.work.notified().await;
                if queue.state.lock().phase != phase {
                    return;
                }
            }
        };
        select(pin!(sleep), pin!(hurried)).await;
    }
}

const LONGEST_PAUSE: Duration = Duration::from_secs(30);
