//! [`ScopeSet`]: the rights that a credential carries, as OAuth 2.0 spells them.
//!
//! A scope is compared as a whole and byte by byte (RFC 6749 §3.3): `read` is
//! not granted by `readonly`, nor by `READ`. What one scope implies is declared
//! with a [`Hierarchy`](crate::authorize::Hierarchy), never guessed.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Quoted;

/// A set of scopes, in the order in which they were given, without repeats.
///
/// Kept as the space-delimited text of RFC 6749 §3.3: one allocation whatever
/// its size. [`ScopeSet::contains`] is linear in the text.
///
/// ```
/// use tollgate::scope::ScopeSet;
///
/// let scopes: ScopeSet = "orders:read orders:write".parse()?;
/// assert!(scopes.contains("orders:read"));
/// assert!(!scopes.contains("orders"));
/// # Ok::<(), tollgate::scope::InvalidScope>(())
/// ```
#[derive(Clone, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScopeSet(Box<str>);

impl ScopeSet {
    /// Builds a set of single scopes.
    ///
    /// # Errors
    /// Returns [`InvalidScope`] with the first text that is empty or has a character outside RFC
    /// 6749 §3.3: a space, a quote, a backslash, a control or a non-ASCII
    /// character.
    pub fn try_new<I>(scopes: I) -> Result<Self, InvalidScope>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut text = String::new();
        let mut seen = HashSet::new();
        for scope in scopes {
            let scope = scope.as_ref();
            if !is_scope(scope) {
                return Err(InvalidScope::new(scope));
            }
            if seen.insert(scope.to_owned()) {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(scope);
            }
        }
        Ok(Self(text.into()))
    }

    /// The set of a text that has nothing but scopes in it, with single spaces between.
    #[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
    pub(crate) fn of_text(text: String) -> Self {
        if is_without_repeats(&text) {
            return Self(text.into());
        }
        let mut seen = HashSet::new();
        let once: Vec<_> = text
            .split(' ')
            .filter(|scope| seen.insert(*scope))
            .collect();
        Self(once.join(" ").into())
    }

    /// Whether exactly this scope is in the set.
    #[must_use]
    pub fn contains(&self, scope: &str) -> bool {
        contains(&self.0, scope)
    }

    /// The scopes, each once.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|scope| !scope.is_empty())
    }

    /// Whether there is no scope in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The space-delimited text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ScopeSet {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        Self::try_new(text.split(' ').filter(|scope| !scope.is_empty()))
    }
}

impl TryFrom<String> for ScopeSet {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

impl From<ScopeSet> for String {
    fn from(scopes: ScopeSet) -> Self {
        scopes.0.into()
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not a scope: it is empty, or has a character that RFC 6749 §3.3 does not allow.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct InvalidScope {
    scope: Box<str>,
}

impl InvalidScope {
    fn new(scope: &str) -> Self {
        let scope = scope.into();
        Self { scope }
    }

    /// Returns the text that is not a scope.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }
}

impl fmt::Display for InvalidScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = Quoted(&self.scope);
        write!(f, "{scope} is not a scope; ")?;
        if self.scope.is_empty() {
            return f.write_str("leave it out, or write at least one character");
        }
        if self.scope.contains(' ') {
            return f.write_str("pass each scope on its own, without spaces");
        }
        f.write_str("use printable ASCII characters other than `\"` and `\\`")
    }
}

impl std::error::Error for InvalidScope {}

/// `scope-token` of RFC 6749 §3.3.
pub(crate) fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn contains(text: &str, scope: &str) -> bool {
    // By bytes, which costs a quarter of what characters do.
    let mut held = text.as_bytes().split(|byte| *byte == b' ');
    !scope.is_empty() && held.any(|held| held == scope.as_bytes())
}

/// Few scopes are compared with each other, many are hashed.
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
fn is_without_repeats(text: &str) -> bool {
    const FEW: usize = 16;
    let scopes = || text.as_bytes().split(|byte| *byte == b' ');
    if scopes().nth(FEW).is_some() {
        let mut seen = HashSet::new();
        return scopes().all(|scope| seen.insert(scope));
    }
    let mut few: [&[u8]; FEW] = [&[]; FEW];
    scopes().enumerate().all(|(at, scope)| {
        let is_new = !few[..at].contains(&scope);
        few[at] = scope;
        is_new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_grammar_refuses_is_no_scope() {
        for bad in [
            "",
            "a b",
            "a\tb",
            "a\"",
            "a\\",
            "caf\u{e9}",
            "a\u{a0}b",
            "\u{7f}",
        ] {
            let error = ScopeSet::try_new(["fine", bad]).unwrap_err();
            assert_eq!(error.scope(), bad);
            assert!(
                error.to_string().starts_with(&format!("{bad:?} ")),
                "{error}"
            );
        }
        assert!(ScopeSet::try_new(["https://api.example.com/a:b.c*"]).is_ok());
    }

    #[test]
    fn only_the_whole_scope_counts() {
        let held: ScopeSet = "readonly x,read READ read:all".parse().unwrap();
        assert!(!held.contains("read"));
        assert!(!held.contains(""));
        assert!(!held.contains("readonly x,read"));
        assert!(held.contains("read:all"));
    }

    #[test]
    fn repeats_are_dropped_and_order_is_kept() {
        let held = ScopeSet::try_new(["b", "a", "b"]).unwrap();
        assert_eq!(held.as_str(), "b a");
        assert_eq!(held.iter().collect::<Vec<_>>(), ["b", "a"]);
        assert!("  ".parse::<ScopeSet>().unwrap().is_empty());
    }
}
