//! [`Policy`]: what an issuer's tokens must be like. Pure: it is told the time.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::jwt::claims::{Claims, Times};
use crate::clock::Timestamp;
use crate::jwks::Algorithm;
use crate::rejection::{Cause, Reason, Rejection};

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) issuer: Arc<str>,
    /// None: whoever the token is for.
    pub(super) audiences: Option<Vec<Box<str>>>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) types: Types,
    /// All claims that RFC 9068 §2.2 requires must be there.
    pub(super) rfc9068: bool,
    pub(super) must_expire: bool,
    pub(super) leeway: Duration,
    pub(super) max_age: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
}

/// The media types that `typ` may name (RFC 8725 §3.11).
#[derive(Clone, Debug)]
pub(super) struct Types {
    pub(super) accepted: Vec<Box<str>>,
    pub(super) required: bool,
}

impl Policy {
    /// Whether tokens of that type are access tokens here. `application/` may be left out
    /// (RFC 7515 §4.1.9), and case does not matter.
    pub(super) fn accepts_type(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else {
            return !self.types.required;
        };
        let mut accepted = self.types.accepted.iter().map(|accepted| short(accepted));
        accepted.any(|accepted| accepted.eq_ignore_ascii_case(short(typ)))
    }

    /// Judges what a token whose signature is good says, besides its times. They come after:
    /// that it has expired is said only of one with which nothing else is wrong.
    pub(super) fn judge_contents(&self, claims: &Claims<'_>) -> Result<(), Mistake> {
        if claims.issuer.as_deref() != Some(&*self.issuer) {
            return Err((Cause::TokenIssuer, "iss"));
        }
        if let Some(ours) = &self.audiences
            && !claims
                .audiences
                .any(|audience| ours.iter().any(|our| **our == *audience))
        {
            return Err((Cause::TokenAudience, "aud"));
        }
        if let Some(claim) = claims.other_kind {
            return Err((Cause::TokenType, claim));
        }
        // They are printed, and part of keys elsewhere.
        let is_plain = |name: &str| name.len() <= MOST_SUBJECT && !name.contains(char::is_control);
        let is_subject = |name: &str| !name.is_empty() && is_plain(name);
        if !claims.subject.as_deref().is_some_and(is_subject) {
            return Err((Cause::TokenClaims, "sub"));
        }
        if !claims.client_id.as_deref().is_none_or(is_plain) {
            return Err((Cause::TokenClaims, "client_id"));
        }
        if !claims.authorized_party.as_deref().is_none_or(is_plain) {
            return Err((Cause::TokenClaims, "azp"));
        }
        if self.rfc9068
            && let Some(missing) = missing_of_rfc9068(claims)
        {
            return Err((Cause::TokenClaims, missing));
        }
        Ok(())
    }

    /// Returns whether a token would be good if its signature were.
    pub(super) fn may_be_good(&self, claims: &Claims<'_>, now: Timestamp) -> bool {
        self.judge_contents(claims).is_ok() && self.judge_times(claims.times, now).is_ok()
    }

    /// Judges when a token is good: from `nbf` and `iat` on, give or take the leeway, and
    /// before `exp` and the leeway after it (RFC 7519 §4.1.4).
    pub(super) fn judge_times(&self, times: Times, now: Timestamp) -> Result<(), Rejection> {
        let soon = now.saturating_add(self.leeway);
        if times.not_before.is_some_and(|start| start > soon) {
            return Err(invalid((Cause::TokenNotYetValid, "nbf")));
        }
        match times.issued {
            Some(issued) if issued > soon => {
                return Err(invalid((Cause::TokenNotYetValid, "iat")));
            }
            Some(issued) => {
                let age = now.since(issued);
                if self
                    .max_age
                    .is_some_and(|most| age > most.saturating_add(self.leeway))
                {
                    return Err(invalid((Cause::TokenTooOld, "iat")));
                }
            }
            None if self.max_age.is_some() || self.max_lifetime.is_some() => {
                return Err(invalid((Cause::TokenClaims, "iat")));
            }
            None => {}
        }
        let Some(end) = times.expires else {
            return if self.must_expire || self.max_lifetime.is_some() {
                Err(invalid((Cause::TokenClaims, "exp")))
            } else {
                Ok(())
            };
        };
        if let (Some(issued), Some(most)) = (times.issued, self.max_lifetime)
            && end.since(issued) > most
        {
            return Err(invalid((Cause::TokenTooOld, "exp")));
        }
        // The last instant that can be told stands for all later ones, which never come.
        if end < Timestamp::MAX && now >= end.saturating_add(self.leeway) {
            let expired = Rejection::new(Reason::TokenExpired, Cause::TokenExpired);
            return Err(expired.with_fault("exp"));
        }
        Ok(())
    }
}

/// A media type, without the part that may be left out.
fn short(media_type: &str) -> &str {
    match media_type.split_at_checked(APPLICATION.len()) {
        Some((head, rest)) if head.eq_ignore_ascii_case(APPLICATION) => rest,
        _ => media_type,
    }
}

