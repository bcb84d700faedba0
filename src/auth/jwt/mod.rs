//! [`Jwt`]: tokens (RFC 7519) that an issuer has signed, as access tokens (RFC 6750).
//!
//! A token is refused, with one answer whatever is wrong with it, unless
//! - it has three segments of canonical base64url, at most 8 KiB in all, and JSON in which
//!   no member stands twice;
//! - its header names an algorithm that is accepted from the issuer, no extension (`crit`),
//!   and no type but that of an access token;
//! - `iss` is exactly that of a configured issuer, and a key of that issuer, for that
//!   algorithm, has signed it;
//! - `aud` names us, `sub` somebody, and `nbf` and `iat` are not in the future.
//!
//! Rejected are also:
//! - a header of more than 1 KiB, or a `kid` of more than 256 bytes;
//! - objects and arrays with more than 256 members or elements, or nested deeper than 32;
//! - an empty `sub`, and a `sub`, `client_id` or `azp` with control characters or more than 1024
//!   bytes;
//! - dates before 1970 or after the year 9999 (later than a [`Timestamp`] can tell never comes);
//! - a token with `at_hash`, `c_hash` or `events`, which is an ID token or a security event;
//! - a token whose configured roles, tenant or plan claim cannot be read: see
//!   [`Issuer::roles_from`].
//!
//! Other ID tokens of the issuer differ from its access tokens by their audience. Many issuers also
//! give access tokens the type `at+jwt`, which [`Issuer::rfc9068`] requires.
//!
//! [`Rejection::fault`] names the claim, header member or segment at fault, for operators.
//!
//! That its `exp` has passed is told, as the client can do something about it. What a token
//! says about where keys are (`jku`, `x5u`, `jwk`) is never followed.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use http::{Request, Response, StatusCode};
//! use tollgate::auth::jwt::Jwt;
//! use tollgate::testing::TestIssuer;
//! use tollgate::{AuthLayer, Identity};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let authority = TestIssuer::new("https://id.example.com/"); // in production: leave `keys` out
//! let jwt = Jwt::issuer("https://id.example.com/")
//!     .audience("https://api.example.com")
//!     .keys(authority.keys())
//!     .build()?;
//!
//! let hello = service_fn(|request: Request<()>| async move {
//!     let identity = request.extensions().get::<Identity>().expect("AuthLayer is outside");
//!     Ok::<_, std::convert::Infallible>(Response::new(format!("hello {}", identity.subject())))
//! });
//! let service = AuthLayer::new(jwt).layer(hello);
//!
//! let token = authority.token("ann").audience("https://api.example.com").sign();
//! let request = Request::get("/").header("authorization", format!("Bearer {token}")).body(())?;
//! assert_eq!(service.clone().oneshot(request).await?.status(), StatusCode::OK);
//!
//! let token = authority.token("ann").audience("https://other.example.com").sign();
//! let request = Request::get("/").header("authorization", format!("Bearer {token}")).body(())?;
//! assert_eq!(service.oneshot(request).await?.status(), StatusCode::UNAUTHORIZED);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Deployment
//! - Time is the clock of [`AuthLayer`](crate::AuthLayer), give or take a leeway of 30 s.
//! - A token cannot be taken back, unless you ask a hook about each request:
//!   [`Issuer::resolve_with`]. When the key that signed it leaves the issuer's set, it is
//!   refused from then on.
//! - A token that is bound to a certificate (RFC 8705) is accepted with that certificate
//!   only, see [`ClientCertificate`](crate::auth::ClientCertificate); one that is bound to
//!   anything else is refused.
//!
//! # Cost
//! Tokens that were verified are remembered: seen again, a token costs one look-up, and
//! its times are judged anew. Else it costs the signature, about 50 µs for ES256 and 16 µs
//! for RS256 with aws-lc-rs, and about 1 µs for the rest.

mod cache;
mod claims;
mod compact;
mod configured;
mod header;
mod issuer;
mod mapping;
mod policy;
mod resolve;
mod source;
mod trusted;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use zeroize::Zeroizing;

use crate::auth::authenticate::{Answer, Authenticate};
use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::credential::{Credential, Scheme};
use crate::identity::Identity;
use crate::jwks::{KeyFetchError, KeyStatus, Wanted, is_similar};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

use cache::{TokenCache, Verified};
use claims::Claims;
use compact::Compact;
use header::{Header, Headers};
use policy::invalid;
use resolve::verdict;
use source::refusal;
use trusted::Trusted;

#[doc(no_inline)]
pub use crate::identity::Resolved;
pub use configured::RolesClaim;
pub use issuer::Issuer;

/// Tokens of one or several issuers, for an [`AuthLayer`](crate::AuthLayer).
///
/// It claims every credential that it is asked about, so it goes last:
/// `keys.or(jwt)`. Clones share what they know.
#[derive(Clone)]
pub struct Jwt {
    shared: Arc<Shared>,
}

