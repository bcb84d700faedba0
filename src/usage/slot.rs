//! [`UsageSlot`]: what is known of a request while it is under way.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, Version};
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::network::Transport;
use crate::rejection::Rejection;
use crate::usage::handle::Shared;
use crate::usage::record::Route;

/// What was counted, by unit; none if nothing was, which is so of most requests.
pub(super) type Units = Option<Box<[u64; UNITS]>>;

/// How many kinds of units there can be.
pub(super) const UNITS: usize = 8;

/// What a request has used, of the units that [`Usage`](crate::usage::Usage) was told of.
///
/// A `UsageLayer` puts one into the extensions of each request, for those behind it: who the
/// caller is they know, and it does not. Clones are of the same request, and may outlive it:
/// a stream adds as it goes.
///
/// ```
/// use axum::Extension;
/// use tollgate::usage::UsageSlot;
///
/// async fn complete(Extension(usage): Extension<UsageSlot>) -> &'static str {
///     usage.add("tokens", 812);
///     "…"
/// }
/// # axum::Router::<()>::new().route("/", axum::routing::get(complete));
/// ```
#[derive(Clone)]
pub struct UsageSlot(Arc<Slot>);

struct Slot {
    shared: Arc<Shared>,
    asked: Asked,
    bytes_in: AtomicU64,
    /// The time of day, as long as it is that.
    now: AtomicU64,
    noted: Mutex<Noted>,
    /// That of another layer outside.
    outer: Option<UsageSlot>,
}

/// What a request was from its beginning.
pub(super) struct Asked {
    pub(super) started: Duration,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) transport: Transport,
    pub(super) is_grpc: bool,
    pub(super) client: Option<IpAddr>,
    /// The length of the body, as the client has declared it.
    pub(super) declared: u64,
}

/// What was noted about a request until it ended.
#[derive(Default)]
pub(super) struct Noted {
    pub(super) caller: Option<Identity>,
    pub(super) units: Units,
    pub(super) route: Option<Route>,
    /// The path of a call that may be a route.
    pub(super) path: Option<Box<str>>,
    /// How a gate has refused it, for an audit trail: also if the response does not say so.
    pub(super) rejection: Option<Box<Rejection>>,
    has_ended: bool,
}

impl Noted {
    pub(super) fn of(caller: Option<Identity>) -> Self {
        Self {
            caller,
            ..Self::default()
        }
    }
}

impl UsageSlot {
    pub(super) fn new(
        shared: &Arc<Shared>,
        asked: Asked,
        noted: Noted,
        outer: Option<Self>,
    ) -> Self {
        let now = shared.shared_now(asked.started);
        Self(Arc::new(Slot {
            shared: Arc::clone(shared),
            asked,
            bytes_in: AtomicU64::new(UNREAD),
            now: AtomicU64::new(now.map_or(NO_TIME, Timestamp::unix_nanos)),
            noted: Mutex::new(noted),
            outer,
        }))
    }

    /// Adds to what the request has used. Says whether it counts: not if there is no such
    /// unit, which the log has then, and not if the request has ended.
    pub fn add(&self, unit: &str, amount: u64) -> bool {
        let added = self.add_here(unit, amount);
        let added_outside = self
            .0
            .outer
            .as_ref()
            .is_some_and(|outer| outer.add_quietly(unit, amount));
        match added {
            Some(added) => added || added_outside,
            None if added_outside => true,
            None => {
                tracing::error!(
                    target: "tollgate::usage",
                    "a handler counts in a unit that Usage was not told of: see UsageBuilder::units",
                );
                false
            }
        }
    }

    fn add_quietly(&self, unit: &str, amount: u64) -> bool {
        let outside = self.0.outer.as_ref();
        let outside = outside.is_some_and(|outer| outer.add_quietly(unit, amount));
        self.add_here(unit, amount).unwrap_or(false) || outside
    }

    /// None if there is no such unit.
    fn add_here(&self, unit: &str, amount: u64) -> Option<bool> {
        let mut names = self.0.shared.names.iter();
        let index = names.position(|name| **name == *unit)?;
        let mut noted = self.0.noted.lock();
        if noted.has_ended {
            return Some(false);
        }
        let counted = &mut noted.units.get_or_insert_default()[index];
        *counted = counted.saturating_add(amount);
        Some(true)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.0.asked
    }

    /// How long it has been under way.
    pub(super) fn elapsed(&self) -> Duration {
        let (shared, asked) = (&self.0.shared, &self.0.asked);
        shared.ticks().saturating_sub(asked.started)
    }

    /// Whether it is of the one who counts there.
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        let outside = self.0.outer.as_ref();
        Arc::ptr_eq(&self.0.shared, shared) || outside.is_some_and(|outer| outer.is_of(shared))
    }

    /// From now on it is told what is read of the request's body.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(super) fn start_reading(&self) {
        self.0.bytes_in.store(0, Ordering::Relaxed);
    }

    /// So many bytes of the request's body were read.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(super) fn read(&self, bytes: usize) {
        self.0.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes of the request's body were read, if that is known.
    pub(super) fn bytes_in(&self) -> Option<u64> {
        let bytes = self.0.bytes_in.load(Ordering::Relaxed);
        (bytes != UNREAD).then_some(bytes)
    }

    /// What was noted until now.
    pub(super) fn noted<T>(&self, read: impl FnOnce(&Noted) -> T) -> T {
        read(&self.0.noted.lock())
    }

    /// Takes what was noted. Nothing is noted from now on.
    pub(super) fn end(&self) -> Noted {
        let mut noted = self.0.noted.lock();
        let ended = Noted {
            has_ended: true,
            ..Noted::default()
        };
        std::mem::replace(&mut *noted, ended)
    }

    /// What is the same for all clones, and for nobody else at the same time.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether what is done with credentials is written down.
    pub(crate) fn is_audited(&self) -> bool {
        let outside = self.0.outer.as_ref();
        self.0.shared.audit().is_some() || outside.is_some_and(Self::is_audited)
    }

    /// Notes that a gate has refused the request, where that is written down.
    pub(crate) fn note_rejection(&self, rejection: &Rejection) {
        if self.0.shared.audit().is_some() {
            let mut noted = self.0.noted.lock();
            if !noted.has_ended {
                noted.rejection = Some(Box::new(rejection.clone()));
            }
        }
        if let Some(outer) = &self.0.outer {
            outer.note_rejection(rejection);
        }
    }

    /// Notes who calls. If they were refused before, that is over.
    pub(crate) fn note(&self, caller: &Identity) {
        let mut noted = self.0.noted.lock();
        if !noted.has_ended {
            noted.caller = Some(caller.clone());
            noted.rejection = None;
        }
        drop(noted);
        if let Some(outer) = &self.0.outer {
            outer.note(caller);
        }
    }

    /// The time of day, if it was asked for a moment ago.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        let now = self.0.now.load(Ordering::Relaxed);
        (now != NO_TIME).then(|| Timestamp::from_unix_nanos(now))
    }

    /// From now on somebody may wait, and the time of day has to be asked for.
    pub(super) fn time_goes_on(&self) {
        self.0.now.store(NO_TIME, Ordering::Relaxed);
    }
}

impl fmt::Debug for UsageSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageSlot")
            .field("units", &self.0.shared.names)
            .finish_non_exhaustive()
    }
}

/// Nobody tells what is read.
const UNREAD: u64 = u64::MAX;
/// The epoch is nobody's time of day.
const NO_TIME: u64 = 0;
