//! [`KeyUpdate`]: changes of an issued key.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::keys::error::KeyError;
use crate::keys::lifecycle::{KeyState, LifecycleError};
use crate::keys::record::KeyRecord;
use crate::keys::validate::{self, End, date};
use crate::scope::ScopeSet;

/// Changes of an issued key, applied by [`ApiKeys::update`](crate::ApiKeys::update).
///
/// A `set_` method replaces the whole field. A `clear_` method removes its value. Fields that are
/// not mentioned keep their value. The values are validated and normalized as those of
/// [`NewKey`](crate::keys::NewKey).
///
/// The owner, tenant and environment of a key cannot change.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use tollgate::ApiKeys;
/// use tollgate::keys::{KeyError, KeyUpdate, NewKey, Peppers};
///
/// let keys = ApiKeys::in_memory(Peppers::random());
/// let issued = keys.issue(NewKey::for_owner("acct_1").plan("free")).await?;
/// let (id, revision) = (issued.record.id, issued.record.revision);
///
/// let update = KeyUpdate::new()
///     .set_plan("pro")
///     .set_scopes(["orders:read", "orders:write"])
///     .if_revision(revision);
/// let record = keys.update(id, update).await?;
/// assert_eq!(record.plan.as_deref(), Some("pro"));
///
/// // The second writer has read the record before the first one changed it.
/// let stale = keys.update(id, KeyUpdate::new().clear_plan().if_revision(revision)).await;
/// assert!(matches!(stale, Err(KeyError::StaleRevision { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct KeyUpdate {
    if_revision: Option<u64>,
    name: Option<String>,
    /// The inner `None` removes the plan.
    plan: Option<Option<String>>,
    scopes: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    clears_metadata: bool,
    /// `None` removes the entry.
    metadata: BTreeMap<String, Option<String>>,
    networks: Option<List>,
    methods: Option<List>,
    referrers: Option<List>,
    /// The inner `None` removes the expiry.
    end: Option<Option<End>>,
}

/// A list of restrictions.
#[derive(Clone, Debug)]
enum List {
    Set(Vec<String>),
    Clear,
}

impl List {
    fn set<I>(items: I) -> Option<Self>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Some(Self::Set(items.into_iter().map(Into::into).collect()))
    }
}

impl KeyUpdate {
    /// Creates an update that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the update only if the stored record still has this
    /// [revision](KeyRecord::revision), the one of the record that the caller has read.
    ///
    /// Otherwise the update fails with [`KeyError::StaleRevision`]. Without this condition, an update
    /// that meets another change is applied to the changed record.
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.if_revision = Some(revision);
        self
    }

    /// Sets the name for people. An empty name removes it.
    pub fn set_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the plan of the owner.
    pub fn set_plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(Some(plan.into()));
        self
    }

    /// Removes the plan.
    pub fn clear_plan(mut self) -> Self {
        self.plan = Some(None);
        self
    }

    /// Replaces the scopes. An empty list removes all scopes.
    pub fn set_scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces the roles. An empty list removes all roles.
    pub fn set_roles<I>(mut self, roles: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.roles = Some(roles.into_iter().map(Into::into).collect());
        self
    }

    /// Sets one entry of the metadata. Other entries keep their value.
    pub fn set_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes one entry of the metadata.
    pub fn remove_metadata(mut self, name: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), None);
        self
    }

    /// Removes all metadata, also entries that this update has set before.
    pub fn clear_metadata(mut self) -> Self {
        self.clears_metadata = true;
        self.metadata.clear();
        self
    }

    /// Replaces the networks that the key may be used from. See
    /// [`NewKey::networks`](crate::keys::NewKey::networks).
    ///
    /// The update fails if the list is empty, since that would lift the restriction:
    /// see [`KeyUpdate::clear_networks`].
    pub fn set_networks<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.networks = List::set(networks);
        self
    }

    /// Allows the key to be used from any network.
    pub fn clear_networks(mut self) -> Self {
        self.networks = Some(List::Clear);
        self
    }

    /// Replaces the methods that the key may be used for. See
    /// [`NewKey::methods`](crate::keys::NewKey::methods).
    ///
    /// The update fails if the list is empty, since that would lift the restriction:
    /// see [`KeyUpdate::clear_methods`].
    pub fn set_methods<I>(mut self, methods: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.methods = List::set(methods);
        self
    }

    /// Allows the key to be used for any method.
    pub fn clear_methods(mut self) -> Self {
        self.methods = Some(List::Clear);
        self
    }

    /// Replaces the origins whose scripts may use the key. See
    /// [`NewKey::referrers`](crate::keys::NewKey::referrers).
    ///
    /// The update fails if the list is empty, since that would lift the restriction:
    /// see [`KeyUpdate::clear_referrers`].
    pub fn set_referrers<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.referrers = List::set(origins);
        self
    }

    /// Allows the key to be used from any origin, and by clients that are not browsers.
    pub fn clear_referrers(mut self) -> Self {
        self.referrers = Some(List::Clear);
        self
    }

    /// Sets when the key expires, earlier or later than before.
    ///
    /// The update fails if that is not in the future or not after the start of the key. To end a
    /// key now, use [`ApiKeys::revoke`](crate::ApiKeys::revoke).
    ///
    /// A key that was [rotated](crate::ApiKeys::rotate) ends with its grace period. Its expiry cannot
    /// be later than that, and cannot be removed. An earlier expiry shortens the grace period. The
    /// successor keeps its own expiry.
    pub fn set_expires_at(mut self, end: impl Into<Timestamp>) -> Self {
        self.end = Some(Some(End::At(end.into())));
        self
    }

    /// Sets that the key expires after `life`, counted from the update. See
    /// [`KeyUpdate::set_expires_at`].
    pub fn set_expires_in(mut self, life: Duration) -> Self {
        self.end = Some(Some(End::In(life)));
        self
    }

    /// Removes the expiry. The update fails for a key that was rotated, if it has an expiry.
    pub fn clear_expires_at(mut self) -> Self {
        self.end = Some(None);
        self
    }

    /// Validates the values that do not depend on the record.
    pub(crate) fn validate(self) -> Result<Changes, KeyError> {
        validate::title(
            "KeyUpdate::set_name",
            self.name.as_deref().unwrap_or_default(),
        )?;
        validate::names("KeyUpdate::set_plan", self.plan.iter().flatten())?;
        validate::names("KeyUpdate::set_roles", self.roles.iter().flatten())?;
        let scopes = self.scopes.as_deref();
        let scopes = scopes.map(|texts| validate::scopes("KeyUpdate::set_scopes", texts));
        let scopes = scopes.transpose()?;
        Ok(Changes {
            if_revision: self.if_revision,
            name: self.name,
            plan: self.plan,
            scopes,
            roles: self.roles,
            clears_metadata: self.clears_metadata,
            metadata: self.metadata,
            networks: list("networks", self.networks, validate::networks)?,
            methods: list("methods", self.methods, validate::methods)?,
            referrers: list("referrers", self.referrers, validate::referrers)?,
            end: self.end,
        })
    }
}

