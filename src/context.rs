//! What the gates tell each other through the extensions of a request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Extensions, Method};
use parking_lot::Mutex;

use crate::identity::Identity;
use crate::rejection::{Cause, Reason, Rejection};

/// Stands in the extensions of a request that a door let through without a
/// credential.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tonic"),
    expect(
        dead_code,
        reason = "only a method of tonic answers in place of a door"
    )
)]
pub(crate) struct Anonymous {
    /// It is a CORS preflight, which nobody can show a credential with.
    pub(crate) preflight: bool,
    /// How the door would have refused it, for those who have to in its place.
    pub(crate) realm: Arc<str>,
    pub(crate) request_id: Option<Arc<str>>,
}

/// Whether a door let the request through as a CORS preflight.
pub(crate) fn is_preflight(extensions: &Extensions) -> bool {
    let anonymous = extensions.get::<Anonymous>();
    anonymous.is_some_and(|anonymous| anonymous.preflight)
}

/// Whether a door let the request through without a credential.
pub(crate) fn is_anonymous(extensions: &Extensions) -> bool {
    extensions.get::<Anonymous>().is_some()
}

/// Who calls, as the door outside has found out.
///
/// # Errors
/// A refusal: of the caller, if the door let them in without a credential, or of the
/// request, if there is no door. `who_asks` names the one who needs to know.
pub(crate) fn caller<'a>(
    extensions: &'a Extensions,
    who_asks: &str,
) -> Result<&'a Identity, Rejection> {
    if let Some(identity) = extensions.get::<Identity>() {
        return Ok(identity);
    }
    if extensions.get::<Anonymous>().is_none() {
        let fix = format!("{who_asks} found no Identity in the request: put an AuthLayer outside");
        return Err(Rejection::misconfigured(&fix));
    }
    Err(Rejection::new(
        Reason::CredentialsMissing,
        Cause::NothingShown,
    ))
}

/// Whether a method is one of RFC 9110 §9.3, or `PATCH`: clients can make up any other.
pub(crate) fn is_standard(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::CONNECT
            | Method::TRACE
    )
}

/// How many kinds of units there can be.
pub(crate) const UNITS: usize = 8;

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
    names: Arc<[Box<str>]>,
    bytes_in: AtomicU64,
    noted: Mutex<Noted>,
    /// That of another layer outside.
    outer: Option<UsageSlot>,
}

/// What was noted about a request until it ended.
#[derive(Default)]
pub(crate) struct Noted {
    pub(crate) caller: Option<Identity>,
    pub(crate) units: [u64; UNITS],
    has_ended: bool,
}

impl UsageSlot {
    pub(crate) fn new(names: Arc<[Box<str>]>, outer: Option<Self>) -> Self {
        Self(Arc::new(Slot {
            names,
            bytes_in: AtomicU64::new(UNREAD),
            noted: Mutex::default(),
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
        let index = self.0.names.iter().position(|name| **name == *unit)?;
        let mut noted = self.0.noted.lock();
        if noted.has_ended {
            return Some(false);
        }
        noted.units[index] = noted.units[index].saturating_add(amount);
        Some(true)
    }

    /// Whether it is of the one who counts in these units.
    pub(crate) fn is_of(&self, names: &Arc<[Box<str>]>) -> bool {
        let outside = self.0.outer.as_ref();
        Arc::ptr_eq(&self.0.names, names) || outside.is_some_and(|outer| outer.is_of(names))
    }

    /// From now on it is told what is read of the request's body.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(crate) fn start_reading(&self) {
        self.0.bytes_in.store(0, Ordering::Relaxed);
    }

    /// So many bytes of the request's body were read.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(crate) fn read(&self, bytes: usize) {
        self.0.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes of the request's body were read, if that is known.
    pub(crate) fn bytes_in(&self) -> Option<u64> {
        let bytes = self.0.bytes_in.load(Ordering::Relaxed);
        (bytes != UNREAD).then_some(bytes)
    }

    /// Takes what was noted. Nothing is noted from now on.
    pub(crate) fn end(&self) -> Noted {
        let mut noted = self.0.noted.lock();
        let ended = Noted {
            has_ended: true,
            ..Noted::default()
        };
        std::mem::replace(&mut *noted, ended)
    }

    /// What is the same for all clones, and for nobody else at the same time.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Notes who calls.
    pub(crate) fn note(&self, caller: &Identity) {
        let mut noted = self.0.noted.lock();
        if !noted.has_ended {
            noted.caller = Some(caller.clone());
        }
        drop(noted);
        if let Some(outer) = &self.0.outer {
            outer.note(caller);
        }
    }
}

impl fmt::Debug for UsageSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageSlot")
            .field("units", &self.0.names)
            .finish_non_exhaustive()
    }
}

/// Tells who counts, outside, who calls.
pub(crate) fn note_caller(extensions: &Extensions, caller: &Identity) {
    if let Some(slot) = extensions.get::<UsageSlot>() {
        slot.note(caller);
    }
}

/// Nobody tells what is read.
const UNREAD: u64 = u64::MAX;
