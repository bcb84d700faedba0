//! [`AuthFailureLimitLayer`]: limits how often the credentials of a network may fail.
//!
//! Apply it *outside* of `AuthLayer`. A network has a budget of failures: credentials whose secret or
//! signature is wrong. Networks are charged, never keys, so nobody can lock a caller out by guessing
//! at their key from elsewhere.
//!
//! - **Within its budget**, a network never gets 429. Only as many of its credentials are verified at
//!   the same time as failures are left, so that guesses at once are no way around the limit. The
//!   others wait for their turn in the order in which they came, at most
//!   [`max_wait`](AuthFailureLimitLayer::max_wait), after which they are rejected with 503
//!   `verifier_unavailable`. At most 1,024 requests of a network wait.
//! - **Over its budget**, a credential passes if it was good before. The layer remembers keyed hashes of
//!   the last 65,536 good credentials. They are verified as always. Any other request that an
//!   `AuthLayer` inside would look at is rejected with 429 `too_many_failures`, but for CORS preflights
//!   that [`AuthLayer::allow_preflight`](crate::AuthLayer::allow_preflight) lets pass.
//!
//! Credentials that people can guess, such as short legacy keys, need another limit beside this one: a
//! guess that hits a remembered credential is verified even over the budget.
//!
//! A credential that is good, expired or malformed is not charged, and neither is a client that goes
//! away.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use std::net::SocketAddr;
//! use http::{Request, Response, StatusCode};
//! use tollgate::auth::AuthFailureLimitLayer;
//! use tollgate::keys::{NewKey, Peppers};
//! use tollgate::{ApiKeys, AuthLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
//! let elsewhere = ApiKeys::in_memory(Peppers::random()).prefix("acme");
//! let guess = elsewhere.issue(NewKey::for_owner("eve")).await?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(AuthFailureLimitLayer::failures_per_minute(10).burst(2))
//!     .layer(AuthLayer::new(keys))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, std::convert::Infallible>(Response::new(()))
//!     }));
//!
//! let peer: SocketAddr = "192.0.2.7:4711".parse()?;
//! let mut statuses = Vec::new();
//! for _ in 0..3 {
//!     let request = Request::get("/").extension(peer).header("x-api-key", guess.key.expose());
//!     statuses.push(service.clone().oneshot(request.body(())?).await?.status().as_u16());
//! }
//! assert_eq!(statuses, [401, 401, 429]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Deployment
//! A request without a client address, for instance over a Unix socket, is not limited. Behind proxies,
//! configure [`ClientIp`] here or on a layer outside.
//!
//! # Cost
//! Per request, one extension and a look-up of the credential's hash. A credential that is not
//! remembered also costs two locks that few networks share. Memory is fixed: 65,536 networks by default,
//! about 26 bytes each, and the remembered hashes, about 40 bytes each.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Response;
use tower_layer::Layer;

use crate::auth::failure_guard::{FailureGuard, FailureLimit};
use crate::auth::failures::Failures;
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::config::{ConfigError, literal};
use crate::context;
use crate::gate::{Call, Gate, Leave, Policy};
use crate::limit::gcra::Rate;
use crate::network::{ClientIp, ClientSetting};
use crate::pending::Pending;
use crate::rejection::Rejection;

/// A layer that limits how often the credentials of a network may fail: see the
/// [module](crate::auth::failure_limit).
#[derive(Clone)]
pub struct AuthFailureLimitLayer {
    settings: Settings,
    clients: ClientSetting,
    /// Set once the log has that the layer is at the wrong place.
    reported_order: Arc<AtomicBool>,
    /// Made when the layer is applied for the first time.
    limit: Arc<OnceLock<Arc<FailureLimit>>>,
}

#[derive(Clone)]
struct Settings {
    per_minute: u32,
    burst: u32,
    networks: usize,
    max_wait: Duration,
    clock: Arc<dyn Clock>,
}

impl AuthFailureLimitLayer {
    /// Allows `count` failed authentications per minute and network, with an equal burst.
    ///
    /// # Panics
    /// Panics if `count` is 0.
    #[must_use]
    #[track_caller]
    pub fn failures_per_minute(count: u32) -> Self {
        literal(Self::try_failures_per_minute(count))
    }

