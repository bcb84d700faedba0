//! [`RateLimitLayer`]: how much each caller may use.
//!
//! It reads the [`Identity`](crate::Identity) that an `AuthLayer` outside has left, and lets
//! a request through if the caller has a unit left of each quota; else it answers 429 with
//! the time to wait. A request that one quota refuses costs nothing of the others.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use http::{Request, Response, StatusCode};
//! use tollgate::Identity;
//! use tollgate::limit::{Quota, RateLimitLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let layer = RateLimitLayer::new([Quota::per_second(50).burst(2), Quota::per_hour(20_000)]);
//! let service = layer.layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! }));
//!
//! let mut request = Request::new(());
//! request.extensions_mut().insert(Identity::for_test().build()); // AuthLayer does that
//! for status in [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
//!     let response = service.clone().oneshot(request.clone()).await?;
//!     assert_eq!(response.status(), status);
//!     assert!(response.headers().contains_key("ratelimit"));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised: by the plan of the caller and the route, with a cost.
//!
//! ```
//! use tollgate::limit::{Fields, KeyBy, Plans, Quota, RateLimitLayer};
//!
//! let plans = Plans::new(Quota::per_minute(60)).plan("pro", Quota::per_minute(600));
//! let layer = RateLimitLayer::by_plan(plans)
//!     .key(KeyBy::principal().and(KeyBy::route()))
//!     .cost(|parts| if parts.method.is_safe() { 1 } else { 5 })
//!     .fields(Fields::LegacyEpoch)
//!     .refund_server_errors();
//! ```
//!
//! # Deployment
//! - It goes inside of `AuthLayer`, which refuses bad credentials at nobody's expense, and,
//!   where it matters that a request without the rights is not charged for, inside of a
//!   [`RequireLayer`](crate::RequireLayer) with [`Rules`](crate::authorize::Rules).
//! - Failed credentials are the business of
//!   [`AuthFailureLimitLayer`](crate::auth::AuthFailureLimitLayer).
//! - Budgets in memory are those of one process. Where there are several, each has its own,
//!   unless the limiter is one that they share, as `RedisLimiter` with the feature `redis`.
//! - A limiter can serve several layers if each has a
//!   [`name`](RateLimitLayer::name) of its own. The second layer without one panics when it is
//!   applied.
//!
//! # Cost
//! In memory: a look-up for each quota; nothing is allocated to decide. What clients are told
//! costs one formatted field.

mod concurrency;
mod control;
mod fields;
mod gate;
pub(crate) mod gcra;
mod key;
mod key_by;
mod layer;
mod layer_names;
mod limiter;
mod memory;
mod plans;
mod quota;
mod quotas;
#[cfg(feature = "redis")]
mod redis;
mod standing;

#[cfg(feature = "redis")]
pub use self::redis::{Fallbacks, RedisFault, RedisLimiter, RedisStatus, WarmUpError, WhenDown};
pub use concurrency::ConcurrencyLayer;
pub use control::Control;
pub use fields::Fields;
pub use gate::Cost;
pub use key::LimitKey;
pub use key_by::KeyBy;
pub use layer::RateLimitLayer;
pub use layer_names::LayerNames;
pub use limiter::{Decision, Limiter, LimiterUnavailable, Ticket};
pub use memory::MemoryLimiter;
pub use plans::Plans;
pub use quota::Quota;
pub use quotas::Quotas;

pub(crate) use fields::{LIMIT, RATELIMIT, RATELIMIT_POLICY, REMAINING, RESET};
