//! Credentials of browsers that open a WebSocket: their API can set no header field but
//! `Sec-WebSocket-Protocol`.

use std::fmt;

use http::header::{Entry, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

use crate::auth::source::{TakeRules, only};
use crate::config::ConfigError;
use crate::credential::Credential;
use crate::rejection::Rejection;

/// The entry of `Sec-WebSocket-Protocol` (RFC 6455 §11.3.4) that starts with a prefix.
#[derive(Clone)]
pub(super) struct WebSocketProtocol {
    prefix: Box<str>,
}

impl WebSocketProtocol {
    pub(super) fn new(prefix: &str) -> Result<Self, ConfigError> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if prefix.is_empty() || !prefix.bytes().all(is_part) {
            return Err(ConfigError::new(
                "what marks a credential among WebSocket protocols is made of letters, digits, \
                 `-`, `.` and `_`",
            ));
        }
        let prefix = prefix.into();
        Ok(Self { prefix })
    }

    pub(super) fn take(
        &self,
        headers: &mut HeaderMap,
        rules: &TakeRules,
    ) -> Result<Option<Credential>, Rejection> {
        let found = entries(headers).filter_map(|entry| self.marked(entry));
        let Some(text) = only(found)? else {
            return Ok(None);
        };
        let credential = rules.copy(text)?;
        self.clear(headers, rules);
        Ok(Some(credential))
    }

    /// Cuts all entries out that start with the prefix.
    pub(super) fn clear(&self, headers: &mut HeaderMap, rules: &TakeRules) {
        if !entries(headers).any(|entry| self.marked(entry).is_some()) {
            return;
        }
        if rules.keep {
            if let Entry::Occupied(mut lines) = headers.entry(SEC_WEBSOCKET_PROTOCOL) {
                lines.iter_mut().for_each(|line| line.set_sensitive(true));
            }
            return;
        }
        let others = entries(headers).filter(|entry| self.marked(entry).is_none());
        let others: Vec<&[u8]> = others.collect();
        match HeaderValue::from_bytes(&others.join(&b", "[..])) {
            Ok(rest) if !rest.is_empty() => headers.insert(SEC_WEBSOCKET_PROTOCOL, rest),
            _ => headers.remove(SEC_WEBSOCKET_PROTOCOL),
        };
    }

    /// What stands behind the prefix.
    fn marked<'e>(&self, entry: &'e [u8]) -> Option<&'e [u8]> {
        entry.strip_prefix(self.prefix.as_bytes())
    }
}

impl fmt::Debug for WebSocketProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "websocket protocol {}", self.prefix)
    }
}

fn entries(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}
