//! [`AuthLayer`]: the settings of a door.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use crate::auth::authenticate::Authenticate;
use crate::auth::authorization::check_extra_scheme;
use crate::auth::door::{Auth, Door};
use crate::auth::resource::ProtectedResource;
use crate::auth::source::{Source, TakeRules};
use crate::clock::Clock;
use crate::config::{ConfigError, literal};
use crate::credential::Scheme;
use crate::gate::Gate;
use crate::network::{ClientIp, ClientSetting};
use crate::origin::OriginPattern;
use crate::respond::{Respond, Voice};
use crate::scope::ScopeSet;

/// The layer that learns who calls: see the [module](crate::auth).
pub struct AuthLayer<A> {
    door: Arc<Door<A>>,
}

impl<A: Authenticate> AuthLayer<A> {
    /// A door that lets in whom `authenticate` knows: with [`ApiKeys`](crate::ApiKeys),
    /// the holders of keys.
    ///
    /// Credentials are read from `Authorization` (`Bearer` or `ApiKey`) and from
    /// `X-API-Key`; where only tokens are accepted, from `Authorization: Bearer`.
    pub fn new(authenticate: A) -> Self {
        let (schemes, shortest) = (authenticate.schemes().to_vec(), authenticate.shortest());
        let max_len = authenticate.max_credential_len();
        let sources = if schemes.contains(&Scheme::ApiKey) {
            Source::defaults()
        } else {
            vec![Source::authorization()]
        };
        let door = Door {
            authenticate: Arc::new(authenticate),
            sources: Vec::new(),
            varies_by: Vec::new(),
            marks: Vec::new(),
            rules: TakeRules {
                keep: false,
                max_len,
                ignored_schemes: Vec::new(),
                ignored_query_params: Vec::new(),
                shortest,
                schemes,
                extra_schemes: Vec::new(),
                basic: false,
            },
            optional: false,
            optional_for: None,
            allow_preflight: false,
            clock: None,
            voice: Voice::default(),
            request_id: None,
            clients: ClientSetting::default(),
            trusted_origins: Vec::new(),
            stealth: false,
            warn_before_expiry: None,
            hinted_at_cors: Arc::default(),
            reported_cross_site: Arc::default(),
        };
        Self {
            door: Arc::new(door),
        }
        .sources(sources)
    }

