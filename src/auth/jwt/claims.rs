//! What a token claims: the members that decide, read in one pass.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::auth::jwt::policy::Mistake;
use crate::clock::Timestamp;
use crate::json::{KEEP, Members, Object, Text, Value, read_object};
use crate::rejection::Cause;
use crate::scope::is_scope;

/// The claims that decide about a token, and those that say who it is about.
#[derive(Default)]
pub(super) struct Claims<'t> {
    pub(super) issuer: Option<Cow<'t, str>>,
    pub(super) subject: Option<Cow<'t, str>>,
    pub(super) audiences: Audiences<'t>,
    pub(super) times: Times,
    pub(super) id: Option<Cow<'t, str>>,
    pub(super) client_id: Option<Cow<'t, str>>,
    /// `azp`, which some issuers have in place of `client_id`.
    pub(super) authorized_party: Option<Cow<'t, str>>,
    pub(super) binding: Option<Binding>,
    /// Scopes, delimited by spaces: those that RFC 6749 §3.3 knows as such.
    pub(super) scopes: String,
    /// A scope claim is there, and all scope claims can be read.
    pub(super) has_scopes: bool,
    /// The claim by which it is a token of another kind: an ID token or a security event.
    pub(super) other_kind: Option<&'static str>,
}

impl<'t> Claims<'t> {
    /// Reads a payload. `scope_claims` names the members that hold scopes.
    pub(super) fn read(text: &'t str, scope_claims: &[Box<str>]) -> Result<Self, Mistake> {
        let mut reader = Reader {
            claims: Self::default(),
            scope_claims,
            has_unreadable_scopes: false,
            reading: None,
        };
        let read = read_object(text, &mut reader);
        read.map_err(|_| (Cause::TokenClaims, reader.reading.unwrap_or("payload")))?;
        let mut claims = reader.claims;
        claims.has_scopes &= !reader.has_unreadable_scopes;
        Ok(claims)
    }
}

/// When a token is good.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) expires: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) issued: Option<Timestamp>,
}

/// Whom a token is for (RFC 7519 §4.1.3): one, or several.
#[derive(Default)]
pub(super) enum Audiences<'t> {
    #[default]
    None,
    One(Cow<'t, str>),
    Many(Vec<Cow<'t, str>>),
}

impl Audiences<'_> {
    pub(super) fn any(&self, mut is_ours: impl FnMut(&str) -> bool) -> bool {
        match self {
            Self::None => false,
            Self::One(audience) => is_ours(audience),
            Self::Many(all) => all.iter().any(|audience| is_ours(audience)),
        }
    }
}

/// What the holder of a token must prove beside it (RFC 7800 §3.1, `cnf`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Binding {
    /// The digest of their certificate (RFC 8705 §3.1).
    Certificate([u8; 32]),
    /// Something that is not supported.
    Other,
}

struct Reader<'t, 'c> {
    claims: Claims<'t>,
    scope_claims: &'c [Box<str>],
    has_unreadable_scopes: bool,
    /// The registered claim that is being read.
    reading: Option<&'static str>,
}

impl<'t> Members<'t> for Reader<'t, '_> {
    fn member<A: MapAccess<'t>>(
        &mut self,
        name: &str,
        map: &mut A,
    ) -> Result<Option<u32>, A::Error> {
        self.reading = REGISTERED.into_iter().find(|known| *known == name);
        let claims = &mut self.claims;
        let text = |map: &mut A| map.next_value().map(|Text(text)| Some(text));
        let date = |map: &mut A| map.next_value().map(|NumericDate(date)| Some(date));
        let number = match name {
            "iss" => {
                claims.issuer = text(map)?;
                0
            }
            "sub" => {
                claims.subject = text(map)?;
                1
            }
            "aud" => {
                claims.audiences = audiences(map)?;
                2
            }
            "exp" => {
                claims.times.expires = date(map)?;
                3
            }
            "nbf" => {
                claims.times.not_before = date(map)?;
                4
            }
            "iat" => {
                claims.times.issued = date(map)?;
                5
            }
            "jti" => {
                claims.id = text(map)?;
                6
            }
            "client_id" => {
                claims.client_id = text(map)?;
                7
            }
            "cnf" => {
                let mut binding = BindingReader::default();
                map.next_value_seed(Object(&mut binding))?;
                claims.binding = Some(binding.binding());
                8
            }
            "azp" => {
                let party: Option<Text<'t>> = map.next_value()?;
                claims.authorized_party = party.map(|Text(party)| party);
                9
            }
            _ => return self.unregistered(name, map),
        };
        self.reading = None;
        Ok(Some(number))
    }
}

