//! A kit for tests: keys without ceremony, and what every store of keys owes.

mod conformance;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::keys::{ApiKeys, KeyRecord, NewKey, Peppers};

pub use conformance::key_store_conforms;

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
