//! [`Shared`]: one fetch at a time, and what it has brought.
//!
//! A fetch is a future that all who wait for it share. A task drives it, so that it goes
//! on when they go away; a second task sees to it that keys are fetched when they are due
//! though nobody comes. Both end with the last handle, or with their runtime, and then the
//! next request starts others. Nothing is locked while a fetch waits, or keys are parsed.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture, WeakShared};
use http::StatusCode;
use http::header::HeaderValue;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::clock::{Clock, Timestamp};
use crate::jwks::keyring::Keyring;
use crate::jwks::remote::address::Address;
use crate::jwks::remote::fetch::Failure;
use crate::jwks::remote::question::{Answer, Asker, Question};
use crate::jwks::remote::schedule::{Budget, Chance, Plan, retry_after};
use crate::jwks::remote::status::FetchError;
use crate::jwks::ring::KeyName;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// What the handles of an issuer share.
pub(crate) struct Shared {
    pub(crate) asker: Arc<Asker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) wait: Duration,
    pub(crate) keyring: Keyring,
    /// The plan of the state, so that it can be looked at without a lock.
    made_at: AtomicU64,
    due_at: AtomicU64,
    state: Mutex<State>,
    /// Keys that the issuer did not have, and when the set without them was asked for.
    pub(crate) absent: Cache<KeyName, Timestamp, UnitWeighter, RandomState>,
}

pub(crate) struct State {
    pub(crate) plan: Plan,
    under_way: Option<UnderWay>,
    /// What fetches keys though nobody comes.
    tending: Option<AbortHandle>,
    /// Fetches for unknown `kid`s.
    pub(crate) unknown_kids: Budget,
    /// Fetches for failing signatures of known `kid`s. A budget of its own, so that forged
    /// tokens do not delay the look-up of a new key.
    signatures: Budget,
    /// The last time that a spent `unknown_kids` was logged.
    warned_at: Option<Timestamp>,
    pub(crate) fetches: u64,
    /// The number of the last question that was answered well.
    pub(crate) answered: u64,
    pub(crate) confirmed_at: Option<Timestamp>,
    tag: Option<HeaderValue>,
    /// Where the metadata said that the keys are, and when.
    keys_at: Option<(Address, Timestamp)>,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<FetchError>,
    /// The detail of the last error, as it was logged.
    pub(crate) last_detail: Option<Arc<str>>,
}

/// What became of a fetch, for each who waits for it.
pub(crate) type Flight = SharedFuture<BoxFuture<'static, Result<(), FetchError>>>;

struct UnderWay {
    number: u64,
    flight: WeakShared<BoxFuture<'static, Result<(), FetchError>>>,
    /// It has given up by then, where there is a timer. Where there is none, we do.
    until: Timestamp,
    task: Option<AbortHandle>,
}

/// Why keys are fetched.
#[derive(Clone, Copy)]
pub(crate) enum Why {
    /// It is time.
    Due,
    /// A token names a key that is not known.
    Unknown,
    /// A token names a key that is known and has not signed it.
    Signature,
}

