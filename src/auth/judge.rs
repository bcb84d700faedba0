//! The verdict on a credential, within the failure budget of its network.

use std::sync::Arc;

use http::request::Parts;

use crate::auth::authenticate::{Answer, Authenticate};
use crate::auth::door::Door;
use crate::auth::failure_guard::FailureGuard;
use crate::auth::source::ill_formed;
use crate::clock::Timestamp;
use crate::credential::Credential;
use crate::identity::Identity;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

pub(super) type Verdict = Result<Identity, Rejection>;

impl<A: Authenticate> Door<A> {
    /// Returns the verdict on a credential, without regard to failures before it.
    pub(super) fn judge(&self, credential: &Credential, now: Timestamp) -> Pending<Verdict> {
        // Most are good, and need not be looked at twice.
        let looks_first = !self.authenticate.refuses_malformed();
        if looks_first && let Some(rejection) = ill_formed(credential) {
            return Err(rejection).into();
        }
        let answer = self.authenticate.authenticate(credential, now);
        let is_good = matches!(answer, Answer::Mine(Pending::Ready(Ok(_))));
        if !looks_first
            && !is_good
            && let Some(rejection) = ill_formed(credential)
        {
            return Err(rejection).into();
        }
        match answer {
            Answer::Mine(verdict) => verdict,
            Answer::NotMine => {
                Err(Rejection::new(Reason::CredentialInvalid, Cause::Unclaimed)).into()
            }
        }
    }
}

/// Returns the verdict on a credential within the failure budget of its network.
pub(super) fn guarded<A: Authenticate>(
    door: &Arc<Door<A>>,
    guard: &FailureGuard,
    credential: Credential,
    now: Timestamp,
) -> Pending<Verdict> {
    match guard.admit(credential.expose()) {
        Pending::Ready(Err(rejection)) => Err(rejection).into(),
        Pending::Ready(Ok(verification)) => match door.judge(&credential, now) {
            Pending::Ready(verdict) => {
                verification.end(&verdict);
                verdict.into()
            }
            Pending::Later(verdict) => Pending::later(async move {
                let verdict = verdict.await;
                verification.end(&verdict);
                verdict
            }),
        },
        Pending::Later(admitted) => {
            let door = Arc::clone(door);
            Pending::later(async move {
                let verification = admitted.await?;
                let now = door.time();
                let verdict = door.judge(&credential, now).wait().await;
                verification.end(&verdict);
                verdict
            })
        }
    }
}

/// Checks the failures of the network for a request without a credential that could be verified.
pub(super) fn check_failures(request: &Parts) -> Result<(), Rejection> {
    match request.extensions.get::<FailureGuard>() {
        Some(guard) => guard.check(),
        None => Ok(()),
    }
}
