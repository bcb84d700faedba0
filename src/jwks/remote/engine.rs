//! [`Remote`]: the keys of an issuer, as requests see them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::clock::{Clock, Timestamp};
use crate::config::ConfigError;
use crate::jwks::algorithm::Algorithm;
use crate::jwks::keyring::Keyring;
use crate::jwks::remote::RemoteKeys;
use crate::jwks::remote::flight::{Flight, Shared, Why};
use crate::jwks::remote::question::Asker;
use crate::jwks::remote::status::{FetchError, KeyStatus};
use crate::jwks::ring::{KeyName, Ring, Verdict};
use crate::jwks::verifier::Backend;
use crate::pending::Pending;
use crate::timeout::Timer;

/// The keys of one issuer. Clones share them.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) shared: Arc<Shared>,
}

impl Remote {
    /// Fetches nothing yet.
    pub(crate) fn new(
        settings: RemoteKeys,
        issuer: &str,
        algorithms: Vec<Algorithm>,
        backend: Backend,
    ) -> Result<Self, ConfigError> {
        settings.check()?;
        let asker = Asker {
            issuer: issuer.into(),
            source: settings.source(issuer)?,
            client: settings.client_or_default()?,
            algorithms,
            backend,
            life: settings.life,
            timeout: settings.fetch_timeout,
            max_document_len: settings.max_document_len,
            plain_http: settings.plain_http()?,
            timer: Timer::default(),
        };
        let shared = Shared::new(asker, settings.clock, settings.wait);
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.shared.keyring
    }

    /// Starts a fetch if one is due, and waits for nothing. To be called for each request.
    pub(crate) fn tick(&self, now: Timestamp) {
        // A fetch that nobody waits for needs a runtime.
        if self.shared.is_due(now) && Handle::try_current().is_ok() {
            self.shared.fly(now, Why::Due);
        }
    }

    /// Asks the issuer for a key that a token could not be verified without, for as long
    /// as a request may wait.
    ///
    /// Does not wait if a current set is known to be without the key, or if the issuer may
    /// not be asked now.
    pub(crate) fn look_up(&self, wanted: Wanted, now: Timestamp) -> Pending<LookUp> {
        let shared = Arc::clone(&self.shared);
        // A set that was asked for before does not tell whether the key is there now.
        let since = shared.lock().fetches;
        if shared.has_changed(&wanted, now) {
            return Pending::Ready(LookUp::Changed);
        }
        if wanted.tried.is_some() && !wanted.is_known() && shared.is_absent(&wanted.name, now) {
            return Pending::Ready(LookUp::Absent);
        }
        let Some(flight) = shared.fly(now, shared.why(&wanted, now)) else {
            return Pending::Ready(shared.not_looked_up(&wanted, now));
        };
        Pending::later(async move {
            let look = shared.look(&wanted, since, flight);
            match shared.asker.timer.within(shared.wait, look).await {
                Some(found) => found,
                None => shared.not_looked_up(&wanted, shared.clock.now()),
            }
        })
    }

    pub(crate) fn status(&self, now: Timestamp) -> KeyStatus {
        let state = self.shared.lock();
        KeyStatus {
            issuer: Arc::clone(&self.shared.asker.issuer),
            is_ready: self.shared.keyring.current(now).is_some(),
            ring: self.shared.keyring.last(),
            age: state
                .confirmed_at
                .map(|confirmed_at| now.since(confirmed_at)),
            last_error: state.last_error,
            failures: state.failures,
            fetches: state.fetches,
        }
    }

    /// Fetches the keys, unless there are some, and waits for as long as that takes.
    pub(crate) async fn warm_up(&self) -> Result<(), FetchError> {
        let now = self.shared.clock.now();
        if self.shared.keyring.current(now).is_some() {
            return Ok(());
        }
        match self.shared.fly(now, Why::Due) {
            Some(flight) => flight.await,
            None => {
                let last_error = self.shared.lock().last_error;
                Err(last_error.unwrap_or(FetchError::Unreachable))
            }
        }
    }
}

