//! Credentials in `Authorization` (RFC 9110 §11.6.2): `credentials = auth-scheme 1*SP token68`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::auth::source::{TakeRules, ambiguous, clear_value, malformed, take_value};
use crate::config::ConfigError;
use crate::credential::{Credential, Scheme};
use crate::rejection::{Cause, Reason, Rejection};

/// The meaning of a scheme to a layer.
#[derive(Clone, Copy)]
enum Meaning {
    /// The credential follows the scheme.
    Accepted(Scheme),
    /// The credential is the user name of `Basic` (RFC 7617).
    UserName,
    Ignored,
    Unknown,
}

impl TakeRules {
    fn meaning_of(&self, name: &[u8]) -> Meaning {
        let is_in = |names: &[Box<str>]| {
            let mut names = names.iter().map(|each| each.as_bytes());
            names.any(|each| name.eq_ignore_ascii_case(each))
        };
        let known = Scheme::ALL
            .into_iter()
            .find(|scheme| is_named(*scheme, name));
        match known {
            Some(scheme) if self.schemes.contains(&scheme) => Meaning::Accepted(scheme),
            _ if is_in(&self.extra_schemes) => Meaning::Accepted(self.stands_for()),
            None if self.basic && name.eq_ignore_ascii_case(BASIC) => Meaning::UserName,
            _ if is_in(&self.ignored_schemes) => Meaning::Ignored,
            _ => Meaning::Unknown,
        }
    }

    /// Returns whether a list goes on with credentials in a scheme that is or may be accepted:
    /// `…, Bearer x`.
    fn lists_credentials(&self, list: &[u8]) -> bool {
        list.split(|byte| *byte == b',').skip(1).any(|item| {
            let item = item.trim_ascii_start();
            let end = item.iter().position(|byte| matches!(byte, b' ' | b'\t'));
            let name = &item[..end.unwrap_or(item.len())];
            Scheme::ALL.into_iter().any(|scheme| is_named(scheme, name))
                || matches!(
                    self.meaning_of(name),
                    Meaning::Accepted(_) | Meaning::UserName
                )
        })
    }

    /// The scheme of challenges for credentials in a scheme that challenges do not name.
    fn stands_for(&self) -> Scheme {
        let first = self.schemes.first().copied().unwrap_or(Scheme::ApiKey);
        if self.schemes.contains(&Scheme::ApiKey) {
            Scheme::ApiKey
        } else {
            first
        }
    }

    fn is_ignored(&self, line: &HeaderValue) -> bool {
        matches!(
            self.meaning_of(split_scheme(line.as_bytes()).0),
            Meaning::Ignored
        )
    }
}

pub(super) fn take_authorization(
    headers: &mut HeaderMap,
    rules: &TakeRules,
) -> Result<Option<Credential>, Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ambiguous(Cause::CarrierRepeated));
    }
    let text = value.as_bytes();
    let (name, rest) = split_scheme(text);
    let meaning = rules.meaning_of(name);
    let scheme = match meaning {
        Meaning::Accepted(scheme) => scheme,
        Meaning::UserName => rules.stands_for(),
        _ if name.is_empty() => return Err(malformed(Cause::EmptyCarrier, Scheme::Bearer)),
        _ if rules.lists_credentials(rest) => return Err(ambiguous(Cause::CarrierRepeated)),
        Meaning::Ignored => {
            // It stays, and is still a secret.
            clear_value(headers, &AUTHORIZATION, true);
            return Ok(None);
        }
        // RFC 9110 §11.4: a scheme is a token. Anything else is a mistake of the client.
        Meaning::Unknown
            if !is_token(name) || !text.iter().all(|byte| matches!(byte, b' '..=b'~')) =>
        {
            return Err(malformed(Cause::NotToken68, Scheme::Bearer));
        }
        Meaning::Unknown if rest.is_empty() => {
            return Err(Rejection::new(Reason::CredentialsMissing, Cause::NoScheme));
        }
        Meaning::Unknown => {
            return Err(Rejection::new(
                Reason::CredentialsMissing,
                Cause::OtherScheme,
            ));
        }
    };
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    if spaces == 0 || spaces == rest.len() {
        return Err(malformed(Cause::EmptyCarrier, scheme));
    }
    let start = text.len() - rest.len() + spaces;
    let Some(value) = take_value(headers, &AUTHORIZATION, rules) else {
        return Ok(None);
    };
    match meaning {
        Meaning::UserName => user_name(&value.as_bytes()[start..], rules, scheme).map(Some),
        _ => Ok(Some(Credential::in_header(value, start, scheme))),
    }
}

pub(super) fn clear_authorization(headers: &mut HeaderMap, rules: &TakeRules) {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let keep = rules.keep || lines.any(|line| rules.is_ignored(line));
    clear_value(headers, &AUTHORIZATION, keep);
}

/// Reads the user name of `Basic`. The password must be empty: it would be a second credential.
fn user_name(encoded: &[u8], rules: &TakeRules, scheme: Scheme) -> Result<Credential, Rejection> {
    if encoded.len() / 4 > rules.max_len.saturating_add(1) / 3 + 1 {
        return Err(malformed(Cause::TooLong, scheme));
    }
    let mut buffer = Zeroizing::new(vec![0; encoded.len()]);
    let decoded = STANDARD.decode_slice(encoded, &mut buffer).ok();
    let text = decoded
        .and_then(|len| buffer.get(..len))
        .unwrap_or_default();
    match text.strip_suffix(b":") {
        Some([]) => Err(malformed(Cause::EmptyCarrier, scheme)),
        Some(name) if !name.contains(&b':') => Ok(Credential::new(name).with_scheme(scheme)),
        _ => Err(malformed(Cause::NotBasicUserName, scheme)),
    }
}

/// Checks names of further schemes.
///
/// # Errors
/// Returns `Err` if one is not a token, or has a grammar or a meaning of its own.
pub(super) fn check_extra_scheme(name: &str) -> Result<(), ConfigError> {
    let problem = if !is_token(name.as_bytes()) {
        "a scheme is a token (RFC 9110 §5.6.2)"
    } else if name.as_bytes().eq_ignore_ascii_case(BASIC) {
        "call `AuthLayer::accept_basic` to accept API keys as user names"
    } else if ["DPoP", "Digest", "Negotiate"]
        .iter()
        .any(|each| name.eq_ignore_ascii_case(each))
    {
        "credentials in this scheme are no bearer credentials"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(format!(
        "AuthLayer::accept_schemes: {name:?} cannot be accepted; {problem}"
    )))
}

fn split_scheme(text: &[u8]) -> (&[u8], &[u8]) {
    let mut bytes = text.iter();
    let end = bytes.position(|byte| matches!(byte, b' ' | b'\t' | b','));
    text.split_at(end.unwrap_or(text.len()))
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_tchar)
}

fn is_named(scheme: Scheme, name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(scheme.as_str().as_bytes())
}

const BASIC: &[u8] = b"Basic";
