//! [`KeyError`]: reasons why a key could not be issued, changed or read.

use std::fmt;

use http::StatusCode;

use crate::config::ConfigError;
use crate::keys::lifecycle::LifecycleError;
use crate::keys::store::StoreError;

/// An error of a command on keys, such as [`ApiKeys::issue`](crate::ApiKeys::issue) or
/// [`ApiKeys::update`](crate::ApiKeys::update).
///
/// The text names the setting, the value and the fix. It contains no secret, and no detail of a
/// failed store, so that the API of an operator can return it. [`KeyError::status`] is the HTTP
/// status for such an API.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::StatusCode;
/// use tollgate::ApiKeys;
/// use tollgate::keys::{NewKey, Peppers};
///
/// let keys = ApiKeys::in_memory(Peppers::random());
/// let new = NewKey::for_owner("acct_1").methods(["GET,POST"]);
/// let error = keys.issue(new).await.unwrap_err();
/// assert_eq!(error.status(), StatusCode::UNPROCESSABLE_ENTITY);
/// assert_eq!(
///     error.to_string(),
///     "NewKey::methods: \"GET,POST\" is not an HTTP method; \
///      pass each method on its own, without spaces and commas"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyError {
    /// Other commands kept changing the record while this one was retried.
    Conflict,
    /// The owner, tenant, name, plan or a role has control characters, starts or ends with
    /// whitespace, or is empty where it must not be.
    InvalidName(ConfigError),
    /// A network, method or referrer is not valid.
    InvalidRestriction(ConfigError),
    /// A scope is not valid.
    InvalidScope(ConfigError),
    /// The start or the end of the key does not fit.
    InvalidTimes(ConfigError),
    /// The state of the key does not permit the command.
    Lifecycle(LifecycleError),
    /// The owner of a new key is empty.
    NoOwner,
    /// No key has this id.
    NotFound,
    /// The operating system failed to provide random bytes.
    Randomness,
    /// The record has another revision than the caller expected: see
    /// [`KeyUpdate::if_revision`](crate::keys::KeyUpdate::if_revision).
    StaleRevision {
        /// The revision that the caller expected.
        expected: u64,
        /// The revision of the stored record.
        current: u64,
    },
    /// The key store failed.
    Store(StoreError),
    /// The environment of a new key is not configured.
    UnknownEnvironment(ConfigError),
}

impl KeyError {
    /// Returns the HTTP status for a response that reports this error to an operator.
    ///
    /// | Status | Errors |
    /// |---|---|
    /// | 404 Not Found | `NotFound` |
    /// | 409 Conflict | `Conflict`, `Lifecycle` |
    /// | 412 Precondition Failed | `StaleRevision` |
    /// | 422 Unprocessable Content | `InvalidName`, `InvalidRestriction`, `InvalidScope`, `InvalidTimes`, `NoOwner`, `UnknownEnvironment` |
    /// | 500 Internal Server Error | `Randomness` |
    /// | 503 Service Unavailable | `Store` |
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict | Self::Lifecycle(_) => StatusCode::CONFLICT,
            Self::StaleRevision { .. } => StatusCode::PRECONDITION_FAILED,
            Self::InvalidName(_)
            | Self::InvalidRestriction(_)
            | Self::InvalidScope(_)
            | Self::InvalidTimes(_)
            | Self::NoOwner
            | Self::UnknownEnvironment(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Randomness => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => {
                f.write_str("other changes of the key kept interfering; repeat the command")
            }
            Self::InvalidName(error)
            | Self::InvalidRestriction(error)
            | Self::InvalidScope(error)
            | Self::InvalidTimes(error)
            | Self::UnknownEnvironment(error) => error.fmt(f),
            Self::Lifecycle(error) => error.fmt(f),
            Self::NoOwner => f.write_str(
                "NewKey::for_owner: the owner is empty; pass the id of the account that the key \
                 belongs to",
            ),
            Self::NotFound => f.write_str("no key has this id"),
            Self::Randomness => {
                f.write_str("the operating system failed to provide random bytes for a key")
            }
            Self::StaleRevision { expected, current } => write!(
                f,
                "KeyUpdate::if_revision: the key has revision {current} instead of {expected}; \
                 read the key again and repeat the update"
            ),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidName(error)
            | Self::InvalidRestriction(error)
            | Self::InvalidScope(error)
            | Self::InvalidTimes(error)
            | Self::UnknownEnvironment(error) => Some(error),
            Self::Lifecycle(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Conflict
            | Self::NoOwner
            | Self::NotFound
            | Self::Randomness
            | Self::StaleRevision { .. } => None,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LifecycleError> for KeyError {
    fn from(error: LifecycleError) -> Self {
        Self::Lifecycle(error)
    }
}
