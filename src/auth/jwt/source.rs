//! [`Source`]: the keys of one issuer, there or to be fetched.

use std::sync::Arc;

use crate::auth::jwt::policy::invalid;
use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::jwks::{
    Algorithm, Backend, KeyFetchError, KeyStatus, Keyring, Keys, LookUp, Origin, Remote, Ring,
    Verdict, Wanted, unusable_keys,
};
use crate::pending::Pending;
use crate::rejection::{Cause, Rejection};

#[derive(Debug)]
pub(super) enum Source {
    Fixed(Keyring),
    Remote(Remote),
}

impl Source {
    pub(super) fn new(
        keys: Keys,
        issuer: &str,
        algorithms: &[Algorithm],
        backend: Backend,
    ) -> Result<Self, ConfigError> {
        match keys.0 {
            Origin::Set(set) => {
                let ring = Ring::prepare(set, algorithms, backend, None);
                if ring.is_empty() {
                    let reason = match unusable_keys(ring.unusable()) {
                        Some(keys) => format!("no key can be used: {keys}"),
                        None => "the key set is empty; call `.keys(..)` with a key".to_owned(),
                    };
                    return Err(ConfigError::new(format!(
                        "Jwt::issuer({issuer:?}): {reason}"
                    )));
                }
                Ok(Self::Fixed(Keyring::fixed(ring)))
            }
            Origin::Remote(settings) => {
                Remote::new(settings, issuer, algorithms.to_vec(), backend).map(Self::Remote)
            }
        }
    }

    pub(super) fn keyring(&self) -> &Keyring {
        match self {
            Self::Fixed(keyring) => keyring,
            Self::Remote(remote) => remote.keyring(),
        }
    }

    /// Starts what is due at this time in the background.
    pub(super) fn tick(&self, now: Timestamp) {
        if let Self::Remote(remote) = self {
            remote.tick(now);
        }
    }

    /// Asks the issuer for a key that is missing, or that perhaps was replaced.
    ///
    /// # Errors
    /// Returns the rejection of the token, unless there are other keys for it now.
    pub(super) fn look_up(&self, wanted: Wanted, now: Timestamp) -> Pending<Result<(), Rejection>> {
        let Self::Remote(remote) = self else {
            return Err(refusal(&wanted, now)).into();
        };
        let (refused, had_keys) = (refusal(&wanted, now), wanted.tried.is_some());
        let conclude = move |found| match found {
            LookUp::Changed => Ok(()),
            LookUp::Same | LookUp::Absent if had_keys => Err(refused),
            LookUp::Same | LookUp::Absent => Err(invalid((Cause::TokenKeyUnknown, "kid"))),
            LookUp::Unavailable(wait) => {
                let cause = if had_keys {
                    Cause::TokenKeyUnavailable
                } else {
                    Cause::KeysUnavailable
                };
                let rejection = Rejection::unavailable(cause, now).with_retry_after(wait);
                Err(if had_keys {
                    rejection.with_fault("kid")
                } else {
                    rejection
                })
            }
        };
        match remote.look_up(wanted, now) {
            Pending::Ready(found) => conclude(found).into(),
            Pending::Later(found) => Pending::later(async move { conclude(found.await) }),
        }
    }

    pub(super) fn status(&self, issuer: &Arc<str>, now: Timestamp) -> KeyStatus {
        match self {
            Self::Fixed(keyring) => KeyStatus::fixed(Arc::clone(issuer), keyring.last()),
            Self::Remote(remote) => remote.status(now),
        }
    }

    pub(super) async fn warm_up(&self, issuer: &Arc<str>) -> Result<(), KeyFetchError> {
        match self {
            Self::Fixed(_) => Ok(()),
            Self::Remote(remote) => {
                let warmed = remote.warm_up().await;
                warmed.map_err(|error| {
                    KeyFetchError::new(Arc::clone(issuer), error, remote.detail(error))
                })
            }
        }
    }
}

/// The rejection of a token that is not good by the keys that there are.
pub(super) fn refusal(wanted: &Wanted, now: Timestamp) -> Rejection {
    match (&wanted.tried, wanted.verdict) {
        (None, _) => Rejection::unavailable(Cause::KeysUnavailable, now),
        (Some(_), Verdict::Forged) => invalid((Cause::TokenSignature, "signature")),
        (Some(_), _) => invalid((Cause::TokenKeyUnknown, "kid")),
    }
}
