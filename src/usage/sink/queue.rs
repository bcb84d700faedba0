//! What waits for a sink, and the task that takes it there.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::BuildHasher;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, select};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::timeout::Timer;
use crate::usage::record::RecordId;
use crate::usage::sink::buffer::add;
use crate::usage::sink::sums::Sums;
use crate::usage::sink::{Buffer, Sink, SinkError, SinkStatus};

/// What can wait for a sink.
pub(crate) trait Item: Clone + Send + Sync + 'static {
    /// For how many it stands: all that is like it may have been added to it.
    fn count(&self) -> u64;

    fn set_id(&mut self, id: RecordId);

    /// Whether the two can be added up.
    fn is_like(&self, other: &Self) -> bool;

    /// The same for items that are alike.
    fn likeness(&self, seed: &impl BuildHasher) -> u64;

    /// Adds one that is alike.
    fn merge(&mut self, other: &Self);

    /// Is alike from now on to those that came from elsewhere.
    fn forget_client(&mut self);
}

type Delivered<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// A [`Sink`] whose type is forgotten.
trait Deliver<T>: Send + Sync {
    fn deliver<'a>(&'a self, batch: &'a [T]) -> Delivered<'a>;
}

impl<T, K: Sink<T>> Deliver<T> for K {
    fn deliver<'a>(&'a self, batch: &'a [T]) -> Delivered<'a> {
        Box::pin(Sink::deliver(self, batch))
    }
}

pub(crate) struct Queue<T> {
    sink: Box<dyn Deliver<T>>,
    buffer: Buffer,
    timer: Timer,
    state: Mutex<State<T>>,
    /// There is something to do.
    work: Notify,
    /// Nothing waits any more.
    settled: Notify,
}

struct State<T> {
    waiting: VecDeque<T>,
    sums: Sums<T>,
    status: SinkStatus,
    phase: Phase,
    /// The task that delivers, if there is one.
    worker: Option<AbortHandle>,
    /// How many have to wait for the task to be told. It says so under the lock, when it has
    /// seen that there are fewer, so that none comes between.
    wakes_at: usize,
}

/// In the order in which they come.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
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
enum Step<T> {
    Deliver(Batch<T>),
    /// There are a few, which may become more.
    Gather,
    Sleep,
    Leave,
}

impl<T: Item> Queue<T> {
    pub(crate) fn new(sink: impl Sink<T>, buffer: Buffer) -> Self {
        Self {
            sink: Box::new(sink),
            buffer,
            timer: Timer::default(),
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                sums: Sums::new(buffer.kinds),
                status: SinkStatus::default(),
                phase: Phase::Open,
                worker: None,
                wakes_at: NEVER,
            }),
            work: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Lets an item wait. Never does so itself.
    pub(crate) fn push(self: &Arc<Self>, item: &T, id: RecordId) {
        let mut state = self.state.lock();
        add(&mut state.status.recorded, item.count());
        if state.phase == Phase::Closed {
            add(&mut state.status.lost, item.count());
            return;
        }
        add(&mut state.status.waiting, item.count());
        if state.waiting.len() < self.buffer.capacity {
            let mut item = item.clone();
            item.set_id(id);
            state.waiting.push_back(item);
        } else if !state.sums.add(item, id) {
            state
                .status
                .move_waiting(item.count(), |status| &mut status.lost);
        }
        let is_news = state.len() >= state.wakes_at;
        if is_news {
            state.wakes_at = NEVER;
        }
        let is_worked = state.worker.is_some();
        drop(state);
        if !is_worked {
            self.start();
        }
        if is_news {
            self.work.notify_one();
        }
    }

    /// Starts the task unless there is one, where there is a runtime for it; else somebody may
    /// come by with one. Says whether there is one now.
    fn start(self: &Arc<Self>) -> bool {
        let runtime = Handle::try_current();
        let mut state = self.state.lock();
        if state.worker.is_some() {
            return true;
        }
        let Ok(runtime) = runtime else { return false };
        let (worker, registration) = AbortHandle::new_pair();
        state.worker = Some(worker);
        drop(state);
        // A runtime that is about to end drops it at once, and that needs the lock.
        let worker = Worker(Arc::clone(self));
        runtime.spawn(Abortable::new(worker.run(), registration));
        self.state.lock().worker.is_some()
    }

    pub(crate) fn status(&self) -> SinkStatus {
        self.state.lock().status
    }

    /// Nobody is left who counts: what waits is delivered, once, if there is a runtime.
    pub(crate) fn abandon(self: &Arc<Self>) {
        let waiting = self.hurry(Phase::Abandoned);
        if waiting > 0 && !self.start() {
            self.close();
        }
    }

    /// Delivers what waits, for as long as there is time. The rest is lost.
    pub(crate) async fn shut_down(self: &Arc<Self>, limit: Duration) {
        let settled = async {
            loop {
                let settled = self.settled.notified();
                // The task may have gone with its runtime.
                if self.hurry(Phase::Draining) == 0 || !self.start() {
                    return;
                }
                settled.await;
            }
        };
        self.timer.surely_within(limit, settled).await;
        self.close();
    }

    fn step(self: &Arc<Self>) -> Step<T> {
        let mut state = self.state.lock();
        let is_open = state.phase == Phase::Open;
        if state.phase == Phase::Closed {
            return Step::Leave;
        }
        let waiting = state.waiting.len();
        if state.len() == 0 {
            if state.phase == Phase::Abandoned {
                return Step::Leave;
            }
            state.wakes_at = 1;
            return Step::Sleep;
        }
        // A batch may be more than there is room for.
        let full = self.buffer.batch.min(self.buffer.capacity);
        if is_open && waiting < full && state.sums.is_empty() {
            state.wakes_at = full;
            return Step::Gather;
        }
        Step::Deliver(self.take(&mut state))
    }