    /// Like [`AuthFailureLimitLayer::failures_per_minute`], for a number from configuration.
    ///
    /// # Errors
    /// Returns `Err` if `count` is 0.
    pub fn try_failures_per_minute(count: u32) -> Result<Self, ConfigError> {
        let count = at_least_one("failures_per_minute", count)?;
        let settings = Settings {
            per_minute: count,
            burst: count,
            networks: 65_536,
            max_wait: Duration::from_secs(1),
            clock: Arc::new(SystemClock),
        };
        Ok(Self {
            settings,
            clients: ClientSetting::default(),
            reported_order: Arc::default(),
            limit: Arc::default(),
        })
    }

    /// Sets how many failures of a network are allowed at once. Defaults to the failures per minute.
    /// It is also the maximum number of credentials of a network that are verified at the same time.
    ///
    /// # Panics
    /// Panics if `count` is 0.
    #[must_use]
    #[track_caller]
    pub fn burst(self, count: u32) -> Self {
        literal(self.try_burst(count))
    }

    /// Like [`AuthFailureLimitLayer::burst`], for a number from configuration.
    ///
    /// # Errors
    /// Returns `Err` if `count` is 0.
    pub fn try_burst(self, count: u32) -> Result<Self, ConfigError> {
        let count = at_least_one("burst", count)?;
        Ok(self.set(|settings| settings.burst = count))
    }

    /// Sets the number of networks whose failures are remembered, at least. Defaults to 65,536.
    ///
    /// If there are more, those with the fewest failures are forgotten first.
    #[must_use]
    pub fn networks(self, count: usize) -> Self {
        self.set(|settings| settings.networks = count.max(1))
    }

    /// Sets how long a credential waits for its verification while others of its network are verified.
    /// Defaults to 1 second. On a runtime without a timer it waits for as long as they take.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.set(|settings| settings.max_wait = wait)
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(mut self, client_ip: ClientIp) -> Self {
        self.clients.set(client_ip);
        self
    }

    /// Sets the clock. Defaults to the system's.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|settings| settings.clock = Arc::new(clock))
    }

    /// Returns how often a network that had failed was forgotten because there were too many.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.limit.get().map_or(0, |limit| limit.forgotten())
    }

    /// Changes a setting. The copy has a state of its own from then on.
    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self.limit = Arc::default();
        self
    }
}

fn at_least_one(setting: &str, count: u32) -> Result<u32, ConfigError> {
    if count > 0 {
        return Ok(count);
    }
    Err(ConfigError::new(format!(
        "AuthFailureLimitLayer::{setting}: 0 failures would reject everything; allow at least 1"
    )))
}

impl Settings {
    fn limit(&self) -> Arc<FailureLimit> {
        let rate = Rate::new(self.per_minute, Duration::from_secs(60), self.burst);
        let failures = Failures::new(rate, self.networks);
        let clock = Arc::clone(&self.clock);
        Arc::new(FailureLimit::new(failures, clock, self.max_wait))
    }
}

impl AuthFailureLimitLayer {
    /// Returns the state of the services that are made with the present settings.
    fn started(&self) -> &Arc<FailureLimit> {
        self.limit.get_or_init(|| self.settings.limit())
    }
}

impl fmt::Debug for AuthFailureLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFailureLimitLayer")
            .field("per_minute", &self.settings.per_minute)
            .field("burst", &self.settings.burst)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AuthFailureLimitLayer {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, Arc::new(self.clone()))
    }
}

/// The layers inside carry the limit out.
impl Policy for AuthFailureLimitLayer {
    type Pass = ();
    type Visit = ();

    fn install(&self) {
        self.started();
    }

    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<(), Rejection>> {
        let parts = &mut *call.parts;
        if context::is_decided(&parts.extensions)
            && !self.reported_order.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                target: "tollgate::auth",
                "AuthFailureLimitLayer does not limit the AuthLayer outside of it; put it outside of \
                 each AuthLayer"
            );
        }
        self.clients.share(parts);
        if let Some(network) = self.clients.located(parts).network {
            let outer = parts.extensions.remove::<FailureGuard>();
            let guard = FailureGuard::new(Arc::clone(self.started()), network, outer);
            parts.extensions.insert(guard);
        }
        Ok(()).into()
    }

    fn admit(&self, _: &mut Call<'_>, (): ()) -> Result<(), Rejection> {
        Ok(())
    }
}

impl<B> Leave<B> for AuthFailureLimitLayer {
    fn leave(&self, (): (), _: Option<&Rejection>, _: &mut Response<Body<B>>) {}
}
