//! [`HttpsOnlyLayer`]: refuses what came over plain HTTP, before anything is read of it.
//!
//! It stands outside of `AuthLayer`, and answers 403 without a redirect: a client that
//! is redirected has shown its credential already, and would do so again. The answer is
//! the same whatever is shown.
//!
//! The transport is known from, in this order: the trusted proxies of
//! [`HttpsOnlyLayer::client_ip`], or of the layer outside that has one; a [`Transport`] that the
//! server put into the request's extensions; with the feature `tonic-tls`, tonic's own TLS. `https`
//! and `wss` are TLS. A request whose transport is unknown is rejected like one in cleartext.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use std::net::SocketAddr;
//! use http::{Request, Response};
//! use tollgate::auth::HttpsOnlyLayer;
//! use tollgate::network::{ClientIp, Transport};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let layer = HttpsOnlyLayer::new().client_ip(ClientIp::new().trusted_proxies(["10.0.0.0/8"]));
//! let service = layer.layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! }));
//!
//! let proxy: SocketAddr = "10.0.0.9:4711".parse()?;
//! let request = Request::get("/").extension(proxy).header("x-forwarded-proto", "https");
//! assert_eq!(service.clone().oneshot(request.body(())?).await?.status(), 200);
//!
//! let request = Request::get("/").extension(Transport::Tls).body(())?;
//! assert_eq!(service.clone().oneshot(request).await?.status(), 200);
//!
//! // Neither the URI nor a field that anybody can write says anything.
//! let request = Request::get("https://h/").header("x-forwarded-proto", "https").body(())?;
//! assert_eq!(service.oneshot(request).await?.status(), 403);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Ending exposed keys
//! A key that was sent in cleartext has been seen by others. [`HttpsOnlyLayer::burn`] ends such a
//! key if its secret is right. It does so only if a trusted party itself said that the request came
//! in cleartext: a trusted proxy that wrote `http` or `ws`, or the application, which inserted
//! [`Transport::Plain`] for a request that no trusted proxy sent. A missing or unreadable statement
//! rejects the request and ends no key. The key is ended in a task of its own, after the response is
//! decided, at most as often per network as the budget allows.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::auth::authenticate::Authenticate;
use crate::auth::failures::Failures;
use crate::auth::source::{Source, TakeRules, take_one};
use crate::body::Body;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{ConfigError, literal};
use crate::context::is_audited;
use crate::credential::{Credential, Scheme};
use crate::gate::{Call, Gate, Leave, Policy};
use crate::keys::{ApiKeys, KeyStore};
use crate::limit::gcra::Rate;
use crate::network::{Client, ClientIp, ClientSetting, Transport};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::render::Voice;
use crate::respond::Respond;

/// The layer that refuses plain HTTP: see the [module](crate::auth::https_only).
#[derive(Clone)]
pub struct HttpsOnlyLayer {
    rule: Arc<Rule>,
}

#[derive(Clone)]
struct Rule {
    assumed: Option<Transport>,
    allow_loopback: bool,
    clients: ClientSetting,
    clock: Arc<dyn Clock>,
    /// `None`: that of the stack, or the standard one.
    voice: Option<Voice>,
    /// Where credentials are looked for.
    sources: Vec<Source>,
    burn: Option<Arc<Burn>>,
    reported: Arc<AtomicBool>,
}

/// What ends keys that were sent in clear.
struct Burn {
    budget: Failures,
    end: Box<dyn Fn(Credential, IpAddr, Timestamp) + Send + Sync>,
    claims: Box<Claims>,
}

type Claims = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Default for HttpsOnlyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpsOnlyLayer {
    /// Believes the server, and nobody else.
    #[must_use]
    pub fn new() -> Self {
        let rule = Rule {
            assumed: None,
            allow_loopback: false,
            clients: ClientSetting::default(),
            clock: Arc::new(SystemClock),
            voice: None,
            sources: Source::defaults(),
            burn: None,
            reported: Arc::default(),
        };
        Self {
            rule: Arc::new(rule),
        }
    }

    /// Takes all requests to have come like that: for servers that do nothing but TLS,
    /// and for those behind a mesh that does it for them.
    #[must_use]
    pub fn assume(self, transport: Transport) -> Self {
        self.set(|rule| rule.assumed = Some(transport))
    }

    /// Lets clients on this machine come in cleartext. The peer must be on this machine, too, and if the
    /// request says that it came through a proxy, that proxy must be trusted.
    #[must_use]
    pub fn allow_loopback(self) -> Self {
        self.set(|rule| rule.allow_loopback = true)
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.set(|rule| rule.clients.set(client_ip))
    }

    /// Ends keys that are shown in clear, with the cause
    /// [`CleartextExposure`](crate::keys::EndCause::CleartextExposure): at most so many a
    /// minute from one network. They are looked for where `AuthLayer` does by default.
    ///
    /// # Panics
    /// If the budget is zero.
    #[must_use]
    #[track_caller]
    pub fn burn<S: KeyStore>(self, keys: ApiKeys<S>, per_minute: u32) -> Self {
        literal(self.try_burn(keys, per_minute))
    }

    /// As [`HttpsOnlyLayer::burn`], for a budget from configuration.
    ///
    /// # Errors
    /// Where `burn` panics.
    pub fn try_burn<S: KeyStore>(
        self,
        keys: ApiKeys<S>,
        per_minute: u32,
    ) -> Result<Self, ConfigError> {
        if per_minute == 0 {
            return Err(ConfigError::new("a budget of nothing burns nothing"));
        }
        let rate = Rate::new(per_minute, Duration::from_secs(60), per_minute);
        let claimed = keys.clone();
        let burn = Burn {
            budget: Failures::new(rate, 4_096),
            claims: Box::new(move |text| claimed.claims(text)),
            end: Box::new(move |credential, client, now| {
                let keys = keys.clone();
                // Without a runtime there is nobody to do it; the request is refused anyway.
                let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                    return;
                };
                runtime.spawn(async move {
                    keys.burn(credential.expose(), client, now).await;
                });
            }),
        };
        Ok(self.set(|rule| rule.burn = Some(Arc::new(burn))))
    }

    /// Restyles the body of refusals.
    #[must_use]
    pub fn respond_with(self, respond: impl Respond) -> Self {
        self.set(|rule| {
            rule.voice
                .get_or_insert_default()
                .set(|settings| settings.respond = Some(Arc::new(respond)));
        })
    }

    /// Sets the clock.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|rule| rule.clock = Arc::new(clock))
    }

    fn set(mut self, change: impl FnOnce(&mut Rule)) -> Self {
        change(Arc::make_mut(&mut self.rule));
        self
    }
}

