//! [`Source`]: the keys of one issuer, there or to be fetched.

use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::jwks::{Algorithm, Backend, Keyring, Keys, Origin, Ring};
use crate::pending::Pending;

#[derive(Debug)]
pub(super) enum Source {
    Fixed(Keyring),
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
        _issuer: &str,
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
        }
    }

    pub(super) fn keyring(&self) -> &Keyring {
        match self {
            Self::Fixed(keyring) => keyring,
        }
    }

    /// Starts what is due at this time in the background.
    pub(super) fn tick(&self, _now: Timestamp) {}

    /// Fetches the keys, if there is a point in it.
    pub(super) fn fetch(&self, _wanted: &Wanted, _now: Timestamp) -> Option<Pending<()>> {
        None
    }
}
