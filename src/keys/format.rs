//! The text of a key: `{prefix}_{env}_{id}_{secret}{checksum}`.
//!
//! `id` is 12 digits of base62, public, and the primary key of the record. `secret`
//! is 32 digits of base62 from the operating system's generator, 190 bits. The
//! checksum is CRC-32 of everything before it: it lets a scanner tell a key from
//! noise and lets a gate refuse a typing error without asking the store. It is not
//! a security check.

use std::fmt;
use std::str;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::credential::all_base62;
use crate::rejection::Cause;

/// The longest text that is looked at.
pub(crate) const MAX_LEN: usize = 256;
/// The two shortest words, and the rest.
pub(crate) const SHORTEST: usize = 5 + 1 + TAIL;

const ID: usize = 12;
const SECRET: usize = 32;
const CHECKSUM: usize = 6;
/// `{id}_{secret}{checksum}`
const TAIL: usize = ID + 1 + SECRET + CHECKSUM;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The public id of a key: unique in its store, fit for logs.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; ID]);

impl KeyId {
    /// The twelve characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("an id is made of ASCII digits only")
    }

    fn new(text: &[u8]) -> Option<Self> {
        let id: [u8; ID] = text.try_into().ok()?;
        all_base62(&id).then_some(Self(id))
    }
}

impl str::FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        Self::new(text.as_bytes()).ok_or(InvalidKeyId)
    }
}

impl TryFrom<String> for KeyId {
    type Error = InvalidKeyId;

    fn try_from(text: String) -> Result<Self, InvalidKeyId> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.as_str().into()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// What was given as the id of a key is none: an id is 12 digits of base62.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct InvalidKeyId;

impl fmt::Display for InvalidKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of a key is 12 characters of 0-9, A-Z and a-z")
    }
}

impl std::error::Error for InvalidKeyId {}

/// The whole text of a key, to be shown to its owner once.
///
/// It has no `Display`, its `Debug` ends where the secret begins, and it is wiped
/// from memory when it is dropped.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The secret text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The part that is fit for display: all but secret and checksum.
    #[must_use]
    pub fn hint(&self) -> String {
        format!("{}…", &self.0[..self.0.len() - SECRET - CHECKSUM])
    }

    /// Draws a key. `head` is `{prefix}_{env}`.
    pub(crate) fn generate(head: &str) -> Result<(Self, KeyId), getrandom::Error> {
        Self::from_random(head, |block, _| getrandom::fill(block))
    }

    /// Computes a key from blocks that nobody else can: the same ones give the same key.
    pub(crate) fn derive(
        head: &str,
        block: impl Fn(u32) -> [u8; 32],
    ) -> Result<(Self, KeyId), getrandom::Error> {
        Self::from_random(head, |out, index| {
            let (first, second) = out.split_at_mut(32);
            first.copy_from_slice(&block(2 * index));
            second.copy_from_slice(&block(2 * index + 1));
            Ok(())
        })
    }

    fn from_random(
        head: &str,
        fill: impl FnMut(&mut [u8], u32) -> Result<(), getrandom::Error>,
    ) -> Result<(Self, KeyId), getrandom::Error> {
        let mut digits = Zeroizing::new([0; ID + SECRET]);
        draw(digits.as_mut(), fill)?;
        let (id, secret) = digits.split_at(ID);
        // One allocation of the final size: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(head.len() + 1 + TAIL));
        text.push_str(head);
        text.push('_');
        text.extend(id.iter().map(|digit| char::from(*digit)));
        text.push('_');
        text.extend(secret.iter().map(|digit| char::from(*digit)));
        let mut checksum = crc32fast::hash(text.as_bytes());
        let mut tail = [b'0'; CHECKSUM];
        for digit in tail.iter_mut().rev() {
            *digit = DIGITS[(checksum % 62) as usize];
            checksum /= 62;
        }
        text.extend(tail.iter().map(|digit| char::from(*digit)));
        let id = KeyId::new(id).expect("an id is drawn from the digits");
        Ok((Self(text), id))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.hint())
    }
}

/// What can be read off a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Parsed<'a> {
    /// `{prefix}_{env}`
    pub(crate) head: &'a [u8],
    pub(crate) id: KeyId,
}

