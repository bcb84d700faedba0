//! [`Identity`]: who calls, and what they may do.

mod known;
mod principal;
mod resolved;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};

use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::credential::Scheme;
use crate::lapse::{self, Lapse, Watch};
use crate::restriction::Restrictions;
use crate::scope::ScopeSet;

use known::KnownFields;

pub use known::IdentityField;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub(crate) use known::mentions;
pub use principal::Principal;
pub use resolved::Resolved;

/// Who calls, resolved from a credential by [`AuthLayer`](crate::AuthLayer).
///
/// It stands in the extensions of every request that was let through, on any
/// server: `request.extensions().get::<Identity>()`. With axum it is an extractor,
/// `Identity` where the caller must be known and `Option<Identity>` where they may
/// be anonymous.
///
/// Cloning it copies a pointer. Its `Debug` has no secrets: a credential is named
/// by its public id.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
    /// The scheme in which the credential was shown at a door; none if the identity
    /// did not come through one.
    pub(crate) scheme: Option<Scheme>,
    /// The mark of the place that a door has taken the credential out of.
    pub(crate) emptied: Option<NonZeroU32>,
    /// When the request was judged.
    pub(crate) judged_at: Timestamp,
    /// The request has passed a limit that writes headers.
    pub(crate) passed_limit: bool,
}

struct Inner {
    principal: Principal,
    kind: Kind,
    scopes: ScopeSet,
    roles: Box<[Box<str>]>,
    /// Texts of the roles claim that are roles under another reading of it.
    other_roles: Box<[Box<str>]>,
    known: KnownFields,
    plan: Option<Box<str>>,
    credential_id: Option<Box<str>>,
    expires_at: Option<Timestamp>,
    metadata: BTreeMap<String, String>,
    restrictions: Option<Restrictions>,
    watch: Option<Weak<dyn Watch>>,
    is_retiring: bool,
    client_id: Option<Box<str>>,
    claims: Option<Box<[u8]>>,
    certificate: Option<[u8; 32]>,
}

impl Identity {
    /// Starts an identity: `subject` as known to `source`.
    ///
    /// For implementations of [`Authenticate`](crate::auth::Authenticate). The
    /// source names who vouches for the subject, for instance an issuer, and
    /// keeps subjects of different sources apart.
    ///
    /// The kind, roles, tenant, plan and metadata are unknown until they are set, so that negated
    /// conditions such as `!role("suspended")` are not met. Call [`IdentityBuilder::known`] for a
    /// caller who is known to have no roles or no tenant.
    pub fn builder(source: impl Into<Arc<str>>, subject: impl Into<Box<str>>) -> IdentityBuilder {
        IdentityBuilder {
            source: source.into(),
            tenant: None,
            subject: subject.into(),
            kind: Kind::Application,
            scopes: ScopeSet::default(),
            roles: Vec::new(),
            other_roles: Vec::new(),
            known: KnownFields::NONE,
            plan: None,
            credential_id: None,
            expires_at: None,
            metadata: BTreeMap::new(),
            restrictions: None,
            watch: None,
            is_retiring: false,
            client_id: None,
            claims: None,
            certificate: None,
        }
    }

    /// Starts another identity that is like this one, for hooks that know more.
    pub fn to_builder(&self) -> IdentityBuilder {
        let inner = &*self.inner;
        let principal = inner.principal.clone();
        IdentityBuilder {
            source: principal.source,
            tenant: principal.tenant,
            subject: principal.subject,
            kind: inner.kind,
            scopes: inner.scopes.clone(),
            roles: inner.roles.to_vec(),
            other_roles: inner.other_roles.to_vec(),
            known: inner.known,
            plan: inner.plan.clone(),
            credential_id: inner.credential_id.clone(),
            expires_at: inner.expires_at,
            metadata: inner.metadata.clone(),
            restrictions: inner.restrictions.clone(),
            watch: inner.watch.clone(),
            is_retiring: inner.is_retiring,
            client_id: inner.client_id.clone(),
            claims: inner.claims.clone(),
            certificate: inner.certificate,
        }
    }

