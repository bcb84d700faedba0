//! [`KeyStatus`]: how it stands with the keys of an issuer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::jwks::ring::Ring;
use crate::jwks::set::UnusableKey;

/// How it stands with the keys of an issuer, at the moment it was asked for.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    pub(crate) issuer: Arc<str>,
    pub(crate) is_ready: bool,
    pub(crate) ring: Option<Arc<Ring>>,
    pub(crate) age: Option<Duration>,
    pub(crate) last_error: Option<FetchError>,
    pub(crate) failures: u32,
    pub(crate) fetches: u64,
}

impl KeyStatus {
    /// That of keys which are never fetched.
    pub(crate) const fn fixed(issuer: Arc<str>, ring: Option<Arc<Ring>>) -> Self {
        Self {
            issuer,
            is_ready: ring.is_some(),
            ring,
            age: None,
            last_error: None,
            failures: 0,
            fetches: 0,
        }
    }

    /// Whose keys they are.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether there are keys that tokens can be verified with: there are some, and they
    /// are not too old.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The ids of the keys, however old they are; none for those without.
    pub fn kids(&self) -> impl Iterator<Item = Option<&str>> {
        self.ring.iter().flat_map(|ring| ring.kids())
    }

    /// The entries of the set that tokens cannot be verified with.
    #[must_use]
    pub fn unusable(&self) -> &[UnusableKey] {
        self.ring.as_ref().map_or(&[], |ring| ring.unusable())
    }

    /// For how long nobody has said that these are the keys. None if there are none.
    #[must_use]
    pub const fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Why the last fetch failed. None if it did not.
    #[must_use]
    pub const fn last_error(&self) -> Option<FetchError> {
        self.last_error
    }

    /// How many fetches have failed in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// How often the keys were asked for.
    #[must_use]
    pub const fn fetches(&self) -> u64 {
        self.fetches
    }
}

/// Why keys could not be fetched. It has nothing in it of what was received, and no URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FetchError {
    /// The answer ended early.
    BrokenOff,
    /// The metadata of the issuer names an address that keys are not fetched from.
    ForbiddenAddress,
    /// None of the keys can be used, or there are none.
    NoUsableKey,
    /// It is not a JWK Set.
    NotAKeySet,
    /// It is not the metadata of an issuer.
    NotMetadata,
    /// The metadata is of another issuer.
    OtherIssuer,
    /// The client panicked.
    Panicked,
    /// A redirect leads to another origin, to no URL, or in circles.
    Redirected,
    /// The answer has this status.
    Status(StatusCode),
    /// It took too long.
    TimedOut,
    /// The document is too large.
    TooLarge,
    /// There is no connection to the key server: its name, its TLS, the network.
    Unreachable,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BrokenOff => "the answer broke off",
            Self::ForbiddenAddress => "the metadata names an address that keys are not taken from",
            Self::NoUsableKey => "the set has no usable key",
            Self::NotAKeySet => "the answer is not a key set",
            Self::NotMetadata => "the answer is not metadata of an issuer",
            Self::OtherIssuer => "the metadata is of another issuer",
            Self::Panicked => "the client panicked",
            Self::Redirected => "the key server redirects to where keys are not taken from",
            Self::Status(status) => return write!(f, "the key server answers {status}"),
            Self::TimedOut => "the key server took too long",
            Self::TooLarge => "the document is too large",
            Self::Unreachable => "the key server cannot be reached",
        })
    }
}

impl std::error::Error for FetchError {}

/// An error of [`Jwt::warm_up`](crate::Jwt::warm_up): the keys of an issuer could not be fetched.
///
/// The text names the issuer, the error and, where there is one, the detail that the log has: such as
/// a certificate that is not trusted, or the issuer that the metadata names instead.
#[derive(Clone, Debug)]
pub struct KeyFetchError {
    issuer: Arc<str>,
    error: FetchError,
    detail: Option<Arc<str>>,
}

impl KeyFetchError {
    pub(crate) const fn new(issuer: Arc<str>, error: FetchError, detail: Option<Arc<str>>) -> Self {
        Self {
            issuer,
            error,
            detail,
        }
    }

    /// Returns the issuer whose keys could not be fetched.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the reason, for code to match on.
    #[must_use]
    pub const fn kind(&self) -> FetchError {
        self.error
    }
}

impl fmt::Display for KeyFetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (issuer, error) = (&self.issuer, self.error);
        write!(f, "the keys of {issuer:?} could not be fetched: {error}")?;
        match &self.detail {
            Some(detail) => write!(f, "; {detail}"),
            None => Ok(()),
        }
    }
}

/// Has no source: the text of the [`FetchError`] is part of its own.
impl std::error::Error for KeyFetchError {}
