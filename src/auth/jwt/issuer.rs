//! [`Issuer`]: whose tokens are accepted, and which of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::auth::jwt::claims::MOST_SCOPE_CLAIMS;
use crate::auth::jwt::mapping::{Mapping, Path};
use crate::auth::jwt::policy::{Policy, Types};
use crate::auth::jwt::resolve::Resolve;
use crate::auth::jwt::source::Source;
use crate::auth::jwt::{Jwt, Trusted};
use crate::config::ConfigError;
use crate::identity::{Identity, Resolved};
use crate::jwks::{Algorithm, Backend, Keys};
use crate::pending::Pending;

/// An issuer whose tokens are accepted: see [`Jwt::issuer`].
///
/// Strict unless said otherwise: a token must name the issuer and one of the audiences,
/// have a subject and an expiry, and be signed with an algorithm that the key is for.
#[must_use]
pub struct Issuer {
    issuer: Box<str>,
    audiences: Vec<Box<str>>,
    any_audience: bool,
    keys: Keys,
    algorithms: Option<Vec<Algorithm>>,
    backend: Backend,
    types: Vec<Box<str>>,
    rfc9068: bool,
    must_expire: bool,
    leeway: Duration,
    max_age: Option<Duration>,
    max_lifetime: Option<Duration>,
    mapping: Mapping,
    resolve: Option<Arc<Resolve>>,
}

