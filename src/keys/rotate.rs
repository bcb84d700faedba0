//! How a key is handed over to a successor.
//!
//! The successor is stored first, and is nobody's until the key names it. It is named
//! only if the key is still the one that was copied; if somebody has changed it
//! meanwhile, it is copied again.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::keys::api_keys::{ApiKeys, IssuedKey};
use crate::keys::error::KeyError;
use crate::keys::event::KeyEventKind;
use crate::keys::format::{ApiKey, KeyId};
use crate::keys::lifecycle::{self, Command, KeyState, LifecycleError, Outcome};
use crate::keys::manage::TRIES;
use crate::keys::pepper::MacAlgorithm;
use crate::keys::record::{KeyRecord, LastUsed};
use crate::keys::store::KeyStore;

/// Handing over to a successor.
impl<S: KeyStore> ApiKeys<S> {
    /// Issues a successor, and lets the key go on beside it for a while. The successor
    /// has the same owner, rights and restrictions, so it is the same principal: what
    /// is counted goes on.
    ///
    /// # Errors
    /// As [`ApiKeys::disable`]; [`KeyError::Lifecycle`] for a key that is scheduled or
    /// disabled, that has a successor already, or whose predecessor is still good;
    /// [`KeyError::InvalidTimes`] for a successor that would be over at once;
    /// [`KeyError::Randomness`].
    ///
    /// # Cancellation
    /// If it is dropped, or the store fails halfway, nobody holds the successor; the key
    /// goes on as it was, or for the rest of its grace. Try again with the same
    /// [token](Rotation::token) to get the successor after all.
    pub async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<IssuedKey, KeyError> {
        if rotation.life.is_some_and(|life| life.is_zero()) {
            return Err(KeyError::InvalidTimes(ConfigError::new(
                "Rotation::expires_in: the successor would end at once; choose a longer time",
            )));
        }
        let look = &self.shared.look;
        for _ in 0..TRIES {
            let held = self.latest(id).await?.ok_or(KeyError::NotFound)?;
            if let Some(issued) = self.repeated(&held, &rotation).await? {
                return Ok(issued);
            }
            let now = look.clock.now();
            let grace = rotation.grace;
            let retire = |to| lifecycle::apply(&held, Command::Rotate { to, grace }, now);
            // Asked first, so that no successor is stored of a key that can have none.
            retire(id)?;
            self.check_predecessor(&held, now).await?;

            let issued = self.store_successor(&held, &rotation, now).await?;
            let to = issued.record.id;
            let Outcome::Changed(retiring) = retire(to)? else {
                continue;
            };
            if self
                .shared
                .store
                .update(KeyRecord::clone(&retiring))
                .await?
            {
                let tell = |record, kind| self.shared.tell_change(record, kind, now, None);
                tell(&issued.record, KeyEventKind::Issued);
                tell(&retiring, KeyEventKind::RotatedTo(to));
                return Ok(issued);
            }
            // Nobody has seen this one, unless it is that of a token: then another call
            // may have handed it out.
            if rotation.token.is_none() {
                self.shared.store.remove(to).await?;
            }
        }
        Err(KeyError::Conflict)
    }

    /// What a rotation with the same token has led to before.
    async fn repeated(
        &self,
        held: &KeyRecord,
        rotation: &Rotation,
    ) -> Result<Option<IssuedKey>, KeyError> {
        let (Some(rotated), Some(token)) = (&held.rotated, &rotation.token) else {
            return Ok(None);
        };
        for nth in 0..TRIES {
            let (key, id) = self.derive(held, token, nth)?;
            if id == rotated.to {
                let record = self.latest(id).await?;
                return Ok(record.map(|record| IssuedKey {
                    key,
                    record: KeyRecord::clone(&record),
                }));
            }
        }
        // Another token, or the same one under another pepper.
        Ok(None)
    }

    /// At most two keys of a lineage are good at a time.
    async fn check_predecessor(&self, held: &KeyRecord, now: Timestamp) -> Result<(), KeyError> {
        let Some(predecessor) = held.rotated_from else {
            return Ok(());
        };
        let predecessor = self.latest(predecessor).await?;
        if predecessor.is_some_and(|record| !matches!(record.state(now), KeyState::Ended(_))) {
            return Err(LifecycleError::PredecessorIsGood.into());
        }
        Ok(())
    }

