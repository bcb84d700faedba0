//! The verdict on a token of the hook of [`Issuer::resolve_with`](super::Issuer::resolve_with).

use crate::clock::Timestamp;
use crate::identity::{Identity, Resolved};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

pub(super) type Resolve = dyn Fn(Identity) -> Pending<Resolved> + Send + Sync;

/// Turns the result of the hook into an identity or a rejection.
pub(super) fn verdict(resolved: Resolved, now: Timestamp) -> Result<Identity, Rejection> {
    match resolved {
        Resolved::Known(identity) => Ok(identity),
        Resolved::Revoked => Err(Rejection::new(Reason::TokenInvalid, Cause::TokenRevoked)),
        Resolved::Denied => Err(Rejection::new(Reason::Forbidden, Cause::SubjectDenied)),
        Resolved::Unavailable => Err(Rejection::unavailable(Cause::SubjectUnavailable, now)),
    }
}
