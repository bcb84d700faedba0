//! [`Usage`]: the handle that counts, and is asked.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Extensions;

use crate::audit::Audit;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{ConfigError, literal};
use crate::gate::caught;
use crate::identity::Principal;
use crate::usage::record::{Arrival, Record};
use crate::usage::routes::Routes;
use crate::usage::sink::{Buffer, Sink, SinkStatus, Sinks, SinksBuilder};
use crate::usage::slot::{UNITS, UsageSlot};
use crate::usage::table::Table;
use crate::usage::total::{Caller, Counted, Snapshot, Total};

/// Who counts. Clones count together; a [`UsageLayer`](crate::UsageLayer) has one, and who
/// keeps another can ask it.
///
/// The tasks of its sinks start at the first record, on the runtime of that request, and end
/// with the last clone: then what waits is delivered, without a second try; where there is no
/// runtime, it is lost, and the log has how much. Better is [`Usage::shutdown`].
#[derive(Clone)]
pub struct Usage {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) names: Arc<[Box<str>]>,
    pub(super) routes: Routes,
    table: Table,
    observers: Box<[Arc<dyn Observer>]>,
    audit: Option<Audit>,
    pub(super) has_clients: bool,
    /// Something reads the records: a sink, an observer or an audit log. Without, there are only
    /// totals.
    pub(super) has_readers: bool,
    sinks: Sinks<Record>,
    clock: Option<Arc<dyn Clock>>,
    ticks: Option<Arc<Ticks>>,
    start: Instant,
    wall: Wall,
}

type Ticks = dyn Fn() -> Duration + Send + Sync;

/// Sees requests come and go, at once and on their own threads: for what has to be exact at
/// every moment. What has time is for a [`Sink`].
///
/// A panic in here is caught, and the request does not notice.
pub trait Observer: Send + Sync + 'static {
    /// A request has come. Each one that has come goes, once.
    fn begun(&self, _request: Arrival<'_>) {}

    /// A request has gone. Its record has no number yet.
    fn ended(&self, record: &Record);
}

impl Usage {
    /// Counts in memory, with the settings that [`Usage::builder`] starts from.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Room for the totals of 10,000 callers, no units and no sinks.
    pub fn builder() -> UsageBuilder {
        UsageBuilder {
            room: 10_000,
            names: Vec::new(),
            observers: Vec::new(),
            audit: None,
            has_clients: false,
            sinks: SinksBuilder::default(),
            clock: None,
            ticks: None,
        }
    }

    /// Adds to what a request has used, from its handler: see [`UsageSlot::add`]. Says whether
    /// it counts.
    ///
    /// ```
    /// use tollgate::usage::Usage;
    ///
    /// async fn complete(request: http::Request<()>) -> &'static str {
    ///     Usage::add(request.extensions(), "tokens", 812);
    ///     "…"
    /// }
    /// ```
    pub fn add(extensions: &Extensions, unit: &str, amount: u64) -> bool {
        if let Some(slot) = extensions.get::<UsageSlot>() {
            return slot.add(unit, amount);
        }
        tracing::error!(
            target: "tollgate::usage",
            "a handler counts and there is no slot in the request: put a UsageLayer outside",
        );
        false
    }

    /// What all callers have used.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.table.snapshot()
    }

    /// What a caller has used; none if there is nothing, or there was no room for them.
    #[must_use]
    pub fn of(&self, principal: &Principal) -> Option<Total> {
        self.shared.table.of(principal)
    }

    /// The callers with the most requests, and these first.
    #[must_use]
    pub fn top(&self, callers: usize) -> Vec<Caller> {
        let mut all = self.snapshot().callers;
        all.truncate(callers);
        all
    }

    /// How the sinks stand, in the order in which they were named.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.shared.sinks.status()
    }

    #[cfg(any(feature = "metrics", feature = "opentelemetry"))]
    pub(super) fn downgrade(&self) -> WeakUsage {
        WeakUsage(Arc::downgrade(&self.shared))
    }

    /// Delivers what waits, and then nothing more: when the server has stopped. Says how the
    /// sinks stand then. What could not be delivered within `deadline` is lost, as is what ends
    /// later; totals go on.
    ///
    /// On a runtime without a timer, a thread keeps the deadline, and what a sink does not take
    /// is lost without a second try. Outside of any runtime, what waits is lost, unless one that
    /// goes on has the task of the sink.
    ///
    /// # Cancellation
    /// Dropped, it leaves the sinks as they are, in a hurry.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<SinkStatus> {
        self.shared.sinks.shut_down(deadline).await;
        self.sinks()
    }
}