impl Issuer {
    /// Tokens with exactly this `iss`. The keys are found by discovery from it, unless
    /// they are given.
    pub fn new(issuer: impl Into<Box<str>>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: Vec::new(),
            any_audience: false,
            keys: Keys::default(),
            algorithms: None,
            backend: Backend::default(),
            types: vec!["at+jwt".into(), "JWT".into()],
            rfc9068: false,
            must_expire: true,
            leeway: Duration::from_secs(30),
            max_age: None,
            max_lifetime: None,
            mapping: Mapping {
                scopes: vec!["scope".into(), "scp".into(), "permissions".into()],
                roles: Vec::new(),
                tenant: None,
                plan: None,
                is_application: None,
            },
            resolve: None,
        }
    }

    /// Accepts tokens for this audience; may be called for several. It is usually the
    /// URL of the API, and compared byte by byte.
    pub fn audience(mut self, audience: impl Into<Box<str>>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Accepts tokens whoever they are for. Whoever is sent a token by one of the
    /// issuer's users, any other API among it, can then use it here.
    pub fn dangerous_accept_any_audience(mut self) -> Self {
        self.any_audience = true;
        self
    }

    /// Accepts tokens without `exp`, which are good for ever.
    pub fn dangerous_accept_without_expiry(mut self) -> Self {
        self.must_expire = false;
        self
    }

    /// Verifies with these keys: a [`KeySet`](crate::jwks::KeySet), or
    /// [`RemoteKeys`](crate::jwks::RemoteKeys).
    pub fn keys(mut self, keys: impl Into<Keys>) -> Self {
        self.keys = keys.into();
        self
    }

    /// Accepts these algorithms only. Unless set, they are those of the keys, if they
    /// are secrets, and [`Algorithm::ASYMMETRIC`] else. An issuer has secrets or public keys,
    /// and never both (RFC 8725 §2.1).
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        self.algorithms = Some(algorithms.into_iter().collect());
        self
    }

    /// Checks signatures with that library.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Accepts what RFC 9068 describes and nothing else: `typ` must be `at+jwt`, and
    /// `client_id`, `iat` and `jti` must be there too.
    pub fn rfc9068(mut self) -> Self {
        self.types = vec!["at+jwt".into()];
        self.rfc9068 = true;
        self
    }

    /// Accepts tokens whose `typ` is one of these, or which have none. Unless set,
    /// `at+jwt` and `JWT`; tokens of another type that the same keys sign, such as
    /// `dpop+jwt` or `logout+jwt`, are no access tokens.
    pub fn types<'a>(mut self, types: impl IntoIterator<Item = &'a str>) -> Self {
        self.types = types.into_iter().map(Box::from).collect();
        self
    }

    /// Sets by how much clocks may differ: 30 s unless set, 5 min at the most.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Refuses tokens that were issued longer ago, and those without `iat`.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Refuses tokens that are good for longer, from `iat` to `exp`.
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = Some(lifetime);
        self
    }

    /// Reads scopes from these claims: a string of scopes with spaces between, or an array
    /// of them. Unless set, `scope`, `scp` and `permissions`.
    pub fn scopes_from<'a>(mut self, claims: impl IntoIterator<Item = &'a str>) -> Self {
        self.mapping.scopes = claims.into_iter().map(Box::from).collect();
        self
    }

    /// Reads roles from this claim: a string, or an array of them. A path leads into
    /// nested objects: `["realm_access", "roles"]`. May be called for several.
    pub fn roles_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.mapping.roles.push(Path::new(path));
        self
    }

    /// Reads the tenant from this claim: a string.
    pub fn tenant_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.mapping.tenant = Some(Path::new(path));
        self
    }

    /// Reads the plan from this claim: a string.
    pub fn plan_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.mapping.plan = Some(Path::new(path));
        self
    }

    /// Says whether a token was issued to an application for itself. Unless set, it was
    /// if `sub` is `client_id`.
    pub fn application_if(
        mut self,
        predicate: impl Fn(&Map<String, Value>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.mapping.is_application = Some(Arc::new(predicate));
        self
    }

    /// Asks this hook about every good token: it may add what it knows, or refuse. It is
    /// asked about each request, also where the token was verified before.
    ///
    /// ```
    /// use tollgate::Identity;
    /// use tollgate::auth::jwt::Issuer;
    /// use tollgate::identity::Resolved;
    ///
    /// async fn plan_of(subject: &str) -> Result<Option<String>, std::io::Error> {
    ///     Ok((subject != "suspended").then(|| "pro".into()))
    /// }
    ///
    /// let issuer = Issuer::new("https://id.example.com/").resolve_with(async |identity: Identity| {
    ///     match plan_of(identity.subject()).await {
    ///         Ok(Some(plan)) => Resolved::Known(identity.to_builder().plan(plan).build()),
    ///         Ok(None) => Resolved::Denied,
    ///         Err(_) => Resolved::Unavailable,
    ///     }
    /// });
    /// ```
    pub fn resolve_with<F>(mut self, hook: impl Fn(Identity) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output: Into<Resolved>> + Send + 'static,
    {
        self.resolve = Some(Arc::new(move |identity| {
            let resolved = hook(identity);
            Pending::later(async move { resolved.await.into() })
        }));
        self
    }

    /// Accepts the tokens of this issuer and of no other.
    ///
    /// # Errors
    /// See [`Jwt::issuers`].
    pub fn build(self) -> Result<Jwt, ConfigError> {
        Jwt::issuers([self])
    }

    pub(super) fn trusted(self) -> Result<Trusted, ConfigError> {
        self.check()?;
        let algorithms = self.accepted_algorithms()?;
        let source = Source::new(self.keys, &self.issuer, &algorithms, self.backend)?;
        let policy = Policy {
            issuer: Arc::from(self.issuer),
            audiences: (!self.any_audience).then_some(self.audiences),
            algorithms,
            types: Types {
                accepted: self.types,
                required: self.rfc9068,
            },
            rfc9068: self.rfc9068,
            must_expire: self.must_expire,
            leeway: self.leeway,
            max_age: self.max_age,
            max_lifetime: self.max_lifetime,
        };
        Ok(Trusted {
            policy,
            mapping: self.mapping,
            source,
            resolve: self.resolve,
            misspelled: AtomicBool::new(false),
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let zero = |setting: Option<Duration>| setting.is_some_and(|setting| setting.is_zero());
        let mistake = if self.issuer.is_empty() {
            "an issuer has a name"
        } else if self.any_audience != self.audiences.is_empty() {
            "tokens are for an audience, or dangerously for any, and not both"
        } else if self.audiences.iter().any(|audience| audience.is_empty()) {
            "an audience has a name"
        } else if self.leeway > MOST_LEEWAY {
            "clocks may differ by 5 minutes at the most"
        } else if zero(self.max_age) || zero(self.max_lifetime) {
            "no token is good for no time at all"
        } else if self.mapping.scopes.len() > MOST_SCOPE_CLAIMS {
            "scopes are in 22 claims at the most"
        } else if self.types.is_empty() {
            "tokens have a type"
        } else {
            return Ok(());
        };
        Err(ConfigError::new(mistake))
    }

    fn accepted_algorithms(&self) -> Result<Vec<Algorithm>, ConfigError> {
        let secret = |algorithm: &Algorithm| algorithm.least_secret().is_some();
        let refused = |reason: &str| {
            let issuer = &self.issuer;
            ConfigError::new(format!("Jwt::issuer({issuer:?}): {reason}"))
        };
        let secrets = self.keys.secret_algorithms().ok_or_else(|| {
            // RFC 8725 §2.1.
            refused(
                "the keys are HMAC secrets and public keys, so that a public key could be used \
                 as a secret; call `.keys(..)` with one kind: with the public keys \
                 (`KeySet::from_jwks`, which leaves secrets out, or `KeySet::from_pem`), or with \
                 the secret (`KeySet::from_secret`, or `KeySet::from_jwk` for a JWK)",
            )
        })?;
        let accepted = match &self.algorithms {
            Some(algorithms) => algorithms.clone(),
            None if secrets.is_empty() => Algorithm::ASYMMETRIC.into(),
            None => secrets,
        };
        if accepted.is_empty() {
            return Err(ConfigError::new("an issuer signs with some algorithm"));
        }
        let is_secret = accepted.iter().any(secret);
        if is_secret && !accepted.iter().all(secret) {
            let names: Vec<_> = accepted.iter().map(|named| named.as_str()).collect();
            return Err(refused(&format!(
                "`.algorithms([{}])` has algorithms for secrets and for public keys; call \
                 `.algorithms(..)` with one kind",
                names.join(", "),
            )));
        }
        if is_secret && self.keys.is_public() {
            return Err(refused(
                "HS256, HS384 and HS512 need a secret, and keys that are fetched are public; call \
                 `.keys(KeySet::from_secret(..))`, or leave these algorithms out of \
                 `.algorithms(..)`",
            ));
        }
        Ok(accepted)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

const MOST_LEEWAY: Duration = Duration::from_secs(300);
