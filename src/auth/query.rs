//! Credentials in the query of a URI: where they may stand, and where they may not.

use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

use crate::auth::source::{Source, TakeRules, ambiguous, malformed};
use crate::credential::{Credential, Scheme};
use crate::rejection::{Cause, Rejection};

/// Takes the one value of a parameter, and cuts it out of the URI.
pub(super) fn take_query(
    parts: &mut Parts,
    wanted: &str,
    rules: &TakeRules,
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

/// Whether a query has a credential in it, in other parameters than those that it may
/// stand in.
///
/// Words of it are looked at, whatever they are part of, also where they are spelt with
/// percent signs: `k=v`, `v` alone, `a;b`, `Bearer%20v`.
pub(super) fn has_credential(
    query: &str,
    sources: &[Source],
    claims: impl Fn(&[u8]) -> bool,
) -> bool {
    query.split('&').any(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        if sources.iter().any(|source| source.is_query(name)) {
            return false;
        }
        // RFC 6750 §2.3 gives it this name, whatever it looks like.
        if name == "access_token" {
            return true;
        }
        if parameter.len() < SHORTEST_CREDENTIAL {
            return false;
        }
        let decoded: Vec<u8> = percent_decode_str(parameter).collect();
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        decoded.split(|byte| !is_part(byte)).any(&claims)
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

/// What is shorter cannot be one: the two shortest words, and the rest of a key.
const SHORTEST_CREDENTIAL: usize = 57;
