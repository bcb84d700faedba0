//! What the gates tell each other through the extensions of a request.

use http::Extensions;

use crate::identity::Identity;
use crate::rejection::{Cause, Reason, Rejection, Speaker};

/// Stands in the extensions of a request that a door let through without a
/// credential.
#[derive(Clone, Copy)]
pub(crate) struct Anonymous;

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
    let mut rejection = Rejection::new(Reason::CredentialsMissing, Cause::NothingShown);
    rejection.voice = Speaker::Door;
    Err(rejection)
}