    fn take(self: &Arc<Self>, state: &mut State<T>) -> Batch<T> {
        let count = self.buffer.batch;
        let singles = state.waiting.len().min(count);
        let mut items: Vec<_> = state.waiting.drain(..singles).collect();
        // Sums come after the single ones that they were too many for.
        items.extend(state.sums.take(count - singles));
        Batch {
            queue: Arc::clone(self),
            items,
        }
    }
}

impl<T> Queue<T> {
    /// From now on there is less time. Says how many wait.
    fn hurry(&self, phase: Phase) -> u64 {
        let mut state = self.state.lock();
        state.phase = state.phase.max(phase);
        let waiting = state.status.waiting;
        drop(state);
        self.work.notify_one();
        waiting
    }

    /// Delivers nothing more.
    fn close(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.waiting.clear();
        state.sums.clear();
        let lost = mem::take(&mut state.status.waiting);
        add(&mut state.status.lost, lost);
        let worker = state.worker.clone();
        drop(state);
        if let Some(worker) = worker {
            worker.abort();
        }
        self.settled.notify_waiters();
        if lost > 0 {
            tracing::warn!(target: "tollgate::usage", lost, "what waited for a sink is lost");
        }
    }
}

impl<T> State<T> {
    fn len(&self) -> usize {
        self.waiting.len() + self.sums.len()
    }
}

/// What is on its way. If nobody says what has become of it, it waits again.
struct Batch<T> {
    queue: Arc<Queue<T>>,
    items: Vec<T>,
}

impl<T: Item> Batch<T> {
    fn delivered(self) {
        self.settle(|status| &mut status.delivered);
    }

    fn lost(self) {
        self.settle(|status| &mut status.lost);
    }

    fn settle(mut self, account: impl FnOnce(&mut SinkStatus) -> &mut u64) {
        let counts = self.items.drain(..).map(|item| item.count());
        let count = counts.fold(0, u64::saturating_add);
        let mut state = self.queue.state.lock();
        // Else all of this was counted as lost already.
        if state.phase != Phase::Closed {
            state.status.move_waiting(count, account);
        }
        let is_settled = state.status.waiting == 0;
        drop(state);
        if is_settled {
            self.queue.settled.notify_waiters();
        }
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let mut state = self.queue.state.lock();
        if state.phase != Phase::Closed {
            for item in self.items.drain(..).rev() {
                state.waiting.push_front(item);
            }
        }
    }
}

/// The task, however it ends. The next item starts another.
struct Worker<T>(Arc<Queue<T>>);

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        let queue = &self.0;
        let mut state = queue.state.lock();
        state.worker = None;
        let is_abandoned = state.phase == Phase::Abandoned;
        drop(state);
        if is_abandoned {
            // No item will come.
            queue.close();
        }
        // Who waits for it has to see to it.
        queue.settled.notify_waiters();
    }
}

impl<T: Item> Worker<T> {
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
    async fn gather(&self) -> Batch<T> {
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

    async fn deliver(&self, batch: Batch<T>) {
        let queue = &self.0;
        let mut pause = queue.buffer.pause;
        while !batch.items.is_empty() {
            let outcome = AssertUnwindSafe(queue.timer.within(queue.buffer.limit, async {
                let outcome = queue.sink.deliver(&batch.items).await;
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
                add(&mut state.status.failures, 1);
                state.phase
            };
            let items = batch.items.len();
            tracing::warn!(target: "tollgate::usage", items, reason, is_final, "a sink failed");
            if is_final || matches!(phase, Phase::Abandoned | Phase::Closed) {
                return batch.lost();
            }
            if phase == Phase::Draining {
                pause = pause.min(queue.buffer.pause);
            }
            match queue.timer.sleep(pause) {
                Some(sleep) => self.rest(sleep, phase).await,
                None if phase == Phase::Draining => return batch.lost(),
                // Until the next item comes by.
                None => {
                    queue.state.lock().wakes_at = 1;
                    queue.work.notified().await;
                }
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

const NEVER: usize = usize::MAX;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct One;

    impl Item for One {
        fn count(&self) -> u64 {
            1
        }

        fn set_id(&mut self, _: RecordId) {}

        fn is_like(&self, _: &Self) -> bool {
            true
        }

        fn likeness(&self, _: &impl BuildHasher) -> u64 {
            0
        }

        fn merge(&mut self, _: &Self) {}

        fn forget_client(&mut self) {}
    }

    struct Void;

    impl Sink<One> for Void {
        async fn deliver(&self, _: &[One]) -> Result<(), SinkError> {
            Ok(())
        }
    }

    /// A task may end before the one who has started it goes on. Whoever comes then must not
    /// have a handle that leads nowhere.
    #[test]
    fn a_task_that_has_ended_leaves_no_handle_behind() {
        let queue = Arc::new(Queue::new(Void, Buffer::new()));
        let new = || tokio::runtime::Builder::new_current_thread().build();
        let runtime = new().unwrap();
        let ended = runtime.handle().clone();
        drop(runtime);
        let _entered = ended.enter();
        queue.push(&One, RecordId::default());
        assert!(queue.state.lock().worker.is_none());
        assert!(!queue.start());

        let runtime = new().unwrap();
        let _entered = runtime.enter();
        queue.push(&One, RecordId::default());
        assert!(queue.state.lock().worker.is_some());
        runtime.block_on(queue.shut_down(Duration::ZERO));
        assert_eq!(queue.status().lost + queue.status().delivered, 2);
        runtime.block_on(tokio::task::yield_now());
        assert!(queue.state.lock().worker.is_none());
    }
}
