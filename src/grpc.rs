//! How a refusal is said to a gRPC client: HTTP 200, the status in the fields of a
//! response that has no body. A 4xx would reach the caller as another status than was
//! meant, and 429 as one that invites a retry.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::rejection::Rejection;

/// The language that a client wants to be refused in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Dialect {
    #[default]
    Http,
    /// gRPC or gRPC-Web, with the media type that it is answered in.
    Grpc(&'static str),
}

/// The media types that are answered as they were asked. A client's own words are never
/// sent back, so others get the plain type.
const MEDIA_TYPES: [&str; 7] = [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc+json",
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

impl Dialect {
    /// That of a request: its method and media type are what makes it a call.
    pub(crate) fn of(request: &Parts) -> Self {
        if request.method != Method::POST {
            return Self::Http;
        }
        let Some(value) = request.headers.get(CONTENT_TYPE) else {
            return Self::Http;
        };
        let value = value.as_bytes();
        let end = value.iter().position(|byte| *byte == b';');
        let media_type = value[..end.unwrap_or(value.len())].trim_ascii();
        let is_asked = |known: &&&str| known.as_bytes().eq_ignore_ascii_case(media_type);
        if let Some(known) = MEDIA_TYPES.iter().find(is_asked) {
            return Self::Grpc(known);
        }
        let family = |name: &str| {
            let rest = media_type.get(..name.len()).zip(media_type.get(name.len()));
            rest.is_some_and(|(start, next)| {
                start.eq_ignore_ascii_case(name.as_bytes()) && *next == b'+'
            })
        };
        let mut plain = MEDIA_TYPES.iter().filter(|name| !name.contains('+'));
        plain
            .find(|name| family(name))
            .map_or(Self::Http, |name| Self::Grpc(name))
    }
}

/// The fields of a response that is trailers and nothing else.
pub(crate) fn trailers_only(
    rejection: &Rejection,
    media_type: &'static str,
    detail: &str,
    domain: &str,
) -> HeaderMap {
    let reason = rejection.reason();
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(GRPC_STATUS, HeaderValue::from(reason.grpc_code() as u16));
    let message = message(detail);
    // Both are made of printable ASCII here.
    if let Ok(message) = HeaderValue::try_from(message.as_ref()) {
        headers.insert(GRPC_MESSAGE, message);
    }
    let details = STANDARD_NO_PAD.encode(details(rejection, detail, domain));
    if let Ok(details) = HeaderValue::try_from(details) {
        headers.insert(GRPC_DETAILS, details);
    }
    if let Some(wait) = rejection.wait() {
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis));
    }
    headers
}

/// Whether a response that is trailers only says that the server has failed: `UNKNOWN`,
/// `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`.
pub(crate) fn is_server_error(headers: &HeaderMap) -> bool {
    let status = headers.get(GRPC_STATUS).map(HeaderValue::as_bytes);
    matches!(status, Some(b"2" | b"4" | b"13" | b"14" | b"15"))
}

/// As the gRPC protocol wants a message: UTF-8, with `%` and all but printable ASCII
/// percent-encoded.
fn message(text: &str) -> Cow<'_, str> {
    const RESERVED: &AsciiSet = &CONTROLS.add(b'%');
    utf8_percent_encode(text, RESERVED).into()
}

/// A `google.rpc.Status` with what a program wants to know: `ErrorInfo`, `RetryInfo` if
/// there is a wait, and `QuotaFailure` if quotas are used up.
pub(crate) fn details(rejection: &Rejection, detail: &str, domain: &str) -> Vec<u8> {
    let reason = rejection.reason();
    let mut info = Vec::new();
    text(&mut info, 1, reason.grpc_reason());
    text(&mut info, 2, domain);
    let scopes = rejection.required_scopes().map(ToString::to_string);
    let known = [
        ("required_scopes", scopes.as_deref()),
        ("policy", rejection.policy()),
        ("request_id", rejection.request_id()),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            let mut entry = Vec::new();
            text(&mut entry, 1, name);
            text(&mut entry, 2, value);
            message_field(&mut info, 3, &entry);
        }
    }
    let mut status = Vec::new();
    number(&mut status, 1, reason.grpc_code() as u64);
    text(&mut status, 2, detail);
    message_field(&mut status, 3, &any("google.rpc.ErrorInfo", &info));
    if let Some(wait) = rejection.wait() {
        let mut retry = Vec::new();
        message_field(&mut retry, 1, &duration(wait));
        message_field(&mut status, 3, &any("google.rpc.RetryInfo", &retry));
    }
    let mut failure = Vec::new();
    for quota in rejection.violated_quotas() {
        let mut violation = Vec::new();
        text(&mut violation, 1, quota);
        text(&mut violation, 2, reason.detail());
        message_field(&mut failure, 1, &violation);
    }
    if !failure.is_empty() {
        message_field(&mut status, 3, &any("google.rpc.QuotaFailure", &failure));
    }
    status
}

fn any(name: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &format!("type.googleapis.com/{name}"));
    message_field(&mut out, 2, message);
    out
}

fn duration(wait: Duration) -> Vec<u8> {
    let mut out = Vec::new();
    number(&mut out, 1, wait.as_secs());
    number(&mut out, 2, wait.subsec_nanos().into());
    out
}

// Protocol Buffers: a tag, then a number of seven bits a byte, or a length and bytes.

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        out.push(field << 3);
        varint(out, value);
    }
}

fn text(out: &mut Vec<u8>, field: u8, text: &str) {
    message_field(out, field, text.as_bytes());
}

fn message_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(method: Method, content_type: &str) -> Dialect {
        let request = http::Request::builder()
            .method(method)
            .header(CONTENT_TYPE, content_type)
            .body(())
            .unwrap();
        Dialect::of(&request.into_parts().0)
    }

    #[test]
    fn a_call_is_known_by_its_media_type() {
        for (asked, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc+proto"),
            (
                "Application/GRPC+Proto; charset=utf-8",
                "application/grpc+proto",
            ),
            ("application/grpc+thrift", "application/grpc"),
            ("application/grpc;x=y", "application/grpc"),
            ("application/grpc-web", "application/grpc-web"),
            ("application/grpc-web+proto", "application/grpc-web+proto"),
            ("application/grpc-web+x", "application/grpc-web"),
            (
                "application/grpc-web-text+proto",
                "application/grpc-web-text+proto",
            ),
        ] {
            let found = dialect(Method::POST, asked);
            assert_eq!(found, Dialect::Grpc(answered), "{asked}");
        }
        for other in [
            "application/json",
            "application/grpcx",
            "application/grpc-webby",
            "",
            "text/application/grpc",
        ] {
            assert_eq!(dialect(Method::POST, other), Dialect::Http, "{other}");
        }
        assert_eq!(dialect(Method::GET, "application/grpc"), Dialect::Http);
    }

    #[test]
    fn a_message_is_percent_encoded() {
        assert_eq!(message("50 % of\nå"), "50 %25 of%0A%C3%A5");
    }

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        let mut out = Vec::new();
        number(&mut out, 1, 300);
        number(&mut out, 2, 0);
        assert_eq!(out, [8, 0xac, 2]);
    }
}
