//! What the gates tell each other through the extensions of a request.

use std::sync::Arc;

use http::Extensions;

use crate::identity::Identity;
use crate::rejection::{Cause, Reason, Rejection};

/// Stands in the extensions of a request that a door let through without a
/// credential.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tonic"),
    expect(
        dead_code,
        reason = "only a method of tonic answers in place of a door"
    )
)]
pub(crate) struct Anonymous {
    /// It is a CORS preflight, which nobody can show a credential with.
    pub(crate) preflight: bool,
    /// How the door would have refused it, for those who have to in its place.
    pub(crate) realm: Arc<str>,
    pub(crate) request_id: Option<Arc<str>>,
}

/// Whether a door let the request through as a CORS preflight.
pub(crate) fn is_preflight(extensions: &Extensions) -> bool {
    let anonymous = extensions.get::<Anonymous>();
    anonymous.is_some_and(|anonymous| anonymous.preflight)
}

/// Whether a door let the request through without a credential.
pub(crate) fn is_anonymous(extensions: &Extensions) -> bool {
    extensions.get::<Anonymous>().is_some()
}

/// Who calls, as the door outside has found out.
///
/// # Errors
/// A refusal: of the caller, if the door let them in without a credential, or of the
/// request, if there is no door. `who_asks` names the one who needs to know.
pub(crate) fn caller<'a>(
    extensions: &'a Extensions,
    who_asks: &str,
) -> Result<&'a Identity, Rejection> {
    if let Some(identity) = extensions.get::<Identity>() {
        return Ok(identity);
    }
    if extensions.get::<Anonymous>().is_none() {
        let fix = format!("{who_asks} found no Identity in the request: put an AuthLayer outside");
        return Err(Rejection::misconfigured(&fix));
    }
    Err(Rejection::new(
        Reason::CredentialsMissing,
        Cause::NothingShown,
    ))
}