fn list<T>(
    name: &str,
    list: Option<List>,
    parse: fn(&str, &[String]) -> Result<Vec<T>, ConfigError>,
) -> Result<Option<Vec<T>>, KeyError> {
    let texts = match list {
        None => return Ok(None),
        Some(List::Clear) => return Ok(Some(Vec::new())),
        Some(List::Set(texts)) => texts,
    };
    if texts.is_empty() {
        return Err(KeyError::InvalidRestriction(ConfigError::new(format!(
            "KeyUpdate::set_{name}: the list is empty; call `.clear_{name}()` to lift the restriction"
        ))));
    }
    parse(&format!("KeyUpdate::set_{name}"), &texts)
        .map(Some)
        .map_err(KeyError::InvalidRestriction)
}

/// The validated values of an update.
pub(crate) struct Changes {
    if_revision: Option<u64>,
    name: Option<String>,
    plan: Option<Option<String>>,
    scopes: Option<ScopeSet>,
    roles: Option<Vec<String>>,
    clears_metadata: bool,
    metadata: BTreeMap<String, Option<String>>,
    networks: Option<Vec<IpNet>>,
    methods: Option<Vec<String>>,
    referrers: Option<Vec<String>>,
    end: Option<Option<End>>,
}

impl Changes {
    /// Returns the changed record and the fields that differ, or `None` if no field differs.
    ///
    /// # Errors
    /// Returns `Err` if the record has another revision than expected, the key has ended, or the new
    /// expiry does not fit.
    pub(crate) fn apply(
        &self,
        record: &KeyRecord,
        now: Timestamp,
    ) -> Result<Option<(Box<KeyRecord>, KeyFields)>, KeyError> {
        let current = record.revision;
        if let Some(expected) = self.if_revision.filter(|expected| *expected != current) {
            return Err(KeyError::StaleRevision { expected, current });
        }
        if let KeyState::Ended(cause) = record.state(now) {
            return Err(LifecycleError::Ended(cause).into());
        }
        let mut new = record.clone();
        let mut fields = KeyFields::default();
        fields.set(KeyField::Name, &mut new.name, &self.name);
        fields.set(KeyField::Plan, &mut new.plan, &self.plan);
        fields.set(KeyField::Scopes, &mut new.scopes, &self.scopes);
        fields.set(KeyField::Roles, &mut new.roles, &self.roles);
        let metadata = self.new_metadata(&record.metadata);
        fields.set(KeyField::Metadata, &mut new.metadata, &Some(metadata));
        let held = &mut new.restrictions;
        fields.set(KeyField::Networks, &mut held.networks, &self.networks);
        fields.set(KeyField::Methods, &mut held.methods, &self.methods);
        fields.set(KeyField::Referrers, &mut held.referrers, &self.referrers);
        let end = self.end.map(|end| end.map(|end| end.after(now)));
        fields.set(KeyField::ExpiresAt, &mut new.expires_at, &end);
        if fields.contains(KeyField::ExpiresAt) {
            let setting = match self.end.flatten() {
                Some(end) => end.named("KeyUpdate::set_expires_at", "KeyUpdate::set_expires_in"),
                None => "KeyUpdate::clear_expires_at",
            };
            check_expiry(setting, &new, now)?;
            if let (Some(rotated), Some(end)) = (&mut new.rotated, new.expires_at) {
                rotated.grace_until = rotated.grace_until.min(end);
            }
        }
        if fields.is_empty() {
            return Ok(None);
        }
        new.revision = current.saturating_add(1);
        Ok(Some((Box::new(new), fields)))
    }

