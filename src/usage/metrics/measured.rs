//! [`Measured`]: a store that says how long it takes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::keys::{KeyFilter, KeyId, KeyPage, KeyRecord, KeyStore, StoreError};
use crate::limit::{Decision, LimitKey, Limiter, LimiterUnavailable, Quotas, Ticket};
use crate::pending::Pending;
use crate::usage::metrics::backend::{Backend, Handle};
use crate::usage::metrics::instrument::{STORE_DURATION, Value};

/// A [`KeyStore`] or a [`Limiter`] whose answers are timed: see
/// [`Metrics::measured`](super::Metrics::measured).
#[derive(Clone)]
pub struct Measured<S> {
    store: S,
    times: Arc<Times>,
}

struct Times {
    name: Box<str>,
    backend: Arc<dyn Backend>,
    handles: [[OnceLock<Handle>; 3]; Operation::COUNT],
}

#[derive(Clone, Copy)]
enum Operation {
    Ban,
    Find,
    FindLatest,
    Insert,
    List,
    NoteUses,
    Remove,
    Reset,
    Settle,
    Take,
    Update,
}

#[derive(Clone, Copy)]
enum Outcome {
    Answered,
    Failed,
    /// Nobody waited any longer: its time was over, or the client went away.
    GivenUp,
}

impl Operation {
    const COUNT: usize = 11;

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Find => "find",
            Self::FindLatest => "find_latest",
            Self::Insert => "insert",
            Self::List => "list",
            Self::NoteUses => "note_uses",
            Self::Remove => "remove",
            Self::Reset => "reset",
            Self::Settle => "settle",
            Self::Take => "take",
            Self::Update => "update",
        }
    }
}

impl<S> Measured<S> {
    pub(super) fn new(name: Box<str>, backend: Arc<dyn Backend>, store: S) -> Self {
        let times = Times {
            name,
            backend,
            handles: Default::default(),
        };
        Self {
            store,
            times: Arc::new(times),
        }
    }

    async fn time<T, E>(
        &self,
        operation: Operation,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let clock = Clock::start(&self.times, operation);
        let answer = answer.await;
        clock.stop(answer.is_ok());
        answer
    }

    /// What is answered at once has not left this process, and is not timed.
    fn time_pending<T: Send + 'static>(
        &self,
        operation: Operation,
        answer: Pending<T>,
        is_ok: impl Fn(&T) -> bool + Send + 'static,
    ) -> Pending<T> {
        let Pending::Later(answer) = answer else {
            return answer;
        };
        let clock = Clock::start(&self.times, operation);
        Pending::later(async move {
            let answer = answer.await;
            clock.stop(is_ok(&answer));
            answer
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for Measured<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measured")
            .field("name", &self.times.name)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Times {
    fn record(&self, operation: Operation, outcome: Outcome, time: Duration) {
        let handle = self.handles[operation as usize][outcome as usize].get_or_init(|| {
            let mut labels = vec![
                ("tollgate.name", Value::Text(&self.name)),
                ("tollgate.operation", Value::Word(operation.as_str())),
            ];
            match outcome {
                Outcome::Answered => {}
                Outcome::Failed => labels.push(("error.type", Value::Word("unavailable"))),
                Outcome::GivenUp => labels.push(("error.type", Value::Word("given_up"))),
            }
            self.backend.handle(&STORE_DURATION, &labels)
        });
        handle(time.as_secs_f64());
    }
}

/// Runs until it is stopped, or dropped.
struct Clock {
    times: Arc<Times>,
    operation: Operation,
    outcome: Outcome,
    start: Instant,
}

impl Clock {
    fn start(times: &Arc<Times>, operation: Operation) -> Self {
        Self {
            times: Arc::clone(times),
            operation,
            outcome: Outcome::GivenUp,
            start: Instant::now(),
        }
    }

    fn stop(mut self, is_ok: bool) {
        self.outcome = if is_ok {
            Outcome::Answered
        } else {
            Outcome::Failed
        };
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let time = self.start.elapsed();
        self.times.record(self.operation, self.outcome, time);
    }
}

impl<S: KeyStore> KeyStore for Measured<S> {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.time(Operation::Find, self.store.find(id)).await
    }

    fn find_now(
        &self,
        id: KeyId,
        now: Timestamp,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        self.store.find_now(id, now)
    }

    async fn find_latest(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        let answer = self.store.find_latest(id);
        self.time(Operation::FindLatest, answer).await
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.time(Operation::Insert, self.store.insert(record))
            .await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.time(Operation::Update, self.store.update(record))
            .await
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.time(Operation::Remove, self.store.remove(id)).await
    }

    fn keeps_uses(&self) -> bool {
        self.store.keeps_uses()
    }

    async fn note_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.time(Operation::NoteUses, self.store.note_uses(uses))
            .await
    }

    fn staleness(&self) -> Duration {
        self.store.staleness()
    }

    fn settles_within(&self) -> Duration {
        self.store.settles_within()
    }

    fn deadline(&self) -> Option<Duration> {
        self.store.deadline()
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.time(Operation::List, self.store.list(filter)).await
    }
}

impl<L: Limiter> Limiter for Measured<L> {
    fn take(
        &self,
        key: &LimitKey<'_>,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Pending<Result<Decision, LimiterUnavailable>> {
        let answer = self.store.take(key, quotas, cost, now);
        self.time_pending(Operation::Take, answer, Result::is_ok)
    }

    fn settle(&self, ticket: Ticket, quotas: &Quotas, units: i64, now: Timestamp) -> Pending<()> {
        let done = self.store.settle(ticket, quotas, units, now);
        self.time_pending(Operation::Settle, done, |()| true)
    }

    fn ban(&self, ticket: Ticket, until: Timestamp, now: Timestamp) -> Pending<()> {
        let done = self.store.ban(ticket, until, now);
        self.time_pending(Operation::Ban, done, |()| true)
    }

    fn reset(&self, ticket: Ticket, quotas: &Quotas) -> Pending<()> {
        let done = self.store.reset(ticket, quotas);
        self.time_pending(Operation::Reset, done, |()| true)
    }

    fn ticket(&self, key: &LimitKey<'_>) -> Ticket {
        self.store.ticket(key)
    }
}
