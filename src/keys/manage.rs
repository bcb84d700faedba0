//! What is done to keys after they were issued. Each command is one step of the pure
//! state machine in `lifecycle`, stored only if nobody else changed the record
//! meanwhile, and tried again if somebody did. How keys are rotated is in `rotate`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::audit::Activity;
use crate::clock::Timestamp;
use crate::keys::api_keys::ApiKeys;
use crate::keys::error::KeyError;
use crate::keys::event::KeyEventKind;
use crate::keys::format::KeyId;
use crate::keys::lifecycle::{self, Command, EndCause, KeyState, Outcome};
use crate::keys::record::KeyRecord;
use crate::keys::store::{KeyFilter, KeyStore, StoreError};
use crate::keys::update::KeyUpdate;
use crate::keys::validate;

/// How often a change is tried while others keep changing the record.
pub(crate) const TRIES: u8 = 8;

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
        self.change(id, Command::End(cause)).await
    }

    /// Ends a key that has leaked, also one that has ended already, and says what is
    /// known of its use. A successor is not touched.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`].
    pub async fn report_compromised(&self, id: KeyId) -> Result<Compromised, KeyError> {
        let record = self.end(id, EndCause::Compromised).await?;
        let last_used = record.last_used.get().max(self.shared.uses.last(id));
        Ok(Compromised {
            record,
            last_used,
            refused_within: self.shared.store.settles_within(),
            activity: self.activity(id),
        })
    }

    /// Refuses a key until it is enabled again. Its time goes on.
    ///
    /// # Errors
    /// As [`ApiKeys::revoke`], and [`KeyError::Lifecycle`] for a key that has ended.
    pub async fn disable(&self, id: KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        self.change(id, Command::Disable).await
    }

    /// Lets a disabled key in again, if its time is not over.
    ///
    /// # Errors
    /// As [`ApiKeys::disable`].
    pub async fn enable(&self, id: KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        self.change(id, Command::Enable).await
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
        let command = Command::Schedule(start);
        self.change_for(id, None, |held, now| {
            validate::lifetime("ApiKeys::schedule", start, held.good_until())?;
            outcome_of(held, command, now)
        })
        .await
    }

    /// Changes the plan, roles, name, metadata, restrictions, scopes or expiry of a key.
    ///
    /// The new values apply from the next request on: the key is evicted from the
    /// [cache](crate::keys::Cached) of this process before this method returns. Other processes
    /// follow within [`ApiKeys::revocation_bound`].
    ///
    /// A scheduled, disabled or rotated key can be updated. A key that has ended cannot. An update of a
    /// rotated key does not change its successor, which is a key of its own. A successor that is
    /// issued later inherits the updated values.
    ///
    /// If another command changes the record at the same time, the update is applied to the changed
    /// record, at most 8 times. With [`KeyUpdate::if_revision`] it fails instead.
    ///
    /// An update that changes a value emits [`KeyEventKind::Updated`]. Otherwise the record and its
    /// revision stay as they are.
    ///
    /// # Errors
    /// Returns
    /// - [`KeyError::InvalidName`], [`KeyError::InvalidScope`] or [`KeyError::InvalidRestriction`] if a
    ///   value is not valid,
    /// - [`KeyError::InvalidTimes`] if the new expiry does not fit: see
    ///   [`KeyUpdate::set_expires_at`],
    /// - [`KeyError::StaleRevision`] if the record has another revision than the caller expects,
    /// - [`KeyError::Lifecycle`] if the key has ended,
    /// - [`KeyError::NotFound`], [`KeyError::Conflict`] or [`KeyError::Store`] as
    ///   [`ApiKeys::revoke`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave the update applied, but not an event of it.
    pub async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<Arc<KeyRecord>, KeyError> {
        let changes = update.validate()?;
        self.change_for(id, None, |held, now| {
            let changed = changes.apply(held, now)?;
            Ok(changed.map(|(new, fields)| (new, KeyEventKind::Updated(fields))))
        })
        .await
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
            filter = next_page(filter, next)?;
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

    /// Ends a key that was sent in clear, from there.
    pub(crate) async fn end_exposed(
        &self,
        id: KeyId,
        client: IpAddr,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let command = Command::End(EndCause::CleartextExposure);
        self.change_for(id, Some(client), |held, now| outcome_of(held, command, now))
            .await
    }

    /// Ends a key, and returns whether this call has ended it. It may have ended before.
    pub(crate) async fn ends(&self, id: KeyId, cause: EndCause) -> Result<bool, KeyError> {
        let is_changed = AtomicBool::new(false);
        self.change_for(id, None, |held, now| {
            let change = outcome_of(held, Command::End(cause), now)?;
            is_changed.store(change.is_some(), Ordering::Relaxed);
            Ok(change)
        })
        .await?;
        Ok(is_changed.into_inner())
    }

    async fn change(&self, id: KeyId, command: Command) -> Result<Arc<KeyRecord>, KeyError> {
        self.change_for(id, None, |held, now| outcome_of(held, command, now))
            .await
    }

    /// Stores the record that `decide` returns for the current one, or leaves the current one if it
    /// returns `None`. `decide` is called again if the record was changed meanwhile.
    async fn change_for(
        &self,
        id: KeyId,
        client: Option<IpAddr>,
        decide: impl Fn(&KeyRecord, Timestamp) -> Result<Option<Change>, KeyError>,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let look = &self.shared.look;
        for _ in 0..TRIES {
            let held = self.latest(id).await?.ok_or(KeyError::NotFound)?;
            let now = look.clock.now();
            let Some((new, kind)) = decide(&held, now)? else {
                return Ok(held);
            };
            if self.shared.store.update(KeyRecord::clone(&new)).await? {
                self.shared.tell_change(&new, kind, now, client);
                return Ok(Arc::from(new));
            }
        }
        Err(KeyError::Conflict)
    }
}