    fn new_metadata(&self, held: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut new = if self.clears_metadata {
            BTreeMap::new()
        } else {
            held.clone()
        };
        for (name, value) in &self.metadata {
            match value {
                Some(value) => new.insert(name.clone(), value.clone()),
                None => new.remove(name),
            };
        }
        new
    }
}

/// Checks the new expiry of a record.
fn check_expiry(setting: &str, new: &KeyRecord, now: Timestamp) -> Result<(), KeyError> {
    let end = new.expires_at;
    let problem = if let Some(end) = end.filter(|end| *end <= now) {
        format!(
            "{} is not in the future; call `ApiKeys::revoke` to end the key now",
            date(end)
        )
    } else if let Some(rotated) = &new.rotated
        && end.is_none_or(|end| end > rotated.grace_until)
    {
        format!(
            "the key was rotated and ends with its grace period on {}; choose no later time, or \
             update its successor {}",
            date(rotated.grace_until),
            rotated.to
        )
    } else {
        return validate::lifetime(setting, new.not_before.unwrap_or(now), end);
    };
    let error = ConfigError::new(format!("{setting}: {problem}"));
    Err(KeyError::InvalidTimes(error))
}

/// A field of a key that an update can change.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum KeyField {
    /// The expiry.
    ExpiresAt,
    /// The metadata.
    Metadata,
    /// The methods that the key may be used for.
    Methods,
    /// The name for people.
    Name,
    /// The networks that the key may be used from.
    Networks,
    /// The plan of the owner.
    Plan,
    /// The origins whose scripts may use the key.
    Referrers,
    /// The roles.
    Roles,
    /// The scopes.
    Scopes,
}

impl KeyField {
    const ALL: [Self; 9] = [
        Self::ExpiresAt,
        Self::Metadata,
        Self::Methods,
        Self::Name,
        Self::Networks,
        Self::Plan,
        Self::Referrers,
        Self::Roles,
        Self::Scopes,
    ];

    /// Returns a stable name, such as `expires_at`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExpiresAt => "expires_at",
            Self::Metadata => "metadata",
            Self::Methods => "methods",
            Self::Name => "name",
            Self::Networks => "networks",
            Self::Plan => "plan",
            Self::Referrers => "referrers",
            Self::Roles => "roles",
            Self::Scopes => "scopes",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The name of the field.
impl fmt::Display for KeyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fields that an update has changed.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct KeyFields(u16);

impl KeyFields {
    /// Returns whether no field is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether the field is in the set.
    #[must_use]
    pub const fn contains(self, field: KeyField) -> bool {
        self.0 & field.bit() != 0
    }

    /// Iterates over the fields in the order of their names.
    pub fn iter(self) -> impl Iterator<Item = KeyField> {
        KeyField::ALL
            .into_iter()
            .filter(move |field| self.contains(*field))
    }

    /// Replaces a value, and adds the field if the value differs.
    fn set<T: Clone + PartialEq>(&mut self, field: KeyField, held: &mut T, new: &Option<T>) {
        if let Some(new) = new.as_ref().filter(|new| **new != *held) {
            held.clone_from(new);
            self.0 |= field.bit();
        }
    }
}

impl FromIterator<KeyField> for KeyFields {
    fn from_iter<I: IntoIterator<Item = KeyField>>(fields: I) -> Self {
        let bits = fields.into_iter().map(KeyField::bit);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl fmt::Debug for KeyFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The names of the fields, separated by commas: `plan,scopes`.
impl fmt::Display for KeyFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, field) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{field}")?;
        }
        Ok(())
    }
}
