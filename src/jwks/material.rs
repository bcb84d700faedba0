//! [`Material`]: a key that was read and could be one. What a signature backend has to
//! say of it comes later.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use curve25519_dalek::edwards::CompressedEdwardsY;
use pkcs1::RsaPublicKeyRef;
use pkcs1::der::Decode;
use pkcs1::der::asn1::ObjectIdentifier;
use spki::SubjectPublicKeyInfoRef;
use zeroize::Zeroizing;

use crate::jwks::algorithm::Algorithm;
use crate::jwks::pem;

/// A public key, or a secret.
#[derive(Clone, Eq, PartialEq)]
pub(crate) enum Material {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    /// An uncompressed point: `04`, x, y.
    Ec {
        curve: Curve,
        point: Box<[u8]>,
    },
    Ed25519([u8; 32]),
    Secret(Zeroizing<Box<[u8]>>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// Why a key cannot be used, for operators.
pub(crate) type Unusable = &'static str;

impl Material {
    /// An RSA key of 2048 to 8192 bits, with an odd exponent from 3 to 2³³.
    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, Unusable> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err("an RSA key has 2048 to 8192 bits");
        }
        if n.last().is_none_or(|byte| byte % 2 == 0) {
            return Err("the modulus is even");
        }
        let exponent = e.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        if e.len() > 5 || !(3..1 << 33).contains(&exponent) || exponent % 2 == 0 {
            return Err("the exponent is not an odd number from 3 to 2^33");
        }
        Ok(Self::Rsa {
            n: n.into(),
            e: e.into(),
        })
    }

    /// A point by its coordinates. Whether it is on the curve is for
    /// [`check`](crate::jwks::verifier::check) to find.
    pub(crate) fn ec(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, Unusable> {
        // RFC 7518 §6.2.1.2: the full size of a coordinate, whatever its value.
        if x.len() != curve.coordinate() || y.len() != curve.coordinate() {
            return Err("a coordinate does not have the size of the curve");
        }
        let point = [&[4], x, y].concat().into();
        Ok(Self::Ec { curve, point })
    }

    fn ec_point(curve: Curve, point: &[u8]) -> Result<Self, Unusable> {
        let size = curve.coordinate();
        match point {
            [4, xy @ ..] if xy.len() == 2 * size => Self::ec(curve, &xy[..size], &xy[size..]),
            _ => Err("the point is not uncompressed"),
        }
    }

    /// A point of Ed25519 that is on the curve and generates more than eight others: with
    /// one that does not, anybody can make signatures.
    pub(crate) fn ed25519(x: &[u8]) -> Result<Self, Unusable> {
        let bytes: [u8; 32] = x.try_into().map_err(|_| "an Ed25519 key has 32 bytes")?;
        match CompressedEdwardsY(bytes).decompress() {
            None => Err("the point is not on the curve"),
            Some(point) if point.is_small_order() => Err("the point is of small order"),
            // RFC 8032 §5.1.3: there is one encoding of a point.
            Some(point) if point.compress().as_bytes() != &bytes => {
                Err("the encoding of the point is not canonical")
            }
            Some(_) => Ok(Self::Ed25519(bytes)),
        }
    }

    /// An HMAC secret. What is too short for the algorithm is refused, and so is what
    /// looks like a public key: a verifier that takes one for a secret accepts what
    /// anybody signs.
    pub(crate) fn secret(secret: &[u8], algorithm: Algorithm) -> Result<Self, Unusable> {
        let Some(least) = algorithm.least_secret() else {
            return Err("a secret is for HS256, HS384 and HS512");
        };
        if secret.len() < least {
            return Err("the secret is shorter than the hash (RFC 7518 §3.2)");
        }
        if looks_public(secret) {
            return Err("the secret looks like a public key: a PEM, a JWK, DER or of SSH");
        }
        Ok(Self::Secret(Zeroizing::new(secret.into())))
    }

    /// A public key in PEM: `PUBLIC KEY` (RFC 5280) or `RSA PUBLIC KEY` (RFC 8017).
    pub(crate) fn pem(pem: &[u8]) -> Result<Self, Unusable> {
        let (label, der) = pem::decode(pem)?;
        match label {
            "PUBLIC KEY" => Self::spki(&der),
            "RSA PUBLIC KEY" => Self::pkcs1(&der),
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                Err("it is a certificate; pass its public key: `openssl x509 -noout -pubkey`")
            }
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Err(
                "it is a certificate request; pass its public key: `openssl req -noout -pubkey`",
            ),
            private if private.ends_with("PRIVATE KEY") => {
                Err("it is a private key; pass its public key: `openssl pkey -pubout`")
            }
            _ => Err("its label is not `PUBLIC KEY` or `RSA PUBLIC KEY`"),
        }
    }