impl fmt::Debug for HttpsOnlyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsOnlyLayer")
            .field("assumed", &self.rule.assumed)
            .field("clients", &self.rule.clients)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for HttpsOnlyLayer {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, Arc::new(self.clone()))
    }
}

impl Policy for HttpsOnlyLayer {
    type Pass = ();
    type Visit = ();

    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<(), Rejection>> {
        let (rule, parts) = (&*self.rule, &mut *call.parts);
        rule.clients.share(parts);
        if rule.assumed == Some(Transport::Tls) {
            return Ok(()).into();
        }
        let client = rule.clients.client(parts);
        if rule.is_secure(&client, parts) {
            return Ok(()).into();
        }
        let transport = rule.assumed.or_else(|| client.transport(parts));
        let cause = if transport.is_some() {
            Cause::PlainTransport
        } else {
            rule.report_unknown(&client, parts);
            Cause::TransportUnknown
        };
        let mut rejection = Rejection::new(Reason::InsecureTransport, cause);
        rejection.showed_nothing = rule.shows_nothing(&client, parts);
        Err(rejection).into()
    }

    fn admit(&self, _: &mut Call<'_>, (): ()) -> Result<(), Rejection> {
        Ok(())
    }

    fn renderer(&self, visit: Option<&()>, _: &mut Rejection) -> Option<&Voice> {
        let rejects = visit.is_none();
        self.rule.voice.as_ref().filter(|_| rejects)
    }
}

impl<B> Leave<B> for HttpsOnlyLayer {
    fn leave(&self, (): (), _: Option<&Rejection>, _: &mut Response<Body<B>>) {}
}

impl Rule {
    fn is_secure(&self, client: &Client, request: &Parts) -> bool {
        self.assumed.is_none()
            && (client.transport(request) == Some(Transport::Tls)
                || self.allow_loopback && client.is_loopback)
    }

    /// Reports once that a request was rejected because its transport is unknown, with the fix.
    fn report_unknown(&self, client: &Client, request: &Parts) {
        if self.reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let (peer, problem) = (client.peer(), client.transport_problem(request));
        tracing::warn!(
            target: "tollgate::auth",
            peer = peer.map(tracing::field::display),
            problem,
            "HttpsOnlyLayer rejects requests whose transport is unknown"
        );
    }

    /// Whether nothing is shown, if anybody wants to know. A key that is shown is to be ended.
    ///
    /// What is done here is done for every credential alike; what depends on it is done
    /// in a task.
    fn shows_nothing(&self, client: &Client, parts: &mut Parts) -> bool {
        let burn = self.burn.as_deref();
        if burn.is_none() && !is_audited(&parts.extensions) {
            return false;
        }
        let rules = TakeRules {
            keep: false,
            max_len: 256,
            logged_too_long: None,
            ignored_schemes: Vec::new(),
            ignored_query_params: Vec::new(),
            shortest: 1,
            schemes: Scheme::ALL.into(),
            extra_schemes: Vec::new(),
            basic: false,
        };
        let claims = |text: &[u8]| burn.is_some_and(|burn| (burn.claims)(text));
        match (take_one(parts, &self.sources, &rules, Some(&claims)), burn) {
            (Ok(None), _) => return true,
            (Ok(Some((credential, _))), Some(burn)) => self.burn(burn, credential, client, parts),
            // What is no credential that anybody would accept may be one all the same.
            (Ok(Some(_)) | Err(_), _) => {}
        }
        false
    }

    /// Ends the key, if a trusted party has explicitly said that it came in cleartext.
    fn burn(&self, burn: &Burn, credential: Credential, client: &Client, request: &Parts) {
        let (Some(address), Some(network)) = (client.address, client.network) else {
            return;
        };
        if !client.is_explicitly_plain(request) {
            return;
        }
        let now = self.clock.now();
        if burn.budget.charge(network, now).is_ok() {
            (burn.end)(credential, address, now);
        }
    }
}