impl<'t> Reader<'t, '_> {
    fn unregistered<A: MapAccess<'t>>(
        &mut self,
        name: &str,
        map: &mut A,
    ) -> Result<Option<u32>, A::Error> {
        let claims = &mut self.claims;
        let mut scope_claims = self.scope_claims.iter().zip(10..32);
        if let Some((_, number)) = scope_claims.find(|(claim, _)| ***claim == *name) {
            match map.next_value_seed(KEEP)? {
                Value::Text(text) => {
                    claims.has_scopes = true;
                    add_scopes(&mut claims.scopes, text.split(' '));
                }
                Value::List {
                    strings,
                    only_strings: true,
                } => {
                    claims.has_scopes = true;
                    add_scopes(&mut claims.scopes, strings.iter().map(AsRef::as_ref));
                }
                Value::Null => {}
                // Grants nothing. What other scope claims grant is granted.
                Value::List { .. } | Value::Other => self.has_unreadable_scopes = true,
            }
            return Ok(Some(number));
        }
        // A token of OpenID Connect for its client, or a security event (RFC 8417): signed by the
        // same keys, and no right to anything.
        let mut other_kinds = OTHER_KINDS.into_iter();
        claims.other_kind = other_kinds
            .find(|known| *known == name)
            .or(claims.other_kind);
        Ok(None)
    }
}

fn audiences<'t, A: MapAccess<'t>>(map: &mut A) -> Result<Audiences<'t>, A::Error> {
    match map.next_value_seed(KEEP)? {
        Value::Text(one) => Ok(Audiences::One(one)),
        Value::List {
            strings,
            only_strings: true,
        } => Ok(Audiences::Many(strings)),
        _ => Err(A::Error::custom("aud is a string or an array of strings")),
    }
}

/// Adds those that are scopes by RFC 6749 §3.3.
fn add_scopes<'s>(scopes: &mut String, words: impl Iterator<Item = &'s str> + Clone) {
    let words = words.filter(|word| is_scope(word));
    let len: usize = words.clone().map(|word| word.len() + 1).sum();
    scopes.reserve_exact(len.saturating_sub(usize::from(scopes.is_empty())));
    for word in words {
        if !scopes.is_empty() {
            scopes.push(' ');
        }
        scopes.push_str(word);
    }
}

/// Reads `cnf`: what a token is bound to may be unknown; that it is bound is not.
#[derive(Default)]
struct BindingReader<'t> {
    certificate: Option<Cow<'t, str>>,
    others: bool,
}

impl<'t> Members<'t> for BindingReader<'t> {
    fn member<A: MapAccess<'t>>(
        &mut self,
        name: &str,
        map: &mut A,
    ) -> Result<Option<u32>, A::Error> {
        if name != "x5t#S256" {
            self.others = true;
            return Ok(None);
        }
        match map.next_value_seed(KEEP)? {
            Value::Text(digest) => self.certificate = Some(digest),
            _ => self.others = true,
        }
        Ok(Some(0))
    }
}

impl BindingReader<'_> {
    fn binding(&self) -> Binding {
        let mut digest = [0; 32];
        let certificate = self.certificate.as_deref().filter(|_| !self.others);
        match certificate.map(|text| URL_SAFE_NO_PAD.decode_slice(text, &mut digest)) {
            Some(Ok(32)) => Binding::Certificate(digest),
            _ => Binding::Other,
        }
    }
}

/// `NumericDate` of RFC 7519 §2: seconds since the Unix epoch, with or without a
/// fraction. What lies before 1970 or after the year 9999 is none; what a [`Timestamp`]
/// cannot tell is as late as it can be.
struct NumericDate(Timestamp);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DateVisitor;
        impl Visitor<'_> for DateVisitor {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds since 1970")
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<NumericDate, E> {
                if seconds > LAST_SECOND {
                    return Err(E::custom("a date after 9999"));
                }
                Ok(NumericDate(Timestamp::from_unix_seconds(seconds)))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<NumericDate, E> {
                Err(E::custom("a date before 1970"))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<NumericDate, E> {
                // Also false for what is not a number.
                if !(seconds.is_sign_positive() && seconds <= LAST_SECOND as f64) {
                    return Err(E::custom("a date before 1970 or after 9999"));
                }
                let date = Duration::try_from_secs_f64(seconds).map_err(E::custom)?;
                Ok(NumericDate(Timestamp::EPOCH.saturating_add(date)))
            }
        }
        // Numbers only, whatever features of serde_json others have turned on.
        deserializer.deserialize_f64(DateVisitor)
    }
}

const REGISTERED: [&str; 10] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "cnf",
    "azp",
];
const OTHER_KINDS: [&str; 3] = ["at_hash", "c_hash", "events"];

/// Returns whether a claim has a meaning of its own, so that no scopes can be read from it.
pub(super) fn is_reserved(claim: &str) -> bool {
    REGISTERED.contains(&claim) || OTHER_KINDS.contains(&claim)
}

/// The last whole second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
/// How many claims can hold scopes: their numbers come after those that are registered.
pub(super) const MOST_SCOPE_CLAIMS: usize = 22;
