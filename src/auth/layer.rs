//! [`AuthLayer`], and the check that it makes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, ORIGIN, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use tower_layer::Layer;

use crate::auth::authenticate::{Answer, Authenticate};
use crate::auth::source::{Rules, Source, take_one};
use crate::auth::throttle::Reservation;
use crate::body::Body;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{ConfigError, literal};
use crate::context::Anonymous;
use crate::credential::Scheme;
use crate::gate::{Check, Gate, Stamp};
use crate::identity::Identity;
use crate::network::ClientNetwork;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::respond::{CREDENTIAL_EXPIRATION, Respond, Voice};
use crate::scope::ScopeSet;

/// The layer that learns who calls: see the [module](crate::auth).
pub struct AuthLayer<A> {
    door: Arc<Door<A>>,
}

/// The settings of an [`AuthLayer`], shared by all services that it made.
struct Door<A> {
    authenticate: Arc<A>,
    sources: Vec<Source>,
    /// By source: the field that answers vary by.
    varies_by: Vec<Option<HeaderValue>>,
    rules: Rules,
    optional: bool,
    allow_preflight: bool,
    clock: Arc<dyn Clock>,
    voice: Voice,
    request_id: Option<Arc<RequestId>>,
    clients: ClientNetwork,
    stealth: bool,
    warn_before_expiry: Option<Duration>,
}