/// The first claim that RFC 9068 §2.2 requires, beside `iss` and `sub`, and that is missing.
fn missing_of_rfc9068(claims: &Claims<'_>) -> Option<&'static str> {
    let has = |claim: &Option<Cow<'_, str>>| claim.as_ref().is_some_and(|text| !text.is_empty());
    let required = [
        ("exp", claims.times.expires.is_some()),
        ("aud", claims.audiences.any(|audience| !audience.is_empty())),
        ("client_id", has(&claims.client_id)),
        ("iat", claims.times.issued.is_some()),
        ("jti", has(&claims.id)),
    ];
    let missing = required.into_iter().find(|(_, is_there)| !is_there);
    missing.map(|(claim, _)| claim)
}

/// Which check failed, and on which claim, header member or segment of the token.
pub(super) type Mistake = (Cause, &'static str);

/// The one answer to every token that is not good.
pub(super) fn invalid((cause, fault): Mistake) -> Rejection {
    Rejection::new(Reason::TokenInvalid, cause).with_fault(fault)
}

const APPLICATION: &str = "application/";
const MOST_SUBJECT: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy {
            issuer: "https://id.example.com/".into(),
            audiences: Some(vec!["https://api.example.com".into()]),
            algorithms: vec![Algorithm::Es256],
            types: Types {
                accepted: vec!["application/at+jwt".into(), "JWT".into()],
                required: false,
            },
            rfc9068: false,
            must_expire: true,
            leeway: Duration::from_secs(30),
            max_age: None,
            max_lifetime: None,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn times(issued: u64, not_before: u64, expires: u64) -> Times {
        let at = |seconds| Some(at(seconds));
        Times {
            issued: at(issued),
            not_before: at(not_before),
            expires: at(expires),
        }
    }

    #[test]
    fn a_token_is_good_until_its_expiry_and_the_leeway_after_it() {
        let policy = policy();
        let verdict = |now| {
            policy
                .judge_times(times(100, 100, 1000), now)
                .map_err(|no| no.reason())
        };
        let almost = at(1030).saturating_sub(Duration::from_nanos(1));
        assert_eq!(verdict(at(1000)), Ok(()));
        assert_eq!(verdict(almost), Ok(()));
        assert_eq!(verdict(at(1030)), Err(Reason::TokenExpired));
        assert_eq!(verdict(at(70)), Ok(()));
        assert_eq!(verdict(at(69)), Err(Reason::TokenInvalid));
        assert_eq!(verdict(Timestamp::EPOCH), Err(Reason::TokenInvalid));
        assert_eq!(verdict(Timestamp::MAX), Err(Reason::TokenExpired));
    }

    #[test]
    fn ages_and_lifetimes_are_held_where_they_are_set() {
        let mut policy = policy();
        policy.max_age = Some(Duration::from_secs(100));
        let reason = |policy: &Policy, times, now| {
            policy
                .judge_times(times, now)
                .err()
                .map(|no| (no.reason(), no.cause()))
        };
        let old = Some((Reason::TokenInvalid, Cause::TokenTooOld));
        assert_eq!(reason(&policy, times(0, 0, 1000), at(130)), None);
        assert_eq!(reason(&policy, times(0, 0, 1000), at(131)), old);
        let unknown = Times {
            issued: None,
            ..times(0, 0, 1000)
        };
        assert!(reason(&policy, unknown, at(1)).is_some());
        policy.max_age = None;
        policy.max_lifetime = Some(Duration::from_secs(100));
        assert_eq!(reason(&policy, times(0, 0, 100), at(1)), None);
        assert_eq!(reason(&policy, times(0, 0, 101), at(1)), old);
    }

    #[test]
    fn types_are_compared_as_media_types() {
        let mut policy = policy();
        for good in [
            "at+jwt",
            "AT+JWT",
            "application/at+jwt",
            "Application/AT+JWT",
            "jwt",
        ] {
            assert!(policy.accepts_type(Some(good)), "{good}");
        }
        for bad in [
            "",
            "at",
            "dpop+jwt",
            "application/",
            "application/application/jwt",
            "jwt ",
            "é",
        ] {
            assert!(!policy.accepts_type(Some(bad)), "{bad}");
        }
        assert!(policy.accepts_type(None));
        policy.types.required = true;
        assert!(!policy.accepts_type(None));
    }

    proptest! {
        /// The rule in integers, against the code in timestamps.
        #[test]
        fn a_token_is_good_in_one_interval(
            issued in 0u64..2_000, not_before in 0u64..2_000, expires in 0u64..2_000,
            now in 0u64..2_000, leeway in 0u64..300,
        ) {
            let policy = Policy { leeway: Duration::from_secs(leeway), ..policy() };
            let good = not_before <= now + leeway && issued <= now + leeway && now < expires + leeway;
            let verdict = policy.judge_times(times(issued, not_before, expires), at(now));
            prop_assert_eq!(verdict.is_ok(), good);
        }
    }
}