/// Reads a key from the right, where all widths are fixed. Whether the head is one is
/// left to the caller, who knows which ones there are.
pub(crate) fn parse(text: &[u8]) -> Result<Parsed<'_>, Cause> {
    // The shortest head is `aa_aa`, and an underscore parts it from the tail.
    if text.len() > MAX_LEN || text.len() < SHORTEST {
        return Err(Cause::KeyFormat);
    }
    let (head, tail) = text.split_at(text.len() - TAIL);
    let Some((b'_', head)) = head.split_last() else {
        return Err(Cause::KeyFormat);
    };
    let (id, rest) = tail.split_at(ID);
    let Some((b'_', secret)) = rest.split_first() else {
        return Err(Cause::KeyFormat);
    };
    let (secret, checksum) = secret.split_at(SECRET);
    let id = KeyId::new(id).ok_or(Cause::KeyFormat)?;
    if !all_base62(secret) {
        return Err(Cause::KeyFormat);
    }
    let computed = crc32fast::hash(&text[..text.len() - CHECKSUM]);
    if number(checksum) != Some(u64::from(computed)) {
        return Err(Cause::KeyChecksum);
    }
    Ok(Parsed { head, id })
}

/// Whether this can be a prefix or an environment: `[a-z][a-z0-9]{1,15}`.
pub(crate) fn is_word(text: &[u8]) -> bool {
    matches!(text.len(), 2..=16)
        && text[0].is_ascii_lowercase()
        && text
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whether a text looks like a key, whatever its checksum.
pub(crate) fn has_shape(text: &[u8]) -> bool {
    !matches!(parse(text), Err(Cause::KeyFormat))
        && text.len() > TAIL
        && is_head(&text[..text.len() - TAIL - 1])
}

/// Whether this can be `{prefix}_{env}`.
pub(crate) fn is_head(head: &[u8]) -> bool {
    let Some(middle) = head.iter().position(|byte| *byte == b'_') else {
        return false;
    };
    is_word(&head[..middle]) && is_word(&head[middle + 1..])
}

/// A number in base62, most significant digit first.
fn number(digits: &[u8]) -> Option<u64> {
    const NONE: u8 = 255;
    const VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut value = 0;
        while value < DIGITS.len() {
            values[DIGITS[value] as usize] = value as u8;
            value += 1;
        }
        values
    };
    digits
        .iter()
        .try_fold(0, |number, digit| match VALUES[usize::from(*digit)] {
            NONE => None,
            value => Some(number * 62 + u64::from(value)),
        })
}

/// Fills `out` with digits, each as likely as the others. `fill` makes the n-th block.
fn draw(
    out: &mut [u8],
    mut fill: impl FnMut(&mut [u8], u32) -> Result<(), getrandom::Error>,
) -> Result<(), getrandom::Error> {
    // 248 is the greatest multiple of 62 in a byte: above it, the first digits
    // would be likelier than the last.
    const FAIR: u8 = 248;
    let mut random = Zeroizing::new([0; 64]);
    let mut at = 0;
    for index in 0.. {
        fill(random.as_mut(), index)?;
        for byte in random.iter().filter(|byte| **byte < FAIR) {
            let Some(digit) = out.get_mut(at) else {
                return Ok(());
            };
            *digit = DIGITS[usize::from(byte % 62)];
            at += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "acme_live_7Hq2mZxR0aKd_V3bTq9LmZ1xYcW8rHs5NkPd0JgUe2AfQ077rjO";

    #[test]
    fn the_printed_example_parses() {
        let parsed = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(parsed.head, b"acme_live");
        assert_eq!(parsed.id.as_str(), "7Hq2mZxR0aKd");
    }

    #[test]
    fn the_hint_ends_where_the_secret_begins() {
        let key = ApiKey(Zeroizing::new(GOOD.into()));
        assert_eq!(key.hint(), "acme_live_7Hq2mZxR0aKd_…");
        assert!(!format!("{key:?}").contains("V3bT"));
    }

    #[test]
    fn every_digit_is_drawn_about_as_often() {
        let mut digits = vec![0; 62 * 2_000];
        draw(&mut digits, |block, _| getrandom::fill(block)).unwrap();
        for digit in DIGITS {
            let count = digits.iter().filter(|drawn| *drawn == digit).count();
            // Six standard deviations: by chance once in some ten million runs.
            assert!(
                (1_730..=2_270).contains(&count),
                "{} came {count} times",
                char::from(*digit)
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_generated_parses(prefix in "[a-z][a-z0-9]{1,15}", env in "[a-z][a-z0-9]{1,15}") {
            let head = format!("{prefix}_{env}");
            let (key, id) = ApiKey::generate(&head).unwrap();
            let parsed = parse(key.expose().as_bytes()).unwrap();
            prop_assert_eq!(parsed.head, head.as_bytes());
            prop_assert_eq!(parsed.id, id);
        }

        #[test]
        fn no_single_changed_byte_goes_unnoticed(at in 0..GOOD.len(), byte in any::<u8>()) {
            let mut text = GOOD.as_bytes().to_vec();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            prop_assert!(parse(&text).is_err());
        }

        #[test]
        fn nothing_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&text);
        }
    }
}
