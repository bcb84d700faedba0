//! [`ThrottleLayer`]: holds back networks whose credentials keep failing.
//!
//! It stands *outside* of `AuthLayer`. Before a request is looked at, its network is
//! charged for one failure; the charge is given back as soon as the request turns out
//! not to be one: when the door lets it in, when it refuses for any other reason than a
//! wrong secret, or when the client goes away. A network that cannot be
//! charged gets 429, whatever it shows.
//!
//! Networks are charged, never keys: nobody can lock a caller out by guessing at their
//! key from elsewhere.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use std::net::SocketAddr;
//! use http::{Request, Response, StatusCode};
//! use tollgate::auth::ThrottleLayer;
//! use tollgate::keys::{NewKey, Peppers};
//! use tollgate::{ApiKeys, AuthLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
//! let elsewhere = ApiKeys::in_memory(Peppers::random()).prefix("acme");
//! let guess = elsewhere.issue(NewKey::for_owner("eve")).await?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(ThrottleLayer::failures_per_minute(10).burst(2))
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
//! A request without a client address, for instance over a Unix socket, is not
//! throttled. Behind proxies, configure [`ClientIp`] here or on a layer outside.
//!
//! # Cost
//! One lock that few networks share, one allocation. Memory is fixed: 65,536 networks
//! unless set, 16 bytes each.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use ipnet::IpNet;
use tower_layer::Layer;

use crate::auth::failures::Failures;
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::config::{ConfigError, literal};
use crate::gate::{Check, Gate, Stamp};
use crate::limit::gcra::Rate;
use crate::network::{ClientIp, ClientSetting};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::respond::{Respond, Voice};

/// The layer that holds back networks whose credentials keep failing: see the
/// [module](crate::auth::throttle).
#[derive(Clone)]
pub struct ThrottleLayer {
    settings: Settings,
    throttle: Arc<Throttle>,
}

#[derive(Clone)]
struct Settings {
    per_minute: u32,
    burst: u32,
    networks: usize,
}

#[derive(Clone)]
struct Throttle {
    failures: Arc<Failures>,
    clients: ClientSetting,
    clock: Arc<dyn Clock>,
    voice: Voice,
}

impl ThrottleLayer {
    /// Lets a network fail so often a minute, and as often at once.
    ///
    /// # Panics
    /// If it is zero: nobody could ever mistype a key.
    #[must_use]
    #[track_caller]
    pub fn failures_per_minute(count: u32) -> Self {
        literal(Self::try_failures_per_minute(count))
    }

    /// As [`ThrottleLayer::failures_per_minute`], for a number from configuration.
    ///
    /// # Errors
    /// Where `failures_per_minute` panics.
    pub fn try_failures_per_minute(count: u32) -> Result<Self, ConfigError> {
        let count = at_least_one(count)?;
        let settings = Settings {
            per_minute: count,
            burst: count,
            networks: 65_536,
        };
        let throttle = Throttle {
            failures: Arc::new(settings.failures()),
            clients: ClientSetting::default(),
            clock: Arc::new(SystemClock),
            voice: Voice::default(),
        };
        Ok(Self {
            settings,
            throttle: Arc::new(throttle),
        })
    }

    /// Lets a network fail so often at once. It is also how many requests of a network
    /// may be under judgement at the same time.
    ///
    /// # Panics
    /// If it is zero.
    #[must_use]
    #[track_caller]
    pub fn burst(self, count: u32) -> Self {
        literal(self.try_burst(count))
    }

    /// As [`ThrottleLayer::burst`], for a number from configuration.
    ///
    /// # Errors
    /// Where `burst` panics.
    pub fn try_burst(mut self, count: u32) -> Result<Self, ConfigError> {
        self.settings.burst = at_least_one(count)?;
        Ok(self.rebuild())
    }

    /// Sets how many networks are remembered, at the least.
    #[must_use]
    pub fn networks(mut self, count: usize) -> Self {
        self.settings.networks = count.max(1);
        self.rebuild()
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.set(|throttle| throttle.clients.set(client_ip))
    }

    /// Restyles the body of refusals.
    #[must_use]
    pub fn respond_with(self, respond: impl Respond) -> Self {
        self.set(|throttle| {
            throttle
                .voice
                .set(|settings| settings.respond = Some(Arc::new(respond)));
        })
    }