type RequestId = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl<A: Authenticate> AuthLayer<A> {
    /// A door that lets in whom `authenticate` knows: with [`ApiKeys`](crate::ApiKeys),
    /// the holders of keys.
    ///
    /// Credentials are read from `Authorization` (`Bearer` or `ApiKey`) and from
    /// `X-API-Key`.
    pub fn new(authenticate: A) -> Self {
        let door = Door {
            authenticate: Arc::new(authenticate),
            sources: Vec::new(),
            varies_by: Vec::new(),
            rules: Rules {
                keep: false,
                max_len: 8 * 1024,
                ignored_schemes: Vec::new(),
            },
            optional: false,
            allow_preflight: false,
            clock: Arc::new(SystemClock),
            voice: Voice::default(),
            request_id: None,
            clients: ClientNetwork::peer(),
            stealth: false,
            warn_before_expiry: None,
        };
        Self {
            door: Arc::new(door),
        }
        .sources(Source::defaults())
    }

    /// Sets where credentials may stand, in the order in which they are looked for. A
    /// request with credentials in two of them is refused.
    #[must_use]
    pub fn sources(self, sources: impl IntoIterator<Item = Source>) -> Self {
        self.set(|door| {
            door.sources = sources.into_iter().collect();
            door.varies_by = door.sources.iter().map(Source::varies_by).collect();
            let schemes = if door.sources.iter().any(Source::is_authorization) {
                Scheme::ALL.into()
            } else {
                vec![Scheme::ApiKey]
            };
            door.voice.set(|settings| settings.schemes = schemes);
        })
    }

    /// Lets requests without a credential pass as anonymous: no [`Identity`] is put
    /// into them, and no requirement holds for them. A credential that is not good is
    /// refused all the same.
    #[must_use]
    pub fn optional(self) -> Self {
        self.set(|door| door.optional = true)
    }

    /// Leaves the credential in the request, marked as sensitive, for handlers that
    /// pass it on.
    #[must_use]
    pub fn keep_credential(self) -> Self {
        self.set(|door| door.rules.keep = true)
    }

    /// Reads over `Authorization` in these schemes, in any letter case, as if it were
    /// not there: for proxies that log in for themselves.
    #[must_use]
    pub fn ignore_schemes<'a>(self, schemes: impl IntoIterator<Item = &'a str>) -> Self {
        self.set(|door| {
            door.rules.ignored_schemes = schemes.into_iter().map(Into::into).collect();
        })
    }

    /// Sets how many bytes a credential may have: 8 KiB unless set. What is longer is
    /// refused before it is looked at.
    #[must_use]
    pub fn max_credential_len(self, bytes: usize) -> Self {
        self.set(|door| door.rules.max_len = bytes)
    }

    /// Lets CORS preflights pass as anonymous: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`. Not needed with a CORS layer outside.
    #[must_use]
    pub fn allow_preflight(self) -> Self {
        self.set(|door| door.allow_preflight = true)
    }

    /// Names the scopes that a client without a credential should ask for: the
    /// `scope` of the challenge (RFC 6750 §3).
    ///
    /// # Panics
    /// If one of them is none: see [`ScopeSet::try_new`].
    #[must_use]
    #[track_caller]
    pub fn advertise<I>(self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        literal(self.try_advertise(scopes))
    }

    /// As [`AuthLayer::advertise`], for scopes from configuration.
    ///
    /// # Errors
    /// Where `advertise` panics.
    pub fn try_advertise<I>(self, scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let scopes =
            ScopeSet::try_new(scopes).map_err(|error| ConfigError::new(error.to_string()))?;
        Ok(self.set(|door| door.voice.set(|settings| settings.advertised = scopes)))
    }

    /// Sets the realm of the challenges: `api` unless set.
    ///
    /// # Panics
    /// If it has characters other than printable ASCII, or `"` or `\`.
    #[must_use]
    #[track_caller]
    pub fn realm(self, realm: &str) -> Self {
        literal(self.try_realm(realm))
    }

    /// As [`AuthLayer::realm`], for a realm from configuration.
    ///
    /// # Errors
    /// Where `realm` panics.
    pub fn try_realm(self, realm: &str) -> Result<Self, ConfigError> {
        let realm = quotable(realm)?;
        Ok(self.set(|door| door.voice.set(|settings| settings.realm = realm)))
    }

    /// Sets the `resource_metadata` of the challenges (RFC 9728 §5.1): where clients
    /// learn how to log in.
    ///
    /// # Panics
    /// If it is not an absolute `http` or `https` URL.
    #[must_use]
    #[track_caller]
    pub fn resource_metadata(self, url: &str) -> Self {
        literal(self.try_resource_metadata(url))
    }

    /// As [`AuthLayer::resource_metadata`], for a URL from configuration.
    ///
    /// # Errors
    /// Where `resource_metadata` panics.
    pub fn try_resource_metadata(self, url: &str) -> Result<Self, ConfigError> {
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(ConfigError::new(
                "the URL of resource metadata must be absolute",
            ));
        }
        let url = quotable(url)?;
        Ok(self.set(|door| {
            door.voice
                .set(|settings| settings.resource_metadata = Some(url))
        }))
    }

    /// Sets what the `type` of a problem document starts with; the code follows it. It
    /// points into the documentation of this crate unless set.
    #[must_use]
    pub fn problem_base(self, url: impl Into<Box<str>>) -> Self {
        self.set(|door| {
            door.voice
                .set(|settings| settings.problem_base = url.into())
        })
    }

    /// Restyles the body of refusals, those of all gates inside this layer included.
    /// See [`Respond`].
    #[must_use]
    pub fn respond_with(self, respond: impl Respond) -> Self {
        self.set(|door| {
            door.voice
                .set(|settings| settings.respond = Some(Arc::new(respond)))
        })
    }

    /// Says how to read the id that the server gave to a request, to be shown in the
    /// body of refusals. Read it from an extension that the server has set: header
    /// fields are the client's, and must not be sent back.
    #[must_use]
    pub fn request_id(
        self,
        read: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.set(|door| door.request_id = Some(Arc::new(read)))
    }

    /// Sets how the address of a client is found, for keys that are restricted to
    /// networks: the peer of the connection unless set.
    #[must_use]
    pub fn client_network(self, clients: ClientNetwork) -> Self {
        self.set(|door| door.clients = clients)
    }

    /// Answers a key that may not be used from there, or like that, as if it were no
    /// key: so that nobody learns that they hold a good one.
    #[must_use]
    pub fn hide_restrictions(self) -> Self {
        self.set(|door| door.stealth = true)
    }

    /// Tells callers when their credential ends, from that long before: in the response
    /// field `Credential-Expiration`, an HTTP date. For a key that has a successor it is
    /// the end of its grace.
    #[must_use]
    pub fn warn_before_expiry(self, window: Duration) -> Self {
        self.set(|door| door.warn_before_expiry = Some(window))
    }

    /// Sets the clock that credentials are judged by.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|door| door.clock = Arc::new(clock))
    }

    fn set(mut self, change: impl FnOnce(&mut Door<A>)) -> Self {
        change(Arc::make_mut(&mut self.door));
        self
    }
}