/// A [`Usage`], as long as there is one.
#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
pub(super) struct WeakUsage(std::sync::Weak<Shared>);

#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
impl WeakUsage {
    pub(super) fn upgrade(&self) -> Option<Usage> {
        self.0.upgrade().map(|shared| Usage { shared })
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usage")
            .field("units", &self.shared.names)
            .field("sinks", &self.sinks())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The time since some moment.
    pub(super) fn ticks(&self) -> Duration {
        match &self.ticks {
            None => self.start.elapsed(),
            // This runs where requests are dropped, and a panic there would end the process.
            Some(ticks) => caught(|| ticks()).unwrap_or_else(|_| self.start.elapsed()),
        }
    }

    /// The time of day at so many ticks.
    pub(super) fn at(&self, ticks: Duration) -> Timestamp {
        match (&self.clock, &self.ticks) {
            (Some(clock), _) => caught(|| clock.now()).unwrap_or_else(|_| SystemClock.now()),
            (None, Some(_)) => SystemClock.now(),
            (None, None) => self.wall.at(ticks, self.start),
        }
    }

    /// The time of day at so many ticks, for others: if it is the system's.
    pub(super) fn shared_now(&self, ticks: Duration) -> Option<Timestamp> {
        let is_own = self.clock.is_none() && self.ticks.is_none();
        is_own.then(|| self.wall.at(ticks, self.start))
    }

    pub(super) fn begun(&self, request: Arrival<'_>) {
        for observer in &self.observers {
            tell(|| observer.begun(request));
        }
    }

    /// Where what is done with credentials is written down, if it is.
    pub(super) fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Counts a request in the totals only.
    pub(super) fn count(&self, request: &Counted<'_>, anywhere: usize) {
        self.table.count(request, anywhere);
    }

    /// Counts a request. Where it is anonymous, `anywhere` spreads it.
    pub(super) fn record(&self, record: &Record, anywhere: usize) {
        self.table.count(&record.into(), anywhere);
        self.sinks.push(record);
        for observer in &self.observers {
            tell(|| observer.ended(record));
        }
    }
}

/// The time of day out of the ticks: asked for once a second, and not for each request.
struct Wall {
    /// What it was at no ticks, and when that is to be found out anew, in nanoseconds.
    at_start: AtomicU64,
    asks_at: AtomicU64,
}

impl Default for Wall {
    fn default() -> Self {
        Self {
            at_start: AtomicU64::new(SystemClock.now().unix_nanos()),
            asks_at: AtomicU64::new(0),
        }
    }
}

impl Wall {
    fn at(&self, ticks: Duration, start: Instant) -> Timestamp {
        let nanos = u64::try_from(ticks.as_nanos()).unwrap_or(u64::MAX);
        if nanos >= self.asks_at.load(Ordering::Relaxed) {
            // Those that are asked for may be long ago.
            let at_start = SystemClock.now().saturating_sub(start.elapsed());
            let at_start = at_start.unix_nanos();
            self.at_start.store(at_start, Ordering::Relaxed);
            let asks_at = nanos.saturating_add(ASKS_EVERY);
            self.asks_at.store(asks_at, Ordering::Relaxed);
        }
        let at_start = Timestamp::from_unix_nanos(self.at_start.load(Ordering::Relaxed));
        at_start.saturating_add(ticks)
    }
}

const ASKS_EVERY: u64 = 1_000_000_000;

/// This may be where a request is dropped, and a panic would be the end of the process.
fn tell(what: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(what)).is_err() {
        tracing::error!(target: "tollgate::usage", "an observer of usage panicked");
    }
}