    /// Sets the clock.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|throttle| throttle.clock = Arc::new(clock))
    }

    /// How often a network that had failed was forgotten for lack of room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.throttle.failures.forgotten()
    }

    fn rebuild(self) -> Self {
        let failures = Arc::new(self.settings.failures());
        self.set(|throttle| throttle.failures = failures)
    }

    fn set(mut self, change: impl FnOnce(&mut Throttle)) -> Self {
        change(Arc::make_mut(&mut self.throttle));
        self
    }
}

fn at_least_one(count: u32) -> Result<u32, ConfigError> {
    if count > 0 {
        return Ok(count);
    }
    Err(ConfigError::new(
        "a network must be allowed at least one failure",
    ))
}

impl Settings {
    fn failures(&self) -> Failures {
        let rate = Rate::new(self.per_minute, Duration::from_secs(60), self.burst);
        Failures::new(rate, self.networks)
    }
}

impl fmt::Debug for ThrottleLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleLayer")
            .field("per_minute", &self.settings.per_minute)
            .field("burst", &self.settings.burst)
            .field("clients", &self.throttle.clients)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ThrottleLayer {
    type Service = Gate<S, Throttled>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(
            inner,
            Throttled {
                throttle: Arc::clone(&self.throttle),
            },
        )
    }
}

/// The check of a [`ThrottleLayer`].
#[derive(Clone)]
pub struct Throttled {
    throttle: Arc<Throttle>,
}

impl fmt::Debug for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttled").finish_non_exhaustive()
    }
}

impl Check for Throttled {
    type Pass = Option<Reservation>;
    type Stamp = ThrottleStamp;

    fn check(&self, parts: &mut Parts) -> Pending<Result<Self::Pass, Rejection>> {
        let throttle = &*self.throttle;
        throttle.clients.share(parts);
        let Some(network) = throttle.clients.located(parts).network else {
            return Ok(None).into();
        };
        if let Err(wait) = throttle.failures.charge(network, throttle.clock.now()) {
            let rejection = Rejection::new(Reason::TooManyFailures, Cause::NetworkThrottled);
            return Err(rejection.with_retry_after(wait)).into();
        }
        let charge = Charge {
            throttle: Arc::clone(&self.throttle),
            network,
            given_back: AtomicBool::new(false),
        };
        let reservation = Reservation {
            charge: Arc::new(charge),
            outer: None,
        };
        Ok(Some(reservation)).into()
    }

    fn admit(&self, parts: &mut Parts, pass: Self::Pass) -> Result<ThrottleStamp, Rejection> {
        if let Some(own) = &pass {
            let outer = parts.extensions.remove::<Reservation>().map(Box::new);
            let charge = Arc::clone(&own.charge);
            parts.extensions.insert(Reservation { charge, outer });
        }
        Ok(ThrottleStamp(pass))
    }

    fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        self.throttle.voice.answer(rejection)
    }
}

/// Charges that may yet be given back. They stand in the request, so that the door can
/// do so the moment it knows better.
#[derive(Clone)]
pub struct Reservation {
    charge: Arc<Charge>,
    /// That of a throttle outside of this one.
    outer: Option<Box<Self>>,
}

struct Charge {
    throttle: Arc<Throttle>,
    network: IpNet,
    given_back: AtomicBool,
}

impl Reservation {
    pub(crate) fn give_back(&self) {
        self.charge.give_back();
        if let Some(outer) = &self.outer {
            outer.give_back();
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

impl Charge {
    fn give_back(&self) {
        if !self.given_back.swap(true, Ordering::Relaxed) {
            self.throttle.failures.refund(self.network);
        }
    }

    /// Charges the network after all, if a door has given back what a second one refuses.
    fn keep(&self) {
        if self.given_back.swap(true, Ordering::Relaxed) {
            let now = self.throttle.clock.now();
            // One that cannot be charged more is held back as it is.
            let _ = self.throttle.failures.charge(self.network, now);
        }
    }
}

/// Keeps the charge of a request that did fail, and gives back any other, also when the
/// client goes away.
#[derive(Debug)]
pub struct ThrottleStamp(Option<Reservation>);

impl<B> Stamp<B> for ThrottleStamp {
    fn apply(self, response: &mut Response<Body<B>>) {
        let rejection = response.extensions().get::<Rejection>();
        if let Some(reservation) = &self.0
            && rejection.is_some_and(|rejection| rejection.cause().is_failed_proof())
        {
            reservation.charge.keep();
        }
    }
}

impl Drop for ThrottleStamp {
    fn drop(&mut self) {
        if let Some(reservation) = &self.0 {
            reservation.charge.give_back();
        }
    }
}
