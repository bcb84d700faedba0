//! [`TestIssuer`]: an authority in this process, that signs tokens for tests.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tower_service::Service;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::jwks::{Algorithm, KeySet};
use crate::testing::signer::Signer;

/// An issuer of tokens with keys of its own: for tests of what stands behind
/// [`Jwt`](crate::auth::jwt::Jwt), and for trying it out. Clones are the same issuer.
///
/// It is also a service that answers as the issuer's server would, with its metadata
/// (OpenID Connect discovery, RFC 8414) and its key set at `/jwks.json`: mount it in a router,
/// or hand it to [`RemoteKeys::client`](crate::jwks::RemoteKeys::client) and do without a
/// server.
///
/// ```
/// use tollgate::auth::jwt::Jwt;
/// use tollgate::testing::TestIssuer;
///
/// let authority = TestIssuer::new("https://id.example.com/");
/// let jwt = Jwt::issuer(authority.url())
///     .audience("https://api.example.com")
///     .keys(authority.keys())
///     .build()?;
/// let token = authority
///     .token("ann")
///     .audience("https://api.example.com")
///     .scopes(["orders:read"])
///     .sign();
/// assert_eq!(token.split('.').count(), 3);
/// # Ok::<(), tollgate::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct TestIssuer {
    state: Arc<Mutex<State>>,
    url: Arc<str>,
    clock: Arc<dyn Clock>,
}

struct State {
    algorithm: Algorithm,
    /// The last one signs.
    keys: Vec<(String, Arc<Signer>)>,
    made: usize,
    is_down: bool,
}

