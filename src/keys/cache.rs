//! [`Cached`]: answers of another store, for a while.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::keys::flight::{Flight, Flights, Found, Landing};
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::keys::store::{KeyFilter, KeyPage, KeyStore, StoreError, find_within};
use crate::tally::Tally;
use crate::timeout::Timer;

/// A cache in front of any store.
///
/// A record that was read is answered for [`fresh_for`](Cached::fresh_for), 10 seconds
/// unless set; then it is read again, and requests wait for that. That an id is unknown
/// is remembered for 2 seconds at the most, in a table of its own, so that guesses do not
/// drive out keys. However many ask for the same key, the store is asked once; and it is
/// asked about no more than 64 unknown keys at a time, beyond which clients get 503.
///
/// Every change that is made *through* this cache holds from the moment it returns. A
/// change that another node made holds within [`Cached::revocation_bound`]. When a key
/// starts, ends or expires is judged for each request, cached or not.
///
/// ```
/// use std::time::Duration;
/// use tollgate::ApiKeys;
/// use tollgate::keys::{Cached, MemoryKeys, Peppers};
///
/// let cached = Cached::new(MemoryKeys::new()).fresh_for(Duration::from_secs(5));
/// assert_eq!(cached.revocation_bound(), Duration::from_secs(5));
/// let keys = ApiKeys::new(cached, Peppers::random());
/// ```
///
/// # Cost
/// A hit is one look-up in a concurrent table; it allocates nothing. Memory is bounded
/// by [`Cached::capacity`].
pub struct Cached<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    settings: Settings,
    hits: Table<Hit>,
    misses: Table<Timestamp>,
    /// Questions about keys that are not known here, and about those that are: a flood
    /// of the former must not keep the latter from being read again.
    unknown: Arc<Flights>,
    known: Arc<Flights>,
    /// Keys that are being changed, once for each change.
    changing: Mutex<Vec<KeyId>>,
    timer: Timer,
    answered: Tally,
    asked: Tally,
    stale_served: AtomicU64,
    turned_away: AtomicU64,
}

type Table<V> = Cache<KeyId, V, UnitWeighter, RandomState>;

#[derive(Clone)]
struct Hit {
    record: Arc<KeyRecord>,
    /// When the store was asked: the answer is no older.
    asked_at: Timestamp,
}

#[derive(Clone)]
struct Settings {
    fresh_for: Duration,
    miss_for: Duration,
    stale_for: Duration,
    timeout: Duration,
    capacity: usize,
    concurrency: usize,
    clock: Arc<dyn Clock>,
}

/// How long a miss is remembered, at the most.
const LONGEST_MISS: Duration = Duration::from_secs(2);
/// How long a stale answer may be given, at the most.
const LONGEST_STALE: Duration = Duration::from_secs(300);

impl<S: KeyStore> Cached<S> {
    /// A cache in front of that store.
    pub fn new(store: S) -> Self {
        let settings = Settings {
            fresh_for: Duration::from_secs(10),
            miss_for: LONGEST_MISS,
            stale_for: Duration::ZERO,
            timeout: Duration::from_millis(500),
            capacity: 100_000,
            concurrency: 64,
            clock: Arc::new(SystemClock),
        };
        Self::with(store, settings)
    }

