//! [`ConcurrencyLayer`]: how many requests of one caller may be under way.

use std::collections::HashMap;
use std::fmt;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response};
use parking_lot::Mutex;
use tower_layer::Layer;

use crate::body::Body;
use crate::config::{ConfigError, literal};
use crate::context;
use crate::gate::{Call, Gate, Leave, Policy};
use crate::grpc::Dialect;
use crate::limit::fields::RATELIMIT_POLICY;
use crate::limit::key_by::KeyBy;
use crate::network::{ClientIp, ClientSetting};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

/// The layer that lets each caller have so many requests under way, and answers 429 to
/// more. Unlike tower's `ConcurrencyLimit` it counts callers apart, lets nobody wait, and
/// counts a request until its response was sent to the end, or given up.
///
/// An upgraded connection, such as a WebSocket, is no request any more once it is upgraded.
///
/// ```
/// use tollgate::limit::ConcurrencyLayer;
///
/// let layer = ConcurrencyLayer::per_caller(8);
/// ```
///
/// # Cost
/// A look-up when a request comes and when it ends, and one allocation. Memory is needed for
/// callers with requests under way only.
#[derive(Clone)]
pub struct ConcurrencyLayer {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    most: u32,
    key: KeyBy,
    clients: ClientSetting,
    under_way: Arc<UnderWay>,
    policy: HeaderValue,
}

impl ConcurrencyLayer {
    /// So many requests of each caller at once.
    ///
    /// # Panics
    /// If it is 0.
    #[must_use]
    #[track_caller]
    pub fn per_caller(most: u32) -> Self {
        literal(Self::try_per_caller(most))
    }

    /// As [`ConcurrencyLayer::per_caller`], for a number from configuration.
    ///
    /// # Errors
    /// Where `per_caller` panics.
    pub fn try_per_caller(most: u32) -> Result<Self, ConfigError> {
        if most == 0 {
            return Err(ConfigError::new(
                "`ConcurrencyLayer::per_caller(0)`: no request would be admitted; allow at least 1",
            ));
        }
        let policy = format!("\"{NAME}\";q={most};qu=\"concurrent-requests\"");
        let settings = Settings {
            most,
            key: KeyBy::principal(),
            clients: ClientSetting::default(),
            under_way: Arc::default(),
            // Numbers and names are printable.
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("")),
        };
        Ok(Self {
            settings: Arc::new(settings),
        })
    }

    /// Sets the key that requests are counted by. Defaults to [`KeyBy::principal`].
    #[must_use]
    pub fn key(self, key: KeyBy) -> Self {
        self.set(|settings| settings.key = key)
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.set(|settings| settings.clients.set(client_ip))
    }

    /// How many requests are under way at the moment.
    #[must_use]
    pub fn under_way(&self) -> usize {
        let shards = self.settings.under_way.shards.iter();
        shards
            .map(|shard| {
                shard
                    .lock()
                    .values()
                    .map(|held| *held as usize)
                    .sum::<usize>()
            })
            .sum()
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

impl fmt::Debug for ConcurrencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLayer")
            .field("most", &self.settings.most)
            .field("key", &self.settings.key)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, Arc::new(self.clone()))
    }
}

/// The requests that are under way, by caller.
struct UnderWay {
    shards: [Mutex<HashMap<u64, u32>>; 64],
    seed: RandomState,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            seed: RandomState::new(),
        }
    }
}

impl UnderWay {
    fn shard(&self, caller: u64) -> &Mutex<HashMap<u64, u32>> {
        &self.shards[caller as usize % self.shards.len()]
    }

    fn enter(self: &Arc<Self>, caller: u64, most: u32) -> Option<Permit> {
        let mut shard = self.shard(caller).lock();
        let held = shard.entry(caller).or_default();
        if *held >= most {
            return None;
        }
        *held += 1;
        Some(Permit {
            under_way: Arc::clone(self),
            caller,
        })
    }
}

/// One request under way.
pub struct Permit {
    under_way: Arc<UnderWay>,
    caller: u64,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shard = self.under_way.shard(self.caller).lock();
        if let Some(held) = shard.get_mut(&self.caller) {
            *held -= 1;
            if *held == 0 {
                shard.remove(&self.caller);
            }
        }
    }
}

impl Policy for ConcurrencyLayer {
    type Pass = Option<Permit>;
    type Visit = Option<Permit>;

    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<Option<Permit>, Rejection>> {
        let parts = &mut *call.parts;
        if context::is_preflight(&parts.extensions) {
            return Ok(None).into();
        }
        let Settings {
            most,
            key,
            clients,
            under_way,
            ..
        } = &*self.settings;
        clients.share(parts);
        let caller = key.with(parts, clients, LAYER, |key| key.hash_with(&under_way.seed));
        let permit = caller.and_then(|caller| {
            let permit = under_way.enter(caller, *most);
            permit.ok_or_else(|| self.refusal(Dialect::of(parts)))
        });
        permit.map(Some).into()
    }

    fn admit(&self, _: &mut Call<'_>, permit: Option<Permit>) -> Result<Option<Permit>, Rejection> {
        Ok(permit)
    }
}

impl<B> Leave<B> for ConcurrencyLayer {
    fn leave(
        &self,
        permit: Option<Permit>,
        _: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    ) {
        if let Some(permit) = permit {
            response.body_mut().hold(permit);
        }
    }
}

impl ConcurrencyLayer {
    fn refusal(&self, dialect: Dialect) -> Rejection {
        let rejection = Rejection::new(Reason::RateLimited, Cause::TooManyAtOnce)
            .with_violated(NAME.into())
            .with_retry_after(Duration::from_secs(1));
        if dialect != Dialect::Http {
            return rejection;
        }
        rejection.with_fields(vec![(RATELIMIT_POLICY, self.settings.policy.clone())])
    }
}

const NAME: &str = "concurrency";
/// For the log event of a request without an identity.
const LAYER: &str = "ConcurrencyLayer";
