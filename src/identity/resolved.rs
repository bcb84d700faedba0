//! [`Resolved`]: the result of an identity hook.

use crate::identity::Identity;

/// The result of a hook that is asked about each verified credential, such as
/// [`ApiKeys::resolve_with`](crate::ApiKeys::resolve_with).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a hook has nothing else to say")]
pub enum Resolved {
    /// The request passes with this identity. The principal should stay the same, since limits and
    /// usage are counted by it.
    Known(Identity),
    /// The credential is not valid any more. The client gets 401.
    Revoked,
    /// The subject may not do anything at the moment. The client gets 403.
    Denied,
    /// The hook could not decide. The client gets 503.
    Unavailable,
}

/// An error means that the hook could not decide.
impl<E> From<Result<Identity, E>> for Resolved {
    fn from(identity: Result<Identity, E>) -> Self {
        identity.map_or(Self::Unavailable, Self::Known)
    }
}