impl<A> Clone for AuthLayer<A> {
    fn clone(&self) -> Self {
        Self {
            door: Arc::clone(&self.door),
        }
    }
}

impl<A> fmt::Debug for AuthLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer")
            .field("sources", &self.door.sources)
            .field("optional", &self.door.optional)
            .finish_non_exhaustive()
    }
}

impl<A, S> Layer<S> for AuthLayer<A> {
    type Service = Gate<S, Auth<A>>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(
            inner,
            Auth {
                door: Arc::clone(&self.door),
            },
        )
    }
}

impl<A> Clone for Door<A> {
    fn clone(&self) -> Self {
        Self {
            authenticate: Arc::clone(&self.authenticate),
            sources: self.sources.clone(),
            varies_by: self.varies_by.clone(),
            rules: self.rules.clone(),
            optional: self.optional,
            allow_preflight: self.allow_preflight,
            clock: Arc::clone(&self.clock),
            voice: self.voice.clone(),
            request_id: self.request_id.clone(),
            clients: self.clients.clone(),
            stealth: self.stealth,
            warn_before_expiry: self.warn_before_expiry,
        }
    }
}

/// The check of an [`AuthLayer`].
pub struct Auth<A> {
    door: Arc<Door<A>>,
}

impl<A> Clone for Auth<A> {
    fn clone(&self) -> Self {
        Self {
            door: Arc::clone(&self.door),
        }
    }
}

impl<A> fmt::Debug for Auth<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

/// What was found out about a request that may pass.
#[derive(Debug)]
pub struct Shown {
    identity: Option<Identity>,
    /// The source that the credential was found in.
    source: Option<usize>,
    request_id: Option<Arc<str>>,
}

impl<A: Authenticate> Check for Auth<A> {
    type Pass = Shown;
    type Stamp = DoorStamp<A>;

    fn check(&self, parts: &mut Parts) -> Pending<Result<Shown, Rejection>> {
        let door = &*self.door;
        let request_id = door
            .request_id
            .as_ref()
            .and_then(|read| read(parts))
            .map(Arc::from);
        let anonymous = Shown {
            identity: None,
            source: None,
            request_id,
        };
        let refuse = |rejection: Rejection, request_id: Option<Arc<str>>| {
            Pending::Ready(Err(rejection.with_request_id(request_id)))
        };
        if door.allow_preflight && is_preflight(parts) {
            return Ok(anonymous).into();
        }
        let found = take_one(parts, &door.sources, &door.rules, |text| {
            door.authenticate.claims(text)
        });
        let (credential, source) = match found {
            Ok(Some(found)) => found,
            Ok(None) => match nested(parts) {
                Some(mistake) => return refuse(mistake, anonymous.request_id),
                None if door.optional => return Ok(anonymous).into(),
                None => {
                    let missing = Rejection::new(Reason::CredentialsMissing, Cause::NothingShown);
                    return refuse(missing, anonymous.request_id);
                }
            },
            Err(rejection) => return refuse(rejection, anonymous.request_id),
        };
        let (scheme, now) = (credential.scheme(), door.clock.now());
        let pass = Shown {
            source: Some(source),
            ..anonymous
        };
        let conclude = move |verdict: Result<Identity, Rejection>| match verdict {
            Ok(identity) => Ok(Shown {
                identity: Some(identity.shown(scheme, now)),
                ..pass
            }),
            Err(mut rejection) => {
                rejection.scheme = Some(scheme);
                Err(rejection.with_request_id(pass.request_id))
            }
        };
        match door.authenticate.authenticate(&credential, now) {
            Answer::Mine(Pending::Ready(verdict)) => conclude(verdict).into(),
            Answer::Mine(Pending::Later(verdict)) => {
                Pending::later(async move { conclude(verdict.await) })
            }
            Answer::NotMine => {
                let nobody = Rejection::new(Reason::CredentialInvalid, Cause::Unclaimed);
                conclude(Err(nobody)).into()
            }
        }
    }

