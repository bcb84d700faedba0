//! The life of a key, as one pure state machine: where it stands, and what each
//! command makes of it.
//!
//! ```text
//! scheduled ─→ active ─→ retiring ─→ ended
//!      └─────────┴──────────┴─→ disabled (and back)
//! ```
//!
//! A key ends for one cause; the record stays as a tombstone, so that a later use of
//! the key is known for what it is. Only `compromised` replaces an earlier cause.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::scope::ScopeSet;

/// Where a key stands in its life. Times are half-open and without leeway: a key is
/// valid from its `not_before` on, and no more at its `expires_at`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KeyState {
    /// Its time has not come.
    Scheduled,
    /// It is good.
    Active,
    /// It is good for a while yet; a successor was issued.
    Retiring {
        /// When it ends.
        until: Timestamp,
    },
    /// It was disabled, and can be enabled again.
    Disabled,
    /// It is over.
    Ended(EndCause),
}

impl KeyState {
    /// Whether a request with the key may pass.
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Active | Self::Retiring { .. })
    }
}

/// Why a key ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// It was sent over plain HTTP.
    CleartextExposure,
    /// It was reported as compromised.
    Compromised,
    /// Its time was over.
    Expired,
    /// Its owner is gone.
    OwnerRemoved,
    /// It was revoked.
    Revoked,
    /// Its successor has taken over.
    RotatedOut,
}

impl EndCause {
    /// A stable name, fit for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CleartextExposure => "cleartext_exposure",
            Self::Compromised => "compromised",
            Self::Expired => "expired",
            Self::OwnerRemoved => "owner_removed",
            Self::Revoked => "revoked",
            Self::RotatedOut => "rotated_out",
        }
    }
}

/// When and why a key was ended by somebody.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must be able to build one from columns"
)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: EndCause,
}

/// That a key has a successor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must be able to build one from columns"
)]
pub struct Rotated {
    /// When the successor was issued.
    pub at: Timestamp,
    /// The successor.
    pub to: KeyId,
    /// Until when this one is good beside it.
    pub grace_until: Timestamp,
}

/// What can be done to a key.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Disable,
    Enable,
    End(EndCause),
    Rotate { to: KeyId, grace: Duration },
    Schedule(Timestamp),
    SetScopes(ScopeSet),
}

/// What a command makes of a record.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Unchanged,
    Changed(Box<KeyRecord>),
}

/// A command that does not fit where the key stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LifecycleError {
    /// The key has a successor already.
    AlreadyRotated,
    /// The key is disabled: enable it first.
    Disabled,
    /// The key has ended, and nothing brings it back.
    Ended(EndCause),
    /// The key's predecessor is still good: there would be three.
    PredecessorIsGood,
    /// The key's time has not come.
    Scheduled,
    /// The key's time has come already.
    Started,
}

impl fmt::Display for LifecycleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyRotated => "the key has a successor already",
            Self::Disabled => "the key is disabled",
            Self::Ended(_) => "the key has ended",
            Self::PredecessorIsGood => "the predecessor of the key is still good",
            Self::Scheduled => "the time of the key has not come",
            Self::Started => "the time of the key has come already",
        })
    }
}

impl std::error::Error for LifecycleError {}

/// Where a key stands at `now`.
pub(crate) fn state(record: &KeyRecord, now: Timestamp) -> KeyState {
    if let Some(ended) = record.ended {
        return KeyState::Ended(ended.cause);
    }
    if let Some(rotated) = &record.rotated
        && now >= rotated.grace_until
    {
        return KeyState::Ended(EndCause::RotatedOut);
    }
    if record.expires_at.is_some_and(|end| now >= end) {
        return KeyState::Ended(EndCause::Expired);
    }
    if record.disabled_at.is_some() {
        return KeyState::Disabled;
    }
    if record.not_before.is_some_and(|start| now < start) {
        return KeyState::Scheduled;
    }
    match &record.rotated {
        Some(rotated) => KeyState::Retiring {
            until: rotated.grace_until,
        },
        None => KeyState::Active,
    }
}

/// What a command makes of a record at `now`. A change counts the revision up by one.
pub(crate) fn apply(
    record: &KeyRecord,
    command: Command,
    now: Timestamp,
) -> Result<Outcome, LifecycleError> {
    use KeyState as At;
    match (&command, state(record, now)) {
        // The first cause wins, except that a compromise is always written down.
        (Command::End(EndCause::Compromised), At::Ended(cause))
            if cause != EndCause::Compromised => {}
        // Where that is the time, it is written down: it may come back.
        (Command::End(_), At::Ended(cause)) if record.ended.is_none() => {
            let at = record.good_until().unwrap_or(now);
            return Ok(changed(record, |new| new.ended = Some(Ended { at, cause })));
        }
        (Command::End(_), At::Ended(_))
        | (Command::Disable, At::Disabled)
        | (Command::Enable, At::Active | At::Retiring { .. } | At::Scheduled) => {
            return Ok(Outcome::Unchanged);
        }
        (_, At::Ended(cause)) => return Err(LifecycleError::Ended(cause)),
        (Command::Rotate { .. }, At::Disabled) => return Err(LifecycleError::Disabled),
        (Command::Rotate { .. }, At::Scheduled) => return Err(LifecycleError::Scheduled),
        (Command::Rotate { .. }, At::Retiring { .. }) => {
            return Err(LifecycleError::AlreadyRotated);
        }
        (Command::Schedule(_), _) if record.not_before.is_none_or(|start| now >= start) => {
            return Err(LifecycleError::Started);
        }
        _ => {}
    }
    Ok(changed(record, |new| match command {
        Command::Disable => new.disabled_at = Some(now),
        Command::Enable => new.disabled_at = None,
        Command::End(cause) => new.ended = Some(Ended { at: now, cause }),
        Command::Rotate { to, grace } => {
            let grace_until = now.saturating_add(grace);
            let grace_until = record
                .expires_at
                .map_or(grace_until, |end| grace_until.min(end));
            new.rotated = Some(Rotated {
                at: now,
                to,
                grace_until,
            });
        }
        Command::Schedule(start) => new.not_before = Some(start),
        Command::SetScopes(scopes) => new.scopes = scopes,
    }))
}

fn changed(record: &KeyRecord, change: impl FnOnce(&mut KeyRecord)) -> Outcome {
    let mut new = record.clone();
    change(&mut new);
    new.revision = record.revision.saturating_add(1);
    Outcome::Changed(Box::new(new))
}
