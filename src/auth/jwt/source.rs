//! [`Source`]: the keys of one issuer, there or to be fetched.

use std::sync::Arc;

use crate::auth::jwt::policy::invalid;
use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::jwks::{Algorithm, Backend, FetchError, KeyStatus, Keyring, Keys, Origin, Remote, Ring};
use crate::pending::Pending;
use crate::rejection::{Cause, Rejection};

#[derive(Debug)]
pub(super) enum Source {
    Fixed(Keyring),
    Remote(Remote),
}

/// Why keys have to be fetched before a token can be judged.
#[derive(Debug)]
pub(super) enum Wanted {
    /// There are none.
    Any,
    /// There is none of this id.
    Key(Box<str>),
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
                    return Err(ConfigError::new("the issuer has no usable key"));
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

    /// Fetches the keys, if there is a point in it.
    pub(super) fn fetch(&self, wanted: &Wanted, now: Timestamp) -> Option<Pending<()>> {
        match (self, wanted) {
            (Self::Fixed(_), _) => None,
            (Self::Remote(remote), Wanted::Any) => Some(remote.obtain(now)),
            (Self::Remote(remote), Wanted::Key(kid)) => remote.find(kid, now).map(Pending::Later),
        }
    }

    /// What a client is told if the keys are not there after all.
    pub(super) fn refusal(&self, wanted: &Wanted, now: Timestamp) -> Rejection {
        match (wanted, self) {
            (Wanted::Key(_), _) => invalid(Cause::TokenKeyUnknown),
            (Wanted::Any, Self::Fixed(_)) => Rejection::unavailable(Cause::KeysUnavailable, now),
            (Wanted::Any, Self::Remote(remote)) => {
                Rejection::unavailable(Cause::KeysUnavailable, now)
                    .with_retry_after(remote.retry_after(now))
            }
        }
    }

    pub(super) fn status(&self, issuer: &Arc<str>, now: Timestamp) -> KeyStatus {
        match self {
            Self::Fixed(keyring) => KeyStatus::fixed(Arc::clone(issuer), keyring.last()),
            Self::Remote(remote) => remote.status(now),
        }
    }

    pub(super) async fn warm_up(&self) -> Result<(), FetchError> {
        match self {
            Self::Fixed(_) => Ok(()),
            Self::Remote(remote) => remote.warm_up().await,
        }
    }
}
