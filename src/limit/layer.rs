//! [`RateLimitLayer`]: the settings of a limit.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::gate::Gate;
use crate::identity::Identity;
use crate::limit::control::Control;
use crate::limit::fields::Fields;
use crate::limit::key::LimitKey;
use crate::limit::key_by::KeyBy;
use crate::limit::layer_names::LayerId;
use crate::limit::limiter::Limiter;
use crate::limit::memory::MemoryLimiter;
use crate::limit::plans::Plans;
use crate::limit::quotas::Quotas;
use crate::network::{ClientIp, ClientSetting};

/// The layer that holds each caller to their quotas: see the [module](crate::limit).
pub struct RateLimitLayer<L = MemoryLimiter> {
    pub(super) limit: Arc<Limit<L>>,
}

/// The settings, shared by all services of a layer.
pub(crate) struct Limit<L> {
    pub(crate) limiter: Arc<L>,
    /// Part of the key of each budget.
    pub(crate) name: Box<str>,
    pub(super) shares_budgets: bool,
    pub(super) id: Arc<LayerId>,
    pub(crate) quotas: Choice,
    pub(crate) key: KeyBy,
    pub(crate) cost: Option<Arc<CostOf>>,
    pub(crate) fields: Fields,
    pub(crate) refund_server_errors: bool,
    pub(crate) clients: ClientSetting,
    /// None: the system's.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

type CostOf = dyn Fn(&Parts) -> u32 + Send + Sync;
type Choose = dyn Fn(Option<&Identity>, &Parts) -> Option<Quotas> + Send + Sync;

/// Which quotas a request is held to.
#[derive(Clone)]
pub(crate) enum Choice {
    Fixed(Quotas),
    Plans(Plans),
    Function(Arc<Choose>),
}

impl RateLimitLayer {
    /// Holds every caller to these quotas: one, or an array of several. They are kept in
    /// this process, see [`MemoryLimiter`].
    ///
    /// # Panics
    /// If there are none or more than four, or two have the same name: see
    /// [`Quotas::try_new`].
    #[track_caller]
    pub fn new(quotas: impl Into<Quotas>) -> Self {
        Self::of(Choice::Fixed(quotas.into()))
    }

    /// Holds callers to the quotas of the plan that they are on.
    #[must_use]
    pub fn by_plan(plans: Plans) -> Self {
        Self::of(Choice::Plans(plans))
    }

    /// Holds each request to the quotas that you say: none makes it unlimited. The caller is
    /// none if they are anonymous.
    ///
    /// ```
    /// use tollgate::limit::{Quota, Quotas, RateLimitLayer};
    ///
    /// let (reads, writes): (Quotas, Quotas) = (
    ///     Quota::per_second(50).named("reads").into(),
    ///     Quota::per_second(5).named("writes").into(),
    /// );
    /// let layer = RateLimitLayer::by(move |identity, parts| {
    ///     if identity.is_some_and(|identity| identity.has_role("internal")) {
    ///         return None;
    ///     }
    ///     Some(if parts.method.is_safe() { reads.clone() } else { writes.clone() })
    /// });
    /// ```
    pub fn by(
        choose: impl Fn(Option<&Identity>, &Parts) -> Option<Quotas> + Send + Sync + 'static,
    ) -> Self {
        Self::of(Choice::Function(Arc::new(choose)))
    }

    fn of(quotas: Choice) -> Self {
        let limit = Limit {
            limiter: Arc::new(MemoryLimiter::new()),
            name: Box::default(),
            shares_budgets: false,
            id: Arc::default(),
            quotas,
            key: KeyBy::principal(),
            cost: None,
            fields: Fields::default(),
            refund_server_errors: false,
            clients: ClientSetting::default(),
            clock: None,
        };
        Self {
            limit: Arc::new(limit),
        }
    }
}

impl<L: Limiter> RateLimitLayer<L> {
    /// Sets the limiter that stores the budgets. Defaults to a [`MemoryLimiter`] of this layer.
    ///
    /// A limiter, or clones of it, can serve several layers if each has a
    /// [`name`](Self::name) of its own.
    #[must_use]
    pub fn limiter<M: Limiter>(self, limiter: M) -> RateLimitLayer<M> {
        let limit = Arc::unwrap_or_clone(self.limit);
        RateLimitLayer {
            limit: Arc::new(Limit {
                limiter: Arc::new(limiter),
                name: limit.name,
                shares_budgets: limit.shares_budgets,
                id: Arc::default(),
                quotas: limit.quotas,
                key: limit.key,
                cost: limit.cost,
                fields: limit.fields,
                refund_server_errors: limit.refund_server_errors,
                clients: limit.clients,
                clock: limit.clock,
            }),
        }
    }

