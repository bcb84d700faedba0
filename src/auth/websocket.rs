//! Credentials of browsers that open a WebSocket: their API can set no header field but
//! `Sec-WebSocket-Protocol`.

use http::HeaderMap;
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::request::Parts;

use crate::auth::source::CredentialSource;
use crate::config::ConfigError;
use crate::credential::Credential;
use crate::rejection::{Cause, Reason, Rejection};

/// The entry of `Sec-WebSocket-Protocol` (RFC 6455 §11.3.4) that starts with a prefix.
#[derive(Clone, Debug)]
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
}

impl CredentialSource for WebSocketProtocol {
    fn take(&self, parts: &mut Parts) -> Result<Option<Credential>, Rejection> {
        let (marked, others): (Vec<_>, Vec<_>) =
            entries(&parts.headers).partition(|entry| entry.starts_with(self.prefix.as_bytes()));
        let credential = match marked[..] {
            [] => return Ok(None),
            [one] => &one[self.prefix.len()..],
            _ => {
                return Err(refused(
                    Reason::CredentialsAmbiguous,
                    Cause::CarrierRepeated,
                ));
            }
        };
        if credential.is_empty() {
            return Err(refused(Reason::RequestMalformed, Cause::EmptyCarrier));
        }
        let credential = Credential::new(credential);
        let rest = HeaderValue::from_bytes(&others.join(&b", "[..]));
        match rest {
            Ok(rest) if !rest.is_empty() => parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, rest),
            _ => parts.headers.remove(SEC_WEBSOCKET_PROTOCOL),
        };
        Ok(Some(credential))
    }
}

fn entries(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

fn refused(reason: Reason, cause: Cause) -> Rejection {
    Rejection::new(reason, cause)
}
