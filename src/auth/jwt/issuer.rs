//! [`Issuer`]: whose tokens are accepted, and which of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::auth::jwt::Jwt;
use crate::auth::jwt::claims::{MOST_SCOPE_CLAIMS, is_reserved};
use crate::auth::jwt::configured::{ClaimPath, RolesClaim};
use crate::auth::jwt::mapping::Mapping;
use crate::auth::jwt::policy::{Policy, Types};
use crate::auth::jwt::resolve::Resolve;
use crate::auth::jwt::source::Source;
use crate::auth::jwt::trusted::Trusted;
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
    ///
    /// A warning is logged once if a token with a good signature is rejected whose `aud` differs
    /// only by a trailing slash, `http` in place of `https`, or letter case.
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

    /// Reads scopes from these claims. Defaults to `scope`, `scp` and `permissions`. At most 22.
    ///
    /// A claim is a string of scopes with spaces between, or an array of strings. A claim in any
    /// other form grants no scopes, and neither does an array with anything but strings in it. The
    /// other claims still count.
    pub fn scopes_from<'a>(mut self, claims: impl IntoIterator<Item = &'a str>) -> Self {
        self.mapping.scopes = claims.into_iter().map(Box::from).collect();
        self
    }

    /// Adds a claim to read roles from.
    ///
    /// The path leads into nested objects: `["realm_access", "roles"]`. A string is one role, an
    /// array of strings is a list of roles, and an integer is a role by its decimal digits. Call
    /// it with a [`RolesClaim`] to read object keys or several roles from one string.
    ///
    /// `null` is the same as an absent claim: the token grants no roles through it, and its roles
    /// are [unknown](Identity::is_known), so that `!role("suspended")` is not met. A token is
    /// rejected if the claim has any other form, if a member on the path is not an object, or if a
    /// role is empty, is longer than 256 bytes, has control characters, or starts or ends with
    /// whitespace.
    pub fn roles_from(mut self, claim: impl Into<RolesClaim>) -> Self {
        self.mapping.roles.push(claim.into());
        self
    }

    /// Sets the claim to read the tenant from.
    ///
    /// The path leads into nested objects: `["org", "id"]`. The tenant is a string, an integer
    /// (by its decimal digits), or the only string of an array. `null` is the same as an absent
    /// claim: the tenant is [unknown](Identity::is_known). A token is rejected if the claim has any
    /// other form, if a member on the path is not an object, or if the tenant is empty, is longer
    /// than 256 bytes, has control characters, or starts or ends with whitespace.
    pub fn tenant_from(mut self, path: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.mapping.tenant = Some(ClaimPath::new(path));
        self
    }

    /// Sets the claim to read the plan from. Its forms are those of [`Issuer::tenant_from`].
    pub fn plan_from(mut self, path: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.mapping.plan = Some(ClaimPath::new(path));
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
            audience_misspelled: AtomicBool::new(false),
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        match self.mistake() {
            Some(mistake) if self.issuer.is_empty() => Err(ConfigError::new(mistake)),
            Some(mistake) => Err(self.error(&mistake)),
            None => Ok(()),
        }
    }

    fn error(&self, mistake: &str) -> ConfigError {
        ConfigError::new(format!("Jwt::issuer({:?}): {mistake}", self.issuer))
    }

    /// The first setting that cannot work, and what to do.
    fn mistake(&self) -> Option<String> {
        if self.issuer.is_empty() {
            let text = "Jwt::issuer(\"\"): the issuer must not be empty; call it with the `iss` of \
                        the tokens";
            return Some(text.into());
        }
        if let Some((before, after)) = METADATA
            .iter()
            .find_map(|path| self.issuer.split_once(path))
        {
            return Some(format!(
                "this is the URL of the metadata; call it with the `issuer` that stands in this \
                 document, probably {:?}",
                format!("{before}{after}")
            ));
        }
        if self.audiences.is_empty() && !self.any_audience {
            let text = "no audience was set; call `.audience(\"https://api.example.com\")`, or \
                        `.dangerous_accept_any_audience()` to accept tokens issued for other APIs";
            return Some(text.into());
        }
        if self.any_audience
            && let Some(audience) = self.audiences.first()
        {
            return Some(format!(
                "both `.audience({audience:?})` and `.dangerous_accept_any_audience()` were \
                 called; remove one of them"
            ));
        }
        if self.audiences.iter().any(|audience| audience.is_empty()) {
            let text = "`.audience(\"\")` is empty; call it with the `aud` of the tokens, usually \
                        the URL of this API";
            return Some(text.into());
        }
        if self.leeway > MOST_LEEWAY {
            return Some(format!(
                "`.leeway({:?})` is more than 5 minutes; synchronize the clocks and call it with \
                 at most 300 s",
                self.leeway
            ));
        }
        for (setting, value) in [
            ("max_age", self.max_age),
            ("max_lifetime", self.max_lifetime),
        ] {
            if value.is_some_and(|value| value.is_zero()) {
                return Some(format!(
                    "`.{setting}(0s)` would reject every token; call it with more than zero, or \
                     leave it out"
                ));
            }
        }
        if self.types.is_empty() {
            let text = "`.types([])` would reject every token with a `typ`; call it with the types \
                        of access tokens, such as `at+jwt`, or leave it out";
            return Some(text.into());
        }
        self.mistake_of_claims()
    }

    fn mistake_of_claims(&self) -> Option<String> {
        let Mapping {
            scopes,
            roles,
            tenant,
            plan,
            ..
        } = &self.mapping;
        if scopes.len() > MOST_SCOPE_CLAIMS {
            return Some(format!(
                "`.scopes_from(..)` has {} claims; call it with at most {MOST_SCOPE_CLAIMS}",
                scopes.len()
            ));
        }
        if let Some(reserved) = scopes.iter().find(|claim| is_reserved(claim)) {
            return Some(format!(
                "`.scopes_from([{reserved:?}])`: the claim has another meaning; call it with the \
                 claims that hold scopes, such as `scope`"
            ));
        }
        let roles = roles.iter().map(|claim| ("roles_from", &claim.path));
        let tenant = tenant.iter().map(|path| ("tenant_from", path));
        let plan = plan.iter().map(|path| ("plan_from", path));
        let mut paths = roles.chain(tenant).chain(plan);
        let (setting, _) = paths.find(|(_, path)| path.is_invalid())?;
        Some(format!(
            "`.{setting}(..)`: the path is empty or has an empty name; call it with the names of \
             members, from the outside in, such as [\"realm_access\", \"roles\"]"
        ))
    }

    fn accepted_algorithms(&self) -> Result<Vec<Algorithm>, ConfigError> {
        let secret = |algorithm: &Algorithm| algorithm.least_secret().is_some();
        let refused = |reason: &str| self.error(reason);
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
            return Err(refused(
                "`.algorithms([])` would reject every token; call it with the algorithms of the \
                 keys, or leave it out",
            ));
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

/// Where the metadata of issuers is.
const METADATA: [&str; 2] = [
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
];
const MOST_LEEWAY: Duration = Duration::from_secs(300);