    /// Sets the name that keeps the budgets of this layer apart from those of other layers with
    /// the same limiter. Defaults to the empty name.
    ///
    /// Processes share budgets if the limiter, the name and the names of the quotas are the
    /// same, so the name must not change between processes or versions.
    ///
    /// # Panics
    /// [`Layer::layer`] panics if another layer with the same limiter, or a clone of it, has
    /// the same name and is still in use. A clone of this layer is the same layer until one of
    /// its settings is changed.
    ///
    /// ```
    /// use tollgate::limit::{MemoryLimiter, Quota, RateLimitLayer};
    /// use tower::Layer;
    ///
    /// let limiter = MemoryLimiter::new(); // or a `RedisLimiter`
    /// let api = RateLimitLayer::new(Quota::per_minute(600)).limiter(limiter.clone());
    /// let search = RateLimitLayer::new(Quota::per_minute(10))
    ///     .limiter(limiter)
    ///     .name("search");
    /// let service = api.layer(search.layer(()));
    /// ```
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.set(|limit| limit.name = name.into())
    }

    /// Shares the budgets of this layer with other layers of the same limiter and
    /// [`name`](Self::name), for instance for two servers in one process that charge different
    /// costs. Each of those layers must call this. Quotas with the same name are one budget.
    ///
    /// ```
    /// use tollgate::limit::{MemoryLimiter, Quota, RateLimitLayer};
    /// use tower::Layer;
    ///
    /// let limiter = MemoryLimiter::new();
    /// let limit = || RateLimitLayer::new(Quota::per_minute(600)).limiter(limiter.clone());
    /// let reads = limit().share_budgets();
    /// let writes = limit().share_budgets().cost(|_| 5);
    /// let services = (reads.layer(()), writes.layer(()));
    /// ```
    #[must_use]
    pub fn share_budgets(self) -> Self {
        self.set(|limit| limit.shares_budgets = true)
    }

    /// Sets the key that requests are counted by. Defaults to [`KeyBy::principal`].
    #[must_use]
    pub fn key(self, key: KeyBy) -> Self {
        self.set(|limit| limit.key = key)
    }

    /// Sets what a request costs: one unit unless set. One that costs nothing is let
    /// through, unless the caller is banned. What is known only afterwards is made up for with
    /// [`Cost`](crate::limit::Cost).
    #[must_use]
    pub fn cost(self, cost: impl Fn(&Parts) -> u32 + Send + Sync + 'static) -> Self {
        self.set(|limit| limit.cost = Some(Arc::new(cost)))
    }

    /// Sets the rate-limit headers of responses. Defaults to [`Fields::Draft10`].
    #[must_use]
    pub fn fields(self, fields: Fields) -> Self {
        self.set(|limit| limit.fields = fields)
    }

    /// Gives back what a request has cost if the answer is a server error (5xx, or the gRPC
    /// statuses that mean as much, where they stand in the header). A request that the client
    /// gave up is paid for, as the work was done; so is one that ends in an error of the
    /// service instead of a response: put what makes responses of errors inside.
    #[must_use]
    pub fn refund_server_errors(self) -> Self {
        self.set(|limit| limit.refund_server_errors = true)
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.set(|limit| limit.clients.set(client_ip))
    }

    /// Sets the clock that budgets come back by: the system's unless set, whatever the one of
    /// the door is. A limiter for many processes has its own.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|limit| limit.clock = Some(Arc::new(clock)))
    }

    /// A handle to look at budgets and to change them, from code.
    #[must_use]
    pub fn control(&self) -> Control<L> {
        Control::new(Arc::clone(&self.limit))
    }

    fn set(mut self, change: impl FnOnce(&mut Limit<L>)) -> Self {
        let limit = Arc::make_mut(&mut self.limit);
        change(limit);
        // Services that were made with the earlier settings belong to another layer.
        limit.id = Arc::default();
        self
    }
}

impl<L> Limit<L> {
    /// Returns the key of a budget of this layer.
    pub(crate) fn key_of<'k>(&'k self, key: &LimitKey<'k>) -> LimitKey<'k> {
        key.of_layer(&self.name)
    }

    pub(crate) fn now(&self) -> Timestamp {
        match &self.clock {
            Some(clock) => clock.now(),
            None => SystemClock.now(),
        }
    }
}

impl<L> Clone for Limit<L> {
    fn clone(&self) -> Self {
        Self {
            limiter: Arc::clone(&self.limiter),
            name: self.name.clone(),
            shares_budgets: self.shares_budgets,
            id: Arc::default(),
            quotas: self.quotas.clone(),
            key: self.key.clone(),
            cost: self.cost.clone(),
            fields: self.fields,
            refund_server_errors: self.refund_server_errors,
            clients: self.clients.clone(),
            clock: self.clock.clone(),
        }
    }
}

impl<L> Clone for RateLimitLayer<L> {
    fn clone(&self) -> Self {
        Self {
            limit: Arc::clone(&self.limit),
        }
    }
}

impl<L> fmt::Debug for RateLimitLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("name", &self.limit.name)
            .field("key", &self.limit.key)
            .field("fields", &self.limit.fields)
            .finish_non_exhaustive()
    }
}

impl<S, L: Limiter> Layer<S> for RateLimitLayer<L> {
    type Service = Gate<S, Self>;

    /// Wraps a service.
    ///
    /// # Panics
    /// Panics if another layer with the same limiter has the same
    /// [`name`](RateLimitLayer::name).
    #[track_caller]
    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, Arc::new(self.clone()))
    }
}
