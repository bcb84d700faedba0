//! What is done to keys after they were issued. Each command is one step of the pure
//! state machine in `lifecycle`, stored only if nobody else changed the record
//! meanwhile, and tried again if somebody did.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::keys::api_keys::{ApiKeys, IssuedKey};
use crate::keys::error::KeyError;
use crate::keys::event::KeyEventKind;
use crate::keys::format::{ApiKey, KeyId};
use crate::keys::lifecycle::{self, Command, EndCause, KeyState, LifecycleError, Outcome};
use crate::keys::record::{KeyRecord, LastUsed};
use crate::keys::store::{KeyFilter, KeyStore};
use crate::scope::ScopeSet;

/// How often a change is tried while others keep changing the record.
const TRIES: usize = 8;

/// The commands of an operator. With a store in memory they hold from the moment they
/// return; elsewhere within [`ApiKeys::revocation_bound`].
impl<S: KeyStore> ApiKeys<S> {
    /// Ends a key for good. Revoking it again changes nothing: the first cause stays.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Conflict`] if others keep changing the
    /// record, [`KeyError::Store`].
    pub async fn revoke(&self, id: KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        self.end(id, EndCause::Revoked).await
    }

    /// Ends a key for good, for that cause.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`].
    pub async fn end(&self, id: KeyId, cause: EndCause) -> Result<Arc<KeyRecord>, KeyError> {
        self.change(id, Command::End(cause), KeyEventKind::Ended(cause))
            .await
    }

    /// Ends a key that has leaked, also one that has ended already, and says what is
    /// known of its use. A successor is not touched.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`].
    pub async fn report_compromised(&self, id: KeyId) -> Result<Compromised, KeyError> {
        let record = self.end(id, EndCause::Compromised).await?;
        let last_used = record.last_used.get();
        Ok(Compromised {
            record,
            last_used,
            refused_within: self.revocation_bound(),
        })
    }

    /// Refuses a key until it is enabled again. Its time goes on.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`], and [`KeyError::Lifecycle`] for a key that has ended.
    pub async fn disable(&self, id: KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        self.change(id, Command::Disable, KeyEventKind::Disabled)
            .await
    }

    /// Lets a disabled key in again, if its time is not over.
    ///
    /// # Errors
    /// As [`ApiKeys::disable`].
    pub async fn enable(&self, id: KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        self.change(id, Command::Enable, KeyEventKind::Enabled)
            .await
    }

    /// Lets a key begin at another time, while it has not begun.
    ///
    /// # Errors
    /// As [`ApiKeys::disable`], and [`KeyError::InvalidTimes`] if the key would end
    /// before.
    pub async fn schedule(
        &self,
        id: KeyId,
        start: impl Into<Timestamp>,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let start = start.into();
        let held = self.get(id).await?.ok_or(KeyError::NotFound)?;
        if held.good_until().is_some_and(|end| end <= start) {
            return Err(KeyError::InvalidTimes);
        }
        self.change(id, Command::Schedule(start), KeyEventKind::Scheduled)
            .await
    }