    fn admit(&self, parts: &mut Parts, pass: Shown) -> Result<DoorStamp<A>, Rejection> {
        let Shown {
            identity,
            source,
            request_id,
        } = pass;
        let door = &*self.door;
        let mut stamp = DoorStamp {
            door: Arc::clone(&self.door),
            scheme: None,
            source,
            request_id,
            expiration: None,
        };
        let Some(identity) = identity else {
            parts.extensions.remove::<Identity>();
            parts.extensions.insert(Anonymous);
            return Ok(stamp);
        };
        if let Some(restrictions) = identity.restrictions()
            && !restrictions.admit(door.clients.address(parts), parts)
        {
            let hidden = Reason::CredentialInvalid;
            let reason = if door.stealth {
                hidden
            } else {
                Reason::SourceNotAllowed
            };
            let mut rejection = Rejection::new(reason, Cause::Restricted);
            rejection.scheme = identity.scheme;
            return Err(rejection.with_request_id(stamp.request_id));
        }
        stamp.scheme = identity.scheme;
        stamp.expiration = door.warn_before_expiry.and_then(|window| {
            identity
                .expires_at()
                .filter(|end| end.since(identity.judged_at) <= window)
        });
        if let Some(reservation) = parts.extensions.remove::<Reservation>() {
            reservation.give_back();
        }
        parts.extensions.insert(identity);
        Ok(stamp)
    }

    fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        self.door.voice.answer(rejection)
    }
}

/// What a door does to the response of a request that it let in.
pub struct DoorStamp<A> {
    door: Arc<Door<A>>,
    scheme: Option<Scheme>,
    source: Option<usize>,
    request_id: Option<Arc<str>>,
    /// When the credential ends, if that is to be told.
    expiration: Option<Timestamp>,
}

impl<A> fmt::Debug for DoorStamp<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorStamp")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl<A> Stamp for DoorStamp<A> {
    fn apply<B>(self, response: &mut Response<Body<B>>) {
        if !response.status().is_success() {
            self.door
                .voice
                .speak_for_inner(response, self.scheme, self.request_id);
        }
        if let Some(end) = self.expiration
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(end.into()))
        {
            response.headers_mut().insert(CREDENTIAL_EXPIRATION, date);
        }
        let Some(source) = self.source else { return };
        if !self.door.sources[source].is_authorization() {
            keep_caches_off(response.headers_mut(), self.door.varies_by[source].as_ref());
        }
    }
}

/// RFC 9111 protects answers to `Authorization` only.
fn keep_caches_off(headers: &mut HeaderMap, varies_by: Option<&HeaderValue>) {
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    let Some(field) = varies_by else { return };
    let names_it = |line: &HeaderValue| {
        line.as_bytes().split(|byte| *byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(field.as_bytes())
        })
    };
    if !headers.get_all(VARY).iter().any(names_it) {
        headers.append(VARY, field.clone());
    }
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The mistake that explains why there is no credential, if it is one.
fn nested(parts: &Parts) -> Option<Rejection> {
    parts.extensions.get::<Identity>()?.scheme?;
    Some(Rejection::misconfigured(
        "an AuthLayer stands inside another one, which has taken the credential out of the \
         request: use one for all, or keep_credential() on the outer one",
    ))
}

/// A text that can stand in a quoted string as it is.
fn quotable(text: &str) -> Result<Box<str>, ConfigError> {
    if text
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
    {
        return Ok(text.into());
    }
    Err(ConfigError::new(
        "a parameter of a challenge is printable ASCII without `\"` and `\\`",
    ))
}
