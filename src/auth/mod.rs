//! [`AuthLayer`]: the door. It finds the credential of a request, learns who shows
//! it, and leaves an [`Identity`] in the request's extensions.
//!
//! It refuses a request that has no credential, more than one, or one that is not
//! good; every refusal is listed in [`Reason`]. The credential is taken out of the
//! request before anything behind the layer sees it.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use http::{Request, Response, StatusCode};
//! use tollgate::keys::{NewKey, Peppers};
//! use tollgate::{ApiKeys, AuthLayer, Identity};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
//! let issued = keys.issue(NewKey::for_owner("acct_1")).await?;
//!
//! let hello = service_fn(|request: Request<()>| async move {
//!     let identity = request.extensions().get::<Identity>().expect("AuthLayer is outside");
//!     Ok::<_, std::convert::Infallible>(Response::new(format!("hello {}", identity.subject())))
//! });
//! let service = AuthLayer::new(keys).layer(hello);
//!
//! let request = Request::get("/").header("x-api-key", issued.key.expose()).body(())?;
//! let response = service.clone().oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//!
//! let response = service.oneshot(Request::get("/").body(())?).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! assert!(response.headers().contains_key("www-authenticate"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised: keys in one header only, with anonymous callers let through.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use http::{HeaderName, Request, Response, StatusCode};
//! use tollgate::auth::Source;
//! use tollgate::keys::Peppers;
//! use tollgate::{ApiKeys, AuthLayer, Identity};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let keys = ApiKeys::in_memory(Peppers::random());
//! let layer = AuthLayer::new(keys)
//!     .sources([Source::header(HeaderName::from_static("x-acme-key"))])
//!     .optional();
//! let service = layer.layer(service_fn(|request: Request<()>| async move {
//!     assert!(request.extensions().get::<Identity>().is_none());
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! }));
//!
//! let response = service.clone().oneshot(Request::get("/").body(())?).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//!
//! // What is shown must be good all the same.
//! let request = Request::get("/").header("x-acme-key", "guess").body(())?;
//! assert_eq!(service.oneshot(request).await?.status(), StatusCode::UNAUTHORIZED);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Deployment
//! - Layers that log or trace requests and stand *outside* see the credential. Put
//!   them inside, or mark the field with tower-http's `SetSensitiveRequestHeaders`.
//! - Put a CORS layer outside, and expose [`EXPOSED_HEADERS`](crate::respond::EXPOSED_HEADERS).
//!   With one outside, preflights never get here; else see
//!   [`AuthLayer::allow_preflight`].
//! - Shared caches keep off an answer to `Authorization` (RFC 9111 §3.5), but know
//!   nothing of other carriers: answers to those get `Vary` and, unless the handler
//!   set its own, `Cache-Control: private`.
//! - What a handler has set stays: its `WWW-Authenticate`, its `Cache-Control`, and the rest.
//!   `Vary` is added to, and `Credential-Expiration` is replaced where it is told. Where a
//!   gate behind this one has refused, the door says it in its place: the fields of a
//!   refusal are replaced, what layers between have added to them stays.
//!
//! # Cost
//! One look-up of each configured header field, one extension, and what the
//! authenticator costs.

mod api_key;
mod authenticate;
mod authorization;
mod certificate;
mod cookie;
mod cross_site;
mod door;
mod failure_guard;
pub mod failure_limit;
mod failures;
pub mod https_only;
mod judge;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub mod jwt;
mod layer;
mod query;
pub mod resource;
mod response;
mod source;
mod verifying;
mod websocket;

#[expect(unused_imports, reason = "named in the docs")]
use crate::{Identity, rejection::Reason};

pub use authenticate::{Answer, Authenticate, Or};
pub use certificate::ClientCertificate;
#[doc(inline)]
pub use failure_limit::AuthFailureLimitLayer;
#[doc(inline)]
pub use https_only::HttpsOnlyLayer;
pub use layer::AuthLayer;
#[doc(inline)]
pub use resource::ProtectedResource;
pub use source::{CredentialSource, Source};

#[cfg(feature = "axum")]
pub(crate) use query::with_query;
