//! [`KeyBy`]: what a limit counts by.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method};

use crate::config::{ConfigError, literal};
use crate::context::{self, is_standard};
use crate::identity::Identity;
use crate::limit::key::{LimitKey, MOST_PARTS, Missing, Part, too_many_parts};
use crate::network::ClientSetting;
use crate::rejection::Rejection;

/// What a limit counts by: one thing, or several together.
///
/// ```
/// use tollgate::limit::KeyBy;
///
/// let each_caller_on_each_route = KeyBy::principal().and(KeyBy::route());
/// ```
#[derive(Clone)]
pub struct KeyBy {
    parts: Vec<By>,
}

#[derive(Clone)]
enum By {
    Principal,
    Tenant,
    Route,
    GrpcMethod,
    Network,
    Header(HeaderName),
    Custom(Arc<Custom>),
}

impl By {
    /// Returns whether an `AuthLayer` must have seen the request.
    const fn is_of_the_caller(&self) -> bool {
        matches!(self, Self::Principal | Self::Tenant)
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Tenant => "tenant",
            Self::Route => "route",
            Self::GrpcMethod => "gRPC method",
            Self::Network => "network",
            Self::Header(_) => "header",
            Self::Custom(_) => "custom",
        }
    }
}

type Custom = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl KeyBy {
    /// Counts by principal, which is the default. All credentials of a principal share a
    /// budget, so rotating a key does not give a second one.
    ///
    /// - Behind a required [`AuthLayer`](crate::AuthLayer), every request has a principal.
    /// - Behind an [optional](crate::AuthLayer::optional) one, anonymous requests are counted by
    ///   the network of the client, as with [`KeyBy::network`].
    /// - Without an `AuthLayer` outside, every request is rejected with 500, and an event of the
    ///   level ERROR names the fix. For a service without authentication, count by
    ///   [`KeyBy::network`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use http::{Request, Response};
    /// use tollgate::limit::{Quota, RateLimitLayer};
    /// use tollgate::{ApiKeys, AuthLayer, keys::Peppers};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let handler = service_fn(|_: Request<()>| async {
    ///     Ok::<_, std::convert::Infallible>(Response::new(()))
    /// });
    /// let limited = RateLimitLayer::new(Quota::per_minute(1)).layer(handler);
    /// let optional = AuthLayer::new(ApiKeys::in_memory(Peppers::random())).optional();
    /// let service = optional.layer(limited.clone());
    ///
    /// let response = service.clone().oneshot(Request::new(())).await?;
    /// assert_eq!(response.status(), 200);
    /// let response = service.oneshot(Request::new(())).await?;
    /// assert_eq!(response.status(), 429); // the same network
    /// let response = limited.oneshot(Request::new(())).await?;
    /// assert_eq!(response.status(), 500); // no AuthLayer
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn principal() -> Self {
        Self::one(By::Principal)
    }

    /// Counts by the tenant of the principal. Principals without a tenant, and anonymous
    /// requests behind an [optional](crate::AuthLayer::optional) `AuthLayer`, share one budget.
    /// Without an `AuthLayer` outside, every request is rejected with 500.
    #[must_use]
    pub fn tenant() -> Self {
        Self::one(By::Tenant)
    }

    /// The route: the method, and the path that axum has matched. What none has matched shares
    /// a budget: the layer must be inside of the router's. `HEAD` is counted with `GET`, and
    /// methods that are not standard are one.
    #[must_use]
    pub fn route() -> Self {
        Self::one(By::Route)
    }

    /// The method of a gRPC service: the path of the request, as it is. For servers of gRPC
    /// alone: a client can make paths up, and each would have its own budget. There they are
    /// answered `UNIMPLEMENTED`.
    #[must_use]
    pub fn grpc_method() -> Self {
        Self::one(By::GrpcMethod)
    }

    /// The network of the client, as [`ClientIp`](crate::network::ClientIp) resolves it: the address with IPv4, /64
    /// with IPv6 unless it says otherwise. Clients without an address, on a Unix socket for
    /// one, share a budget.
    #[must_use]
    pub fn network() -> Self {
        Self::one(By::Network)
    }

    /// The value of a request field. A client chooses it, so this is for fields that a
    /// proxy of yours sets. Requests without it share a budget.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self::one(By::Header(name))
    }

    /// Whatever you make of a request. Those for which it is nothing share a budget.
    #[must_use]
    pub fn custom(key: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::one(By::Custom(Arc::new(key)))
    }

    /// Both together.
    ///
    /// # Panics
    /// If they are more than four things.
    #[must_use]
    #[track_caller]
    pub fn and(self, other: Self) -> Self {
        literal(self.try_and(other))
    }

    /// As [`KeyBy::and`], for keys from configuration.
    ///
    /// # Errors
    /// Where `and` panics.
    pub fn try_and(mut self, other: Self) -> Result<Self, ConfigError> {
        self.parts.extend(other.parts);
        if self.parts.len() > MOST_PARTS {
            return Err(too_many_parts("KeyBy::and"));
        }
        Ok(self)
    }

    fn one(by: By) -> Self {
        Self { parts: vec![by] }
    }

    /// Runs `run` with the key of a request. `layer` is the name for the log if there is no key.
    pub(crate) fn with<T>(
        &self,
        parts: &Parts,
        clients: &ClientSetting,
        layer: &str,
        run: impl FnOnce(&LimitKey<'_>) -> T,
    ) -> Result<T, Rejection> {
        if let ([By::Principal], Some(identity)) = (&self.parts[..], identity(parts)) {
            return Ok(run(&LimitKey::principal(identity.principal())));
        }
        let customs = self.parts.iter().filter_map(|by| match by {
            By::Custom(key) => Some(key(parts)),
            _ => None,
        });
        let customs: Vec<_> = customs.collect();
        let mut customs = customs.iter();
        let identity = identity(parts);
        let network = || match clients.located(parts).network {
            Some(network) => Part::Network(network),
            None => Part::Missing(Missing::Network),
        };
        let is_anonymous = context::is_anonymous(&parts.extensions);
        let by_caller = self.parts.iter().find(|by| by.is_of_the_caller());
        if let Some(by) = by_caller
            && identity.is_none()
            && !is_anonymous
        {
            return Err(Rejection::misconfigured(&no_auth_layer(layer, by)));
        }
        let mut key = LimitKey::default();
        for (by, place) in self.parts.iter().zip(key.places()) {
            *place = Some(match by {
                By::Principal => match identity {
                    Some(identity) => Part::Principal(identity.principal()),
                    None => network(),
                },
                By::Tenant => match identity.and_then(Identity::tenant) {
                    Some(tenant) => Part::Tenant(tenant),
                    None => Part::Missing(Missing::Tenant),
                },
                By::Route => match route(parts) {
                    Some(template) => Part::Route {
                        method: method(&parts.method),
                        template,
                    },
                    None => Part::Missing(Missing::Route),
                },
                By::GrpcMethod => Part::Route {
                    method: Method::POST.as_str(),
                    template: parts.uri.path(),
                },
                By::Network => network(),
                By::Header(name) => match parts.headers.get(name) {
                    Some(value) => Part::Header(value.as_bytes()),
                    None => Part::Missing(Missing::Header),
                },
                By::Custom(_) => match customs.next() {
                    Some(Some(custom)) => Part::Custom(custom),
                    _ => Part::Missing(Missing::Custom),
                },
            });
        }
        Ok(run(&key))
    }
}

impl fmt::Debug for KeyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.parts.iter().map(By::name);
        f.debug_list().entries(names).finish()
    }
}

fn identity(parts: &Parts) -> Option<&Identity> {
    parts.extensions.get()
}

/// The template of a route, of which there are as many as an operator has written.
#[cfg(feature = "axum")]
fn route(parts: &Parts) -> Option<&str> {
    crate::axum::matched_path(&parts.extensions)
}

/// There is no router whose templates are known.
#[cfg(not(feature = "axum"))]
const fn route(_: &Parts) -> Option<&str> {
    None
}

/// What a client makes up is one method, or each would have a budget. `HEAD` is answered by
/// what answers `GET`.
fn method(method: &Method) -> &str {
    match *method {
        Method::HEAD => "GET",
        _ if is_standard(method) => method.as_str(),
        _ => "*",
    }
}

fn no_auth_layer(layer: &str, by: &By) -> String {
    let key = by.name();
    format!(
        "`{layer}::key(KeyBy::{key}())`: the request has passed no AuthLayer, so it has no \
         {key}; put an `AuthLayer` outside of the {layer}, with `.optional()` if anonymous \
         requests are allowed, or count by `KeyBy::network()`"
    )
}
