//! [`Tollgate`]: several layers as one.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use crate::gate::{Gate, Policies};

/// A layer that applies several layers of this crate together, the first one outermost.
///
/// It behaves like the same layers nested in a `tower::ServiceBuilder`, and costs less: the request
/// is taken apart once, there is one future, and the layers share what they find out about the
/// request.
///
/// A rejection is rendered once, by the [`AuthLayer`](crate::AuthLayer) around the layer that rejects.
/// If that layer is outside of all `AuthLayer`s, the first `AuthLayer` of the stack renders the
/// rejection. The realm, the schemes and the [`respond_with`](crate::AuthLayer::respond_with) of that
/// `AuthLayer` apply.
///
/// Each element is a layer of this crate, an `Option` of one, or a tuple of these. Layers of other
/// crates go outside or inside of the `Tollgate`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::{Request, Response, StatusCode};
/// use tollgate::keys::{NewKey, Peppers};
/// use tollgate::usage::Usage;
/// use tollgate::{
///     ApiKeys, AuthLayer, Quota, RateLimitLayer, RequireLayer, Tollgate, UsageLayer, scope,
/// };
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
/// let issued = keys.issue(NewKey::for_owner("ann").scopes(["orders:read"])).await?;
/// let usage = Usage::new();
///
/// let layer = Tollgate::new((
///     UsageLayer::new(usage.clone()),
///     AuthLayer::new(keys),
///     RequireLayer::new(scope("orders:read")),
///     RateLimitLayer::new(Quota::per_minute(1)),
/// ));
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(axum::body::Body::from("orders")))
/// }));
///
/// let mut statuses = Vec::new();
/// for key in [issued.key.expose(), issued.key.expose(), "acme_unknown"] {
///     let request = Request::get("/orders").header("x-api-key", key).body(())?;
///     statuses.push(service.clone().oneshot(request).await?.status().as_u16());
/// }
/// assert_eq!(statuses, [200, 429, 401]);
/// assert_eq!(usage.snapshot().sum().refused(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Order
/// The build fails if an `AuthLayer` is inside of a `RequireLayer` that no other `AuthLayer` of the
/// stack is around:
///
/// ```compile_fail,E0080
/// use tollgate::authorize::authenticated;
/// use tollgate::{ApiKeys, AuthLayer, RequireLayer, Tollgate, keys::Peppers};
///
/// let auth = AuthLayer::new(ApiKeys::in_memory(Peppers::random()));
/// let layer = Tollgate::new((RequireLayer::new(authenticated()), auth));
/// ```
pub struct Tollgate<P> {
    policies: Arc<P>,
}

impl<P: Policies> Tollgate<P> {
    /// Creates a layer from the layers of a tuple, the first one outermost.
    pub fn new(policies: P) -> Self {
        const {
            assert!(
                P::ORDER.is_valid(),
                "Tollgate::new: an AuthLayer is inside of a RequireLayer, which needs to know the caller; \
                 put the AuthLayer before the RequireLayer, or use a Tollgate for each"
            );
        }
        Self {
            policies: Arc::new(policies),
        }
    }
}

impl<P> Clone for Tollgate<P> {
    fn clone(&self) -> Self {
        Self {
            policies: Arc::clone(&self.policies),
        }
    }
}

impl<P: fmt::Debug> fmt::Debug for Tollgate<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tollgate").field(&self.policies).finish()
    }
}

impl<P: Policies, S> Layer<S> for Tollgate<P> {
    type Service = Gate<S, P>;

    #[track_caller]
    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, Arc::clone(&self.policies))
    }
}
