//! [`Ring`]: the keys of one issuer, each bound to one algorithm and ready to verify.

use std::sync::Arc;

use crate::jwks::algorithm::Algorithm;
use crate::jwks::set::{Jwk, KeySet, UnusableKey};
use crate::jwks::verifier::{Backend, Verifier};

/// Keys that may vouch for the tokens of one issuer.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    keys: Vec<Arc<Key>>,
    unusable: Vec<UnusableKey>,
}

#[derive(Debug)]
struct Key {
    jwk: Jwk,
    /// The only one that it verifies.
    algorithm: Algorithm,
    verifier: Verifier,
}

/// How many keys of one id are tried.
const MOST_TRIED: usize = 4;

/// The key that a token asks for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct KeyName {
    pub(crate) kid: Option<Box<str>>,
    pub(crate) algorithm: Algorithm,
}

impl Ring {
    /// Binds each key to its algorithm: the one that it names, or else the first of the
    /// issuer's that it fits. Keys that `last` has are taken over from it.
    pub(crate) fn prepare(
        set: KeySet,
        algorithms: &[Algorithm],
        backend: Backend,
        last: Option<&Self>,
    ) -> Self {
        let mut ring = Self {
            keys: Vec::with_capacity(set.keys.len()),
            unusable: set.unusable,
        };
        for jwk in set.keys {
            let held = last.into_iter().flat_map(|last| &last.keys);
            if let Some(key) = held.clone().find(|key| key.jwk == jwk) {
                ring.keys.push(Arc::clone(key));
                continue;
            }
            let bound = match jwk.alg {
                Some(named) => Some(named).filter(|named| algorithms.contains(named)),
                None => algorithms
                    .iter()
                    .copied()
                    .find(|algorithm| jwk.material.fits(*algorithm)),
            };
            let prepared = match bound {
                Some(algorithm) => Verifier::new(&jwk.material, algorithm, backend)
                    .map(|verifier| (algorithm, verifier)),
                None => Err("`Issuer::algorithms` does not accept its algorithm"),
            };
            match prepared {
                Ok((algorithm, verifier)) => {
                    ring.keys.push(Arc::new(Key {
                        jwk,
                        algorithm,
                        verifier,
                    }));
                }
                Err(reason) => ring.unusable.push(UnusableKey {
                    kid: jwk.kid,
                    reason,
                }),
            }
        }
        ring
    }

    /// Whether a key has this id.
    pub(crate) fn knows(&self, kid: &str) -> bool {
        self.keys
            .iter()
            .any(|key| key.jwk.kid.as_deref() == Some(kid))
    }

