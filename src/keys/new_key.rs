//! [`NewKey`]: a key that is to be issued.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::keys::error::KeyError;
use crate::keys::format::KeyId;
use crate::keys::pepper::{KeyMac, MacAlgorithm};
use crate::keys::record::{CachedIdentity, KeyRecord, LastUsed};
use crate::keys::validate::{self, End};
use crate::restriction::Restrictions;

/// A key that is to be issued.
///
/// The owner, tenant, name, roles, plan and `created_by` must not have control characters, or start or
/// end with whitespace. Only the name may be empty. Otherwise
/// [`ApiKeys::issue`](crate::ApiKeys::issue) fails.
///
/// ```
/// use std::time::Duration;
/// use tollgate::keys::NewKey;
///
/// let new = NewKey::for_owner("acct_1")
///     .tenant("emea")
///     .name("nightly export")
///     .scopes(["orders:read"])
///     .plan("pro")
///     .expires_in(Duration::from_secs(90 * 86_400));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct NewKey {
    owner: String,
    tenant: Option<String>,
    environment: Option<String>,
    name: String,
    scopes: Vec<String>,
    roles: Vec<String>,
    plan: Option<String>,
    metadata: BTreeMap<String, String>,
    created_by: Option<String>,
    networks: Vec<String>,
    methods: Vec<String>,
    referrers: Vec<String>,
    not_before: Option<Timestamp>,
    end: Option<End>,
}

impl NewKey {
    /// A key of that owner, without rights and without end.
    pub fn for_owner(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            tenant: None,
            environment: None,
            name: String::new(),
            scopes: Vec::new(),
            roles: Vec::new(),
            plan: None,
            metadata: BTreeMap::new(),
            created_by: None,
            networks: Vec::new(),
            methods: Vec::new(),
            referrers: Vec::new(),
            not_before: None,
            end: None,
        }
    }

    /// The tenant that the owner belongs to.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The environment, if not the first that is configured.
    pub fn environment(mut self, env: impl Into<String>) -> Self {
        self.environment = Some(env.into());
        self
    }

    /// A name for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds scopes.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a role.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.roles.push(role.into());
        self
    }

    /// Adds roles.
    pub fn roles<I>(mut self, roles: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.roles.extend(roles.into_iter().map(Into::into));
        self
    }

    /// The plan that the owner is on.
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Notes something down.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Notes down who issues it: it stands in the record, not in the identity.
    pub fn created_by(mut self, who: impl Into<String>) -> Self {
        self.created_by = Some(who.into());
        self
    }

    /// Adds networks that the key may be used from: addresses, or blocks in CIDR notation.
    ///
    /// [`ApiKeys::issue`](crate::ApiKeys::issue) fails if one of them is neither. An address in
    /// `64:ff9b::/96` becomes the IPv4 address inside if that is globally routable, since clients behind a
    /// NAT64 are known by that address (RFC 6052 §3.1).
    pub fn networks<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.networks.extend(networks.into_iter().map(Into::into));
        self
    }

    /// Adds methods that the key may be used for.
    ///
    /// Standard methods may be given in any case: `get` is stored as `GET`. Other methods are
    /// case-sensitive. `GET` does not permit `HEAD`. [`ApiKeys::issue`](crate::ApiKeys::issue) fails
    /// if one of them is not a method (RFC 9110 §9.1).
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use tollgate::ApiKeys;
    /// use tollgate::keys::{NewKey, Peppers};
    ///
    /// let keys = ApiKeys::in_memory(Peppers::random());
    /// let new = NewKey::for_owner("acct_1").methods(["get", "HEAD", "GET"]);
    /// let issued = keys.issue(new).await?;
    /// assert_eq!(issued.record.restrictions.methods, ["GET", "HEAD"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn methods<I>(mut self, methods: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.methods.extend(methods.into_iter().map(Into::into));
        self
    }

    /// Adds origins whose scripts may use the key: see [`Restrictions::referrers`].
    ///
    /// They are stored in their canonical form: `https://App.Example.com:443/` becomes
    /// `https://app.example.com`. [`ApiKeys::issue`](crate::ApiKeys::issue) fails if one of them is
    /// not an origin.
    pub fn referrers<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.referrers.extend(origins.into_iter().map(Into::into));
        self
    }

    /// The key is not valid before this.
    pub fn not_before(mut self, start: impl Into<Timestamp>) -> Self {
        self.not_before = Some(start.into());
        self
    }

    /// The key is not valid from this on.
    pub fn expires_at(mut self, end: impl Into<Timestamp>) -> Self {
        self.end = Some(End::At(end.into()));
        self
    }

    /// The key is valid for that long, counted from when it is issued.
    pub fn expires_in(mut self, life: Duration) -> Self {
        self.end = Some(End::In(life));
        self
    }

    /// The environment that was asked for.
    pub(crate) fn environment_name(&self) -> Option<&str> {
        self.environment.as_deref()
    }

    /// The record of the key, all but what is drawn: that comes from `drawn`.
    pub(crate) fn into_record(self, drawn: Drawn, now: Timestamp) -> Result<KeyRecord, KeyError> {
        if self.owner.is_empty() {
            return Err(KeyError::NoOwner);
        }
        validate::name("NewKey::for_owner", &self.owner)?;
        validate::names("NewKey::tenant", &self.tenant)?;
        validate::title("NewKey::name", &self.name)?;
        validate::names("NewKey::roles", &self.roles)?;
        validate::names("NewKey::plan", &self.plan)?;
        validate::names("NewKey::created_by", &self.created_by)?;
        let expires_at = self.end.map(|end| end.after(now));
        let start = self.not_before.unwrap_or(now);
        let setting = self.end.map_or("NewKey::expires_at", |end| {
            end.named("NewKey::expires_at", "NewKey::expires_in")
        });
        validate::lifetime(setting, start, expires_at)?;
        let restrictions = Restrictions {
            networks: validate::networks("NewKey::networks", &self.networks)
                .map_err(KeyError::InvalidRestriction)?,
            methods: validate::methods("NewKey::methods", &self.methods)
                .map_err(KeyError::InvalidRestriction)?,
            referrers: validate::referrers("NewKey::referrers", &self.referrers)
                .map_err(KeyError::InvalidRestriction)?,
        };
        Ok(KeyRecord {
            id: drawn.id,
            head: drawn.head,
            mac: drawn.mac,
            mac_alg: MacAlgorithm::HmacSha256,
            pepper_version: drawn.pepper_version,
            owner: self.owner,
            tenant: self.tenant,
            name: self.name,
            scopes: validate::scopes("NewKey::scopes", &self.scopes)?,
            roles: self.roles,
            plan: self.plan,
            metadata: self.metadata,
            created_by: self.created_by,
            created_at: now,
            not_before: self.not_before,
            expires_at,
            disabled_at: None,
            ended: None,
            rotated_from: None,
            rotated: None,
            restrictions,
            last_used: LastUsed::default(),
            revision: 0,
            identity: CachedIdentity::default(),
        })
    }
}

/// What is drawn when a key is made.
pub(crate) struct Drawn {
    pub(crate) id: KeyId,
    pub(crate) head: String,
    pub(crate) mac: KeyMac,
    pub(crate) pepper_version: u32,
}
