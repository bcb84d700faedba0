//! [`Verifier`]: a key that was handed to what checks signatures, once.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384, Sha512};

use crate::jwks::algorithm::Algorithm;
use crate::jwks::material::{Curve, Material, Unusable};

/// Which library checks signatures with public keys. HMAC is checked by the `hmac` crate
/// whichever it is.
///
/// Nothing of it is global to the process, whatever the features of other crates are.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Backend {
    /// [aws-lc-rs](https://docs.rs/aws-lc-rs), with feature `jwt`: the default where it
    /// is there.
    #[cfg(feature = "jwt")]
    #[default]
    AwsLcRs,
    /// The crates of [RustCrypto](https://github.com/RustCrypto), with feature
    /// `jwt-rust-crypto`. Its `rsa` was the subject of RUSTSEC-2023-0071, which is about
    /// private keys: tokens are checked with public ones.
    #[cfg(feature = "jwt-rust-crypto")]
    #[cfg_attr(not(feature = "jwt"), default)]
    RustCrypto,
}

/// A key, ready to check signatures of one algorithm.
pub(crate) enum Verifier {
    Hs256(Box<Hmac<Sha256>>),
    Hs384(Box<Hmac<Sha384>>),
    Hs512(Box<Hmac<Sha512>>),
    #[cfg(feature = "jwt")]
    AwsLcRs(aws_lc_rs::signature::ParsedPublicKey),
    #[cfg(feature = "jwt-rust-crypto")]
    RustCrypto(Box<rust_crypto::Key>),
}

impl Verifier {
    /// Prepares a key. It must fit the algorithm.
    pub(crate) fn new(
        material: &Material,
        algorithm: Algorithm,
        backend: Backend,
    ) -> Result<Self, Unusable> {
        if let Material::Secret(secret) = material {
            // HMAC takes a key of any length: the checks are behind us.
            let unusable = |_| "the secret cannot be used";
            return match algorithm {
                Algorithm::Hs256 => {
                    let mac = Hmac::new_from_slice(secret).map_err(unusable)?;
                    Ok(Self::Hs256(Box::new(mac)))
                }
                Algorithm::Hs384 => {
                    let mac = Hmac::new_from_slice(secret).map_err(unusable)?;
                    Ok(Self::Hs384(Box::new(mac)))
                }
                Algorithm::Hs512 => {
                    let mac = Hmac::new_from_slice(secret).map_err(unusable)?;
                    Ok(Self::Hs512(Box::new(mac)))
                }
                _ => Err("it is not a key for its alg"),
            };
        }
        match backend {
            #[cfg(feature = "jwt")]
            Backend::AwsLcRs => aws_lc::parse(material, algorithm).map(Self::AwsLcRs),
            #[cfg(feature = "jwt-rust-crypto")]
            Backend::RustCrypto => rust_crypto::parse(material, algorithm)
                .map(Box::new)
                .map(Self::RustCrypto),
        }
    }

    /// Whether the signature is one of that message, and of this key.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hs256(mac) => is_mac(&**mac, message, signature),
            Self::Hs384(mac) => is_mac(&**mac, message, signature),
            Self::Hs512(mac) => is_mac(&**mac, message, signature),
            #[cfg(feature = "jwt")]
            Self::AwsLcRs(key) => key.verify_sig(message, signature).is_ok(),
            #[cfg(feature = "jwt-rust-crypto")]
            Self::RustCrypto(key) => key.verify(message, signature),
        }
    }
}

/// Checks that signatures can be verified with a public key, whatever it is for: that its
/// point is on the curve, and what else the default backend requires.
pub(crate) fn check(material: &Material) -> Result<(), Unusable> {
    let algorithm = match material {
        Material::Rsa { .. } => Algorithm::Rs256,
        Material::Ec { curve, .. } => match curve {
            Curve::P256 => Algorithm::Es256,
            Curve::P384 => Algorithm::Es384,
            Curve::P521 => Algorithm::Es512,
        },
        Material::Ed25519(_) => Algorithm::Ed25519,
        Material::Secret(_) => return Ok(()),
    };
    Verifier::new(material, algorithm, Backend::default()).map(drop)
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// Compares in constant time, and the whole tag: a truncated one is none.
fn is_mac<M: Mac + Clone>(prepared: &M, message: &[u8], tag: &[u8]) -> bool {
    let mut mac = prepared.clone();
    mac.update(message);
    mac.verify_slice(tag).is_ok()
}

#[cfg(feature = "jwt")]
mod aws_lc {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
        ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
        RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
        RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
    };

    use crate::jwks::algorithm::Algorithm;
    use crate::jwks::material::{Curve, Material, Unusable};

    pub(super) fn parse(
        material: &Material,
        algorithm: Algorithm,
    ) -> Result<ParsedPublicKey, Unusable> {
        let parsed = match material {
            Material::Rsa { n, e } => {
                let components = RsaPublicKeyComponents { n, e };
                components.to_parsed_public_key(rsa(algorithm).ok_or(MISFIT)?)
            }
            Material::Ec { curve, point } => ParsedPublicKey::new(ec(*curve), point),
            Material::Ed25519(point) => ParsedPublicKey::new(&ED25519, point),
            Material::Secret(_) => return Err(MISFIT),
        };
        parsed.map_err(|_| material.refused())
    }

    fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
        Some(match algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }

    fn ec(curve: Curve) -> &'static dyn VerificationAlgorithm {
        match curve {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED,
            Curve::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }

    const MISFIT: Unusable = "it is not a key for its alg";
}