    /// Starts an identity for tests of handlers: subject `test` of the source `test`, an
    /// application without rights. Insert it into the extensions of a request in place of an
    /// `AuthLayer`.
    ///
    /// Everything about the caller is known, as for an API key: `!role("suspended")` is met until
    /// the role is added. Call [`IdentityBuilder::unknown`] to test a token that says nothing about
    /// roles.
    ///
    /// ```
    /// use tollgate::Identity;
    ///
    /// let identity = Identity::for_test().subject("acct_1").scopes("orders:read".parse()?).build();
    /// assert_eq!(identity.subject(), "acct_1");
    /// # Ok::<(), tollgate::scope::InvalidScope>(())
    /// ```
    #[cfg(feature = "test-util")]
    pub fn for_test() -> IdentityBuilder {
        Self::builder("test", "test").all_known()
    }

    /// Whom limits, usage and deny lists count: source, tenant and subject.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.inner.principal
    }

    /// The owner of the key, or the `sub` of the token. Unique only together with
    /// the source and the tenant: compare [`Identity::principal`].
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.inner.principal.subject
    }

    /// The tenant that the subject belongs to.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.inner.principal.tenant.as_deref()
    }

    /// Whether an application calls on its own behalf, or for a user.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// The scopes that were granted.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        &self.inner.scopes
    }

    /// The roles that were granted.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.inner.roles.iter().map(AsRef::as_ref)
    }

    /// Whether the caller has exactly this role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|held| held == role)
    }

    /// The plan that the caller is on.
    #[must_use]
    pub fn plan(&self) -> Option<&str> {
        self.inner.plan.as_deref()
    }

    /// The OAuth client that the token was issued to. None for keys.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.inner.client_id.as_deref()
    }

    /// The claims of the token, as a type of yours. They are those that the issuer has
    /// signed; they are read each time that this is called.
    ///
    /// # Errors
    /// If the caller showed a key and not a token, or the claims are not of that type.
    pub fn claims<C: DeserializeOwned>(&self) -> Result<C, InvalidClaims> {
        let claims = self
            .inner
            .claims
            .as_ref()
            .ok_or(InvalidClaims { is_missing: true })?;
        serde_json::from_slice(claims).map_err(|_| InvalidClaims { is_missing: false })
    }

    /// The SHA-256 of the certificate that the caller must have, if the token is bound
    /// to one (RFC 8705 §3).
    pub(crate) fn certificate(&self) -> Option<&[u8; 32]> {
        self.inner.certificate.as_ref()
    }

    /// The public id of the credential that was shown: fit for logs.
    #[must_use]
    pub fn credential_id(&self) -> Option<&str> {
        self.inner.credential_id.as_deref()
    }

    /// Whether the credential has a successor already.
    pub(crate) fn is_retiring(&self) -> bool {
        self.inner.is_retiring
    }

    /// When the credential ends.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.inner.expires_at
    }

    /// What the issuer of the credential noted down beside it.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// From where and how the credential may be used, if that is restricted.
    #[must_use]
    pub fn restrictions(&self) -> Option<&Restrictions> {
        self.inner.restrictions.as_ref()
    }

    /// Completes when the credential is not good any more: for streams and sockets that
    /// outlive the request that was judged.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// # use std::time::SystemTime;
    /// use tollgate::Identity;
    /// use tollgate::lapse::Lapse;
    ///
    /// async fn feed(identity: Identity) -> Lapse {
    ///     let lapsed = identity.lapsed();
    ///     tokio::pin!(lapsed);
    ///     loop {
    ///         tokio::select! {
    ///             lapse = &mut lapsed => return lapse, // say goodbye
    ///             () = tokio::task::yield_now() => {} // send something
    ///         }
    ///     }
    /// }
    /// # let identity = Identity::for_test().expires_at(SystemTime::now()).build();
    /// # assert_eq!(feed(identity).await, Lapse::Expired);
    /// # });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The end of an API key that is changed on this node is known at once; that of one
    /// that is changed elsewhere after
    /// [`ApiKeys::lapse_bound`](crate::ApiKeys::lapse_bound). While the store fails, a key
    /// is taken to be as good as it was. Other credentials end at their expiry. Keys are
    /// judged by the clock of [`ApiKeys`](crate::ApiKeys), others by the system's.
    ///
    /// # Cost
    /// Nothing unless it is called. Then a look-up of the key every 5 s, and one of
    /// tokio's timers; on a runtime without timers only changes on this node are seen.
    ///
    /// # Cancellation
    /// It can be dropped at any time. It holds neither the keys nor the identity.
    pub fn lapsed(&self) -> impl Future<Output = Lapse> + Send + 'static {
        let Inner {
            credential_id,
            expires_at,
            watch,
            ..
        } = &*self.inner;
        lapse::lapsed(credential_id.clone(), *expires_at, watch.clone())
    }

    /// The same, bound to what its token is bound to, whatever else has become of it.
    #[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
    pub(crate) fn bound_like(self, certificate: Option<[u8; 32]>, end: Option<Timestamp>) -> Self {
        if self.inner.certificate == certificate && self.inner.expires_at == end {
            return self;
        }
        let mut builder = self.to_builder();
        builder.certificate = certificate;
        // It may end earlier, and not later.
        builder.expires_at = [builder.expires_at, end].into_iter().flatten().min();
        let mut bound = builder.build();
        (bound.scheme, bound.judged_at) = (self.scheme, self.judged_at);
        bound
    }

    /// Keeps what a hook cannot change of the identity of a key: its id, its state, that its
    /// restrictions do not admit more, and that it does not end later.
    pub(crate) fn of_key(self, key: &Self) -> Self {
        let mut builder = self.to_builder();
        let held = &*key.inner;
        builder.credential_id.clone_from(&held.credential_id);
        builder.restrictions = match (&held.restrictions, builder.restrictions.take()) {
            (Some(held), Some(set)) if set != *held => Some(held.both(&set)),
            (Some(held), _) => Some(held.clone()),
            (None, set) => set,
        };
        builder.watch.clone_from(&held.watch);
        builder.is_retiring = held.is_retiring;
        let ends = [builder.expires_at, held.expires_at];
        builder.expires_at = ends.into_iter().flatten().min();
        builder.build()
    }

    /// Whether this is what knows how the credential stands. While the identity is there,
    /// nothing else can be where it was.
    pub(crate) fn is_watched_by<W>(&self, watch: &Arc<W>) -> bool {
        let held = self.inner.watch.as_ref().map(Weak::as_ptr);
        held.is_some_and(|held| std::ptr::addr_eq(held, Arc::as_ptr(watch)))
    }

    pub(crate) fn shown(mut self, scheme: Scheme, judged_at: Timestamp) -> Self {
        self.scheme = Some(scheme);
        self.judged_at = judged_at;
        self
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("principal", &self.inner.principal)
            .field("kind", &self.inner.kind)
            .field("scopes", &self.inner.scopes)
            .field("roles", &self.inner.roles)
            .field("plan", &self.inner.plan)
            .field("credential_id", &self.inner.credential_id)
            .field("expires_at", &self.inner.expires_at)
            .field("metadata", &self.inner.metadata.keys())
            .finish_non_exhaustive()
    }
}

