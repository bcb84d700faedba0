//! Where a credential may stand in a request, and how it is taken out of it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;

use http::header::{COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::authorization::{clear_authorization, take_authorization};
use crate::auth::cookie::{clear_cookie, take_cookie};
use crate::auth::query::{clear_query, has_credential, take_query};
use crate::auth::websocket::WebSocketProtocol;
use crate::config::{ConfigError, literal};
use crate::credential::{Credential, Scheme, is_token68};
use crate::rejection::{Cause, Reason, Rejection};

/// A place of your own where a credential may stand.
///
/// It is asked about every request, in its turn among the sources of the layer. When
/// two sources find something, the request is refused: exactly one credential may be
/// sent.
pub trait CredentialSource: Send + Sync + 'static {
    /// Takes the credential out of the request, so that nothing behind the layer
    /// sees it. `Ok(None)` if there is none here.
    ///
    /// # Errors
    /// A rejection if there is something here that cannot be a credential.
    fn take(&self, parts: &mut Parts) -> Result<Option<Credential>, Rejection>;

    /// The request field that the credential stands in, if it is one: caches are told
    /// that answers vary by it.
    fn varies_by(&self) -> Option<HeaderName> {
        None
    }
}

/// A place where a credential may stand in a request.
#[derive(Clone)]
pub struct Source(Place);

#[derive(Clone)]
enum Place {
    Authorization,
    Header(HeaderName),
    Query(Box<str>),
    Cookie(Box<str>),
    WebSocket(WebSocketProtocol),
    Custom(Arc<dyn CredentialSource>),
}

impl Source {
    /// `Authorization: Bearer …` and `Authorization: ApiKey …`, in any letter case.
    #[must_use]
    pub fn authorization() -> Self {
        Self(Place::Authorization)
    }