    /// Verifies a signature with the keys that the token may mean.
    pub(crate) fn verify(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Verdict {
        let mut keys = self.candidates(kid, algorithm).peekable();
        if keys.peek().is_none() {
            Verdict::NoKey
        } else if keys.any(|key| key.verifier.verify(message, signature)) {
            Verdict::Good
        } else {
            Verdict::Forged
        }
    }

    /// Returns the keys that a token may mean: those with its `kid`. A token without one
    /// means the only key for its algorithm. If no key has the `kid`, the only key without
    /// one is meant: secrets and PEM files have none unless they are given one.
    fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &Arc<Key>> {
        let fitting = self
            .keys
            .iter()
            .filter(move |key| key.algorithm == algorithm);
        let has_kid = move |key: &Arc<Key>| kid.is_some() && key.jwk.kid.as_deref() == kid;
        let is_named = fitting.clone().any(has_kid);
        let meant = fitting.filter(move |key| {
            if is_named {
                has_kid(key)
            } else {
                kid.is_none() || key.jwk.kid.is_none()
            }
        });
        let most = match meant.clone().count() {
            _ if is_named => MOST_TRIED,
            1 => 1,
            _ => 0,
        };
        meant.take(most)
    }

    /// Returns whether a token would be verified with the same keys by `other`. `None` is a
    /// ring without keys.
    pub(crate) fn agrees_with(&self, other: Option<&Self>, name: &KeyName) -> bool {
        let (kid, algorithm) = (name.kid.as_deref(), name.algorithm);
        let theirs = other.into_iter();
        let theirs = theirs.flat_map(|other| other.candidates(kid, algorithm));
        let ours = self.candidates(kid, algorithm).map(|key| &key.jwk);
        ours.eq(theirs.map(|key| &key.jwk))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether all keys of `other` are in this one.
    pub(crate) fn has_all_of(&self, other: &Self) -> bool {
        other
            .keys
            .iter()
            .all(|key| self.keys.iter().any(|held| held.jwk == key.jwk))
    }

    pub(crate) fn kids(&self) -> impl Iterator<Item = Option<&str>> {
        self.keys.iter().map(|key| key.jwk.kid.as_deref())
    }

    pub(crate) fn unusable(&self) -> &[UnusableKey] {
        &self.unusable
    }
}

/// What a ring says of a signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Good,
    /// There are keys for it, and it is of none of them.
    Forged,
    /// No key is for it.
    NoKey,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::jwks::material::Material;

    /// Keys with these ids, of secrets that are none.
    pub(crate) fn ring(kids: &[&str]) -> Ring {
        let material = Material::secret(&[7; 32], Algorithm::Hs256).unwrap();
        let jwk = |kid: &&str| Jwk {
            kid: Some((*kid).into()),
            alg: Some(Algorithm::Hs256),
            material: material.clone(),
        };
        let set = KeySet {
            keys: kids.iter().map(jwk).collect(),
            unusable: Vec::new(),
        };
        Ring::prepare(set, &[Algorithm::Hs256], Backend::default(), None)
    }

    #[test]
    fn a_key_is_bound_to_the_first_algorithm_that_fits_and_to_no_other() {
        let material = Material::rsa(&[0xff; 256], &[1, 0, 1]).unwrap();
        let jwk = |alg| Jwk {
            kid: Some("a".into()),
            alg,
            material: material.clone(),
        };
        let bound = |alg, accepted: &[Algorithm]| {
            let set = KeySet {
                keys: vec![jwk(alg)],
                unusable: Vec::new(),
            };
            let ring = Ring::prepare(set, accepted, Backend::default(), None);
            ring.keys.first().map(|key| key.algorithm)
        };
        let accepted = [Algorithm::Es256, Algorithm::Ps256, Algorithm::Rs256];
        assert_eq!(bound(None, &accepted), Some(Algorithm::Ps256));
        assert_eq!(
            bound(Some(Algorithm::Rs256), &accepted),
            Some(Algorithm::Rs256)
        );
        assert_eq!(bound(Some(Algorithm::Rs512), &accepted), None);
        assert_eq!(bound(None, &[Algorithm::Es256]), None);
    }

    #[test]
    fn a_token_without_a_key_id_is_for_the_only_key_of_its_algorithm() {
        let one = ring(&["a"]).verify(None, Algorithm::Hs256, b"", &[0; 32]);
        assert_eq!(one, Verdict::Forged);
        let two = ring(&["a", "b"]).verify(None, Algorithm::Hs256, b"", &[0; 32]);
        assert_eq!(two, Verdict::NoKey);
    }

    #[test]
    fn a_key_without_an_id_is_for_tokens_that_name_no_other() {
        let mut set = KeySet::from_secret(Algorithm::Hs256, [7; 32]).unwrap();
        let verdict = |set: KeySet, kid| {
            let ring = Ring::prepare(set, &[Algorithm::Hs256], Backend::default(), None);
            ring.verify(kid, Algorithm::Hs256, b"", &[0; 32])
        };
        for kid in [None, Some("any")] {
            assert_eq!(verdict(set.clone(), kid), Verdict::Forged);
        }
        let named = KeySet::from_secret(Algorithm::Hs256, [8; 32]).unwrap();
        set = set.and(named.kid("a"));
        assert_eq!(verdict(set.clone(), Some("any")), Verdict::Forged);
        assert_eq!(verdict(set.clone(), None), Verdict::NoKey);
        let other = KeySet::from_secret(Algorithm::Hs256, [9; 32]).unwrap();
        assert_eq!(verdict(set.and(other), Some("any")), Verdict::NoKey);
    }
}
