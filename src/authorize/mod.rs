//! [`RequireLayer`]: what a caller must have to pass.
//!
//! It reads the [`Identity`] that an [`AuthLayer`](crate::AuthLayer) outside has left
//! in the request. A known caller without what is required gets 403: with a challenge
//! that names the scopes, if scopes would help; else without. An anonymous caller
//! gets 401. Without an `AuthLayer` outside it is a 500, and the log names the fix.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use http::{Request, Response, StatusCode};
//! use tollgate::Identity;
//! use tollgate::authorize::{RequireLayer, role, scope};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let handler = service_fn(|_: Request<()>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! });
//! let service = RequireLayer::new(scope("orders:write") | role("admin")).layer(handler);
//!
//! // In a test, an identity can be put into the request by hand.
//! let admin = Identity::for_test().role("admin").build();
//! let request = Request::post("/orders").extension(admin).body(())?;
//! assert_eq!(service.clone().oneshot(request).await?.status(), StatusCode::OK);
//!
//! let reader = Identity::for_test().scopes("orders:read".parse()?).build();
//! let request = Request::post("/orders").extension(reader).body(())?;
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::FORBIDDEN);
//! let challenge = response.headers()["www-authenticate"].to_str()?;
//! assert!(challenge.contains(r#"error="insufficient_scope", scope="orders:write""#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised with a [`Hierarchy`] and a [`Policy`]: see there. One layer in front of a
//! whole router, with [`Rules`] by route, is refused before an inner limiter counts.
//!
//! # Cost
//! Without a policy: with rules a look-up of the path; then a walk over the expression,
//! linear in the caller's scopes. No allocation when the caller may pass. A path that could
//! be spelt otherwise, as those of gRPC, which have capitals, is looked up a second time,
//! and allocated once for that.

mod layer;
mod path;
mod policy;
mod requirement;
mod rules;

#[expect(unused_imports, reason = "named in the docs")]
use crate::Identity;

pub use layer::{RequireLayer, Required};
pub use policy::{Decision, Policy};
pub use requirement::{
    Fact, Hierarchy, Requirement, all, any, attribute, authenticated, kind, role, scope, tenant,
    try_scope,
};
pub use rules::{Report, Rules};
