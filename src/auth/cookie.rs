//! Credentials in a cookie: how one is found, and cut out of its line.

use http::header::{COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use crate::auth::source::{TakeRules, only};
use crate::credential::Credential;
use crate::rejection::{Cause, Reason, Rejection};

/// Takes the one cookie of that name, and cuts it out of its line.
pub(super) fn take_cookie(
    parts: &mut Parts,
    wanted: &str,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let lines = parts.headers.get_all(COOKIE).iter();
    let found = lines.flat_map(cookies);
    let Some(cookie) = only(found.filter(|cookie| is_named(cookie, wanted)))? else {
        return Ok(None);
    };
    let value = cookie.get(wanted.len() + 1..).unwrap_or_default();
    let credential = rules.copy(value)?;
    if is_cross_site(parts) {
        return Err(Rejection::new(Reason::Forbidden, Cause::CrossSite));
    }
    clear_cookie(&mut parts.headers, wanted, rules);
    Ok(Some(credential))
}

/// Writes the lines anew that such a cookie stands in; the others stay as they are.
pub(super) fn clear_cookie(headers: &mut HeaderMap, wanted: &str, rules: &TakeRules) {
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for mut line in lines {
        if cookies(&line).any(|cookie| is_named(cookie, wanted)) {
            if rules.keep {
                line.set_sensitive(true);
            } else {
                let others = cookies(&line).filter(|cookie| !is_named(cookie, wanted));
                let others: Vec<&[u8]> = others.collect();
                let Ok(rest) = HeaderValue::from_bytes(&others.join(&b"; "[..])) else {
                    continue;
                };
                line = rest;
            }
        }
        if !line.is_empty() {
            headers.append(COOKIE, line);
        }
    }
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

/// The cookies of a line, each as it stands (RFC 6265 §4.2.1).
fn cookies(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let all = line.as_bytes().split(|byte| *byte == b';');
    all.map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
}

fn is_named(cookie: &[u8], wanted: &str) -> bool {
    cookie.split(|byte| *byte == b'=').next() == Some(wanted.as_bytes())
}