struct Shared {
    issuers: Vec<Trusted>,
    cache: Option<TokenCache>,
    headers: Headers,
    max_len: usize,
}

impl Jwt {
    /// Starts with an issuer, by the exact text of its `iss`.
    ///
    /// Slashes at the end and letter case matter. A warning is logged once if a token is
    /// rejected whose `iss` differs only by a trailing slash, the letter case of scheme and
    /// host, or `http` in place of `https`.
    pub fn issuer(issuer: impl Into<Box<str>>) -> Issuer {
        Issuer::new(issuer)
    }

    /// Accepts the tokens of several issuers. Each is verified with the keys of its own
    /// issuer only; one whose keys cannot be had does not hinder the others.
    ///
    /// # Errors
    /// If an issuer has no audience, no algorithm, or no usable key; if a setting cannot
    /// work; if there is none, or one twice.
    pub fn issuers(issuers: impl IntoIterator<Item = Issuer>) -> Result<Self, ConfigError> {
        let issuers = issuers
            .into_iter()
            .map(Issuer::trusted)
            .collect::<Result<Vec<_>, _>>()?;
        if issuers.is_empty() {
            return Err(ConfigError::new(
                "Jwt::issuers([]): no issuer was given; call it with at least one `Jwt::issuer(..)`",
            ));
        }
        for (at, one) in issuers.iter().enumerate() {
            let issuer = &one.policy.issuer;
            if issuers[..at]
                .iter()
                .any(|other| other.policy.issuer == *issuer)
            {
                return Err(ConfigError::new(format!(
                    "Jwt::issuers: {issuer:?} is there twice; configure it once, with all its \
                     audiences"
                )));
            }
        }
        let cache = Some(TokenCache::new(CAPACITY));
        Ok(Self {
            shared: Arc::new(Shared {
                issuers,
                cache,
                headers: Headers::default(),
                max_len: MAX_LEN,
            }),
        })
    }

    /// Remembers so many verified tokens: 10,000 unless set; none if it is 0. Those of
    /// more than 4 KiB are not remembered. A token costs its length twice, and what the
    /// identity needs.
    ///
    /// # Panics
    /// If it was cloned already.
    #[must_use]
    #[track_caller]
    pub fn cache_capacity(self, tokens: usize) -> Self {
        self.set(|shared| shared.cache = (tokens > 0).then(|| TokenCache::new(tokens)))
    }

    /// Sets the maximum length of a token in bytes.
    ///
    /// Defaults to 8 KiB. An [`AuthLayer`](crate::AuthLayer) that is made with it accepts
    /// credentials of that length too, unless its
    /// [`max_credential_len`](crate::AuthLayer::max_credential_len) is set. Tokens of more than
    /// 4 KiB are verified each time.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use http::{Request, Response, StatusCode};
    /// use tollgate::testing::TestIssuer;
    /// use tollgate::{AuthLayer, Jwt};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let authority = TestIssuer::new("https://id.example.com/");
    /// let jwt = Jwt::issuer("https://id.example.com/")
    ///     .audience("https://api.example.com")
    ///     .keys(authority.keys())
    ///     .build()?
    ///     .max_len(32 * 1024);
    /// let service = AuthLayer::new(jwt).layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, std::convert::Infallible>(Response::new(()))
    /// }));
    ///
    /// let token = authority.token("ann").audience("https://api.example.com");
    /// let token = token.claim("groups", "g".repeat(15_000)).sign();
    /// let request = Request::get("/").header("authorization", format!("Bearer {token}")).body(())?;
    /// assert_eq!(service.oneshot(request).await?.status(), StatusCode::OK);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// Panics if it is 0, or if the verifier was cloned already.
    #[must_use]
    #[track_caller]
    pub fn max_len(self, bytes: usize) -> Self {
        assert!(bytes > 0, "no token is as short as that");
        self.set(|shared| shared.max_len = bytes)
    }

    /// How many verified tokens are remembered at the moment.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.shared.cache.as_ref().map_or(0, TokenCache::len)
    }

    /// How often a token was remembered, and how often it was not: it was verified then, or
    /// refused.
    #[must_use]
    pub fn lookups(&self) -> (u64, u64) {
        self.shared
            .cache
            .as_ref()
            .map_or((0, 0), TokenCache::lookups)
    }

    /// How it stands with the keys of each issuer at that time, in the order in which they
    /// were given: for a readiness probe, and for gauges.
    #[must_use]
    pub fn status(&self, now: impl Into<Timestamp>) -> Vec<KeyStatus> {
        let now = now.into();
        let status = |trusted: &Trusted| trusted.source.status(&trusted.policy.issuer, now);
        self.shared.issuers.iter().map(status).collect()
    }

    /// Fetches the keys of all issuers that have none yet, and waits for them. Without it, the
    /// first request fetches them.
    ///
    /// # Errors
    /// Returns the error of the first issuer, in the order in which they were given, whose keys
    /// could not be fetched. The keys of the others were fetched nevertheless. The missing keys are
    /// fetched again in the background.
    pub async fn warm_up(&self) -> Result<(), KeyFetchError> {
        let issuers = self.shared.issuers.iter();
        let all =
            join_all(issuers.map(|trusted| trusted.source.warm_up(&trusted.policy.issuer))).await;
        all.into_iter().collect()
    }

    #[track_caller]
    fn set(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        let shared = Arc::get_mut(&mut self.shared);
        change(shared.expect("set up the tokens before they are cloned"));
        self
    }
}