#[cfg(feature = "jwt-rust-crypto")]
mod rust_crypto {
    use rsa::{BoxedUint, PublicKey, pkcs1v15, pss};
    use sha2::{Sha256, Sha384, Sha512};

    use crate::jwks::algorithm::Algorithm;
    use crate::jwks::material::{Curve, Material, Unusable};

    pub(crate) enum Key {
        Rs256(pkcs1v15::VerifyingKey<Sha256>),
        Rs384(pkcs1v15::VerifyingKey<Sha384>),
        Rs512(pkcs1v15::VerifyingKey<Sha512>),
        Ps256(pss::VerifyingKey<Sha256>),
        Ps384(pss::VerifyingKey<Sha384>),
        Ps512(pss::VerifyingKey<Sha512>),
        Es256(p256::ecdsa::VerifyingKey),
        Es384(p384::ecdsa::VerifyingKey),
        Es512(p521::ecdsa::VerifyingKey),
        Ed25519(ed25519_dalek::VerifyingKey),
    }

    pub(super) fn parse(material: &Material, algorithm: Algorithm) -> Result<Key, Unusable> {
        match material {
            Material::Rsa { n, e } => {
                let key = rsa(n, e).ok_or_else(|| material.refused())?;
                Ok(match algorithm {
                    Algorithm::Rs256 => Key::Rs256(pkcs1v15::VerifyingKey::new(key)),
                    Algorithm::Rs384 => Key::Rs384(pkcs1v15::VerifyingKey::new(key)),
                    Algorithm::Rs512 => Key::Rs512(pkcs1v15::VerifyingKey::new(key)),
                    Algorithm::Ps256 => Key::Ps256(pss::VerifyingKey::new(key)),
                    Algorithm::Ps384 => Key::Ps384(pss::VerifyingKey::new(key)),
                    Algorithm::Ps512 => Key::Ps512(pss::VerifyingKey::new(key)),
                    _ => return Err("it is not a key for its alg"),
                })
            }
            Material::Ec {
                curve: Curve::P256,
                point,
            } => p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .map(Key::Es256)
                .map_err(|_| material.refused()),
            Material::Ec {
                curve: Curve::P384,
                point,
            } => p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .map(Key::Es384)
                .map_err(|_| material.refused()),
            Material::Ec {
                curve: Curve::P521,
                point,
            } => p521::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .map(Key::Es512)
                .map_err(|_| material.refused()),
            Material::Ed25519(point) => ed25519_dalek::VerifyingKey::from_bytes(point)
                .map(Key::Ed25519)
                .map_err(|_| material.refused()),
            Material::Secret(_) => Err("it is not a key for its alg"),
        }
    }

    fn rsa(n: &[u8], e: &[u8]) -> Option<PublicKey> {
        let number = |bytes: &[u8]| {
            let bits = u32::try_from(bytes.len() * 8).ok()?;
            BoxedUint::from_be_slice(bytes, bits).ok()
        };
        PublicKey::new(number(n)?, number(e)?).ok()
    }

    impl Key {
        pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
            match self {
                Self::Rs256(key) => checks(key, message, signature),
                Self::Rs384(key) => checks(key, message, signature),
                Self::Rs512(key) => checks(key, message, signature),
                Self::Ps256(key) => checks(key, message, signature),
                Self::Ps384(key) => checks(key, message, signature),
                Self::Ps512(key) => checks(key, message, signature),
                Self::Es256(key) => checks::<p256::ecdsa::Signature>(key, message, signature),
                Self::Es384(key) => checks::<p384::ecdsa::Signature>(key, message, signature),
                Self::Es512(key) => checks::<p521::ecdsa::Signature>(key, message, signature),
                Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            }
        }
    }

    /// Checks a signature in the encoding of its own algorithm: that of ECDSA is r and s
    /// in fixed width (RFC 7518 §3.4), neither of them zero.
    fn checks<S: for<'a> TryFrom<&'a [u8]>>(
        key: &impl p256::ecdsa::signature::Verifier<S>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        S::try_from(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
    }
}