impl Remote {
    /// Returns what the log says about the last fetch, if it failed with this error.
    pub(crate) fn detail(&self, error: FetchError) -> Option<Arc<str>> {
        let state = self.shared.lock();
        let detail = state.last_detail.clone();
        detail.filter(|_| state.last_error == Some(error))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("issuer", &self.shared.asker.issuer)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Waits for a set that was asked for after the key was, in at most two fetches: the
    /// answer to one that was under way may be from before the key was there.
    async fn look(self: &Arc<Self>, wanted: &Wanted, since: u64, mut flight: Flight) -> LookUp {
        for _ in 0..2 {
            if flight.await.is_err() {
                break;
            }
            let now = self.clock.now();
            if self.has_changed(wanted, now) {
                return LookUp::Changed;
            }
            let (answered, confirmed_at) = {
                let state = self.lock();
                (state.answered, state.confirmed_at)
            };
            // The set may be too old already, if the clock was put forward during the fetch.
            if answered > since && self.keyring.current(now).is_some() {
                if wanted.is_known() {
                    return LookUp::Same;
                }
                let name = wanted.name.clone();
                self.absent.insert(name, confirmed_at.unwrap_or(now));
                return LookUp::Absent;
            }
            match self.fly(now, self.why(wanted, now)) {
                Some(next) => flight = next,
                None => break,
            }
        }
        self.not_looked_up(wanted, self.clock.now())
    }

    /// The answer if no current set was seen.
    fn not_looked_up(&self, wanted: &Wanted, now: Timestamp) -> LookUp {
        if wanted.is_known() {
            return LookUp::Same;
        }
        self.warn_if_spent(now);
        LookUp::Unavailable(self.retry_after(now))
    }

    fn why(&self, wanted: &Wanted, now: Timestamp) -> Why {
        if self.keyring.current(now).is_none() {
            Why::Due
        } else if wanted.is_known() {
            Why::Signature
        } else {
            Why::Unknown
        }
    }

    /// Returns whether there are other keys for the token than those it was tried with.
    fn has_changed(&self, wanted: &Wanted, now: Timestamp) -> bool {
        let current = self.keyring.current(now);
        current.is_some_and(|current| {
            let tried = wanted.tried.as_deref();
            !current.ring.agrees_with(tried, &wanted.name)
        })
    }

    fn is_absent(&self, name: &KeyName, now: Timestamp) -> bool {
        let seen_at = self.absent.get(name);
        seen_at.is_some_and(|at| now >= at && now.since(at) < ABSENT_FOR)
    }

    /// Returns how long a client should wait for a key to be looked up.
    fn retry_after(&self, now: Timestamp) -> Duration {
        let has_keys = self.keyring.current(now).is_some();
        let state = self.lock();
        let until_due = state.plan.due_at.since(now);
        let wait = if has_keys && state.may_be_forced() {
            state.unknown_kids.wait(now).min(until_due)
        } else {
            until_due
        };
        wait.max(Duration::from_secs(1))
    }
}

/// A key that a token could not be verified without.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) name: KeyName,
    /// The keys that there were. `None` if there were no keys at all.
    pub(crate) tried: Option<Arc<Ring>>,
    /// The result of trying them.
    pub(crate) verdict: Verdict,
}

impl Wanted {
    /// Returns whether there was a key of that name, so that the token is either forged or
    /// signed with a key that has replaced it.
    fn is_known(&self) -> bool {
        match (&self.tried, &self.name.kid) {
            (Some(ring), Some(kid)) => ring.knows(kid),
            (Some(_), None) => self.verdict == Verdict::Forged,
            (None, _) => false,
        }
    }
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LookUp {
    /// There are other keys for the token now.
    Changed,
    /// The key is known, and no other key of that name was seen.
    Same,
    /// A current set is without the key.
    Absent,
    /// The key is not known, and could not be looked up. The time is for `Retry-After`.
    Unavailable(Duration),
}

/// The time for which a key that was not in a set is not asked for again.
const ABSENT_FOR: Duration = Duration::from_secs(30);