    fn spki(der: &[u8]) -> Result<Self, Unusable> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| "it is not a public key")?;
        let key = info
            .subject_public_key
            .as_bytes()
            .ok_or("it is not a public key")?;
        match info.algorithm.oid {
            OID_RSA => Self::pkcs1(key),
            OID_ED25519 => Self::ed25519(key),
            OID_EC => match info.algorithm.parameters_oid() {
                Ok(OID_P256) => Self::ec_point(Curve::P256, key),
                Ok(OID_P384) => Self::ec_point(Curve::P384, key),
                Ok(OID_P521) => Self::ec_point(Curve::P521, key),
                _ => Err("the curve is not P-256, P-384 or P-521"),
            },
            _ => Err("the key is not for RSA, ECDSA or Ed25519"),
        }
    }

    fn pkcs1(der: &[u8]) -> Result<Self, Unusable> {
        let key = RsaPublicKeyRef::from_der(der).map_err(|_| "it is not an RSA key")?;
        Self::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())
    }

    /// The reason why a backend refuses a key of the right form.
    pub(crate) const fn refused(&self) -> Unusable {
        match self {
            Self::Rsa { .. } => "the modulus or the exponent is not one of RSA",
            Self::Ec { .. } | Self::Ed25519(_) => "the point is not on the curve",
            Self::Secret(_) => "the secret cannot be used",
        }
    }

    /// Whether signatures of that kind can be checked with it.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{
            Ed25519, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384,
            Rs512,
        };
        match self {
            Self::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Self::Ec {
                curve: Curve::P256, ..
            } => algorithm == Es256,
            Self::Ec {
                curve: Curve::P384, ..
            } => algorithm == Es384,
            Self::Ec {
                curve: Curve::P521, ..
            } => algorithm == Es512,
            Self::Ed25519(_) => algorithm == Ed25519,
            Self::Secret(_) => matches!(algorithm, Hs256 | Hs384 | Hs512),
        }
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::Ec {
                curve: Curve::P256, ..
            } => "P-256",
            Self::Ec {
                curve: Curve::P384, ..
            } => "P-384",
            Self::Ec {
                curve: Curve::P521, ..
            } => "P-521",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "Secret",
        })
    }
}

impl Curve {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    const fn coordinate(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// Whether a secret is a key that everybody knows, in any of the ways that one is kept in.
fn looks_public(secret: &[u8]) -> bool {
    const MARKS: [&[u8]; 6] = [
        b"-----BEGIN",
        b"---- BEGIN",
        b"ssh-",
        b"ecdsa-sha2-",
        b"\"kty\"",
        // Escaped, in a string of JSON.
        b"\\\"kty\\\"",
    ];
    let has_mark = |mark: &&[u8]| secret.windows(mark.len()).any(|window| window == *mark);
    let is_json = serde_json::from_slice::<serde_json::Map<_, _>>(secret).is_ok();
    let is_der = SubjectPublicKeyInfoRef::from_der(secret).is_ok()
        || RsaPublicKeyRef::from_der(secret).is_ok();
    MARKS.iter().any(has_mark) || is_json || is_der
}

/// base64url as JOSE wants it: no padding, nothing but the alphabet, and no bits left
/// over (RFC 7515 §2).
pub(crate) fn base64url(text: &str) -> Result<Vec<u8>, Unusable> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| "a member is not base64url")
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const OID_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const OID_P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_numbers_are_no_rsa_key() {
        let modulus = |bits: usize| {
            let mut n = vec![0xff; bits / 8];
            n.insert(0, 0);
            n
        };
        assert!(Material::rsa(&modulus(2048), &[1, 0, 1]).is_ok());
        assert!(Material::rsa(&modulus(8192), &[3]).is_ok());
        for bits in [0, 8, 1024, 2040, 8200, 16384] {
            assert!(Material::rsa(&modulus(bits), &[1, 0, 1]).is_err(), "{bits}");
        }
        for exponent in [&[][..], &[0], &[1], &[2], &[4], &[2, 0, 0, 0, 1], &[1; 9]] {
            assert!(
                Material::rsa(&modulus(2048), exponent).is_err(),
                "{exponent:?}"
            );
        }
        let mut even = modulus(2048);
        *even.last_mut().unwrap() = 0xfe;
        assert!(Material::rsa(&even, &[1, 0, 1]).is_err());
    }

    #[test]
    fn points_of_small_order_are_no_key() {
        // y = 1, y = -1, y = 0: of order one, two and four; the first also in a second
        // spelling, with a sign that it does not have.
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let mut one = [0; 32];
        one[0] = 1;
        let mut signed_one = one;
        signed_one[31] = 0x80;
        for small in [one, signed_one, minus_one, [0; 32]] {
            assert!(Material::ed25519(&small).is_err(), "{small:?}");
        }
    }

    #[test]
    fn ed25519_key_in_a_second_encoding_is_refused() {
        // y = 3 is on the curve, and so is y = p + 3, which is the same.
        let mut canonical = [0; 32];
        canonical[0] = 3;
        assert!(Material::ed25519(&canonical).is_ok());
        let mut second = [0xff; 32];
        (second[0], second[31]) = (0xf0, 0x7f);
        let refused = Material::ed25519(&second).unwrap_err();
        assert!(refused.contains("canonical"), "{refused}");
    }

    #[test]
    fn a_secret_is_long_enough_and_no_public_key() {
        let secret = |text: &str| Material::secret(text.as_bytes(), Algorithm::Hs256);
        assert!(secret(&"x".repeat(32)).is_ok());
        assert!(secret(&"x".repeat(31)).is_err());
        assert!(Material::secret(&[7; 47], Algorithm::Hs384).is_err());
        assert!(Material::secret(&[7; 63], Algorithm::Hs512).is_err());
        assert!(Material::secret(&[7; 64], Algorithm::Rs256).is_err());
        for key in [
            "\n-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
            r#" {"kty":"RSA","n":"nYTZcS-uKGkzeN8u1f","e":"AQAB"}"#,
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7",
            "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t",
            "---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2EAAAADAQABAAABAQC7",
            "\u{feff}-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
            "Public-Key: (2048 bit)\n-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0B",
            r#""{\"kty\":\"RSA\",\"n\":\"nYTZcS-uKGkzeN8u1f\",\"e\":\"AQAB\"}""#,
        ] {
            assert!(secret(key).is_err(), "{key}");
        }
    }
}