/// There are no claims, or none of that type: see [`Identity::claims`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct InvalidClaims {
    is_missing: bool,
}

impl fmt::Display for InvalidClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_missing {
            "the caller did not show a token"
        } else {
            "the claims of the token are not of that type"
        })
    }
}

impl std::error::Error for InvalidClaims {}

/// On whose behalf the request is made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// An application calls for itself.
    Application,
    /// An application calls for a user.
    User,
}

/// Builds an [`Identity`].
#[derive(Clone)]
#[must_use]
pub struct IdentityBuilder {
    source: Arc<str>,
    tenant: Option<Box<str>>,
    subject: Box<str>,
    kind: Kind,
    scopes: ScopeSet,
    roles: Vec<Box<str>>,
    other_roles: Vec<Box<str>>,
    known: KnownFields,
    plan: Option<Box<str>>,
    credential_id: Option<Box<str>>,
    expires_at: Option<Timestamp>,
    metadata: BTreeMap<String, String>,
    restrictions: Option<Restrictions>,
    watch: Option<Weak<dyn Watch>>,
    is_retiring: bool,
    client_id: Option<Box<str>>,
    claims: Option<Box<[u8]>>,
    certificate: Option<[u8; 32]>,
}

impl fmt::Debug for IdentityBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.clone().build(), f)
    }
}

