//! Credentials in a cookie: how one is found, and cut out of its line.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::auth::source::{TakeRules, only};
use crate::credential::Credential;
use crate::rejection::Rejection;

/// Takes the one cookie of that name, and cuts it out of its line.
pub(super) fn take_cookie(
    headers: &mut HeaderMap,
    wanted: &str,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let lines = headers.get_all(COOKIE).iter();
    let found = lines.flat_map(cookies);
    let Some(cookie) = only(found.filter(|cookie| is_named(cookie, wanted)))? else {
        return Ok(None);
    };
    let value = cookie.get(wanted.len() + 1..).unwrap_or_default();
    let credential = rules.copy(unquoted(value))?;
    clear_cookie(headers, wanted, rules);
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

/// The cookies of a line, each as it stands (RFC 6265 §4.2.1).
fn cookies(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let all = line.as_bytes().split(|byte| *byte == b';');
    all.map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
}

/// The value inside of double quotes, if it has both (RFC 6265 §4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

fn is_named(cookie: &[u8], wanted: &str) -> bool {
    cookie.split(|byte| *byte == b'=').next() == Some(wanted.as_bytes())
}