    /// Sets how long a record is answered without asking the store: 10 s unless set.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn fresh_for(self, life: Duration) -> Self {
        self.set(|settings| settings.fresh_for = life)
    }

    /// Sets how long it is remembered that an id is unknown: 2 s unless set, and no
    /// longer. A key that another node issues may be refused for that long.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn misses_for(self, life: Duration) -> Self {
        self.set(|settings| settings.miss_for = life.min(LONGEST_MISS))
    }

    /// Goes on answering with a record for that long after it was fresh, if the store
    /// fails: not at all unless set, and no longer than 5 minutes. It is counted, and it
    /// is part of the revocation bound. A key that was changed through this cache is
    /// never answered for like that.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn stale_on_error(self, longest: Duration) -> Self {
        self.set(|settings| settings.stale_for = longest.min(LONGEST_STALE))
    }

    /// Sets how long the store may take to find a key: 500 ms unless set. After that the
    /// client gets a stale record, where that is allowed, or 503. It takes the place of
    /// [`ApiKeys::store_timeout`](crate::ApiKeys::store_timeout). Enforced by tokio's
    /// timer, where there is one.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.timeout = timeout)
    }

    /// Sets how many records are kept: 100,000 unless set. A tenth of that is kept of
    /// unknown ids.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn capacity(self, records: usize) -> Self {
        self.set(|settings| settings.capacity = records)
    }

    /// Sets about how many unknown keys the store is asked at a time: 64 unless set. As
    /// many known ones may be read again beside them.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn concurrency(self, questions: usize) -> Self {
        self.set(|settings| settings.concurrency = questions.max(1))
    }

    /// Sets the clock that answers age by. It must be the one of the layer.
    ///
    /// # Panics
    /// If the cache was cloned already.
    #[must_use]
    #[track_caller]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|settings| settings.clock = Arc::new(clock))
    }

    /// How long a change that was made elsewhere may go unnoticed here, at the most:
    /// while a record is fresh, or the store takes its time, then while it may be stale,
    /// and what the store itself needs.
    #[must_use]
    pub fn revocation_bound(&self) -> Duration {
        let settings = &self.inner.settings;
        settings
            .fresh_for
            .max(self.inner.longest_wait())
            .saturating_add(settings.stale_for)
            .saturating_add(self.inner.store.staleness())
    }

    /// The same store without the cache, for routes where the bound is too long. Changes
    /// that are made through it are seen by the cache at once.
    #[must_use]
    pub fn strict(&self) -> Strict<S> {
        Strict {
            cached: self.clone(),
        }
    }

    /// Forgets what is known of a key, so that the store is asked: for whoever is told
    /// of a change by other means.
    pub fn forget(&self, id: KeyId) {
        let inner = &*self.inner;
        inner.unknown.forget(id, || {
            inner.known.forget(id, || {
                inner.hits.remove(&id);
                inner.misses.remove(&id);
            });
        });
    }

    /// How often the answer was known, a remembered miss included.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.inner.answered.get()
    }

    /// How often the answer was not known, and the store had to be asked, alone or together with
    /// others; or [was not](Cached::turned_away).
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.inner.asked.get()
    }

    /// How often a stale record was answered because the store failed.
    #[must_use]
    pub fn stale_served(&self) -> u64 {
        self.inner.stale_served.load(Ordering::Relaxed)
    }

    /// How many unknown ids are remembered at the moment.
    #[must_use]
    pub fn remembered_misses(&self) -> usize {
        self.inner.misses.len()
    }

    /// How often the store was not asked because it was asked enough already.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.inner.turned_away.load(Ordering::Relaxed)
    }

    fn with(store: S, settings: Settings) -> Self {
        let table = |capacity: usize| capacity.max(16);
        let inner = Inner {
            store,
            hits: new_table(table(settings.capacity)),
            misses: new_table(table(settings.capacity / 10)),
            settings,
            unknown: Arc::default(),
            known: Arc::default(),
            changing: Mutex::default(),
            timer: Timer::default(),
            answered: Tally::default(),
            asked: Tally::default(),
            stale_served: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    #[track_caller]
    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Ok(Inner {
            store,
            mut settings,
            ..
        }) = Arc::try_unwrap(self.inner)
        else {
            panic!("set up the cache before it is cloned");
        };
        change(&mut settings);
        Self::with(store, settings)
    }

    /// Joins or starts the question about a key.
    fn ask(&self, id: KeyId, is_known: bool) -> Option<Flight> {
        let flights = if is_known {
            &self.inner.known
        } else {
            &self.inner.unknown
        };
        let inner = Arc::clone(&self.inner);
        flights.join(
            id,
            self.inner.settings.concurrency,
            move |landing| async move { inner.read(id, landing).await },
        )
    }
}

fn new_table<V: Clone>(capacity: usize) -> Table<V> {
    let (weighter, hasher) = (UnitWeighter, RandomState::default());
    Cache::with(
        capacity,
        capacity as u64,
        weighter,
        hasher,
        Default::default(),
    )
}

impl<S: KeyStore> Inner<S> {
    fn changing(&self) -> MutexGuard<'_, Vec<KeyId>> {
        // Nothing in here panics halfway; what a panic elsewhere leaves is whole.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the store, and keeps the answer if nobody changed the key meanwhile.
    async fn read(&self, id: KeyId, landing: Landing) -> Found {
        let asked_at = self.settings.clock.now();
        let limit = self.settings.timeout;
        let found = find_within(&self.store, id, &self.timer, limit)
            .await
            .unwrap_or_else(|| Err(StoreError::unavailable("the store took too long")))?;
        landing.keep(|| match &found {
            Some(record) => {
                self.misses.remove(&id);
                self.hits.insert(
                    id,
                    Hit {
                        record: Arc::clone(record),
                        asked_at,
                    },
                );
            }
            None => {
                self.hits.remove(&id);
                self.misses.insert(id, asked_at);
            }
        });
        Ok(found)
    }

    /// How long the store may take.
    fn longest_wait(&self) -> Duration {
        self.store.deadline().unwrap_or(self.settings.timeout)
    }

    /// Whether an answer of `asked_at` is good at `now`. One from the future is not: the
    /// clock has stepped back, and says nothing of its age.
    fn is_within(asked_at: Timestamp, life: Duration, now: Timestamp) -> bool {
        now >= asked_at && now.since(asked_at) < life
    }
}

