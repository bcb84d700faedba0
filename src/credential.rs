//! [`Credential`]: what the caller showed. It never prints.

use std::fmt;

use http::HeaderValue;
use zeroize::Zeroizing;

/// The text of a key or token, as the caller showed it.
///
/// It is well-formed (a `token68` of RFC 9110 §11.2, within the size cap) and
/// nothing else is known of it. `Debug` shows neither the text nor its length;
/// [`Credential::expose`] is the only way to it.
pub struct Credential {
    text: Text,
    scheme: Scheme,
}

enum Text {
    /// The tail of a header's value. The bytes are the server's read buffer.
    Header(HeaderValue, usize),
    Own(Zeroizing<Box<[u8]>>),
}

impl Credential {
    /// A credential out of a carrier of your own; it is wiped from memory when it
    /// is dropped. For implementations of
    /// [`CredentialSource`](crate::auth::CredentialSource).
    pub fn new(text: impl Into<Box<[u8]>>) -> Self {
        Self {
            text: Text::Own(Zeroizing::new(text.into())),
            scheme: Scheme::ApiKey,
        }
    }

    /// The same, shown in that scheme: `ApiKey` unless said otherwise.
    #[must_use]
    pub fn with_scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = scheme;
        self
    }

    pub(crate) fn in_header(value: HeaderValue, start: usize, scheme: Scheme) -> Self {
        Self {
            text: Text::Header(value, start),
            scheme,
        }
    }

    /// The secret text.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        match &self.text {
            Text::Header(value, start) => &value.as_bytes()[*start..],
            Text::Own(text) => text,
        }
    }

    /// The authentication scheme that challenges answer in: the one of the
    /// `Authorization` header, `ApiKey` for every other carrier.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// The HTTP authentication schemes in which credentials are accepted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// `Authorization: ApiKey …`, and the scheme that challenges name for keys in
    /// other carriers.
    ApiKey,
}

impl Scheme {
    /// Every scheme, in the order in which challenges list them.
    pub(crate) const ALL: [Self; 2] = [Self::Bearer, Self::ApiKey];

    /// As it stands in a challenge.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::ApiKey => "ApiKey",
        }
    }
}

/// `token68` of RFC 9110 §11.2: a run of unreserved characters, then `=`s.
pub(crate) fn is_token68(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let run = &text[..text.len() - padding];
    !run.is_empty() && all(run, |byte| is_base62(byte) | is_mark(byte))
}

/// Whether every byte is a digit of base62.
pub(crate) fn all_base62(text: &[u8]) -> bool {
    all(text, is_base62)
}

/// Reads all bytes whatever they are, without a branch or a table: sixteen at a time, where the
/// compiler can.
fn all(text: &[u8], is_one: impl Fn(u8) -> bool) -> bool {
    text.iter().fold(true, |all, byte| all & is_one(*byte))
}

const fn is_base62(byte: u8) -> bool {
    (byte.wrapping_sub(b'0') < 10) | ((byte | 0x20).wrapping_sub(b'a') < 26)
}

/// What else stands in a `token68` before the padding.
const fn is_mark(byte: u8) -> bool {
    (byte == b'-')
        | (byte == b'.')
        | (byte == b'_')
        | (byte == b'~')
        | (byte == b'+')
        | (byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_of_its_class() {
        for byte in 0..=u8::MAX {
            let is_digit = byte.is_ascii_alphanumeric();
            assert_eq!(all_base62(&[byte; 40]), is_digit, "{byte}");
            let is_part = is_digit || b"-._~+/".contains(&byte);
            assert_eq!(
                is_token68(&[b"a".as_slice(), &[byte]].concat()),
                is_part || byte == b'='
            );
        }
    }

    #[test]
    fn token68_is_what_rfc_9110_says() {
        for good in [
            "a",
            "a=",
            "a==",
            "aZ09-._~+/==",
            "acme_x".replace('_', "-").as_str(),
        ] {
            assert!(is_token68(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "", "=", "a=b", "a b", "{a}", "\"a\"", "a,", "a:b", "%41", "\u{e9}", "a\t",
        ] {
            assert!(!is_token68(bad.as_bytes()), "{bad:?}");
        }
    }

    /// What wipes itself says so by its type.
    fn is_wiped(_: &impl zeroize::ZeroizeOnDrop) {}

    #[test]
    fn a_copy_of_a_credential_is_wiped_when_it_is_dropped() {
        let own = Credential::new(*b"s3cret-of-yours");
        let Text::Own(text) = &own.text else {
            panic!("it is a copy");
        };
        is_wiped(text);
    }

    #[test]
    fn a_credential_does_not_print() {
        let header = HeaderValue::from_static("Bearer s3cret-of-yours");
        let shown = Credential::in_header(header, 7, Scheme::Bearer);
        assert_eq!(shown.expose(), b"s3cret-of-yours");
        let own = Credential::new(*b"s3cret-of-yours");
        assert!(!format!("{shown:?}{own:?}").contains("s3cret"));
    }
}
