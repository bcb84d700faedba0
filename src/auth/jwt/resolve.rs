//! [`Resolved`]: what a hook makes of the subject of a token.

use crate::identity::Identity;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

/// What a hook of [`Issuer::resolve_with`](super::Issuer::resolve_with) says.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a hook has nothing else to say")]
pub enum Resolved {
    /// This is who it is. The principal should stay the same, as limits and usage are
    /// counted by it.
    Known(Identity),
    /// The token is not good any more: the client gets 401 and should ask for another.
    Revoked,
    /// The subject may not do anything at the moment: the client gets 403.
    Denied,
    /// It cannot be found out at the moment: the client gets 503.
    Unavailable,
}

pub(super) type Resolve = dyn Fn(Identity) -> Pending<Resolved> + Send + Sync;

impl Resolved {
    /// The answer, and the cause if it is none.
    pub(super) fn verdict(self, now: crate::clock::Timestamp) -> Result<Identity, Rejection> {
        match self {
            Self::Known(identity) => Ok(identity),
            Self::Revoked => Err(Rejection::new(Reason::TokenInvalid, Cause::TokenRevoked)),
            Self::Denied => Err(Rejection::new(Reason::Forbidden, Cause::SubjectDenied)),
            Self::Unavailable => Err(Rejection::unavailable(Cause::SubjectUnavailable, now)),
        }
    }
}

/// An error means that it cannot be found out.
impl<E> From<Result<Identity, E>> for Resolved {
    fn from(identity: Result<Identity, E>) -> Self {
        identity.map_or(Self::Unavailable, Self::Known)
    }
}
