//! Validation of the values of a key, shared by [`NewKey`](crate::keys::NewKey),
//! [`KeyUpdate`](crate::keys::KeyUpdate) and records from configuration.
//!
//! Each function takes the name of the setting, which starts the error text, and returns the
//! value in its canonical form without duplicates.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use http::Method;
use ipnet::IpNet;

use crate::clock::Timestamp;
use crate::config::{ConfigError, Quoted};
use crate::keys::error::KeyError;
use crate::network::parse_network;
use crate::network::special::unwrap_nat64_block;
use crate::origin::OriginPattern;
use crate::restriction::{Restrictions, standard_method};
use crate::scope::ScopeSet;

/// The end of a key: a point in time, or a time after the key was issued or updated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    At(Timestamp),
    In(Duration),
}

impl End {
    /// Returns the name of the function that was called.
    pub(crate) const fn named(self, at: &'static str, within: &'static str) -> &'static str {
        match self {
            Self::At(_) => at,
            Self::In(_) => within,
        }
    }

    pub(crate) fn after(self, start: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::In(life) => start.saturating_add(life),
        }
    }
}

/// Parses addresses and CIDR blocks. The bits after the prefix are cleared. Blocks of NAT64 addresses
/// become the IPv4 blocks that their clients are resolved to.
pub(crate) fn networks(setting: &str, texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let parse = |text: &String| {
        let network = parse_network(setting, text)?.trunc();
        unwrap_nat64_block(network).map_err(|inside| {
            ConfigError::new(format!(
                "{setting}: {} has clients behind a NAT64, whose address is the IPv4 address inside; \
                 write `{inside}`",
                Quoted(text)
            ))
        })
    };
    once(texts.iter().map(parse))
}

/// Checks methods, and writes the standard ones in upper case.
pub(crate) fn methods(setting: &str, texts: &[String]) -> Result<Vec<String>, ConfigError> {
    once(texts.iter().map(|text| method(setting, text)))
}

/// Parses origins into their canonical form.
pub(crate) fn referrers(setting: &str, texts: &[String]) -> Result<Vec<String>, ConfigError> {
    let parse = |text: &String| match OriginPattern::parse(text) {
        Ok(pattern) => Ok(pattern.to_string()),
        Err(problem) => Err(ConfigError::new(format!(
            "{setting}: {} is not an origin; {problem}",
            Quoted(text)
        ))),
    };
    once(texts.iter().map(parse))
}

/// Checks scopes, and drops repeats.
pub(crate) fn scopes(setting: &str, texts: &[String]) -> Result<ScopeSet, KeyError> {
    ScopeSet::try_new(texts)
        .map_err(|error| KeyError::InvalidScope(ConfigError::new(format!("{setting}: {error}"))))
}

/// Checks a text that names something, such as a plan: texts that differ only in how they look name
/// different plans.
pub(crate) fn name(setting: &str, text: &str) -> Result<(), KeyError> {
    let problem = if text.is_empty() {
        "is empty; pass a name, or leave it out"
    } else if text.contains(char::is_control) {
        "has control characters; remove them"
    } else if text.trim().len() < text.len() {
        "starts or ends with whitespace; trim it"
    } else {
        return Ok(());
    };
    let text = Quoted(text);
    Err(KeyError::InvalidName(ConfigError::new(format!(
        "{setting}: {text} {problem}"
    ))))
}

/// Like [`name`], for each of several texts, or for one that may be missing.
pub(crate) fn names<'a>(
    setting: &str,
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<(), KeyError> {
    texts.into_iter().try_for_each(|text| name(setting, text))
}

/// Like [`name`], for a text for people, which may be empty.
pub(crate) fn title(setting: &str, text: &str) -> Result<(), KeyError> {
    match text {
        "" => Ok(()),
        text => name(setting, text),
    }
}

/// Checks and normalizes the restrictions of a record from configuration.
pub(crate) fn restrictions(
    setting: &str,
    held: &Restrictions,
) -> Result<Restrictions, ConfigError> {
    let texts: Vec<_> = held.networks.iter().map(ToString::to_string).collect();
    Ok(Restrictions {
        networks: networks(setting, &texts)?,
        methods: methods(setting, &held.methods)?,
        referrers: referrers(setting, &held.referrers)?,
    })
}

/// Checks that a key ends after `start`.
pub(crate) fn lifetime(
    setting: &str,
    start: Timestamp,
    end: Option<Timestamp>,
) -> Result<(), KeyError> {
    match end {
        Some(end) if end <= start => Err(KeyError::InvalidTimes(ConfigError::new(format!(
            "{setting}: the key would end on {}, which is not after its start on {}; choose a \
             later end or an earlier start",
            date(end),
            date(start)
        )))),
        _ => Ok(()),
    }
}

/// A time in an error text.
pub(crate) fn date(at: Timestamp) -> String {
    httpdate::fmt_http_date(at.into())
}

fn method(setting: &str, text: &str) -> Result<String, ConfigError> {
    if let Some(name) = standard_method(text) {
        return Ok(name.to_owned());
    }
    let problem = if text == "*" {
        "leave the methods out to allow all of them"
    } else if text.contains([',', ' ', '\t']) {
        "pass each method on its own, without spaces and commas"
    } else if Method::from_bytes(text.as_bytes()).is_err() {
        "write a method name such as `GET`"
    } else {
        return Ok(text.to_owned());
    };
    Err(ConfigError::new(format!(
        "{setting}: {} is not an HTTP method; {problem}",
        Quoted(text)
    )))
}

/// Collects the values, each of them once, in the order of their first occurrence.
fn once<T: Clone + Eq + Hash>(
    values: impl Iterator<Item = Result<T, ConfigError>>,
) -> Result<Vec<T>, ConfigError> {
    let mut kept = Vec::new();
    let mut seen = HashSet::new();
    for value in values {
        let value = value?;
        if seen.insert(value.clone()) {
            kept.push(value);
        }
    }
    Ok(kept)
}
