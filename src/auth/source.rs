//! Where a credential may stand in a request, and how it is taken out of it.

use std::fmt;
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::auth::query::{has_credential, take_query};
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

    /// A cookie. Browsers send it without being asked, so a request with an unsafe
    /// method is refused if its `Sec-Fetch-Site` or `Origin` says that another site
    /// made it.
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

    /// As [`Source::websocket_protocol`], for a prefix from configuration.
    ///
    /// # Errors
    /// Where `websocket_protocol` panics.
    pub fn try_websocket_protocol(prefix: &str) -> Result<Self, ConfigError> {
        WebSocketProtocol::new(prefix).map(Self::custom)
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
            Place::Cookie(_) => Some(HeaderValue::from_static("cookie")),
            Place::Custom(source) => source.varies_by().map(HeaderValue::from),
            Place::Authorization | Place::Query(_) => None,
        }
    }

    pub(super) fn is_query(&self, parameter: &str) -> bool {
        matches!(&self.0, Place::Query(name) if **name == *parameter)
    }

    fn take(&self, parts: &mut Parts, rules: &TakeRules) -> Result<Option<Credential>, Rejection> {
        match &self.0 {
            Place::Authorization => take_authorization(&mut parts.headers, rules),
            Place::Header(name) => take_header(&mut parts.headers, name, rules),
            Place::Query(name) => take_query(parts, name, rules),
            Place::Cookie(name) => take_cookie(parts, name, rules),
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
    /// Those that are accepted in `Authorization`.
    pub(crate) schemes: Vec<Scheme>,
}

/// The one credential of a request, and the index of its source.
pub(crate) fn take_one(
    parts: &mut Parts,
    sources: &[Source],
    rules: &TakeRules,
    claims: impl Fn(&[u8]) -> bool,
) -> Result<Option<(Credential, usize)>, Rejection> {
    let mut found: Option<(Credential, usize)> = None;
    let mut other_scheme = false;
    for (index, source) in sources.iter().enumerate() {
        match source.take(parts, rules) {
            Ok(None) => {}
            Ok(Some(credential)) if found.is_none() => found = Some((credential, index)),
            Ok(Some(_)) => return Err(ambiguous(Cause::SeveralCarriers)),
            Err(rejection) if rejection.cause() == Cause::OtherScheme => other_scheme = true,
            Err(rejection) => return Err(rejection),
        }
    }
    if let Some(query) = parts.uri.query()
        && has_credential(query, sources, claims)
    {
        return Err(Rejection::new(Reason::CredentialInUri, Cause::InUri));
    }
    match (&found, other_scheme) {
        (Some(_), true) => return Err(ambiguous(Cause::SeveralCarriers)),
        (None, true) => {
            return Err(Rejection::new(
                Reason::CredentialsMissing,
                Cause::OtherScheme,
            ));
        }
        _ => {}
    }
    if let Some((credential, _)) = &found {
        let refusal = match credential.expose() {
            text if text.len() > rules.max_len => Some(Cause::TooLong),
            text if !is_token68(text) => Some(Cause::NotToken68),
            _ => None,
        };
        if let Some(cause) = refusal {
            return Err(malformed(cause, credential.scheme()));
        }
    }
    Ok(found)
}

/// RFC 9110 §11.6.2, of which `credentials = auth-scheme 1*SP token68` is accepted.
fn take_authorization(
    headers: &mut HeaderMap,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(ambiguous(Cause::CarrierRepeated));
    }
    let text = value.as_bytes();
    let end = text
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\t' | b','));
    let (scheme, rest) = text.split_at(end.unwrap_or(text.len()));
    let accepted = known_scheme(scheme).filter(|scheme| rules.schemes.contains(scheme));
    let Some(scheme) = accepted else {
        if scheme.is_empty() {
            return Err(malformed(Cause::EmptyCarrier, Scheme::Bearer));
        }
        if names_known_scheme(rest) {
            return Err(ambiguous(Cause::CarrierRepeated));
        }
        let mut ignored = rules.ignored_schemes.iter().map(|name| name.as_bytes());
        if !ignored.any(|name| scheme.eq_ignore_ascii_case(name)) {
            return Err(Rejection::new(
                Reason::CredentialsMissing,
                Cause::OtherScheme,
            ));
        }
        // It stays, and is a secret all the same.
        if let Some(kept) = headers.get_mut(AUTHORIZATION) {
            kept.set_sensitive(true);
        }
        return Ok(None);
    };
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    if spaces == 0 || spaces == rest.len() {
        return Err(malformed(Cause::EmptyCarrier, scheme));
    }
    let start = text.len() - rest.len() + spaces;
    Ok(take_value(headers, &AUTHORIZATION, rules)
        .map(|value| Credential::in_header(value, start, scheme)))
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
fn take_value(
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

fn take_cookie(
    parts: &mut Parts,
    wanted: &str,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let lines: Vec<HeaderValue> = parts.headers.get_all(COOKIE).iter().cloned().collect();
    let is_wanted = |cookie: &&[u8]| name_of_cookie(cookie) == wanted.as_bytes();
    let mut found = lines.iter().flat_map(cookies).filter(is_wanted);
    let Some(cookie) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(ambiguous(Cause::CarrierRepeated));
    }
    let value = cookie.get(wanted.len() + 1..).unwrap_or_default();
    if value.is_empty() {
        return Err(malformed(Cause::EmptyCarrier, Scheme::ApiKey));
    }
    if is_cross_site(parts) {
        return Err(Rejection::new(Reason::Forbidden, Cause::CrossSite));
    }
    let credential = Credential::new(value);
    // The line that it stands in is written anew; the others stay as they are.
    parts.headers.remove(COOKIE);
    for mut line in lines.iter().cloned() {
        if cookies(&line).any(|cookie| is_wanted(&cookie)) {
            if rules.keep {
                line.set_sensitive(true);
            } else {
                let others: Vec<&[u8]> = cookies(&line).filter(|each| !is_wanted(each)).collect();
                let Ok(rest) = HeaderValue::from_bytes(&others.join(&b"; "[..])) else {
                    continue;
                };
                line = rest;
            }
        }
        if !line.is_empty() {
            parts.headers.append(COOKIE, line);
        }
    }
    Ok(Some(credential))
}

/// Whether a browser says that another site made this request, and it could change
/// something.
fn is_cross_site(parts: &Parts) -> bool {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method) {
        return false;
    }
    let field = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
    if let Some(site) = field("sec-fetch-site") {
        return !matches!(site, b"same-origin" | b"none");
    }
    let Some(origin) = field(ORIGIN.as_str()) else {
        return false;
    };
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = authority.or_else(|| field(HOST.as_str()));
    let origin = [&b"https://"[..], b"http://"]
        .iter()
        .find_map(|scheme| origin.strip_prefix(*scheme));
    origin.is_none() || origin != host
}

fn known_scheme(name: &[u8]) -> Option<Scheme> {
    Scheme::ALL
        .into_iter()
        .find(|scheme| name.eq_ignore_ascii_case(scheme.as_str().as_bytes()))
}

/// Whether a list goes on with credentials in one of our schemes: `…, Bearer x`.
fn names_known_scheme(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',').skip(1).any(|item| {
        let item = item.trim_ascii_start();
        let end = item
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t'))
            .unwrap_or(item.len());
        known_scheme(&item[..end]).is_some()
    })
}

/// The cookies of a line, each as it stands (RFC 6265 §4.2.1).
fn cookies(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let all = line.as_bytes().split(|byte| *byte == b';');
    all.map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
}

fn name_of_cookie(cookie: &[u8]) -> &[u8] {
    let end = cookie.iter().position(|byte| *byte == b'=');
    &cookie[..end.unwrap_or(cookie.len())]
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

pub(super) fn ambiguous(cause: Cause) -> Rejection {
    Rejection::new(Reason::CredentialsAmbiguous, cause)
}

pub(super) fn malformed(cause: Cause, scheme: Scheme) -> Rejection {
    let mut rejection = Rejection::new(Reason::RequestMalformed, cause);
    rejection.scheme = Some(scheme);
    rejection
}