impl Authenticate for Jwt {
    fn authenticate(&self, credential: &Credential, now: Timestamp) -> Answer {
        let token = credential.expose();
        let shared = &self.shared;
        Answer::Mine(match shared.judge(token, now) {
            Ok(Judged::Good(identity, issuer)) => shared.conclude(identity, issuer, now),
            Ok(Judged::Waits(issuer, wanted)) => {
                let (shared, token) = (Arc::clone(shared), Zeroizing::new(Box::from(token)));
                shared.look_up_and_judge(token, issuer, wanted, now)
            }
            Err(rejection) => Err(rejection).into(),
        })
    }

    fn claims(&self, text: &[u8]) -> bool {
        // In base64, an object starts with `{"`.
        text.starts_with(b"eyJ")
            && Compact::split(text).is_ok_and(|token| Header::is_jose(token.header))
    }

    /// Tokens are made of base64url and dots.
    fn refuses_malformed(&self) -> bool {
        true
    }

    /// That of a header which names its algorithm, and two dots.
    fn shortest(&self) -> usize {
        "eyJhbGciOiIifQ..".len()
    }

    fn max_credential_len(&self) -> usize {
        self.shared.max_len
    }

    fn schemes(&self) -> &[Scheme] {
        &[Scheme::Bearer]
    }
}

/// What can be said of a token at once.
enum Judged {
    /// It is good, and one of that issuer.
    Good(Identity, usize),
    /// A key of that issuer must be looked up first.
    Waits(usize, Wanted),
}

/// A token with its header, and with its decoded payload.
type Parsed<'t> = (Compact<'t>, Arc<Header>, Box<[u8]>);

impl Shared {
    fn judge(&self, token: &[u8], now: Timestamp) -> Result<Judged, Rejection> {
        if let Some(known) = self.recall(token, now)? {
            return Ok(Judged::Good(known.identity, known.issuer));
        }
        let (compact, header, payload) = self.parse(token)?;
        let text = str::from_utf8(&payload);
        let text = text.map_err(|_| invalid((Cause::TokenClaims, "payload")))?;
        let (issuer, claims) = self.claims_of(text)?;
        let trusted = &self.issuers[issuer];
        let name = |rejection: Rejection| rejection.with_issuer(&trusted.policy.issuer);
        let proved = trusted.judge(&compact, &header, text, claims, now);
        let proved = match proved.map_err(name)? {
            Ok(proved) => proved,
            Err(wanted) => return Ok(Judged::Waits(issuer, wanted)),
        };
        let identity = proved.identity.claims(payload).build();
        if let Err(rejection) = trusted.policy.judge_times(proved.times, now) {
            return Err(name(rejection.with_holder(identity)));
        }
        self.headers.remember(&header);
        if proved.is_bound_otherwise {
            let unbound = Rejection::new(Reason::TokenBindingFailed, Cause::TokenBinding);
            return Err(name(unbound.with_fault("cnf")));
        }
        if let Some(cache) = &self.cache {
            let identity = identity.clone();
            cache.insert(
                token,
                Verified {
                    identity,
                    issuer,
                    epoch: proved.epoch,
                    times: proved.times,
                },
            );
        }
        Ok(Judged::Good(identity, issuer))
    }