    /// Gives a key other scopes.
    ///
    /// # Errors
    /// As [`ApiKeys::disable`], and [`KeyError::InvalidScope`].
    pub async fn set_scopes<I>(&self, id: KeyId, scopes: I) -> Result<Arc<KeyRecord>, KeyError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let scopes = ScopeSet::try_new(scopes)?;
        self.change(id, Command::SetScopes(scopes), KeyEventKind::ScopesChanged)
            .await
    }

    /// Issues a successor, and lets the key go on beside it for a while. The successor
    /// has the same owner, rights and restrictions, so it is the same principal: what
    /// is counted goes on.
    ///
    /// # Errors
    /// As [`ApiKeys::disable`]; [`KeyError::Lifecycle`] for a key that is scheduled or
    /// disabled, that has a successor already, or whose predecessor is still good;
    /// [`KeyError::Randomness`].
    ///
    /// # Cancellation
    /// If it is dropped, or the store fails halfway, nobody holds the successor; the key
    /// goes on as it was, or for the rest of its grace. Try again with the same
    /// [token](Rotation::token) to get the successor after all.
    pub async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<IssuedKey, KeyError> {
        let look = &self.shared.look;
        let now = look.clock.now();
        let held = self.get(id).await?.ok_or(KeyError::NotFound)?;
        let (key, successor) = self.draw_successor(&held, &rotation)?;
        let repeated = held
            .rotated
            .as_ref()
            .is_some_and(|rotated| rotated.to == successor);
        if repeated && let Some(record) = self.get(successor).await? {
            // The same token as before. Under another pepper it is another key.
            return if record.mac == look.peppers.mac(key.expose().as_bytes()) {
                Ok(IssuedKey {
                    key,
                    record: KeyRecord::clone(&record),
                })
            } else {
                Err(LifecycleError::AlreadyRotated.into())
            };
        }
        let command = || Command::Rotate {
            to: successor,
            grace: rotation.grace,
        };
        // Asked first, so that no successor is stored of a key that can have none.
        lifecycle::apply(&held, command(), now)?;
        self.check_predecessor(&held, now).await?;

        let record = self.successor_record(&held, &rotation, &key, successor, now);
        if !self.shared.store.insert(record.clone()).await?
            && self
                .get(successor)
                .await?
                .is_none_or(|held| held.mac != record.mac)
        {
            return Err(KeyError::Conflict);
        }
        let told = KeyEventKind::RotatedTo(successor);
        if let Err(error) = self.change(id, command(), told).await {
            // Somebody was faster. Nobody has seen this successor, and nobody will.
            if !matches!(error, KeyError::Store(_)) {
                self.end(successor, EndCause::Revoked).await?;
            }
            return Err(error);
        }
        Ok(IssuedKey { key, record })
    }

    /// Forgets the keys that ended before `before`: their records go, and their use is
    /// that of any unknown key. Says how many.
    ///
    /// # Errors
    /// [`KeyError::Store`]; those that were forgotten until then stay forgotten.
    pub async fn purge(&self, before: impl Into<Timestamp>) -> Result<usize, KeyError> {
        let before = before.into();
        let mut filter = KeyFilter::all();
        let mut purged = 0;
        loop {
            let page = self.list(filter.clone()).await?;
            for record in &page.records {
                if ended_at(record, before).is_some_and(|at| at < before) {
                    self.shared.store.remove(record.id).await?;
                    purged += 1;
                }
            }
            let Some(next) = page.next else {
                return Ok(purged);
            };
            filter = filter.after(next);
        }
    }

    /// Tells the store now when keys were last used, in place of at the next minute: for
    /// an orderly end.
    pub async fn flush_last_used(&self) {
        self.shared.tell_uses().await;
    }

    /// How many uses of keys the store has not heard of, and never will.
    #[must_use]
    pub fn lost_uses(&self) -> u64 {
        self.shared.uses.lost()
    }

    async fn change(
        &self,
        id: KeyId,
        command: Command,
        told: KeyEventKind,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let look = &self.shared.look;
        for _ in 0..TRIES {
            let held = self.get(id).await?.ok_or(KeyError::NotFound)?;
            let now = look.clock.now();
            let Outcome::Changed(new) = lifecycle::apply(&held, command.clone(), now)? else {
                return Ok(held);
            };
            if self.shared.store.update(KeyRecord::clone(&new)).await? {
                look.tell(id, told, now);
                return Ok(Arc::from(new));
            }
        }
        Err(KeyError::Conflict)
    }

    fn draw_successor(
        &self,
        held: &KeyRecord,
        rotation: &Rotation,
    ) -> Result<(ApiKey, KeyId), KeyError> {
        let drawn = match &rotation.token {
            None => ApiKey::generate(&held.head),
            Some(token) => {
                let seed = [b"rotate\0", held.id.as_str().as_bytes(), token.as_bytes()].concat();
                ApiKey::derive(&held.head, |block| {
                    self.shared.look.peppers.expand(&seed, block)
                })
            }
        };
        drawn.map_err(|_| KeyError::Randomness)
    }

    /// At most two keys of a lineage are good at a time.
    async fn check_predecessor(&self, held: &KeyRecord, now: Timestamp) -> Result<(), KeyError> {
        let Some(predecessor) = held.rotated_from else {
            return Ok(());
        };
        let predecessor = self.get(predecessor).await?;
        if predecessor.is_some_and(|record| !matches!(record.state(now), KeyState::Ended(_))) {
            return Err(LifecycleError::PredecessorIsGood.into());
        }
        Ok(())
    }

    fn successor_record(
        &self,
        held: &KeyRecord,
        rotation: &Rotation,
        key: &ApiKey,
        id: KeyId,
        now: Timestamp,
    ) -> KeyRecord {
        let look = &self.shared.look;
        let life = rotation
            .life
            .or_else(|| Some(held.expires_at?.since(held.created_at)));
        let drawn = look.drawn(key, id, &held.head);
        KeyRecord {
            id,
            mac: drawn.mac,
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

    /// The successor is good for that long. Unless set, it is for as long as the old
    /// key was when it was issued.
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

/// What is known of a key that was reported as compromised.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compromised {
    /// Its record, ended.
    pub record: Arc<KeyRecord>,
    /// When it was last used, to about a minute.
    pub last_used: Option<Timestamp>,
    /// Within this it is refused everywhere.
    pub refused_within: Duration,
}

/// When a key ended, if it has by `now`.
fn ended_at(record: &KeyRecord, now: Timestamp) -> Option<Timestamp> {
    match (record.state(now), record.ended) {
        (KeyState::Ended(_), Some(ended)) => Some(ended.at),
        (KeyState::Ended(_), None) => record.good_until(),
        _ => None,
    }
}
