//! [`Trusted`]: a configured issuer, and its judgement of a token.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::auth::jwt::claims::{Binding, Claims, Times};
use crate::auth::jwt::compact::{Compact, MOST_SIGNATURE};
use crate::auth::jwt::header::Header;
use crate::auth::jwt::mapping::Mapping;
use crate::auth::jwt::policy::{Policy, invalid};
use crate::auth::jwt::resolve::Resolve;
use crate::auth::jwt::source::{Source, refusal};
use crate::clock::Timestamp;
use crate::identity::IdentityBuilder;
use crate::jwks::{Algorithm, KeyName, Verdict, Wanted, is_similar_audience};
use crate::rejection::{Cause, Rejection};

/// A configured issuer.
pub(super) struct Trusted {
    pub(super) policy: Policy,
    pub(super) mapping: Mapping,
    pub(super) source: Source,
    pub(super) resolve: Option<Arc<Resolve>>,
    /// It was logged that tokens spell the issuer differently.
    pub(super) misspelled: AtomicBool,
    /// It was logged that tokens spell the audience differently.
    pub(super) audience_misspelled: AtomicBool,
}

/// A token with a good signature, and whose contents are good but for its times.
pub(super) struct Proved {
    pub(super) identity: IdentityBuilder,
    pub(super) times: Times,
    /// The epoch of the keys that have signed it.
    pub(super) epoch: u64,
    /// It is bound to something that is not supported.
    pub(super) is_bound_otherwise: bool,
}

impl Trusted {
    pub(super) fn is_named_by(&self, claims: &Claims<'_>) -> bool {
        claims.issuer.as_deref() == Some(&*self.policy.issuer)
    }

    /// Judges a token that names this issuer. Returns the key to look up first
    /// if the keys at hand do not verify it.
    pub(super) fn judge(
        &self,
        compact: &Compact<'_>,
        header: &Header,
        text: &str,
        claims: Claims<'_>,
        now: Timestamp,
    ) -> Result<Result<Proved, Wanted>, Rejection> {
        let (policy, mapping) = (&self.policy, &self.mapping);
        let epoch = match self.verify(compact, header, now)? {
            Ok(epoch) => epoch,
            // A token that is refused with any key is not worth a fetch: those that the last
            // key has signed would use up the budget long after they expired.
            Err(wanted) if wanted.tried.is_some() => {
                let may_be_good = policy.may_be_good(&claims, now) && mapping.read(text).is_ok();
                return match may_be_good {
                    true => Ok(Err(wanted)),
                    false => Err(refusal(&wanted, now)),
                };
            }
            Err(wanted) => return Ok(Err(wanted)),
        };
        if let Err(mistake) = policy.judge_contents(&claims) {
            if mistake.0 == Cause::TokenAudience {
                self.log_misspelled_audience(&claims);
            }
            return Err(invalid(mistake));
        }
        let configured = mapping.read(text)?;
        Ok(Ok(Proved {
            epoch,
            times: claims.times,
            is_bound_otherwise: claims.binding == Some(Binding::Other),
            identity: mapping.identity(&policy.issuer, claims, configured),
        }))
    }

    /// Logs a probably misspelled audience, once. The issuer has signed the token.
    fn log_misspelled_audience(&self, claims: &Claims<'_>) {
        let ours = self.policy.audiences.as_deref().unwrap_or_default();
        let mut shown = None;
        claims.audiences.any(|audience| {
            let mut ours = ours.iter();
            let similar = ours.find(|our| is_similar_audience(our, audience));
            shown = similar.map(|our| (our.clone(), Box::<str>::from(audience)));
            shown.is_some()
        });
        let Some((configured, token)) = shown else {
            return;
        };
        if !self.audience_misspelled.swap(true, Relaxed) {
            tracing::warn!(
                target: "tollgate",
                issuer = ?self.policy.issuer,
                ?configured,
                ?token,
                "a token was rejected since its `aud` is not the configured audience, but differs \
                 only by a trailing slash, letter case or http and https; the two must be equal: \
                 call `Issuer::audience` with the text that the tokens have",
            );
        }
    }

    /// Judges how a token says that it is signed, and of which type it is.
    fn judge_header(&self, header: &Header) -> Result<Algorithm, Rejection> {
        let policy = &self.policy;
        let algorithm = header
            .algorithm
            .filter(|named| policy.algorithms.contains(named));
        let algorithm = algorithm.ok_or_else(|| invalid((Cause::TokenAlgorithm, "alg")))?;
        if !policy.accepts_type(header.typ.as_deref()) {
            return Err(invalid((Cause::TokenType, "typ")));
        }
        Ok(algorithm)
    }

    /// The epoch of the keys that have signed it, or the key that is missing. What a token
    /// claims is not believed before.
    pub(super) fn verify(
        &self,
        compact: &Compact<'_>,
        header: &Header,
        now: Timestamp,
    ) -> Result<Result<u64, Wanted>, Rejection> {
        let algorithm = self.judge_header(header)?;
        let mut buffer = [0; MOST_SIGNATURE];
        let signature = compact.signature(&mut buffer).map_err(invalid)?;
        let kid = header.kid.as_deref();
        let wanted = |tried, verdict| Wanted {
            name: KeyName {
                kid: kid.map(Box::from),
                algorithm,
            },
            tried,
            verdict,
        };
        let Some(current) = self.source.keyring().current(now) else {
            return Ok(Err(wanted(None, Verdict::NoKey)));
        };
        self.source.tick(now);
        let ring = current.ring;
        match ring.verify(kid, algorithm, compact.signed, signature) {
            Verdict::Good => Ok(Ok(current.epoch)),
            verdict => Ok(Err(wanted(Some(ring), verdict))),
        }
    }
}
