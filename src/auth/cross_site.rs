//! Protection of credentials that browsers attach on their own (cookies) against requests that
//! other sites make: cross-site request forgery, and cross-site WebSocket hijacking (RFC 6455
//! §10.2).

use http::header::{ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};

use crate::network::{Client, Transport};
use crate::origin::{Origin, OriginPattern};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Returns whether a browser says that another site made the request, which could change something
/// or open a connection.
///
/// A request without `Sec-Fetch-Site` and `Origin` is not from a browser, and passes. `client` is
/// called only if the host of the request is needed.
pub(super) fn is_cross_site(
    request: &Parts,
    trusted: &[OriginPattern],
    client: impl FnOnce() -> Client,
) -> bool {
    if is_safe(request) {
        return false;
    }
    let origin = match field(&request.headers, &ORIGIN) {
        Field::Missing => None,
        // `null` has no origin: a page that hides where it comes from.
        Field::Once(text) => Some(Origin::of_url(text)),
        Field::Invalid => return true,
    };
    if let Some(Some(origin)) = &origin
        && trusted.iter().any(|each| each.matches(origin))
    {
        return false;
    }
    match (field(&request.headers, &SEC_FETCH_SITE), origin) {
        (Field::Once(site), _) => !matches!(site, "same-origin" | "none"),
        (Field::Invalid, _) => true,
        (Field::Missing, None) => false,
        (Field::Missing, Some(None)) => true,
        (Field::Missing, Some(Some(origin))) => !is_own(&origin, &client(), request),
    }
}

/// Returns whether the request cannot change anything. A request that upgrades the connection is
/// not safe, whatever its method: a WebSocket handshake over HTTP/1.1 is a `GET`, over HTTP/2 a
/// `CONNECT` (RFC 8441).
fn is_safe(request: &Parts) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method)
        && !request.headers.contains_key(UPGRADE)
}

/// Returns whether the request was sent to its own origin.
fn is_own(origin: &Origin, client: &Client, request: &Parts) -> bool {
    // A page in cleartext can be anybody's on the network.
    if origin.is_http() && client.transport(request) == Some(Transport::Tls) {
        return false;
    }
    // The API is a web origin. Applications with schemes of their own are others (RFC 6454 §5).
    if !origin.is_web() {
        return false;
    }
    let host = client.requested_host(request);
    host.is_some_and(|host| origin.has_authority(&host))
}

enum Field<'a> {
    Missing,
    Once(&'a str),
    /// Several lines, or one that is not ASCII.
    Invalid,
}

fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Field<'a> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next().map(|line| line.to_str()), lines.next()) {
        (None, _) => Field::Missing,
        (Some(Ok(text)), None) => Field::Once(text),
        _ => Field::Invalid,
    }
}
