//! [`ConfigError`]: a setting that cannot work, found when the layer is built.

use std::borrow::Cow;
use std::fmt;

/// A setting that cannot work. Its text is for the one who set it, and has no
/// secret in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError(Cow<'static, str>);

impl ConfigError {
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// For settings that are written as literals: the mistake is in the source.
#[track_caller]
pub(crate) fn literal<T>(result: Result<T, ConfigError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
