//! [`KeyRecord`]: what a store holds of a key.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::keys::format::KeyId;
use crate::keys::pepper::KeyMac;
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
    /// When it was revoked. Nothing brings it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Counts the changes of the record; a store compares it to find conflicts.
    #[serde(default)]
    pub revision: u64,
    /// The identity that the record stands for. Leave it to `Default`; change a
    /// record only before it is shared.
    #[serde(skip)]
    pub identity: CachedIdentity,
}

impl KeyRecord {
    /// Where the key stands in its life at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|end| now >= end) {
            KeyState::Expired
        } else if self.disabled_at.is_some() {
            KeyState::Disabled
        } else if self.not_before.is_some_and(|start| now < start) {
            KeyState::Scheduled
        } else {
            KeyState::Active
        }
    }

    pub(crate) fn identity(&self, source: &str) -> &Identity {
        self.identity.0.get_or_init(|| {
            let mut identity = Identity::builder(source, self.owner.as_str())
                .credential_id(self.id.as_str())
                .scopes(self.scopes.clone());
            if let Some(tenant) = &self.tenant {
                identity = identity.tenant(tenant.as_str());
            }
            if let Some(plan) = &self.plan {
                identity = identity.plan(plan.as_str());
            }
            if let Some(end) = self.expires_at {
                identity = identity.expires_at(end);
            }
            for role in &self.roles {
                identity = identity.role(role.as_str());
            }
            for (name, value) in &self.metadata {
                identity = identity.metadata(name, value);
            }
            identity.build()
        })
    }
}

/// Where a key stands in its life. Times are half-open and without leeway: a key is
/// valid from its `not_before` on, and no more at its `expires_at`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KeyState {
    /// Its time has not come.
    Scheduled,
    /// It is good.
    Active,
    /// It was disabled, and can be enabled again.
    Disabled,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// The identity of a record, computed at first use. A clone starts empty, so that a
/// changed copy of a record never answers with the identity of the old one.
#[derive(Debug, Default)]
pub struct CachedIdentity(OnceLock<Identity>);

impl Clone for CachedIdentity {
    fn clone(&self) -> Self {
        Self::default()
    }
}
