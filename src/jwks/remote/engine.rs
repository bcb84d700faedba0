//! [`Remote`]: the keys of an issuer, as requests see them.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::clock::{Clock, Timestamp};
use crate::config::ConfigError;
use crate::jwks::algorithm::Algorithm;
use crate::jwks::keyring::Keyring;
use crate::jwks::remote::RemoteKeys;
use crate::jwks::remote::flight::{Flight, Shared, Why};
use crate::jwks::remote::question::Asker;
use crate::jwks::remote::status::{FetchError, KeyStatus};
use crate::jwks::set::MOST_KID;
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
            loopback_http: settings.loopback_http,
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

    /// Waits until there are keys, or it is known that there are none, or for as long as
    /// a request may wait.
    pub(crate) fn obtain(&self, now: Timestamp) -> Pending<()> {
        if self.shared.keyring.current(now).is_some() {
            return Pending::Ready(());
        }
        let Some((flight, _)) = self.shared.fly(now, Why::Due) else {
            return Pending::Ready(());
        };
        let shared = Arc::clone(&self.shared);
        Pending::later(async move {
            shared.asker.timer.within(shared.wait, flight).await;
        })
    }

    /// Looks for a key that is not in the keyring: none if there is no reason to think
    /// that it would be found now. After it, the keyring has the key or has it not.
    pub(crate) fn find(&self, kid: &str, now: Timestamp) -> Option<BoxFuture<'static, ()>> {
        if self.shared.knows(kid) {
            return Some(ready(()).boxed());
        }
        if kid.len() > MOST_KID || self.shared.is_unknown(kid, now) {
            return None;
        }
        let (flight, is_ours) = self.shared.fly(now, Why::Unknown)?;
        let (shared, kid) = (Arc::clone(&self.shared), Box::from(kid));
        let found = async move {
            let looked = shared.look(kid, flight, is_ours);
            shared.asker.timer.within(shared.wait, looked).await;
        };
        Some(found.boxed())
    }

    /// How long it makes no sense to come back, when there are no keys.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Duration {
        let due_at = self.shared.lock().plan.due_at;
        due_at.since(now).max(Duration::from_secs(1))
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
            Some((flight, _)) => flight.await,
            None => {
                let last_error = self.shared.lock().last_error;
                Err(last_error.unwrap_or(FetchError::Unreachable))
            }
        }
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
    /// Waits for a fetch that was asked for after the key was. What one brings that was
    /// under way by then may be from before the key was there.
    async fn look(self: &Arc<Self>, kid: Box<str>, flight: Flight, is_ours: bool) {
        if flight.await.is_err() || self.knows(&kid) {
            return;
        }
        if !is_ours {
            let again = self.fly(self.clock.now(), Why::Unknown);
            let Some((flight, _)) = again else {
                return;
            };
            if flight.await.is_err() || self.knows(&kid) {
                return;
            }
        }
        self.unknown.insert(kid, self.clock.now());
    }

    fn knows(&self, kid: &str) -> bool {
        self.keyring.last().is_some_and(|ring| ring.knows(kid))
    }

    fn is_unknown(&self, kid: &str, now: Timestamp) -> bool {
        let asked_at = self.unknown.get(kid);
        asked_at.is_some_and(|at| now >= at && now.since(at) < UNKNOWN_FOR)
    }
}

const UNKNOWN_FOR: Duration = Duration::from_secs(30);