impl Shared {
    pub(crate) fn new(asker: Asker, clock: Arc<dyn Clock>, wait: Duration) -> Self {
        let (weighter, hasher) = (UnitWeighter, RandomState::default());
        let (items, weight) = (MOST_ABSENT, MOST_ABSENT as u64);
        Self {
            asker: Arc::new(asker),
            clock,
            wait,
            keyring: Keyring::empty(),
            made_at: AtomicU64::new(0),
            due_at: AtomicU64::new(0),
            state: Mutex::new(State::new()),
            absent: Cache::with(items, weight, weighter, hasher, Default::default()),
        }
    }

    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let at = |nanos: &AtomicU64| {
            Timestamp::EPOCH.saturating_add(Duration::from_nanos(nanos.load(Ordering::Relaxed)))
        };
        let (made_at, due_at) = (at(&self.made_at), at(&self.due_at));
        Plan { made_at, due_at }.is_due(now)
    }

    /// Returns the fetch that is under way or, if there is a reason for one, a new one.
    pub(crate) fn fly(self: &Arc<Self>, now: Timestamp, why: Why) -> Option<Flight> {
        let runtime = Handle::try_current().ok();
        let mut state = self.lock();
        let given_up = self.give_up(&mut state, now);
        let under_way = state.under_way.as_ref();
        let flight = match under_way.and_then(|under_way| under_way.flight.upgrade()) {
            Some(flight) => Some(flight),
            None => state
                .may_start(now, why)
                .then(|| self.start(&mut state, now, runtime.as_ref())),
        };
        if let Some(runtime) = &runtime
            && state.tending.as_ref().is_none_or(AbortHandle::is_finished)
            && self.asker.timer.sleep(Duration::ZERO).is_some()
        {
            let task = runtime.spawn(tend(Arc::downgrade(self)));
            state.tending = Some(task.abort_handle());
        }
        drop(state);
        if let Some(failures) = given_up {
            self.tell(&FetchError::TimedOut.into(), failures);
        }
        flight
    }

    pub(crate) fn start(
        self: &Arc<Self>,
        state: &mut State,
        now: Timestamp,
        runtime: Option<&Handle>,
    ) -> Flight {
        state.fetches += 1;
        let number = state.fetches;
        let is_recent = |found_at| now.since(found_at) < self.asker.life.most;
        let keys_at = state.keys_at.as_ref();
        let question = Question {
            number,
            ticket: self.keyring.ticket(),
            asked_at: now,
            last: self.keyring.last(),
            tag: state.tag.clone(),
            keys_at: keys_at
                .filter(|(_, found_at)| is_recent(*found_at))
                .map(|(address, _)| address.clone()),
        };
        let (asker, shared) = (Arc::clone(&self.asker), Arc::downgrade(self));
        let flight = async move {
            let answer = AssertUnwindSafe(asker.answer(&question))
                .catch_unwind()
                .await;
            let answer = answer.unwrap_or_else(|_| Err(FetchError::Panicked.into()));
            match shared.upgrade() {
                Some(shared) => shared.land(&question, answer),
                None => Ok(()),
            }
        };
        let flight = flight.boxed().shared();
        let limit = self.asker.timeout.saturating_add(GRACE);
        state.under_way = flight.downgrade().map(|weak| UnderWay {
            number,
            flight: weak,
            until: now.saturating_add(limit),
            task: runtime.map(|runtime| runtime.spawn(flight.clone()).abort_handle()),
        });
        // Nobody needs to look while it lasts.
        self.plan(state, Plan::after(now, limit));
        flight
    }

    /// Ends a fetch that is past its time, and says how many have failed then. One that
    /// went away with its runtime has its place freed.
    fn give_up(&self, state: &mut State, now: Timestamp) -> Option<u32> {
        let under_way = state.under_way.as_ref()?;
        let is_gone = under_way.flight.upgrade().is_none();
        if !is_gone && now < under_way.until {
            return None;
        }
        let under_way = state.under_way.take()?;
        if is_gone {
            self.plan(state, Plan::NOW);
            return None;
        }
        if let Some(task) = under_way.task {
            task.abort();
        }
        self.fail(state, &FetchError::TimedOut.into(), now);
        Some(state.failures)
    }

    /// Keeps what a fetch has brought.
    fn land(&self, question: &Question, answer: Result<Answer, Failure>) -> Result<(), FetchError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let is_ours = |under_way: &UnderWay| under_way.number == question.number;
        let is_under_way = state.under_way.as_ref().is_some_and(is_ours);
        if is_under_way {
            state.under_way = None;
        }
        let is_outdated = question.number <= state.answered;
        match answer {
            Ok(answer) if is_outdated => drop(answer),
            Ok(answer) => {
                let unusable = self.keep(&mut state, question, answer, now);
                drop(state);
                self.tell_unusable(unusable?);
            }
            // It was given up before, and counted.
            Err(failure) if is_outdated || !is_under_way => return Err(failure.error),
            Err(failure) => {
                self.fail(&mut state, &failure, now);
                let failures = state.failures;
                drop(state);
                self.tell(&failure, failures);
                return Err(failure.error);
            }
        }
        Ok(())
    }

    /// Returns how many keys are unusable, or 0 if that was said before.
    ///
    /// # Errors
    /// Returns `Err` if it is an answer about a document that was replaced meanwhile.
    fn keep(
        &self,
        state: &mut State,
        question: &Question,
        answer: Answer,
        now: Timestamp,
    ) -> Result<usize, FetchError> {
        let good_until = question.asked_at.saturating_add(self.asker.life.max_age);
        let mut unusable = 0;
        match answer.ring {
            Some(ring) => {
                let last = question.last.as_ref();
                let is_news = last.is_none_or(|last| {
                    !(last.has_all_of(&ring) && ring.has_all_of(last))
                        || last.unusable().len() != ring.unusable().len()
                });
                if is_news {
                    unusable = ring.unusable().len();
                }
                self.keyring.publish(question.ticket, ring, good_until);
            }
            None if question.tag != state.tag => {
                return Err(FetchError::Status(StatusCode::NOT_MODIFIED));
            }
            None => self.keyring.confirm(question.ticket, good_until),
        }
        state.answered = question.number;
        state.confirmed_at = Some(question.asked_at);
        state.tag = answer.tag;
        if let Some(found) = answer.keys_at {
            state.keys_at = Some((found, question.asked_at));
        }
        state.failures = 0;
        state.last_error = None;
        state.last_detail = None;
        let plan = Plan::refresh(now, answer.life, Chance::draw());
        self.plan(state, plan.no_later_than(good_until));
        Ok(unusable)
    }

    fn fail(&self, state: &mut State, failure: &Failure, now: Timestamp) {
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(failure.error);
        state.last_detail = failure.cause.as_deref().map(Arc::from);
        // Perhaps the keys have moved.
        state.keys_at = None;
        let asked = failure.retry_after.as_ref();
        let asked = asked.and_then(|value| retry_after(value, now));
        let has_keys = self.keyring.current(now).is_some();
        let chance = Chance::draw();
        let plan = Plan::retry(now, state.failures, asked, has_keys, chance);
        self.plan(state, plan);
    }

    fn plan(&self, state: &mut State, plan: Plan) {
        state.plan = plan;
        self.made_at
            .store(plan.made_at.unix_nanos(), Ordering::Relaxed);
        self.due_at
            .store(plan.due_at.unix_nanos(), Ordering::Relaxed);
    }

    fn tell(&self, failure: &Failure, failures: u32) {
        tracing::warn!(
            target: "tollgate::jwks",
            issuer = &*self.asker.issuer,
            error = %failure.error,
            cause = failure.cause,
            failures,
            "keys could not be fetched",
        );
    }

    /// Logs that the fetches for unknown `kid`s are spent, at most every ten minutes, since
    /// anybody can send such tokens.
    pub(crate) fn warn_if_spent(&self, now: Timestamp) {
        let mut state = self.lock();
        let is_recent = |at: Timestamp| now >= at && now.since(at) < WARN_EVERY;
        let is_spent = state.may_be_forced() && !state.unknown_kids.wait(now).is_zero();
        if !is_spent || state.warned_at.is_some_and(is_recent) {
            return;
        }
        state.warned_at = Some(now);
        drop(state);
        tracing::warn!(
            target: "tollgate::jwks",
            issuer = &*self.asker.issuer,
            "tokens with too many unknown key ids: the keys were fetched as often as that is \
             allowed, and tokens with an unknown `kid` are answered with 503 until the next \
             fetch, at most 30 seconds from now",
        );
    }

    fn tell_unusable(&self, unusable: usize) {
        if unusable > 0 {
            tracing::warn!(
                target: "tollgate::jwks",
                issuer = &*self.asker.issuer,
                unusable,
                "keys of the set cannot be used",
            );
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const fn new() -> Self {
        Self {
            plan: Plan::NOW,
            under_way: None,
            tending: None,
            unknown_kids: Budget::FULL,
            signatures: Budget::FULL,
            warned_at: None,
            fetches: 0,
            answered: 0,
            confirmed_at: None,
            tag: None,
            keys_at: None,
            failures: 0,
            last_error: None,
            last_detail: None,
        }
    }

    fn may_start(&mut self, now: Timestamp, why: Why) -> bool {
        let is_due = self.plan.is_due(now);
        match why {
            _ if is_due => true,
            Why::Due => false,
            Why::Unknown => self.may_be_forced() && self.unknown_kids.spend(now),
            Why::Signature => self.may_be_forced() && self.signatures.spend(now),
        }
    }

    /// Returns whether a fetch may be made ahead of time: a server that has just failed is
    /// left alone.
    pub(crate) const fn may_be_forced(&self) -> bool {
        self.failures == 0 && self.under_way.is_none()
    }
}

/// With the last handle, the tasks go.
impl Drop for Shared {
    fn drop(&mut self) {
        let mut state = self.lock();
        let fetching = state.under_way.take().and_then(|under_way| under_way.task);
        for task in [fetching, state.tending.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

/// Fetches keys whenever they are due, until there is no handle any more.
async fn tend(shared: Weak<Shared>) {
    loop {
        let flight = match shared.upgrade() {
            Some(shared) => shared.fly(shared.clock.now(), Why::Due),
            None => return,
        };
        if let Some(flight) = flight {
            // What became of it is in the plan.
            let _ = flight.await;
        }
        let Some(sleep) = shared.upgrade().and_then(|shared| {
            let state = shared.lock();
            // While one is under way, what is planned is when to give it up.
            let wait = match &state.under_way {
                Some(_) => SHORTEST_SLEEP,
                None => state.plan.due_at.since(shared.clock.now()),
            };
            drop(state);
            shared
                .asker
                .timer
                .sleep(wait.clamp(SHORTEST_SLEEP, LONGEST_SLEEP))
        }) else {
            return;
        };
        sleep.await;
    }
}

/// What a timer may be late by.
const GRACE: Duration = Duration::from_secs(1);
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);
/// The clock may be put forward meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const MOST_ABSENT: usize = 1000;
const WARN_EVERY: Duration = Duration::from_secs(600);