/// Settings of a [`Usage`].
#[derive(Clone)]
#[must_use]
pub struct UsageBuilder {
    room: usize,
    names: Vec<Box<str>>,
    observers: Vec<Arc<dyn Observer>>,
    audit: Option<Audit>,
    has_clients: bool,
    sinks: SinksBuilder<Record>,
    clock: Option<Arc<dyn Clock>>,
    ticks: Option<Arc<Ticks>>,
}

impl UsageBuilder {
    /// Sets how many callers there is room for, each of which needs half a kilobyte, whoever
    /// they are. One who was not seen for long makes room for the next, and is added to all
    /// others; up to 1,000, it is the one who was not seen for longest. At least one.
    pub fn callers(mut self, room: usize) -> Self {
        self.room = room;
        self
    }

    /// Sets what handlers can count in, besides requests and bytes: `tokens`, for instance.
    ///
    /// # Panics
    /// If there are more than eight, one is empty, or two are the same.
    #[track_caller]
    pub fn units<N: Into<Box<str>>>(self, names: impl IntoIterator<Item = N>) -> Self {
        literal(self.try_units(names))
    }

    /// As [`UsageBuilder::units`], for names from configuration.
    ///
    /// # Errors
    /// Where `units` panics.
    pub fn try_units<N: Into<Box<str>>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        let names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        if names.len() > UNITS {
            return Err(ConfigError::new("there can be eight units"));
        }
        let is_taken = |index: usize| names[..index].contains(&names[index]);
        if (0..names.len()).any(|index| names[index].is_empty() || is_taken(index)) {
            return Err(ConfigError::new("each unit needs a name of its own"));
        }
        self.names = names;
        Ok(self)
    }

    /// Adds one that is told of each record, in batches.
    pub fn sink(self, sink: impl Sink<Record>) -> Self {
        self.sink_with(Buffer::new(), sink)
    }

    /// As [`UsageBuilder::sink`], and says how records wait for it.
    pub fn sink_with(mut self, buffer: Buffer, sink: impl Sink<Record>) -> Self {
        self.sinks.add(buffer, sink);
        self
    }

    /// Has what is refused, and what is done with each credential, written down there. What waits
    /// for the trail's own sinks is not delivered by [`Usage::shutdown`]: see [`Audit::shutdown`].
    pub fn audit(mut self, audit: Audit) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Has the addresses of clients in the records, which an [audit trail](UsageBuilder::audit)
    /// needs, too. They are personal data in many places.
    pub fn client_addresses(mut self) -> Self {
        self.has_clients = true;
        self
    }

    /// Adds one that sees requests come and go.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets the clock that says when: the system's unless set.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Sets what says how long, since a moment of its choice, and never goes back: the
    /// monotonic clock of the system unless set.
    pub fn ticks(mut self, ticks: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.ticks = Some(Arc::new(ticks));
        self
    }

    /// Starts to count.
    #[must_use]
    pub fn build(self) -> Usage {
        let names: Arc<[Box<str>]> = self.names.into();
        let shared = Shared {
            table: Table::new(self.room, Arc::clone(&names)),
            names,
            routes: Routes::default(),
            has_clients: self.has_clients || self.audit.is_some(),
            has_readers: self.sinks.len() > 0 || !self.observers.is_empty() || self.audit.is_some(),
            observers: self.observers.into(),
            audit: self.audit,
            sinks: self.sinks.build(),
            clock: self.clock,
            ticks: self.ticks,
            start: Instant::now(),
            wall: Wall::default(),
        };
        Usage {
            shared: Arc::new(shared),
        }
    }
}

impl fmt::Debug for UsageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageBuilder")
            .field("callers", &self.room)
            .field("units", &self.names)
            .field("sinks", &self.sinks.len())
            .finish_non_exhaustive()
    }
}