    /// A header field that is the credential and nothing else.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self(Place::Header(name))
    }

    /// A parameter of the query. It is cut out of the URI before anything behind the
    /// layer sees it; what stands in front of the layer, proxies and access logs
    /// among it, does see it. For clients that cannot do better.
    ///
    /// # Panics
    /// If the name cannot stand in a query as it is: it is empty, or has characters other
    /// than letters, digits, `-`, `.`, `_` and `~`.
    #[must_use]
    #[track_caller]
    pub fn query(name: &str) -> Self {
        literal(Self::try_query(name))
    }

    /// As [`Source::query`], for a name from configuration.
    ///
    /// # Errors
    /// Where `query` panics.
    pub fn try_query(name: &str) -> Result<Self, ConfigError> {
        plain(name).map(|name| Self(Place::Query(name)))
    }

    /// A cookie.
    ///
    /// Browsers attach cookies to requests of other sites, too. A request with an unsafe method, and
    /// one that upgrades the connection (a WebSocket handshake), is rejected with 403 if its
    /// `Sec-Fetch-Site` or `Origin` says that another site made it. See
    /// [`AuthLayer::trusted_origins`](crate::AuthLayer::trusted_origins) for applications on other
    /// origins. A request without both fields is not from a browser, and passes.
    ///
    /// # Panics
    /// If the name is empty, or has characters other than letters, digits, `-`, `.`, `_`
    /// and `~`.
    #[must_use]
    #[track_caller]
    pub fn cookie(name: &str) -> Self {
        literal(Self::try_cookie(name))
    }

    /// As [`Source::cookie`], for a name from configuration.
    ///
    /// # Errors
    /// Where `cookie` panics.
    pub fn try_cookie(name: &str) -> Result<Self, ConfigError> {
        plain(name).map(|name| Self(Place::Cookie(name)))
    }

    /// The entry of `Sec-WebSocket-Protocol` that starts with this prefix, for browsers,
    /// which can set no other field when they open a WebSocket. It is cut out of the list;
    /// a client must offer another protocol beside it, for the server to choose.
    ///
    /// ```
    /// use tollgate::auth::Source;
    ///
    /// // In the browser: new WebSocket(url, ["orders.v1", "key." + key])
    /// let sources = [Source::authorization(), Source::websocket_protocol("key.")];
    /// ```
    ///
    /// # Panics
    /// If the prefix is empty, or has characters other than letters, digits, `-`, `.` and
    /// `_`.
    #[must_use]
    #[track_caller]
    pub fn websocket_protocol(prefix: &str) -> Self {
        literal(Self::try_websocket_protocol(prefix))
    }

    /// The entry of `Sec-WebSocket-Protocol` that follows the entry `marker`, for clients that offer
    /// `["bearer", token]`. Protocols are compared with their letter case (RFC 6455 §11.3.4).
    ///
    /// The credential is removed from the list. The marker stays, so that the server can choose it:
    /// a client that offered nothing else fails the handshake if the response names no protocol
    /// (RFC 6455 §4.1).
    ///
    /// ```
    /// use tollgate::auth::Source;
    ///
    /// // In the browser: new WebSocket(url, ["bearer", key])
    /// let sources = [Source::authorization(), Source::websocket_protocol_after("bearer")];
    /// ```
    ///
    /// # Panics
    /// Panics if the marker is empty, or has characters other than letters, digits, `-`, `.` and `_`.
    #[must_use]
    #[track_caller]
    pub fn websocket_protocol_after(marker: &str) -> Self {
        literal(Self::try_websocket_protocol_after(marker))
    }

    /// Like [`Source::websocket_protocol_after`], for a marker from configuration.
    ///
    /// # Errors
    /// Returns `Err` where `websocket_protocol_after` panics.
    pub fn try_websocket_protocol_after(marker: &str) -> Result<Self, ConfigError> {
        WebSocketProtocol::after(marker).map(|protocol| Self(Place::WebSocket(protocol)))
    }

    /// As [`Source::websocket_protocol`], for a prefix from configuration.
    ///
    /// # Errors
    /// Where `websocket_protocol` panics.
    pub fn try_websocket_protocol(prefix: &str) -> Result<Self, ConfigError> {
        WebSocketProtocol::prefixed(prefix).map(|protocol| Self(Place::WebSocket(protocol)))
    }

    /// A place of your own.
    #[must_use]
    pub fn custom(source: impl CredentialSource) -> Self {
        Self(Place::Custom(Arc::new(source)))
    }

    /// `Authorization` and `X-API-Key`.
    pub(crate) fn defaults() -> Vec<Self> {
        vec![
            Self::authorization(),
            Self::header(HeaderName::from_static("x-api-key")),
        ]
    }

    pub(crate) fn is_authorization(&self) -> bool {
        matches!(self.0, Place::Authorization)
    }

    /// The request field that an answer to this credential varies by. None where
    /// caches know to keep off (RFC 9111 §3.5), or the URI tells answers apart.
    pub(crate) fn varies_by(&self) -> Option<HeaderValue> {
        match &self.0 {
            Place::Header(name) => Some(HeaderValue::from(name.clone())),
            Place::Cookie(_) => Some(HeaderValue::from(COOKIE)),
            Place::WebSocket(_) => Some(HeaderValue::from(SEC_WEBSOCKET_PROTOCOL)),
            Place::Custom(source) => source.varies_by().map(HeaderValue::from),
            Place::Authorization | Place::Query(_) => None,
        }
    }

    pub(super) const fn is_cookie(&self) -> bool {
        matches!(self.0, Place::Cookie(_))
    }

    pub(super) fn is_query(&self, parameter: &str) -> bool {
        matches!(&self.0, Place::Query(name) if **name == *parameter)
    }

    /// Says in words how a client sends a credential here, or returns `None` if that is unknown.
    pub(super) fn instruction(&self, schemes: &[Scheme]) -> Option<String> {
        Some(match &self.0 {
            Place::Authorization => {
                let scheme = schemes.iter().find(|scheme| **scheme == Scheme::Bearer);
                let scheme = scheme.or_else(|| schemes.first())?.as_str();
                format!("`Authorization: {scheme} <credential>`")
            }
            Place::Header(name) => format!("`{}: <credential>`", in_title_case(name)),
            Place::Query(name) => format!("query parameter `{name}`"),
            Place::Cookie(name) => format!("cookie `{name}`"),
            Place::WebSocket(protocol) => format!("`Sec-WebSocket-Protocol` entry {protocol}"),
            Place::Custom(_) => return None,
        })
    }

    /// What tells places apart, and is the same for the same place.
    pub(super) fn mark(&self) -> NonZeroU32 {
        let mut hasher = DefaultHasher::new();
        format!("{self:?}").hash(&mut hasher);
        if let Place::Custom(source) = &self.0 {
            Arc::as_ptr(source).cast::<()>().hash(&mut hasher);
        }
        NonZeroU32::new(hasher.finish() as u32).unwrap_or(NonZeroU32::MIN)
    }

    /// Takes out whatever stands there, or marks it if it is to be kept, without a look at
    /// what it is.
    pub(super) fn clear(&self, parts: &mut Parts, rules: &TakeRules) {
        match &self.0 {
            Place::Authorization => clear_authorization(&mut parts.headers, rules),
            Place::Header(name) => clear_field(&mut parts.headers, name, rules),
            Place::Query(name) => clear_query(parts, name, rules),
            Place::Cookie(name) => clear_cookie(&mut parts.headers, name, rules),
            Place::WebSocket(protocol) => protocol.clear(&mut parts.headers, rules),
            Place::Custom(source) => drop(source.take(parts)),
        }
    }

    fn take(&self, parts: &mut Parts, rules: &TakeRules) -> Result<Option<Credential>, Rejection> {
        match &self.0 {
            Place::Authorization => take_authorization(&mut parts.headers, rules),
            Place::Header(name) => take_header(&mut parts.headers, name, rules),
            Place::Query(name) => take_query(parts, name, rules),
            Place::Cookie(name) => take_cookie(&mut parts.headers, name, rules),
            Place::WebSocket(protocol) => protocol.take(&mut parts.headers, rules),
            Place::Custom(source) => source.take(parts),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Authorization => f.write_str("authorization"),
            Place::Header(name) => write!(f, "header {name}"),
            Place::Query(name) => write!(f, "query {name}"),
            Place::Cookie(name) => write!(f, "cookie {name}"),
            Place::WebSocket(protocol) => write!(f, "{protocol:?}"),
            Place::Custom(_) => f.write_str("custom"),
        }
    }
}

