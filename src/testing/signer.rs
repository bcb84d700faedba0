//! Keys that sign, for tests.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::jwks::Algorithm;

/// A private key.
pub(super) enum Signer {
    Hs256([u8; 32]),
    #[cfg(feature = "jwt")]
    Es256(Box<aws_lc_rs::signature::EcdsaKeyPair>),
    #[cfg(feature = "jwt")]
    Ed25519(Box<aws_lc_rs::signature::Ed25519KeyPair>),
    #[cfg(feature = "jwt")]
    Rs256(Box<aws_lc_rs::rsa::KeyPair>),
    #[cfg(not(feature = "jwt"))]
    Es256(Box<p256::ecdsa::SigningKey>),
    #[cfg(not(feature = "jwt"))]
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl Signer {
    /// The HMAC secret, if that is what it is.
    pub(super) fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Hs256(secret) => Some(secret),
            _ => None,
        }
    }
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret);
    let mut mac = mac.expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn ec_jwk(point: &[u8]) -> Value {
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
        "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
    })
}

fn ed_jwk(point: &[u8]) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(point) })
}

#[cfg(feature = "jwt")]
impl Signer {
    #[track_caller]
    pub(super) fn generate(algorithm: Algorithm) -> Self {
        use aws_lc_rs::rsa::KeySize;
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};

        match algorithm {
            Algorithm::Hs256 => Self::Hs256(random()),
            Algorithm::Es256 => {
                let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
                Self::Es256(Box::new(key.expect("the system has randomness")))
            }
            Algorithm::Ed25519 => {
                let key = Ed25519KeyPair::generate();
                Self::Ed25519(Box::new(key.expect("the system has randomness")))
            }
            Algorithm::Rs256 => {
                let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048);
                Self::Rs256(Box::new(key.expect("the system has randomness")))
            }
            _ => panic!("the kit signs with ES256, EdDSA, RS256 and HS256"),
        }
    }

    pub(super) fn public_jwk(&self) -> Option<Value> {
        use aws_lc_rs::signature::KeyPair;
        use pkcs1::RsaPublicKeyRef;
        use pkcs1::der::Decode;

        match self {
            Self::Hs256(_) => None,
            Self::Es256(key) => Some(ec_jwk(key.public_key().as_ref())),
            Self::Ed25519(key) => Some(ed_jwk(key.public_key().as_ref())),
            Self::Rs256(key) => {
                let key = RsaPublicKeyRef::from_der(key.public_key().as_ref()).ok()?;
                Some(json!({
                    "kty": "RSA",
                    "n": URL_SAFE_NO_PAD.encode(key.modulus.as_bytes()),
                    "e": URL_SAFE_NO_PAD.encode(key.public_exponent.as_bytes()),
                }))
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        use aws_lc_rs::rand::SystemRandom;
        use aws_lc_rs::signature::RSA_PKCS1_SHA256;

        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => hs256(secret, message),
            Self::Es256(key) => {
                let signature = key.sign(&random, message);
                signature
                    .expect("the system has randomness")
                    .as_ref()
                    .to_vec()
            }
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let signed = key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.expect("the buffer is as long as the modulus");
                signature
            }
        }
    }
}

#[cfg(not(feature = "jwt"))]
impl Signer {
    #[track_caller]
    pub(super) fn generate(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::Hs256(random()),
            Algorithm::Es256 => {
                // All but one in 2^32 are a key.
                let key = std::iter::repeat_with(random)
                    .find_map(|bytes| p256::ecdsa::SigningKey::from_slice(&bytes).ok());
                Self::Es256(Box::new(key.expect("the iterator does not end")))
            }
            Algorithm::Ed25519 => {
                Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&random())))
            }
            _ => panic!("without the feature `jwt`, the kit signs with ES256, EdDSA and HS256"),
        }
    }

    pub(super) fn public_jwk(&self) -> Option<Value> {
        match self {
            Self::Hs256(_) => None,
            Self::Es256(key) => {
                let point = key.verifying_key().to_sec1_point(false);
                Some(ec_jwk(point.as_bytes()))
            }
            Self::Ed25519(key) => Some(ed_jwk(key.verifying_key().as_bytes())),
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        use p256::ecdsa::signature::Signer as _;

        match self {
            Self::Hs256(secret) => hs256(secret, message),
            Self::Es256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
            Self::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
        }
    }
}
