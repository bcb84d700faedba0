//! [`KeyError`]: why a key could not be issued, changed or read.

use std::fmt;

use crate::config::ConfigError;
use crate::keys::lifecycle::LifecycleError;
use crate::keys::store::StoreError;
use crate::scope::InvalidScope;

/// A key could not be issued, changed or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyError {
    /// Others kept changing the record.
    Conflict,
    /// One of the networks is none.
    InvalidNetwork(ConfigError),
    /// One of the scopes is none.
    InvalidScope(InvalidScope),
    /// The key would end before it begins.
    InvalidTimes,
    /// Where the key stands in its life, that cannot be done to it.
    Lifecycle(LifecycleError),
    /// A key must be somebody's: the owner is empty.
    NoOwner,
    /// No key has this id.
    NotFound,
    /// The operating system has no randomness to give.
    Randomness,
    /// The store failed.
    Store(StoreError),
    /// The environment is not configured.
    UnknownEnvironment,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conflict => "the key was changed by others at the same time",
            Self::InvalidNetwork(_) => "one of the networks of the key is none",
            Self::InvalidScope(_) => "one of the scopes of the key is none",
            Self::InvalidTimes => "the key would end before it begins",
            Self::Lifecycle(error) => return error.fmt(f),
            Self::NoOwner => "a key must have an owner",
            Self::NotFound => "no key has this id",
            Self::Randomness => "no key could be drawn",
            Self::Store(_) => "the key store failed",
            Self::UnknownEnvironment => "the environment of the key is not configured",
        })
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidNetwork(error) => Some(error),
            Self::InvalidScope(error) => Some(error),
            Self::Lifecycle(error) => Some(error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<InvalidScope> for KeyError {
    fn from(error: InvalidScope) -> Self {
        Self::InvalidScope(error)
    }
}

impl From<LifecycleError> for KeyError {
    fn from(error: LifecycleError) -> Self {
        Self::Lifecycle(error)
    }
}
