//! [`KeyRecord`]: what a store holds of a key.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::keys::format::KeyId;
use crate::keys::lifecycle::{self, Ended, KeyState, Rotated};
use crate::keys::pepper::{KeyMac, MacAlgorithm};
use crate::lapse::Watch;
use crate::restriction::Restrictions;
use crate::scope::ScopeSet;

/// What a store holds of a key: whose it is, what it may do, until when, and the
/// MAC that proves it. There is no secret in it: it can be listed and logged.
///
/// Stores keep it as they like; it serializes with serde. A record that was read
/// once should be shared by `Arc`: the identity that a request gets is computed
/// from it at first use and kept beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must be able to build one from columns"
)]
pub struct KeyRecord {
    /// The public id: unique in a store.
    pub id: KeyId,
    /// `{prefix}_{env}`, as it stands in the key.
    pub head: String,
    /// HMAC-SHA-256 of the whole key.
    pub mac: KeyMac,
    /// What `mac` was made with.
    #[serde(default)]
    pub mac_alg: MacAlgorithm,
    /// The version of the pepper that `mac` was made under.
    pub pepper_version: u32,
    /// Whose key it is: the subject of the identity.
    pub owner: String,
    /// The tenant that the owner belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The scopes that it grants.
    #[serde(default, skip_serializing_if = "ScopeSet::is_empty")]
    pub scopes: ScopeSet,
    /// The roles that it grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The plan that its owner is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Whatever its issuer noted down: copied into the identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Who issued it, for those who ask later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// When it was issued.
    pub created_at: Timestamp,
    /// Before this it is scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// From this on it is expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was disabled, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    /// When and why somebody ended it. Nothing brings it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// The key that it took over from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<KeyId>,
    /// The key that takes over from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Rotated>,
    /// From where and how it may be used.
    #[serde(default, skip_serializing_if = "Restrictions::is_empty")]
    pub restrictions: Restrictions,
    /// When it was last used, to about a minute. Not a change of the record: it does
    /// not count up the revision, and may be lost.
    #[serde(default)]
    pub last_used: LastUsed,
    /// Counts the changes of the record; a store compares it to find conflicts.
    #[serde(default)]
    pub revision: u64,
    /// The identity that the record stands for. Leave it to `Default`; change a
    /// record only before it is shared.
    #[serde(skip)]
    pub identity: CachedIdentity,
}

impl KeyRecord {
    /// Returns the state of the key at `now`.
    #[must_use]
    pub fn state(&self, now: impl Into<Timestamp>) -> KeyState {
        lifecycle::state(self, now.into())
    }

    /// When the key stops being good, as far as that is known: its expiry, or the end
    /// of its grace if it has a successor.
    #[must_use]
    pub fn good_until(&self) -> Option<Timestamp> {
        // The grace never reaches beyond the expiry.
        self.rotated
            .as_ref()
            .map(|rotated| rotated.grace_until)
            .or(self.expires_at)
    }

    /// Returns the time from the issue of the key to its expiry, or `None` if it does not expire.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        Some(self.expires_at?.since(self.created_at))
    }

    /// Whether it has all that a successor of `other` gets from it.
    pub(crate) fn is_copy_of(&self, other: &Self) -> bool {
        self.head == other.head
            && self.owner == other.owner
            && self.tenant == other.tenant
            && self.name == other.name
            && self.scopes == other.scopes
            && self.roles == other.roles
            && self.plan == other.plan
            && self.metadata == other.metadata
            && self.restrictions == other.restrictions
    }

    /// The identity that the key stands for among the keys of that source.
    pub(crate) fn identity<W>(&self, source: &str, watch: &Arc<W>) -> Identity
    where
        W: Watch + 'static,
    {
        let new = || self.new_identity(source, Arc::downgrade(watch) as Weak<dyn Watch>);
        let cached = self.identity.0.get_or_init(new);
        if cached.is_watched_by(watch) {
            return cached.clone();
        }
        // Several keys share the store, each with its own source and its own way to learn
        // of an end; the identity of the first ones is kept.
        new()
    }

    fn new_identity(&self, source: &str, watch: Weak<dyn Watch>) -> Identity {
        let mut identity = Identity::builder(source, self.owner.as_str())
            .watch(watch)
            .retiring(self.rotated.is_some())
            // A record states everything: a key without roles is known to have none.
            .all_known()
            .credential_id(self.id.as_str())
            .scopes(self.scopes.clone());
        if let Some(tenant) = &self.tenant {
            identity = identity.tenant(tenant.as_str());
        }
        if let Some(plan) = &self.plan {
            identity = identity.plan(plan.as_str());
        }
        if let Some(end) = self.good_until() {
            identity = identity.expires_at(end);
        }
        for role in &self.roles {
            identity = identity.role(role.as_str());
        }
        for (name, value) in &self.metadata {
            identity = identity.metadata(name, value);
        }
        if !self.restrictions.is_empty() {
            identity = identity.restrictions(self.restrictions.clone());
        }
        identity.build()
    }
}

/// The identity of a record, computed at first use. A clone starts empty, so that a
/// changed copy of a record does not answer with the identity of the old one.
#[derive(Debug, Default)]
pub struct CachedIdentity(OnceLock<Identity>);

impl Clone for CachedIdentity {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// When a key was last used. Records that are shared count together.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(from = "Option<Timestamp>", into = "Option<Timestamp>")]
pub struct LastUsed(AtomicU64);

impl LastUsed {
    /// When, if ever.
    #[must_use]
    pub fn get(&self) -> Option<Timestamp> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            seconds => Some(Timestamp::from_unix_seconds(seconds)),
        }
    }

    /// Notes a use. Says whether it is news: an earlier one is not, nor is one within
    /// `coarseness` of the last.
    pub fn note(&self, at: Timestamp, coarseness: Duration) -> bool {
        let seconds = at.unix_seconds();
        let known = self.0.load(Ordering::Relaxed);
        seconds >= known.saturating_add(coarseness.as_secs().max(1))
            && self.0.fetch_max(seconds, Ordering::Relaxed) < seconds
    }
}

impl Clone for LastUsed {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl From<Option<Timestamp>> for LastUsed {
    fn from(at: Option<Timestamp>) -> Self {
        Self(AtomicU64::new(at.map_or(0, Timestamp::unix_seconds)))
    }
}

impl From<LastUsed> for Option<Timestamp> {
    fn from(last: LastUsed) -> Self {
        last.get()
    }
}