/// A changed record, and the event of the change.
type Change = (Box<KeyRecord>, KeyEventKind);

/// The record that a command makes of another.
fn outcome_of(
    held: &KeyRecord,
    command: Command,
    now: Timestamp,
) -> Result<Option<Change>, KeyError> {
    Ok(match lifecycle::apply(held, command, now)? {
        Outcome::Unchanged => None,
        Outcome::Changed(new) => {
            let kind = event_of(command, &new);
            Some((new, kind))
        }
    })
}

/// What is known of a key that was reported as compromised.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compromised {
    /// Its record, ended.
    pub record: Arc<KeyRecord>,
    /// When it was last used, to about a minute, as far as the store and this process
    /// know.
    pub last_used: Option<Timestamp>,
    /// Within this it is refused by every node that is set up like this one.
    pub refused_within: Duration,
    /// What was done with it lately, in this process: as [`ApiKeys::activity`].
    pub activity: Option<Activity>,
}

/// What is told of a command that made `new` of a record.
fn event_of(command: Command, new: &KeyRecord) -> KeyEventKind {
    match command {
        Command::Disable => KeyEventKind::Disabled,
        Command::Enable => KeyEventKind::Enabled,
        Command::End(cause) => KeyEventKind::Ended(new.ended.map_or(cause, |ended| ended.cause)),
        Command::Rotate { to, .. } => KeyEventKind::RotatedTo(to),
        Command::Schedule(_) => KeyEventKind::Scheduled,
    }
}

/// Moves a filter to the next page. Fails if the store does not advance, which would never end.
pub(crate) fn next_page(filter: KeyFilter, next: KeyId) -> Result<KeyFilter, KeyError> {
    if filter.after.is_some_and(|after| next <= after) {
        let problem = "`KeyStore::list` returned a `next` that is not after the page before";
        return Err(StoreError::unavailable(problem).into());
    }
    Ok(filter.after(next))
}

/// When a key ended, if it has by `now`.
fn ended_at(record: &KeyRecord, now: Timestamp) -> Option<Timestamp> {
    match (record.state(now), record.ended) {
        (KeyState::Ended(_), Some(ended)) => Some(ended.at),
        (KeyState::Ended(_), None) => record.good_until(),
        _ => None,
    }
}
