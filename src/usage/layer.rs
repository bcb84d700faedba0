//! [`UsageLayer`]: what it makes of a request, of its response and of the response's body.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::request::Parts;
use http::uri::Scheme;
use tower_layer::Layer;

use crate::context::is_standard;
use crate::gate::{Call, Gate, Policy, caught};
use crate::grpc::Dialect;
use crate::network::{ClientIp, ClientSetting, Transport};
use crate::pending::Pending;
use crate::rejection::Rejection;
use crate::usage::call::{UsageVisit, length};
use crate::usage::handle::Usage;
use crate::usage::record::{Arrival, End, Route};
use crate::usage::slot::{Asked, Noted, UsageSlot};

/// The layer that counts each request once, at its end: see the [module](crate::usage).
#[derive(Clone)]
pub struct UsageLayer {
    rule: Arc<Rule>,
}

/// The settings, shared by all services of a layer.
#[derive(Clone)]
struct Rule {
    usage: Usage,
    route: Option<Arc<FindRoute>>,
    clients: ClientSetting,
}

type FindRoute = dyn Fn(&Parts) -> Option<Arc<str>> + Send + Sync;

impl UsageLayer {
    /// Counts there.
    #[must_use]
    pub fn new(usage: Usage) -> Self {
        let rule = Rule {
            usage,
            route: None,
            clients: ClientSetting::default(),
        };
        Self {
            rule: Arc::new(rule),
        }
    }

    /// Says what the template of a request's route is: by default the method of a gRPC service,
    /// once that has answered, or the one that axum has matched, where the layer is inside of
    /// the router (`Router::layer`). There must be a bounded number of them.
    #[must_use]
    pub fn route(
        mut self,
        find: impl Fn(&Parts) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.rule).route = Some(Arc::new(find));
        self
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(mut self, client_ip: ClientIp) -> Self {
        Arc::make_mut(&mut self.rule).clients.set(client_ip);
        self
    }
}

impl fmt::Debug for UsageLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageLayer")
            .field("usage", &self.rule.usage)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for UsageLayer {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, Arc::new(self.clone()))
    }
}

impl Policy for UsageLayer {
    type Pass = ();
    type Visit = UsageVisit;

    fn enter(&self, _: &mut Call<'_>) -> Pending<Result<(), Rejection>> {
        Ok(()).into()
    }

    fn admit(&self, call: &mut Call<'_>, (): ()) -> Result<UsageVisit, Rejection> {
        let parts = &mut *call.parts;
        let client = self.client(parts);
        let shared = &self.rule.usage.shared;
        let outer = parts.extensions.get::<UsageSlot>();
        if outer.is_some_and(|slot| slot.is_of(shared)) {
            // It is counted outside.
            return Ok(UsageVisit(None));
        }
        let has_readers = shared.has_readers;
        let asked = Asked {
            started: shared.ticks(),
            method: bounded(&parts.method),
            version: parts.version,
            transport: match has_readers {
                true => transport(parts),
                false => Transport::Plain,
            },
            is_grpc: Dialect::of(parts) != Dialect::Http,
            client,
            declared: length(&parts.headers).map_or(0, |length| length.min(MOST_DECLARED)),
        };
        let mut noted = Noted::of(parts.extensions.get().cloned());
        if has_readers {
            self.note_route(&mut noted, parts, asked.is_grpc);
            shared.begun(Arrival {
                method: &asked.method,
                route: noted.route.as_ref().map(Route::as_str),
                transport: asked.transport,
            });
        }
        call.known.is_inside |= outer.is_some();
        let slot = UsageSlot::new(shared, asked, noted, outer.cloned());
        call.known.counts = true;
        call.known.share(slot.now());
        parts.extensions.insert(slot.clone());
        Ok(UsageVisit(Some(slot)))
    }

    fn carry<B: 'static>(&self, visit: &UsageVisit, body: B) -> B {
        match &visit.0 {
            Some(slot) => crate::usage::uploads::count(slot, body),
            None => body,
        }
    }

    fn time_goes_on(&self, visit: &UsageVisit) {
        if let Some(slot) = &visit.0 {
            slot.time_goes_on();
        }
    }

    fn failed(&self, mut visit: UsageVisit) {
        visit.end(End::ServiceError);
    }
}

impl UsageLayer {
    /// Resolves the client for the layers inside, and returns its address if a consumer needs it.
    fn client(&self, parts: &mut Parts) -> Option<IpAddr> {
        let clients = &self.rule.clients;
        // A function of the user may read the peer, and may panic.
        let address = caught(|| {
            clients.share(parts);
            let is_needed = self.rule.usage.shared.has_clients;
            is_needed.then(|| clients.located(parts).address).flatten()
        });
        address.ok().flatten()
    }

    /// Notes the template of the route, or what it may turn out to be.
    fn note_route(&self, noted: &mut Noted, parts: &Parts, is_grpc: bool) {
        if let Some(find) = &self.rule.route {
            // One that panics knows of none, and the request goes on.
            let found = caught(|| find(parts)).ok().flatten();
            noted.route = found.map(Route::Named);
            return;
        }
        noted.route = Route::matched(parts);
        // A router has one route for all methods of a gRPC service.
        let is_one = |route: &Route| !route.as_str().contains("{*");
        if is_grpc && !noted.route.as_ref().is_some_and(is_one) {
            match self.rule.usage.shared.routes.known(parts.uri.path()) {
                Some(known) => noted.route = Some(Route::Named(known)),
                None => noted.path = Some(parts.uri.path().into()),
            }
        }
    }
}

/// The transport of a request for records, where a guess is better than nothing.
fn transport(parts: &Parts) -> Transport {
    let known = ClientSetting::transport(parts);
    known.unwrap_or_else(|| match parts.uri.scheme() == Some(&Scheme::HTTPS) {
        true => Transport::Tls,
        false => Transport::Plain,
    })
}

/// What a client makes up is one method: records wait in bounded memory, and are added up.
fn bounded(method: &Method) -> Method {
    if is_standard(method) {
        return method.clone();
    }
    Method::from_bytes(b"_OTHER").unwrap_or_default()
}

/// A tebibyte. Anybody can write a number, and sums have to go on after it.
const MOST_DECLARED: u64 = 1 << 40;
