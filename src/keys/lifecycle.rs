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
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::clock::Timestamp;
use crate::config::{ConfigError, Quoted};
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;

/// The state of a key at a point in time.
///
/// Times are half-open and without leeway: a key is valid from its `not_before` on, and no more at
/// its `expires_at`.
///
/// `Display` writes the [name](KeyState::as_str) of the state, and so does `Serialize`: `"retiring"`.
/// The details have methods of their own.
///
/// ```
/// use tollgate::keys::{EndCause, KeyState};
///
/// let state = KeyState::Ended(EndCause::Revoked);
/// assert_eq!(state.to_string(), "ended");
/// assert_eq!(serde_json::to_value(state)?, "ended");
/// assert_eq!(serde_json::to_value(state.end_cause())?, "revoked");
/// # Ok::<(), serde_json::Error>(())
/// ```
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

    /// Returns a stable name: `scheduled`, `active`, `retiring`, `disabled` or `ended`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Active => "active",
            Self::Retiring { .. } => "retiring",
            Self::Disabled => "disabled",
            Self::Ended(_) => "ended",
        }
    }

    /// Returns the cause of the end, or `None` if the key has not ended.
    #[must_use]
    pub const fn end_cause(self) -> Option<EndCause> {
        match self {
            Self::Ended(cause) => Some(cause),
            _ => None,
        }
    }
}

/// The [name](KeyState::as_str) of the state.
impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The [name](KeyState::as_str) of the state, as a string.
impl Serialize for KeyState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The cause of the end of a key.
///
/// `Display`, `FromStr` and serde use the [name](EndCause::as_str) of the cause: `"owner_removed"`.
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

    const ALL: [Self; 6] = [
        Self::CleartextExposure,
        Self::Compromised,
        Self::Expired,
        Self::OwnerRemoved,
        Self::Revoked,
        Self::RotatedOut,
    ];
}

/// The [name](EndCause::as_str) of the cause.
impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EndCause {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let found = Self::ALL.into_iter().find(|cause| cause.as_str() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            ConfigError::new(format!(
                "EndCause: {} is not a cause; use one of {names}",
                Quoted(name)
            ))
        })
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
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    Disable,
    Enable,
    End(EndCause),
    Rotate { to: KeyId, grace: Duration },
    Schedule(Timestamp),
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
            Self::AlreadyRotated => "the key was rotated already; rotate its successor",
            Self::Disabled => "the key is disabled; enable it first",
            Self::Ended(cause) => {
                return write!(f, "the key has ended ({cause}); issue a new key");
            }
            Self::PredecessorIsGood => {
                "the predecessor of the key is still valid; wait for its end or revoke it"
            }
            Self::Scheduled => "the key is scheduled; wait for its start",
            Self::Started => "the key has started already; its start cannot change any more",
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
    }))
}

fn changed(record: &KeyRecord, change: impl FnOnce(&mut KeyRecord)) -> Outcome {
    let mut new = record.clone();
    change(&mut new);
    new.revision = record.revision.saturating_add(1);
    Outcome::Changed(Box::new(new))
}