#[cfg(all(test, feature = "jwt"))]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    };
    use pkcs1::RsaPublicKeyRef;
    use pkcs1::der::Decode;

    use super::*;
    use crate::jwks::material::Curve;

    const MESSAGE: &[u8] = b"header.payload";

    /// A key for each algorithm, and a signature of it.
    fn signed() -> Vec<(Algorithm, Material, Vec<u8>)> {
        let random = SystemRandom::new();
        let mut all = Vec::new();
        for (algorithm, len) in [
            (Algorithm::Hs256, 32),
            (Algorithm::Hs384, 48),
            (Algorithm::Hs512, 64),
        ] {
            let secret = vec![7; len];
            let tag = match algorithm {
                Algorithm::Hs256 => mac::<Hmac<Sha256>>(&secret),
                Algorithm::Hs384 => mac::<Hmac<Sha384>>(&secret),
                _ => mac::<Hmac<Sha512>>(&secret),
            };
            all.push((
                algorithm,
                Material::secret(&secret, algorithm).unwrap(),
                tag,
            ));
        }
        for (algorithm, signing, curve, size) in [
            (
                Algorithm::Es256,
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                Curve::P256,
                32,
            ),
            (
                Algorithm::Es384,
                &ECDSA_P384_SHA384_FIXED_SIGNING,
                Curve::P384,
                48,
            ),
            (
                Algorithm::Es512,
                &ECDSA_P521_SHA512_FIXED_SIGNING,
                Curve::P521,
                66,
            ),
        ] {
            let key = EcdsaKeyPair::generate(signing).unwrap();
            let point = &key.public_key().as_ref()[1..];
            let material = Material::ec(curve, &point[..size], &point[size..]).unwrap();
            all.push((
                algorithm,
                material,
                key.sign(&random, MESSAGE).unwrap().as_ref().to_vec(),
            ));
        }
        let key = Ed25519KeyPair::generate().unwrap();
        let material = Material::ed25519(key.public_key().as_ref()).unwrap();
        all.push((
            Algorithm::Ed25519,
            material,
            key.sign(MESSAGE).as_ref().to_vec(),
        ));
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = RsaPublicKeyRef::from_der(key.public_key().as_ref()).unwrap();
        let (n, e) = (public.modulus.as_bytes(), public.public_exponent.as_bytes());
        for (algorithm, padding) in [
            (Algorithm::Rs256, &RSA_PKCS1_SHA256),
            (Algorithm::Rs384, &RSA_PKCS1_SHA384),
            (Algorithm::Rs512, &RSA_PKCS1_SHA512),
            (Algorithm::Ps256, &RSA_PSS_SHA256),
            (Algorithm::Ps384, &RSA_PSS_SHA384),
            (Algorithm::Ps512, &RSA_PSS_SHA512),
        ] {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(padding, &random, MESSAGE, &mut signature).unwrap();
            all.push((algorithm, Material::rsa(n, e).unwrap(), signature));
        }
        all
    }

    fn mac<M: KeyInit + Mac>(secret: &[u8]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(secret).unwrap();
        mac.update(MESSAGE);
        mac.finalize().into_bytes().to_vec()
    }

    #[test]
    fn point_off_its_curve_is_refused_by_every_backend() {
        for (algorithm, curve, size) in [
            (Algorithm::Es256, Curve::P256, 32),
            (Algorithm::Es384, Curve::P384, 48),
            (Algorithm::Es512, Curve::P521, 66),
        ] {
            let material = Material::ec(curve, &vec![1; size], &vec![1; size]).unwrap();
            let backends = [
                #[cfg(feature = "jwt")]
                Backend::AwsLcRs,
                #[cfg(feature = "jwt-rust-crypto")]
                Backend::RustCrypto,
            ];
            for backend in backends {
                let refused = Verifier::new(&material, algorithm, backend).unwrap_err();
                assert_eq!(refused, "the point is not on the curve", "{backend:?}");
            }
        }
    }

    #[test]
    fn every_algorithm_verifies_its_own_signatures_and_no_others() {
        let backends = [
            Backend::AwsLcRs,
            #[cfg(feature = "jwt-rust-crypto")]
            Backend::RustCrypto,
        ];
        let signed = signed();
        assert_eq!(signed.len(), Algorithm::ASYMMETRIC.len() + 3);
        for backend in backends {
            for (algorithm, material, signature) in &signed {
                let verifier = Verifier::new(material, *algorithm, backend).unwrap();
                assert!(
                    verifier.verify(MESSAGE, signature),
                    "{algorithm} {backend:?}"
                );
                assert!(
                    !verifier.verify(b"header.other", signature),
                    "{algorithm} {backend:?}"
                );
                let mut flipped = signature.clone();
                flipped[5] ^= 1;
                assert!(
                    !verifier.verify(MESSAGE, &flipped),
                    "{algorithm} {backend:?}"
                );
                for len in [0, 1, signature.len() - 1] {
                    assert!(!verifier.verify(MESSAGE, &signature[..len]), "{algorithm}");
                }
                for (other, _, foreign) in &signed {
                    if other != algorithm {
                        assert!(!verifier.verify(MESSAGE, foreign), "{other} as {algorithm}");
                    }
                }
            }
        }
    }
}
