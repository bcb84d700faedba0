//! Credentials of browsers that open a WebSocket: their API can set no header but
//! `Sec-WebSocket-Protocol` (RFC 6455 §11.3.4).

use std::fmt;

use http::header::{Entry, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

use crate::auth::source::{TakeRules, only};
use crate::config::ConfigError;
use crate::credential::Credential;
use crate::rejection::Rejection;

/// The entry of the list that is a credential.
#[derive(Clone)]
pub(super) enum WebSocketProtocol {
    /// The one that starts with a prefix; the credential is the rest.
    Prefixed(Box<str>),
    /// The one that follows this one.
    After(Box<str>),
}

impl WebSocketProtocol {
    pub(super) fn prefixed(prefix: &str) -> Result<Self, ConfigError> {
        checked("Source::websocket_protocol", prefix).map(Self::Prefixed)
    }

    pub(super) fn after(marker: &str) -> Result<Self, ConfigError> {
        checked("Source::websocket_protocol_after", marker).map(Self::After)
    }

    pub(super) fn take(
        &self,
        headers: &mut HeaderMap,
        rules: &TakeRules,
    ) -> Result<Option<Credential>, Rejection> {
        let found = self.split(headers).filter_map(|(_, credential)| credential);
        let Some(text) = only(found)? else {
            return Ok(None);
        };
        let credential = rules.copy(text)?;
        self.clear(headers, rules);
        Ok(Some(credential))
    }

    /// Removes all credentials from the list, or marks them as sensitive if they are to be kept.
    pub(super) fn clear(&self, headers: &mut HeaderMap, rules: &TakeRules) {
        if !self
            .split(headers)
            .any(|(_, credential)| credential.is_some())
        {
            return;
        }
        if rules.keep {
            if let Entry::Occupied(mut lines) = headers.entry(SEC_WEBSOCKET_PROTOCOL) {
                lines.iter_mut().for_each(|line| line.set_sensitive(true));
            }
            return;
        }
        let others = self
            .split(headers)
            .filter(|(_, credential)| credential.is_none());
        let others: Vec<&[u8]> = others.map(|(entry, _)| entry).collect();
        match HeaderValue::from_bytes(&others.join(&b", "[..])) {
            Ok(rest) if !rest.is_empty() => headers.insert(SEC_WEBSOCKET_PROTOCOL, rest),
            _ => headers.remove(SEC_WEBSOCKET_PROTOCOL),
        };
    }

    /// The entries of the list, each with the credential that it is, if it is one.
    fn split<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)> {
        let mut follows_marker = false;
        entries(headers).map(move |entry| {
            let credential = match self {
                Self::Prefixed(prefix) => entry.strip_prefix(prefix.as_bytes()),
                Self::After(_) if follows_marker => {
                    follows_marker = false;
                    Some(entry)
                }
                Self::After(marker) => {
                    follows_marker = *entry == *marker.as_bytes();
                    None
                }
            };
            (entry, credential)
        })
    }
}

fn checked(setting: &str, text: &str) -> Result<Box<str>, ConfigError> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_part) {
        return Ok(text.into());
    }
    Err(ConfigError::new(format!(
        "{setting}: {text:?} cannot mark a credential; use letters, digits, `-`, `.` and `_`"
    )))
}

fn entries(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

/// Shows the form in which a client sends the credential.
impl fmt::Display for WebSocketProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefixed(prefix) => write!(f, "`{prefix}<credential>`"),
            Self::After(marker) => write!(f, "`{marker}, <credential>`"),
        }
    }
}

impl fmt::Debug for WebSocketProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefixed(prefix) => write!(f, "websocket protocol {prefix}"),
            Self::After(marker) => write!(f, "websocket protocol after {marker}"),
        }
    }
}
