//! What is done to keys after they were issued. Each command is one step of the pure
//! state machine in `lifecycle`, stored only if nobody else changed the record
//! meanwhile, and tried again if somebody did. How keys are rotated is in `rotate`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::Activity;
use crate::clock::Timestamp;
use crate::keys::api_keys::ApiKeys;
use crate::keys::error::KeyError;
use crate::keys::event::KeyEventKind;
use crate::keys::format::KeyId;
use crate::keys::lifecycle::{self, Command, EndCause, KeyState, Outcome};
use crate::keys::record::KeyRecord;
use crate::keys::store::{KeyFilter, KeyStore};
use crate::scope::ScopeSet;

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
        let held = self.latest(id).await?.ok_or(KeyError::NotFound)?;
        if held.good_until().is_some_and(|end| end <= start) {
            return Err(KeyError::InvalidTimes);
        }
        self.change(id, Command::Schedule(start)).await
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
        self.change(id, Command::SetScopes(scopes)).await
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

    /// Ends a key that was sent in clear, from there.
    pub(crate) async fn end_exposed(
        &self,
        id: KeyId,
        client: IpAddr,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let command = Command::End(EndCause::CleartextExposure);
        self.change_for(id, command, Some(client)).await
    }

    async fn change(&self, id: KeyId, command: Command) -> Result<Arc<KeyRecord>, KeyError> {
        self.change_for(id, command, None).await
    }

    async fn change_for(
        &self,
        id: KeyId,
        command: Command,
        client: Option<IpAddr>,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let look = &self.shared.look;
        for _ in 0..TRIES {
            let held = self.latest(id).await?.ok_or(KeyError::NotFound)?;
            let now = look.clock.now();
            let Outcome::Changed(new) = lifecycle::apply(&held, command.clone(), now)? else {
                return Ok(held);
            };
            if self.shared.store.update(KeyRecord::clone(&new)).await? {
                let kind = event_of(&command, &new);
                self.shared.tell_change(&new, kind, now, client);
                return Ok(Arc::from(new));
            }
        }
        Err(KeyError::Conflict)
    }
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
fn event_of(command: &Command, new: &KeyRecord) -> KeyEventKind {
    match command {
        Command::Disable => KeyEventKind::Disabled,
        Command::Enable => KeyEventKind::Enabled,
        Command::End(cause) => KeyEventKind::Ended(new.ended.map_or(*cause, |ended| ended.cause)),
        Command::Rotate { to, .. } => KeyEventKind::RotatedTo(*to),
        Command::Schedule(_) => KeyEventKind::Scheduled,
        Command::SetScopes(_) => KeyEventKind::ScopesChanged,
    }
}

/// When a key ended, if it has by `now`.
fn ended_at(record: &KeyRecord, now: Timestamp) -> Option<Timestamp> {
    match (record.state(now), record.ended) {
        (KeyState::Ended(_), Some(ended)) => Some(ended.at),
        (KeyState::Ended(_), None) => record.good_until(),
        _ => None,
    }
}