impl<S: KeyStore> KeyStore for Cached<S> {
    async fn find(&self, id: KeyId) -> Found {
        let inner = &*self.inner;
        if let Some(known) = self.find_now(id, inner.settings.clock.now()) {
            return known;
        }
        inner.asked.add();
        let held = inner.hits.peek(&id);
        let failure = match self.ask(id, held.is_some()) {
            Some(flight) => match flight.await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            },
            None => {
                inner.turned_away.fetch_add(1, Ordering::Relaxed);
                StoreError::unavailable("the store is asked enough already")
            }
        };
        let settings = &inner.settings;
        if settings.stale_for.is_zero() || inner.changing().contains(&id) {
            return Err(failure);
        }
        // Looked up anew: a key that was changed meanwhile is not there any more.
        let life = settings.fresh_for.saturating_add(settings.stale_for);
        let now = settings.clock.now();
        let usable = |hit: &Hit| Inner::<S>::is_within(hit.asked_at, life, now);
        let Some(stale) = inner.hits.peek(&id).filter(usable) else {
            return Err(failure);
        };
        inner.stale_served.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(target: "tollgate::keys", %id, "the key store failed: a stale record is used");
        Ok(Some(stale.record))
    }

    fn find_now(&self, id: KeyId, now: Timestamp) -> Option<Found> {
        let inner = &*self.inner;
        let known = if let Some(hit) = inner.hits.get(&id) {
            let fresh = Inner::<S>::is_within(hit.asked_at, inner.settings.fresh_for, now);
            fresh.then_some(Ok(Some(hit.record)))
        } else {
            let missed_at = inner.misses.get(&id)?;
            Inner::<S>::is_within(missed_at, inner.settings.miss_for, now).then_some(Ok(None))
        };
        if known.is_some() {
            inner.answered.add();
        }
        known
    }

    async fn find_latest(&self, id: KeyId) -> Found {
        let latest = self.inner.store.find_latest(id).await?;
        // A command that finds nothing left to do holds from now on like any other.
        self.forget(id);
        Ok(latest)
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        let _changing = Changing::new(self, record.id);
        self.inner.store.insert(record).await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        let _changing = Changing::new(self, record.id);
        self.inner.store.update(record).await
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        let _changing = Changing::new(self, id);
        self.inner.store.remove(id).await
    }

    fn keeps_uses(&self) -> bool {
        self.inner.store.keeps_uses()
    }

    async fn note_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.inner.store.note_uses(uses).await
    }

    fn staleness(&self) -> Duration {
        self.revocation_bound()
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.inner.longest_wait())
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.inner.store.list(filter).await
    }
}

/// A change that is under way. What was known of the key before is forgotten at once, and
/// what is learnt meanwhile when it is through, or was given up halfway: who knows what it
/// did.
struct Changing<'a, S: KeyStore> {
    cached: &'a Cached<S>,
    id: KeyId,
}

impl<'a, S: KeyStore> Changing<'a, S> {
    fn new(cached: &'a Cached<S>, id: KeyId) -> Self {
        cached.inner.changing().push(id);
        cached.forget(id);
        Self { cached, id }
    }
}

impl<S: KeyStore> Drop for Changing<'_, S> {
    fn drop(&mut self) {
        self.cached.forget(self.id);
        let mut changing = self.cached.inner.changing();
        if let Some(place) = changing.iter().position(|id| *id == self.id) {
            changing.swap_remove(place);
        }
    }
}

/// Shares the cache.
impl<S> Clone for Cached<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Cached<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("store", &self.inner.store)
            .field("len", &self.inner.hits.len())
            .finish_non_exhaustive()
    }
}

/// The store behind a [`Cached`], asked for every request: see [`Cached::strict`].
#[derive(Clone, Debug)]
pub struct Strict<S> {
    cached: Cached<S>,
}

impl<S: KeyStore> KeyStore for Strict<S> {
    async fn find(&self, id: KeyId) -> Found {
        self.cached.inner.store.find(id).await
    }

    fn find_now(&self, id: KeyId, now: Timestamp) -> Option<Found> {
        self.cached.inner.store.find_now(id, now)
    }

    async fn find_latest(&self, id: KeyId) -> Found {
        self.cached.find_latest(id).await
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.cached.insert(record).await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.cached.update(record).await
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.cached.remove(id).await
    }

    fn keeps_uses(&self) -> bool {
        self.cached.keeps_uses()
    }

    async fn note_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.cached.note_uses(uses).await
    }

    fn staleness(&self) -> Duration {
        self.cached.inner.store.staleness()
    }

    fn settles_within(&self) -> Duration {
        self.cached.settles_within()
    }

    fn deadline(&self) -> Option<Duration> {
        self.cached.inner.store.deadline()
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.cached.list(filter).await
    }
}