impl TestIssuer {
    /// An issuer of that name, with one key for ES256.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self::with_algorithm(url, Algorithm::Es256)
    }

    /// An issuer with one key for that algorithm: ES256, EdDSA, HS256 or, with the
    /// feature `jwt`, RS256.
    ///
    /// # Panics
    /// If it is another one.
    #[must_use]
    #[track_caller]
    pub fn with_algorithm(url: &str, algorithm: Algorithm) -> Self {
        let state = State {
            algorithm,
            keys: Vec::new(),
            made: 0,
            is_down: false,
        };
        let issuer = Self {
            state: Arc::new(Mutex::new(state)),
            url: url.into(),
            clock: Arc::new(SystemClock),
        };
        issuer.rotate();
        issuer
    }

    /// Sets the clock that tokens are dated by.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Its `iss`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes another key, which signs from now on. The others stay in the set.
    ///
    /// # Panics
    /// If there is no randomness.
    #[track_caller]
    pub fn rotate(&self) {
        let mut state = self.state();
        let signer = Signer::generate(state.algorithm);
        state.made += 1;
        let kid = format!("key-{}", state.made);
        state.keys.push((kid, Arc::new(signer)));
    }

    /// Replaces the key that signs with a new one under the same `kid`, as some issuers do.
    ///
    /// # Panics
    /// Panics if the system has no randomness.
    #[track_caller]
    pub fn replace_key(&self) {
        let mut state = self.state();
        let signer = Arc::new(Signer::generate(state.algorithm));
        if let Some((_, last)) = state.keys.last_mut() {
            *last = signer;
        }
    }

    /// Takes all keys out of the set but the one that signs.
    pub fn withdraw_old(&self) {
        let mut state = self.state();
        let all = state.keys.len();
        state.keys.drain(..all.saturating_sub(1));
    }

    /// Answers 503 to whoever asks for its keys, or stops doing so.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// The JWK Set, as it would be served. The secret of HS256 is in no set.
    #[must_use]
    pub fn jwks(&self) -> String {
        let state = self.state();
        let keys = state.keys.iter().filter_map(|(kid, signer)| {
            let mut jwk = signer.public_jwk()?;
            jwk["kid"] = json!(kid);
            jwk["alg"] = json!(state.algorithm.as_str());
            jwk["use"] = json!("sig");
            Some(jwk)
        });
        json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
    }

    /// The keys as they are now, for an issuer that is asked nothing later.
    ///
    /// # Panics
    /// Never: it has made them.
    #[must_use]
    pub fn keys(&self) -> KeySet {
        let state = self.state();
        if let Some((kid, signer)) = state.keys.last()
            && let Some(secret) = signer.secret()
        {
            let keys = KeySet::from_secret(state.algorithm, secret);
            return keys.expect("the secret is long enough").kid(kid);
        }
        drop(state);
        KeySet::from_jwks(self.jwks()).expect("the keys are good")
    }

    /// Starts a token about that subject: issued now, and good for 5 minutes.
    pub fn token(&self, subject: &str) -> TokenBuilder {
        let state = self.state();
        let (kid, signer) = state.keys.last().expect("there is always one");
        let now = self.clock.now();
        let mut header = Map::new();
        header.insert("typ".into(), json!("at+jwt"));
        header.insert("alg".into(), json!(state.algorithm.as_str()));
        header.insert("kid".into(), json!(kid));
        let builder = TokenBuilder {
            header,
            claims: Map::new(),
            signer: Arc::clone(signer),
            now,
        };
        builder
            .claim("iss", &*self.url)
            .claim("sub", subject)
            .claim("iat", now.unix_seconds())
            .expires_in(Duration::from_secs(300))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Service<Request<B>> for TestIssuer {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let is_metadata = path.contains("/.well-known/openid-configuration")
            || path.contains("/.well-known/oauth-authorization-server");
        let mut response = Response::new(String::new());
        if self.state().is_down {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        } else if is_metadata {
            let keys_at = format!("{}/jwks.json", self.url.trim_end_matches('/'));
            let metadata = json!({ "issuer": &*self.url, "jwks_uri": keys_at });
            *response.body_mut() = metadata.to_string();
        } else if path.ends_with("/jwks.json") {
            *response.body_mut() = self.jwks();
        } else {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        ready(Ok(response))
    }
}

impl fmt::Debug for TestIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestIssuer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A token that is being made: see [`TestIssuer::token`].
#[must_use]
pub struct TokenBuilder {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signer: Arc<Signer>,
    now: Timestamp,
}

impl TokenBuilder {
    /// Sets `aud`.
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// Sets `scope`.
    pub fn scopes<'a>(self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        let scopes: Vec<_> = scopes.into_iter().collect();
        self.claim("scope", scopes.join(" "))
    }

    /// Sets `exp`, from now on.
    pub fn expires_in(self, life: Duration) -> Self {
        let end = self.now.saturating_add(life).unix_seconds();
        self.claim("exp", end)
    }

    /// Sets `exp` to an instant that has passed, and `iat` to one before it.
    pub fn expired(self, ago: Duration) -> Self {
        let end = self.now.saturating_sub(ago);
        let start = end.saturating_sub(Duration::from_secs(300));
        self.claim("exp", end.unix_seconds())
            .claim("iat", start.unix_seconds())
    }

    /// Sets any claim.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// Leaves a claim out.
    pub fn without(mut self, claim: &str) -> Self {
        self.claims.remove(claim);
        self
    }

    /// Sets any member of the header.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Removes a member of the header, such as `kid`.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// The token.
    #[must_use]
    pub fn sign(self) -> String {
        let signed = self.signed_part();
        let signature = self.signer.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The same with `alg` `none` and the signature of nobody, as an attacker would try.
    #[must_use]
    pub fn unsigned(self) -> String {
        format!("{}.", self.header("alg", "none").signed_part())
    }

    fn signed_part(&self) -> String {
        let encode = |members: &Map<String, Value>| {
            let text = Value::Object(members.clone()).to_string();
            URL_SAFE_NO_PAD.encode(text)
        };
        format!("{}.{}", encode(&self.header), encode(&self.claims))
    }
}

impl fmt::Debug for TokenBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBuilder")
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}