/// What the sources of a layer have in common.
#[derive(Clone, Debug)]
pub(crate) struct TakeRules {
    pub(crate) keep: bool,
    pub(crate) max_len: usize,
    pub(crate) ignored_schemes: Vec<Box<str>>,
    /// Parameters of the query that belong to the application.
    pub(crate) ignored_query_params: Vec<Box<str>>,
    /// What is shorter in a query is no credential.
    pub(crate) shortest: usize,
    /// Those that are accepted in `Authorization`.
    pub(crate) schemes: Vec<Scheme>,
    /// Other names of schemes in which credentials are accepted there.
    pub(crate) extra_schemes: Vec<Box<str>>,
    /// Set if an API key may be sent there as the user name of `Basic`.
    pub(crate) basic: bool,
}

impl TakeRules {
    /// A credential that is part of something larger, copied out of it.
    pub(super) fn copy(&self, text: &[u8]) -> Result<Credential, Rejection> {
        if text.is_empty() {
            return Err(malformed(Cause::EmptyCarrier, Scheme::ApiKey));
        }
        if text.len() > self.max_len {
            return Err(malformed(Cause::TooLong, Scheme::ApiKey));
        }
        Ok(Credential::new(text))
    }
}

/// Returns whether a text is a credential.
pub(crate) type Recognize<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Takes the one credential of a request. Returns it with the index of its source.
///
/// A parameter of the query outside of `sources` that `forbidden_in_uri` recognizes is rejected.
pub(crate) fn take_one(
    parts: &mut Parts,
    sources: &[Source],
    rules: &TakeRules,
    forbidden_in_uri: Option<Recognize<'_>>,
) -> Result<Option<(Credential, usize)>, Rejection> {
    let mut found: Option<(Credential, usize)> = None;
    let mut other_scheme = None;
    for (index, source) in sources.iter().enumerate() {
        match source.take(parts, rules) {
            Ok(None) => {}
            Ok(Some(credential)) if found.is_none() => found = Some((credential, index)),
            Ok(Some(_)) => return Err(ambiguous(Cause::SeveralCarriers)),
            Err(rejection) if matches!(rejection.cause(), Cause::OtherScheme | Cause::NoScheme) => {
                other_scheme = Some(rejection);
            }
            Err(rejection) => return Err(rejection),
        }
    }
    if let (Some(query), Some(claims)) = (parts.uri.query(), forbidden_in_uri)
        && has_credential(query, sources, rules, claims)
    {
        return Err(Rejection::new(Reason::CredentialInUri, Cause::InUri));
    }
    match (&found, other_scheme) {
        (Some(_), Some(_)) => return Err(ambiguous(Cause::SeveralCarriers)),
        (None, Some(rejection)) => return Err(rejection),
        (_, None) => {}
    }
    if let Some((credential, _)) = &found
        && credential.expose().len() > rules.max_len
    {
        return Err(malformed(Cause::TooLong, credential.scheme()));
    }
    Ok(found)
}