    /// Parses a token, and believes nothing of it.
    fn parse<'t>(&self, token: &'t [u8]) -> Result<Parsed<'t>, Rejection> {
        if token.len() > self.max_len {
            return Err(invalid((Cause::TooLong, "token")));
        }
        let compact = Compact::split(token).map_err(invalid)?;
        let header = self.headers.read(compact.header).map_err(invalid)?;
        let payload = compact.payload().map_err(invalid)?;
        Ok((compact, header, payload))
    }

    /// What is known of a token that was verified before. Its times are judged anew; its
    /// issuer and audience were judged by the same policy, which cannot change.
    fn recall(&self, token: &[u8], now: Timestamp) -> Result<Option<Verified>, Rejection> {
        let Some(cache) = &self.cache else {
            return Ok(None);
        };
        let Some(known) = cache.get(token) else {
            return Ok(None);
        };
        let Trusted { source, policy, .. } = &self.issuers[known.issuer];
        source.tick(now);
        if !source.keyring().holds(known.epoch, now) {
            cache.remove(token);
            return Ok(None);
        }
        if let Err(rejection) = policy.judge_times(known.times, now) {
            let holder = known.identity.clone();
            // It has expired for good, whatever a clock shows that steps back.
            if rejection.reason() == Reason::TokenExpired {
                cache.insert(token, known.ended());
            }
            return Err(rejection.with_holder(holder).with_issuer(&policy.issuer));
        }
        Ok(Some(known))
    }

    /// Reads the claims, and finds the configured issuer that the token names.
    fn claims_of<'t>(&self, text: &'t str) -> Result<(usize, Claims<'t>), Rejection> {
        // Issuers may differ in where scopes are, so the issuer has to be known first. With one
        // issuer there is nothing to find out.
        let (issuer, claims) = match &self.issuers[..] {
            [only] => (
                0,
                Claims::read(text, &only.mapping.scopes).map_err(invalid)?,
            ),
            all => {
                let claims = Claims::read(text, &[]).map_err(invalid)?;
                let named = |trusted: &Trusted| trusted.is_named_by(&claims);
                let Some(issuer) = all.iter().position(named) else {
                    return Err(self.refuse_issuer(&claims));
                };
                let scopes = &all[issuer].mapping.scopes;
                (issuer, Claims::read(text, scopes).map_err(invalid)?)
            }
        };
        if !self.issuers[issuer].is_named_by(&claims) {
            return Err(self.refuse_issuer(&claims));
        }
        Ok((issuer, claims))
    }

    /// Returns the rejection of a token of another issuer. Logs a probably misspelled issuer,
    /// once for each configured one, since anybody can send such tokens.
    fn refuse_issuer(&self, claims: &Claims<'_>) -> Rejection {
        let issuer = claims.issuer.as_deref().unwrap_or_default();
        for trusted in &self.issuers {
            let configured = &trusted.policy.issuer;
            if is_similar(configured, issuer) && !trusted.misspelled.swap(true, Relaxed) {
                tracing::warn!(
                    target: "tollgate",
                    configured = ?configured,
                    token = ?issuer,
                    "a token was rejected since its `iss` is not the configured issuer, but \
                     differs only by a trailing slash, letter case or http and https; the two \
                     must be equal: call `Jwt::issuer` with the text that the tokens have",
                );
            }
        }
        invalid((Cause::TokenIssuer, "iss"))
    }

    /// Asks the hook, if there is one.
    fn conclude(
        &self,
        identity: Identity,
        issuer: usize,
        now: Timestamp,
    ) -> Pending<Result<Identity, Rejection>> {
        let Some(resolve) = &self.issuers[issuer].resolve else {
            return Ok(identity).into();
        };
        let name = Arc::clone(&self.issuers[issuer].policy.issuer);
        let (certificate, end) = (identity.certificate().copied(), identity.expires_at());
        let resolved = resolve(identity.clone());
        Pending::later(async move {
            let verdict = verdict(resolved.wait().await, now);
            let identity =
                verdict.map_err(|rejection| rejection.with_holder(identity).with_issuer(&name))?;
            // A hook knows more of the subject. What the token is bound to is not its to
            // decide.
            Ok(identity.bound_like(certificate, end))
        })
    }

    fn look_up_and_judge(
        self: Arc<Self>,
        token: Zeroizing<Box<[u8]>>,
        issuer: usize,
        wanted: Wanted,
        now: Timestamp,
    ) -> Pending<Result<Identity, Rejection>> {
        let name = move |rejection: Rejection, shared: &Self| {
            rejection.with_issuer(&shared.issuers[issuer].policy.issuer)
        };
        let looked_up = match self.issuers[issuer].source.look_up(wanted, now) {
            Pending::Ready(Err(rejection)) => return Err(name(rejection, &self)).into(),
            looked_up => looked_up,
        };
        Pending::later(async move {
            let looked_up = looked_up.wait().await;
            looked_up.map_err(|rejection| name(rejection, &self))?;
            match self.judge(&token, now)? {
                Judged::Good(identity, issuer) => self.conclude(identity, issuer, now).wait().await,
                Judged::Waits(_, wanted) => Err(name(refusal(&wanted, now), &self)),
            }
        })
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers = self
            .shared
            .issuers
            .iter()
            .map(|trusted| &trusted.policy.issuer);
        f.debug_struct("Jwt")
            .field("issuers", &issuers.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// How many verified tokens are remembered.
const CAPACITY: usize = 10_000;
/// How long a token may be.
const MAX_LEN: usize = 8 * 1024;

#[cfg(test)]
mod vectors;