    /// Sets where credentials may stand, in the order in which they are looked for. A
    /// request with credentials in two of them is refused.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn sources(self, sources: impl IntoIterator<Item = Source>) -> Self {
        literal(self.try_sources(sources))
    }

    /// As [`AuthLayer::sources`], for sources from configuration.
    ///
    /// # Errors
    /// Where `sources` panics.
    pub fn try_sources(
        self,
        sources: impl IntoIterator<Item = Source>,
    ) -> Result<Self, ConfigError> {
        let sources: Vec<_> = sources.into_iter().collect();
        if sources.is_empty() {
            return Err(ConfigError::new(
                "a credential must be allowed to stand somewhere",
            ));
        }
        Ok(self.set(|door| {
            door.sources = sources;
            door.varies_by = door.sources.iter().map(Source::varies_by).collect();
            door.marks = door.sources.iter().map(Source::mark).collect();
            let mut schemes = door.rules.schemes.clone();
            let is_in_authorization = door.sources.iter().any(Source::is_authorization);
            if !is_in_authorization && schemes.contains(&Scheme::ApiKey) {
                schemes = vec![Scheme::ApiKey];
            }
            let carriers = door.sources.iter();
            let carriers = carriers.filter_map(|source| source.instruction(&schemes));
            let carriers = carriers.collect::<Vec<_>>().join(" or ").into();
            door.voice.set(|settings| {
                settings.schemes = schemes;
                settings.carriers = carriers;
            });
        }))
    }

    /// Lets requests without a credential pass as anonymous.
    ///
    /// They carry no [`Identity`](crate::Identity), and meet no requirement. A request with an invalid
    /// credential is rejected. The query is not searched for credentials, so that the application may
    /// use tokens of its own there.
    #[must_use]
    pub fn optional(self) -> Self {
        self.set(|door| door.optional = true)
    }

    /// Lets some requests without a credential pass as anonymous: those for which `is_optional`
    /// returns `true`. They are treated as with [`AuthLayer::optional`].
    ///
    /// [`Rules::public_routes`](crate::authorize::Rules::public_routes) gives the routes that a set of
    /// rules declares as public.
    #[must_use]
    pub fn optional_for(
        self,
        is_optional: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|door| door.optional_for = Some(Arc::new(is_optional)))
    }

    /// Adds origins of web applications that may use credentials in cookies, such as
    /// `https://app.example.com`, or `https://*.example.com` for all hosts below a domain. Defaults
    /// to the origin of the API itself.
    ///
    /// See [`Source::cookie`] for the requests that are checked.
    ///
    /// # Panics
    /// Panics if one of them is not an origin.
    #[must_use]
    #[track_caller]
    pub fn trusted_origins<I>(self, origins: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        literal(self.try_trusted_origins(origins))
    }

    /// Like [`AuthLayer::trusted_origins`], for values from configuration.
    ///
    /// # Errors
    /// Returns `Err` if one of them is not an origin.
    pub fn try_trusted_origins<I>(self, origins: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let parse = |text: I::Item| {
            let text = text.as_ref();
            OriginPattern::parse(text).map_err(|problem| {
                ConfigError::new(format!(
                    "AuthLayer::trusted_origins: {text:?} is not an origin; {problem}"
                ))
            })
        };
        let origins = origins
            .into_iter()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(self.set(|door| door.trusted_origins.extend(origins)))
    }

    /// Leaves the credential in the request, marked as sensitive, for handlers that
    /// pass it on.
    #[must_use]
    pub fn keep_credential(self) -> Self {
        self.set(|door| door.rules.keep = true)
    }

    /// Accepts credentials in `Authorization` with these schemes too, such as `Token` or `Api-Key`, in
    /// any letter case. Defaults to `Bearer` and `ApiKey`.
    ///
    /// Challenges name `Bearer` and `ApiKey` only.
    ///
    /// # Panics
    /// Panics if a name is not a token, or is that of a scheme with a meaning of its own: `Basic`
    /// (see [`AuthLayer::accept_basic`]), `DPoP`, `Digest`, `Negotiate`.
    #[must_use]
    #[track_caller]
    pub fn accept_schemes<I>(self, schemes: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        literal(self.try_accept_schemes(schemes))
    }

    /// Like [`AuthLayer::accept_schemes`], for names from configuration.
    ///
    /// # Errors
    /// Returns `Err` where `accept_schemes` panics.
    pub fn try_accept_schemes<I>(self, schemes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut names: Vec<Box<str>> = Vec::new();
        for name in schemes {
            check_extra_scheme(name.as_ref())?;
            names.push(name.as_ref().into());
        }
        Ok(self.set(|door| door.rules.extra_schemes.extend(names)))
    }

    /// Accepts API keys as the user name of `Authorization: Basic` (RFC 7617), as in
    /// `curl --user "$KEY:"`. The password must be empty.
    ///
    /// Challenges do not name `Basic`: browsers would ask their users for a password.
    #[must_use]
    pub fn accept_basic(self) -> Self {
        self.set(|door| door.rules.basic = true)
    }

    /// Ignores `Authorization` headers with these schemes, in any letter case, such as `Basic` added by
    /// a proxy. The header stays in the request, marked as sensitive.
    ///
    /// A scheme that is also accepted is not ignored.
    ///
    /// # Panics
    /// Panics if one of them is `Bearer` or `ApiKey`.
    #[must_use]
    #[track_caller]
    pub fn ignore_schemes<'a>(self, schemes: impl IntoIterator<Item = &'a str>) -> Self {
        literal(self.try_ignore_schemes(schemes))
    }

    /// As [`AuthLayer::ignore_schemes`], for schemes from configuration.
    ///
    /// # Errors
    /// Where `ignore_schemes` panics.
    pub fn try_ignore_schemes<'a>(
        self,
        schemes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ConfigError> {
        let schemes: Vec<Box<str>> = schemes.into_iter().map(Into::into).collect();
        let accepted = |name: &str| {
            let mut all = Scheme::ALL.iter();
            all.any(|scheme| scheme.as_str().eq_ignore_ascii_case(name))
        };
        if schemes.iter().any(|name| accepted(name)) {
            return Err(ConfigError::new("a scheme cannot be accepted and ignored"));
        }
        Ok(self.set(|door| door.rules.ignored_schemes = schemes))
    }

    /// Names parameters of the query that belong to the application, such as the `token` of a link to
    /// verify an email address. They are not searched for credentials.
    ///
    /// Without this, a request that needs a credential and has one in its query is rejected with 400
    /// `credential_in_uri`, unless the parameter is a [`Source::query`].
    #[must_use]
    pub fn ignore_query_params<I>(self, names: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let names: Vec<Box<str>> = names.into_iter().map(|name| name.as_ref().into()).collect();
        self.set(|door| door.rules.ignored_query_params.extend(names))
    }

    /// Sets the maximum length of a credential in bytes. Longer credentials are rejected with
    /// 400, unread.
    ///
    /// Defaults to what the authenticator accepts: 8 KiB, or what
    /// [`Jwt::max_len`](crate::auth::jwt::Jwt::max_len) says. It rarely needs to be called: it
    /// does not make an authenticator accept more, and a warning is logged if `bytes` is more
    /// than that. The server in front has a limit for headers too.
    #[must_use]
    pub fn max_credential_len(self, bytes: usize) -> Self {
        let accepted = self.door.authenticate.max_credential_len();
        if bytes > accepted {
            tracing::warn!(
                target: "tollgate",
                bytes,
                accepted,
                "AuthLayer::max_credential_len: the authenticator accepts no credentials of that \
                 length; for tokens call `Jwt::max_len`, which is enough: the layer follows it",
            );
        }
        self.set(|door| door.rules.max_len = bytes)
    }

    /// Lets CORS preflights pass as anonymous: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`. A credential in one is taken out and not judged.
    /// Not needed with a CORS layer outside.
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
    pub fn challenge_scopes<I>(self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        literal(self.try_challenge_scopes(scopes))
    }

    /// As [`AuthLayer::challenge_scopes`], for scopes from configuration.
    ///
    /// # Errors
    /// Where `challenge_scopes` panics.
    pub fn try_challenge_scopes<I>(self, scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let scopes =
            ScopeSet::try_new(scopes).map_err(|error| ConfigError::new(error.to_string()))?;
        Ok(self.set(|door| {
            door.voice
                .set(|settings| settings.challenge_scopes = scopes)
        }))
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
        Ok(self.set(|door| door.voice.set(|settings| settings.realm = realm.into())))
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

    /// As [`AuthLayer::resource_metadata`], for a resource whose metadata is served
    /// beside the API.
    #[must_use]
    pub fn protected_resource(self, resource: &ProtectedResource) -> Self {
        let url = resource.url().into();
        self.set(|door| {
            door.voice
                .set(|settings| settings.resource_metadata = Some(url))
        })
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

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.set(|door| door.clients.set(client_ip))
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
        self.set(|door| door.clock = Some(Arc::new(clock)))
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