    /// Stores a copy of the record under a new key, or finds the one that a call with the
    /// same token has stored: one that broke off, or is under way.
    async fn store_successor(
        &self,
        held: &KeyRecord,
        rotation: &Rotation,
        now: Timestamp,
    ) -> Result<IssuedKey, KeyError> {
        for nth in 0..TRIES {
            let (key, id) = match &rotation.token {
                None => ApiKey::generate(&held.head).map_err(|_| KeyError::Randomness)?,
                Some(token) => self.derive(held, token, nth)?,
            };
            let record = self.successor(held, rotation, &key, id, now);
            if self.shared.store.insert(record.clone()).await? {
                return Ok(IssuedKey { key, record });
            }
            // Never changed here, since somebody else may hand it out at this moment: what
            // is out of date stays unused.
            let stored = self.latest(id).await?;
            let fits = |stored: &Arc<KeyRecord>| {
                stored.mac == record.mac
                    && stored.is_copy_of(held)
                    && stored.lifetime() == record.lifetime()
                    && stored.state(now).is_good()
            };
            if let Some(stored) = stored.filter(fits) {
                let record = KeyRecord::clone(&stored);
                return Ok(IssuedKey { key, record });
            }
        }
        Err(KeyError::Conflict)
    }

    /// The key that a token leads to, or the `nth` after it.
    fn derive(&self, held: &KeyRecord, token: &str, nth: u8) -> Result<(ApiKey, KeyId), KeyError> {
        let id = held.id.as_str().as_bytes();
        let seed = [b"rotate\0", id, &[nth], token.as_bytes()].concat();
        let peppers = &self.shared.look.peppers;
        ApiKey::derive(&held.head, |block| peppers.expand(&seed, block))
            .map_err(|_| KeyError::Randomness)
    }

    fn successor(
        &self,
        held: &KeyRecord,
        rotation: &Rotation,
        key: &ApiKey,
        id: KeyId,
        now: Timestamp,
    ) -> KeyRecord {
        let life = rotation.life.or_else(|| held.lifetime());
        let drawn = self.shared.look.drawn(key, id, &held.head);
        KeyRecord {
            id,
            mac: drawn.mac,
            mac_alg: MacAlgorithm::HmacSha256,
            pepper_version: drawn.pepper_version,
            created_at: now,
            not_before: None,
            expires_at: life.map(|life| now.saturating_add(life)),
            rotated_from: Some(held.id),
            rotated: None,
            last_used: LastUsed::default(),
            revision: 0,
            ..held.clone()
        }
    }
}

/// How a key is rotated: see [`ApiKeys::rotate`].
///
/// ```
/// use std::time::Duration;
/// use tollgate::keys::Rotation;
///
/// let rotation = Rotation::with_grace(Duration::from_secs(7 * 86_400))
///     .token("f0c1e0de-6a3b-4c8e-9d5f-2b1a7c3d4e5f");
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rotation {
    grace: Duration,
    life: Option<Duration>,
    token: Option<Box<str>>,
}

impl Rotation {
    /// The old key goes on for that long, but never beyond its own expiry.
    pub fn with_grace(grace: Duration) -> Self {
        Self {
            grace,
            life: None,
            token: None,
        }
    }

    /// The old key ends at once.
    pub fn at_once() -> Self {
        Self::with_grace(Duration::ZERO)
    }

    /// Sets how long the successor is valid. Defaults to the time from the issue of the old key to
    /// its expiry, as the last [update](ApiKeys::update) has set it.
    pub fn expires_in(mut self, life: Duration) -> Self {
        self.life = Some(life);
        self
    }

    /// Makes the rotation repeatable: with the same token, under the same pepper, the
    /// same key gets the same successor, and is told it again. Use a random one, for
    /// instance a UUID, and keep it as safe as the key: who has it and the pepper can
    /// compute the successor.
    pub fn token(mut self, token: impl Into<Box<str>>) -> Self {
        self.token = Some(token.into());
        self
    }
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation")
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}
