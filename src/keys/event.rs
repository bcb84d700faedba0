//! [`KeyEvent`]: what an operator wants to hear of keys.

use tracing::field::display;

use crate::clock::Timestamp;
use crate::keys::format::KeyId;
use crate::keys::lifecycle::EndCause;
use crate::keys::record::KeyRecord;
use crate::keys::update::KeyFields;

/// Something happened in the life of a key, or a key was used that should not be.
///
/// Every event is also an event of `tracing` with the target `tollgate::keys`, with the fields `id`,
/// `event` (the [name](KeyEventKind::as_str) of the kind), `owner`, `tenant`, and `cause`, `fields` or
/// `successor` where the kind has them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyEvent {
    /// The key.
    pub id: KeyId,
    /// What happened.
    pub kind: KeyEventKind,
    /// When.
    pub at: Timestamp,
}

/// What happened to a key, or with it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum KeyEventKind {
    /// It was disabled.
    Disabled,
    /// It was enabled again.
    Enabled,
    /// Somebody ended it. (That its time is over is no event.)
    Ended(EndCause),
    /// It was issued, also as the successor of another.
    Issued,
    /// It has a successor, which was issued: that is told of the successor, before.
    RotatedTo(KeyId),
    /// It will begin at another time.
    Scheduled,
    /// Fields of it were changed. The event names the fields, never their values.
    Updated(KeyFields),
    /// It was used, with the right secret, after its end.
    UsedAfterEnd(EndCause),
    /// It was used while its successor is there already: at most once a minute. When
    /// these cease, its users have moved.
    UsedInGrace {
        /// When the grace ends.
        until: Timestamp,
    },
}

impl KeyEventKind {
    /// A stable name, fit for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Ended(_) => "ended",
            Self::Issued => "issued",
            Self::RotatedTo(_) => "rotated",
            Self::Scheduled => "scheduled",
            Self::Updated(_) => "updated",
            Self::UsedAfterEnd(_) => "used_after_end",
            Self::UsedInGrace { .. } => "used_in_grace",
        }
    }
}

impl KeyEvent {
    pub(crate) fn log(&self, record: &KeyRecord) {
        let (cause, fields, successor) = match self.kind {
            KeyEventKind::UsedAfterEnd(cause) | KeyEventKind::Ended(cause) => {
                (Some(cause.as_str()), None, None)
            }
            KeyEventKind::Updated(fields) => (None, Some(display(fields)), None),
            KeyEventKind::RotatedTo(successor) => (None, None, Some(display(successor))),
            _ => (None, None, None),
        };
        macro_rules! event {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    target: "tollgate::keys",
                    id = %self.id,
                    event = self.kind.as_str(),
                    owner = record.owner.as_str(),
                    tenant = record.tenant.as_deref(),
                    cause,
                    fields,
                    successor,
                    $message
                )
            };
        }
        match self.kind {
            KeyEventKind::Disabled => event!(info, "key disabled"),
            KeyEventKind::Enabled => event!(info, "key enabled"),
            KeyEventKind::Ended(_) => event!(info, "key ended"),
            KeyEventKind::Issued => event!(info, "key issued"),
            KeyEventKind::RotatedTo(_) => event!(info, "key rotated"),
            KeyEventKind::Scheduled => event!(info, "start of the key changed"),
            KeyEventKind::Updated(_) => event!(info, "key updated"),
            KeyEventKind::UsedAfterEnd(_) => event!(warn, "key used after its end"),
            KeyEventKind::UsedInGrace { .. } => event!(info, "key used in its grace period"),
        }
    }
}
