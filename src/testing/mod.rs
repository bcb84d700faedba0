//! A kit for tests: keys without ceremony, what every store of keys owes, and whether
//! every route has a rule.

mod conformance;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
mod issuer;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
mod signer;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::authorize::Rules;
use crate::keys::{ApiKeys, KeyRecord, NewKey, Peppers};

pub use conformance::key_store_conforms;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub use issuer::{TestIssuer, TokenBuilder};

/// Asserts that there is a rule for each of these routes, be it that it is public.
///
/// ```
/// use tollgate::authorize::{Rules, scope};
/// use tollgate::testing::assert_covered;
///
/// let rules = Rules::new().route("/orders/{id}", scope("orders:read")).public("GET /health");
/// assert_covered(&rules, ["GET /orders/{id}", "DELETE /orders/{order}", "GET /health"]);
/// assert_eq!(rules.uncovered(["POST /health", "/invoices"]), ["POST /health", "/invoices"]);
/// ```
///
/// Give it the list that the router is made from; with tonic, the routes of the file
/// descriptor set: [`tonic::routes`](crate::tonic::routes).
///
/// # Panics
/// If there is none for some of them: the message names those.
#[track_caller]
pub fn assert_covered<I>(rules: &Rules, routes: I)
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let uncovered = rules.uncovered(routes);
    assert!(
        uncovered.is_empty(),
        "no rule is for {}; there are rules for\n{}",
        uncovered.join(", "),
        rules.report()
    );
}

/// Keys in memory under a pepper of their own, minted without `async`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use axum::Router;
/// use axum::body::Body;
/// use axum::routing::get;
/// use http::Request;
/// use tollgate::keys::NewKey;
/// use tollgate::testing::TestKeys;
/// use tollgate::{AuthLayer, Identity};
/// use tower::ServiceExt;
///
/// let kit = TestKeys::new("acme");
/// let key = kit.mint(NewKey::for_owner("acct_1"));
/// let app = Router::new()
///     .route("/", get(async |identity: Identity| identity.subject().to_owned()))
///     .layer(AuthLayer::new(kit.keys()));
///
/// let request = Request::get("/").header("x-api-key", &key).body(Body::empty())?;
/// assert_eq!(app.oneshot(request).await?.status(), 200);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TestKeys(ApiKeys);

impl TestKeys {
    /// Keys with that prefix.
    ///
    /// # Panics
    /// If it is not of the form `[a-z][a-z0-9]{1,15}`.
    #[must_use]
    #[track_caller]
    pub fn new(prefix: &str) -> Self {
        Self(ApiKeys::in_memory(Peppers::random()).prefix(prefix))
    }

    /// The keys, for an [`AuthLayer`](crate::AuthLayer).
    #[must_use]
    pub fn keys(&self) -> ApiKeys {
        self.0.clone()
    }

    /// The text of a new key.
    ///
    /// # Panics
    /// If it cannot be issued: see [`ApiKeys::issue`].
    #[must_use]
    #[track_caller]
    pub fn mint(&self, new: NewKey) -> String {
        self.mint_with_record(new).0
    }

    /// The text of a new key, and its record.
    ///
    /// # Panics
    /// As [`TestKeys::mint`].
    #[must_use]
    #[track_caller]
    pub fn mint_with_record(&self, new: NewKey) -> (String, KeyRecord) {
        let mut issue = pin!(self.0.issue(new));
        let mut cx = Context::from_waker(Waker::noop());
        match issue.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(issued)) => (issued.key.expose().to_owned(), issued.record),
            Poll::Ready(Err(error)) => panic!("the key cannot be issued: {error}"),
            Poll::Pending => unreachable!("a store in memory does not wait"),
        }
    }
}
