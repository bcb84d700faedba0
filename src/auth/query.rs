//! Credentials in the query of a URI: where they may stand, and where they may not.

use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::auth::source::{Recognize, Source, TakeRules, only};
use crate::credential::Credential;
use crate::rejection::Rejection;

/// Takes the one value of a parameter, and cuts it out of the URI.
pub(super) fn take_query(
    parts: &mut Parts,
    wanted: &str,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let Some(query) = parts.uri.query() else {
        return Ok(None);
    };
    let found = parameters(query).filter(|(_, name, _)| *name == wanted);
    let Some((.., value)) = only(found)? else {
        return Ok(None);
    };
    let credential = rules.copy(value.as_bytes())?;
    clear_query(parts, wanted, rules);
    Ok(Some(credential))
}

/// Cuts all values of a parameter out of the URI, unless they are to be kept.
pub(super) fn clear_query(parts: &mut Parts, wanted: &str, rules: &TakeRules) {
    let Some(query) = parts.uri.query() else {
        return;
    };
    if rules.keep || !parameters(query).any(|(_, name, _)| name == wanted) {
        return;
    }
    let others = parameters(query).filter(|(_, name, _)| *name != wanted);
    let rest: Vec<&str> = others.map(|(text, ..)| text).collect();
    let redacted = with_query(&parts.uri, &rest.join("&"));
    // The axum router keeps a copy of the URI beside the request.
    #[cfg(feature = "axum")]
    crate::axum::redact_uri(&mut parts.extensions, &redacted);
    parts.uri = redacted;
}

/// Whether a query has a credential in it, in other parameters than those that it may
/// stand in.
///
/// Words of it are looked at, whatever they are part of, also where they are spelt with
/// percent signs: `k=v`, `v` alone, `a;b`, `Bearer%20v`.
pub(super) fn has_credential(
    query: &str,
    sources: &[Source],
    rules: &TakeRules,
    claims: Recognize<'_>,
) -> bool {
    let shortest = rules.shortest;
    // Most are too short for any of what follows.
    if query.len() < shortest.min(ACCESS_TOKEN.len()) {
        return false;
    }
    query.split('&').any(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        let is_ignored = rules
            .ignored_query_params
            .iter()
            .any(|each| **each == *name);
        if is_ignored || sources.iter().any(|source| source.is_query(name)) {
            return false;
        }
        // RFC 6750 §2.3 gives it this name, whatever it looks like.
        if name == ACCESS_TOKEN {
            return true;
        }
        if parameter.len() < shortest {
            return false;
        }
        let has_one = |text: &[u8]| {
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            // Those of tokens have more in them.
            let is_of_a_token = |byte: &u8| is_part(byte) || matches!(byte, b'-' | b'.');
            text.split(|byte| !is_part(byte)).any(claims)
                || text.split(|byte| !is_of_a_token(byte)).any(claims)
        };
        if !parameter.contains('%') {
            return has_one(parameter.as_bytes());
        }
        // No longer than what is decoded, so it never moves and leaves a copy behind.
        let mut decoded = Zeroizing::new(Vec::with_capacity(parameter.len()));
        decoded.extend(percent_decode_str(parameter));
        has_one(&decoded)
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

/// The parameters of a query: each as it stands, its name, its value.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    query.split('&').map(|text| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (text, name, value)
    })
}

const ACCESS_TOKEN: &str = "access_token";