impl IdentityBuilder {
    /// Sets another subject.
    pub fn subject(mut self, subject: impl Into<Box<str>>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Sets the tenant.
    pub fn tenant(mut self, tenant: impl Into<Box<str>>) -> Self {
        self.tenant = Some(tenant.into());
        self.known(IdentityField::Tenant)
    }

    /// Sets on whose behalf the caller acts; an application for itself unless set.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self.known(IdentityField::Kind)
    }

    /// Sets the granted scopes.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self.known(IdentityField::Scopes)
    }

    /// Adds a role.
    pub fn role(mut self, role: impl Into<Box<str>>) -> Self {
        self.roles.push(role.into());
        self.known(IdentityField::Roles)
    }

    /// Sets the plan.
    pub fn plan(mut self, plan: impl Into<Box<str>>) -> Self {
        self.plan = Some(plan.into());
        self.known(IdentityField::Plan)
    }

    /// Sets the public id of the credential. It must not be secret: it is printed.
    pub fn credential_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.credential_id = Some(id.into());
        self
    }

    /// Sets when the credential ends.
    pub fn expires_at(mut self, at: impl Into<Timestamp>) -> Self {
        self.expires_at = Some(at.into());
        self
    }

    /// Notes something down.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets from where and how the credential may be used: the door that it is shown
    /// at holds the request to it.
    pub fn restrictions(mut self, restrictions: Restrictions) -> Self {
        self.restrictions = Some(restrictions);
        self
    }

    /// Sets the OAuth client that the token was issued to.
    pub fn client_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// Sets the claims of the token: an object of JSON.
    pub fn claims(mut self, json: impl Into<Box<[u8]>>) -> Self {
        self.claims = Some(json.into());
        self
    }

    /// Binds the token to the certificate with this SHA-256: the door that it is shown at
    /// looks for a [`ClientCertificate`](crate::auth::ClientCertificate).
    pub fn bound_to_certificate(mut self, digest: [u8; 32]) -> Self {
        self.certificate = Some(digest);
        self
    }

    pub(crate) fn retiring(mut self, is_retiring: bool) -> Self {
        self.is_retiring = is_retiring;
        self
    }

    pub(crate) fn watch(mut self, watch: Weak<dyn Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The identity.
    #[must_use]
    pub fn build(self) -> Identity {
        Identity {
            inner: Arc::new(Inner {
                principal: Principal::new(self.source, self.tenant, self.subject),
                kind: self.kind,
                scopes: self.scopes,
                roles: self.roles.into(),
                other_roles: self.other_roles.into(),
                known: self.known,
                plan: self.plan,
                credential_id: self.credential_id,
                expires_at: self.expires_at,
                metadata: self.metadata,
                restrictions: self.restrictions,
                watch: self.watch,
                is_retiring: self.is_retiring,
                client_id: self.client_id,
                claims: self.claims,
                certificate: self.certificate,
            }),
            scheme: None,
            emptied: None,
            judged_at: Timestamp::EPOCH,
            passed_limit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(source: &str, tenant: Option<&str>, subject: &str) -> Principal {
        Principal::new(source.into(), tenant.map(Into::into), subject.into())
    }

    #[test]
    fn principals_that_concatenate_alike_are_strangers() {
        let all = [
            principal("a", None, "bc"),
            principal("ab", None, "c"),
            principal("a", Some("b"), "c"),
            principal("a", Some(""), "bc"),
            principal("", Some("a"), "bc"),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a == b, i == j);
                assert_eq!(a.keyed_hash() == b.keyed_hash(), i == j);
            }
        }
    }
}
