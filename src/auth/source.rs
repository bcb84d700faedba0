//! Where a credential may stand in a request, and how it is taken out of it.

use std::fmt;
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

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
    #[must_use]
    pub fn query(name: impl Into<Box<str>>) -> Self {
        Self(Place::Query(name.into()))
    }

    /// A cookie. Browsers send it without being asked, so a request with an unsafe
    /// method is refused if its `Sec-Fetch-Site` or `Origin` says that another site
    /// made it.
    #[must_use]
    pub fn cookie(name: impl Into<Box<str>>) -> Self {
        Self(Place::Cookie(name.into()))
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
            Place::Authorization | Place::Query(_) | Place::Custom(_) => None,
        }
    }

    fn take(&self, parts: &mut Parts, rules: &Rules) -> Result<Option<Credential>, Rejection> {
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
pub(crate) struct Rules {
    pub(crate) keep: bool,
    pub(crate) max_len: usize,
    pub(crate) ignored_schemes: Vec<Box<str>>,
}

/// The one credential of a request, and the index of its source.
pub(crate) fn take_one(
    parts: &mut Parts,
    sources: &[Source],
    rules: &Rules,
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
        && query
            .as_bytes()
            .split(|byte| *byte == b'&')
            .any(|parameter| {
                let end = parameter
                    .iter()
                    .position(|byte| *byte == b'=')
                    .unwrap_or(parameter.len());
                let (name, value) = parameter.split_at(end);
                name == b"access_token" || claims(value.get(1..).unwrap_or_default())
            })
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
    rules: &Rules,
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
    let Some(scheme) = known_scheme(scheme) else {
        let mut ignored = rules.ignored_schemes.iter().map(|name| name.as_bytes());
        return if scheme.is_empty() {
            Err(malformed(Cause::EmptyCarrier, Scheme::Bearer))
        } else if names_known_scheme(rest) {
            Err(ambiguous(Cause::CarrierRepeated))
        } else if ignored.any(|name| scheme.eq_ignore_ascii_case(name)) {
            Ok(None)
        } else {
            Err(Rejection::new(
                Reason::CredentialsMissing,
                Cause::OtherScheme,
            ))
        };
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
    rules: &Rules,
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
fn take_value(headers: &mut HeaderMap, name: &HeaderName, rules: &Rules) -> Option<HeaderValue> {
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

fn take_query(
    parts: &mut Parts,
    wanted: &str,
    rules: &Rules,
) -> Result<Option<Credential>, Rejection> {
    let Some(query) = parts.uri.query() else {
        return Ok(None);
    };
    let mut found = parameters(query).filter(|(_, name, _)| *name == wanted);
    let Some((parameter, _, value)) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(ambiguous(Cause::CarrierRepeated));
    }
    if value.is_empty() {
        return Err(malformed(Cause::EmptyCarrier, Scheme::ApiKey));
    }
    let credential = Credential::new(value.as_bytes());
    if rules.keep {
        return Ok(Some(credential));
    }
    let rest: Vec<&str> = parameters(query)
        .map(|(text, ..)| text)
        .filter(|text| !std::ptr::eq(*text, parameter))
        .collect();
    let redacted = with_query(&parts.uri, &rest.join("&"));
    drop(found);
    // The axum router keeps a copy of the URI beside the request.
    #[cfg(feature = "axum")]
    crate::axum::redact_uri(&mut parts.extensions, &redacted);
    parts.uri = redacted;
    Ok(Some(credential))
}

fn take_cookie(
    parts: &mut Parts,
    wanted: &str,
    rules: &Rules,
) -> Result<Option<Credential>, Rejection> {
    // A byte that is not ASCII makes its line no list of cookies: it is skipped.
    let lines = || {
        parts
            .headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
    };
    let mut found = lines()
        .flat_map(cookies)
        .filter(|(_, name, _)| *name == wanted);
    let Some((_, _, value)) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(ambiguous(Cause::CarrierRepeated));
    }
    if value.is_empty() {
        return Err(malformed(Cause::EmptyCarrier, Scheme::ApiKey));
    }
    if is_cross_site(parts) {
        return Err(Rejection::new(Reason::Forbidden, Cause::CrossSite));
    }
    let credential = Credential::new(value.as_bytes());
    let rest = lines()
        .flat_map(cookies)
        .filter(|(_, name, _)| rules.keep || *name != wanted)
        .map(|(text, ..)| text)
        .collect::<Vec<_>>()
        .join("; ");
    drop(found);
    parts.headers.remove(COOKIE);
    if let Ok(mut rest) = HeaderValue::try_from(rest)
        && !rest.is_empty()
    {
        rest.set_sensitive(rules.keep);
        parts.headers.insert(COOKIE, rest);
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

/// The parameters of a query: each as it stands, its name, its value.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    query.split('&').map(|text| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (text, name, value)
    })
}

/// The cookies of a line: each as it stands, its name, its value (RFC 6265 §4.2.1).
fn cookies(line: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    line.split(';').map(str::trim).filter_map(|text| {
        let (name, value) = text.split_once('=')?;
        Some((text, name, value))
    })
}

/// The same URI with another query.
pub(crate) fn with_query(uri: &Uri, query: &str) -> Uri {
    let mut parts = uri.clone().into_parts();
    let text = if query.is_empty() {
        uri.path().into()
    } else {
        format!("{}?{query}", uri.path())
    };
    parts.path_and_query = PathAndQuery::try_from(text).ok();
    // A path and a part of its query are valid together; if not, nothing is kept.
    Uri::from_parts(parts).unwrap_or_default()
}

fn ambiguous(cause: Cause) -> Rejection {
    Rejection::new(Reason::CredentialsAmbiguous, cause)
}

fn malformed(cause: Cause, scheme: Scheme) -> Rejection {
    let mut rejection = Rejection::new(Reason::RequestMalformed, cause);
    rejection.scheme = Some(scheme);
    rejection
}