/// The refusal of what is no `token68`.
pub(super) fn ill_formed(credential: &Credential) -> Option<Rejection> {
    let is_one = is_token68(credential.expose());
    (!is_one).then(|| malformed(Cause::NotToken68, credential.scheme()))
}

fn take_header(
    headers: &mut HeaderMap,
    name: &HeaderName,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let values = if rules.keep {
        headers.get_all(name).iter().count()
    } else {
        headers.len()
    };
    let Some(value) = take_value(headers, name, rules) else {
        return Ok(None);
    };
    // One look-up says both: all values of the field went with the first.
    let values = if rules.keep {
        values
    } else {
        values - headers.len()
    };
    if values > 1 {
        return Err(ambiguous(Cause::CarrierRepeated));
    }
    if value.is_empty() {
        return Err(malformed(Cause::EmptyCarrier, Scheme::ApiKey));
    }
    Ok(Some(Credential::in_header(value, 0, Scheme::ApiKey)))
}

/// Takes the value of a field out of the request, or marks what stays.
pub(super) fn take_value(
    headers: &mut HeaderMap,
    name: &HeaderName,
    rules: &TakeRules,
) -> Option<HeaderValue> {
    let mut value = if rules.keep {
        let kept = headers.get_mut(name)?;
        kept.set_sensitive(true);
        kept.clone()
    } else {
        headers.remove(name)?
    };
    value.set_sensitive(true);
    Some(value)
}

fn clear_field(headers: &mut HeaderMap, name: &HeaderName, rules: &TakeRules) {
    clear_value(headers, name, rules.keep);
}

pub(super) fn clear_value(headers: &mut HeaderMap, name: &HeaderName, keep: bool) {
    if !keep {
        headers.remove(name);
    } else if let http::header::Entry::Occupied(mut lines) = headers.entry(name) {
        lines.iter_mut().for_each(|line| line.set_sensitive(true));
    }
}

/// A field name as people write it: `X-API-Key`.
fn in_title_case(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| match word {
        "api" => "API".to_owned(),
        word => {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        }
    });
    words.collect::<Vec<_>>().join("-")
}

/// A name that means itself in a query and in a cookie.
fn plain(name: &str) -> Result<Box<str>, ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) {
        return Ok(name.into());
    }
    Err(ConfigError::new(format!(
        "{name:?} cannot name a parameter or a cookie"
    )))
}

/// The one of these, if there is one.
pub(super) fn only<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, Rejection> {
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(_) => Err(ambiguous(Cause::CarrierRepeated)),
    }
}

pub(super) fn ambiguous(cause: Cause) -> Rejection {
    Rejection::new(Reason::CredentialsAmbiguous, cause)
}

pub(super) fn malformed(cause: Cause, scheme: Scheme) -> Rejection {
    let mut rejection = Rejection::new(Reason::RequestMalformed, cause);
    rejection.scheme = Some(scheme);
    rejection
}
