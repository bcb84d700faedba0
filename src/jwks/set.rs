//! [`KeySet`]: keys that were read from a JWK Set, a PEM or a secret.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::config::ConfigError;
use crate::jwks::algorithm::Algorithm;
use crate::jwks::material::{Curve, Material, Unusable, base64url};
use crate::jwks::pem::is_path;
use crate::jwks::verifier::check;

/// Keys to verify tokens with, of one issuer.
///
/// ```
/// use tollgate::jwks::{Algorithm, KeySet};
///
/// let keys = KeySet::from_jwks(
///     r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "2026-11", "use": "sig",
///         "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
///         {"kty": "oct", "k": "c2VjcmV0"}]}"#,
/// )?;
/// assert_eq!(keys.kids().collect::<Vec<_>>(), [Some("2026-11")]);
/// assert_eq!(keys.unusable().len(), 1); // a secret that everybody can read is none
///
/// assert!(KeySet::from_secret(Algorithm::Hs256, "too short").is_err());
/// # Ok::<(), tollgate::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    pub(crate) keys: Vec<Jwk>,
    pub(crate) unusable: Vec<UnusableKey>,
}

/// A key, and what its owner says that it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Jwk {
    pub(crate) kid: Option<Box<str>>,
    pub(crate) alg: Option<Algorithm>,
    pub(crate) material: Material,
}

/// A key of a set that tokens cannot be verified with. The others can.
#[derive(Clone, Debug)]
pub struct UnusableKey {
    pub(crate) kid: Option<Box<str>>,
    pub(crate) reason: Unusable,
}

impl UnusableKey {
    /// Its id, if it has one that can be read.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What is wrong with it, for people.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.reason
    }
}

impl KeySet {
    /// The public keys of a JWK Set (RFC 7517 §5). Entries are read one by one: what is
    /// not a public key for signatures is left out, see [`KeySet::unusable`]. That is
    /// whatever has another `use`, or `key_ops` without `verify`; secrets and private keys,
    /// which have no place in a document for the public; RSA keys under 2048 or over 8192
    /// bits; points that are not on their curve, or of small order; and what is unknown.
    ///
    /// # Errors
    /// Returns `Err` if it is not a JWK Set, has more than 256 entries, or has no usable
    /// key. The error says what is wrong with each of the first five keys.
    pub fn from_jwks(text: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let text = text.as_ref();
        let set = Self::parse(text).map_err(|reason| match str::from_utf8(text) {
            Ok(text) if is_path(text) => refused("from_jwks", PATH),
            _ => refused("from_jwks", reason),
        })?;
        if set.keys.is_empty() {
            let reason = match unusable_keys(&set.unusable) {
                None => "the set has no keys".to_owned(),
                Some(keys) => format!("no key of the set can be used: {keys}"),
            };
            return Err(refused("from_jwks", &reason));
        }
        Ok(set)
    }

    /// As [`KeySet::from_jwks`], from a file.
    ///
    /// # Errors
    /// Where `from_jwks` fails, and if the file cannot be read.
    pub fn from_jwks_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_jwks(read(path.as_ref())?)
    }

    /// Reads one public key in PEM, `PUBLIC KEY` or `RSA PUBLIC KEY` (RFC 7468), for one
    /// algorithm.
    ///
    /// Lines may have any length, be indented, end with CRLF, or be one line. A line break
    /// may be written as `\n` with a backslash, as environment variables carry it.
    ///
    /// ```
    /// use tollgate::jwks::{Algorithm, KeySet};
    ///
    /// let variable = r"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----";
    /// assert!(KeySet::from_pem(Algorithm::Ed25519, variable).is_ok());
    ///
    /// let error = KeySet::from_pem(Algorithm::Ed25519, "-----BEGIN CERTIFICATE-----AAAA-----END CERTIFICATE-----");
    /// assert!(error.unwrap_err().to_string().contains("openssl x509 -noout -pubkey"));
    /// ```
    ///
    /// # Errors
    /// Returns `Err` if it is not a public key, if the key is not for that algorithm, or if
    /// it is too weak.
    pub fn from_pem(algorithm: Algorithm, pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let material = Material::pem(pem.as_ref()).map_err(|reason| refused("from_pem", reason))?;
        Self::one("from_pem", algorithm, material)
    }

    /// As [`KeySet::from_pem`], from a file.
    ///
    /// # Errors
    /// Where `from_pem` fails, and if the file cannot be read.
    pub fn from_pem_file(
        algorithm: Algorithm,
        path: impl AsRef<Path>,
    ) -> Result<Self, ConfigError> {
        Self::from_pem(algorithm, read(path.as_ref())?)
    }

    /// The secret that both sides hold, for one algorithm of HMAC. A set of one key with
    /// this algorithm is the only way to accept HMAC.
    ///
    /// # Errors
    /// If it is shorter than the hash (RFC 7518 §3.2), or looks like a PEM, a JWK or an
    /// SSH key, which are public.
    pub fn from_secret(
        algorithm: Algorithm,
        secret: impl AsRef<[u8]>,
    ) -> Result<Self, ConfigError> {
        let material = Material::secret(secret.as_ref(), algorithm)
            .map_err(|reason| refused("from_secret", reason))?;
        Self::one("from_secret", algorithm, material)
    }

    /// One JWK (RFC 7517 §4) out of your own configuration, where it may be a secret
    /// (`kty` `oct`), which must name its algorithm.
    ///
    /// # Errors
    /// If it cannot be used, for the reasons that [`KeySet::from_jwks`] names.
    pub fn from_jwk(text: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let not_a_jwk = || refused("from_jwk", "it is not a JWK");
        let text = std::str::from_utf8(text.as_ref()).map_err(|_| not_a_jwk())?;
        if is_path(text) {
            let reason = "it is the path of a file; call `KeySet::from_jwk_file`";
            return Err(refused("from_jwk", reason));
        }
        if !text.trim_ascii_start().starts_with('{') {
            return Err(not_a_jwk());
        }
        let members: Members<'_> = serde_json::from_str(text).map_err(|_| not_a_jwk())?;
        let key = members
            .key(true)
            .map_err(|reason| refused("from_jwk", reason))?;
        Ok(Self {
            keys: vec![key],
            unusable: Vec::new(),
        })
    }

    /// As [`KeySet::from_jwk`], from a file.
    ///
    /// # Errors
    /// Where `from_jwk` fails, and if the file cannot be read.
    pub fn from_jwk_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_jwk(read(path.as_ref())?)
    }

    fn one(
        constructor: &str,
        algorithm: Algorithm,
        material: Material,
    ) -> Result<Self, ConfigError> {
        if !material.fits(algorithm) {
            let reason = format!("the key is not for {algorithm}: its type is {material:?}");
            return Err(refused(constructor, &reason));
        }
        check(&material).map_err(|reason| refused(constructor, reason))?;
        let key = Jwk {
            kid: None,
            alg: Some(algorithm),
            material,
        };
        Ok(Self {
            keys: vec![key],
            unusable: Vec::new(),
        })
    }

    /// Gives all keys of the set this id.
    #[must_use]
    pub fn kid(mut self, kid: &str) -> Self {
        for key in &mut self.keys {
            key.kid = Some(kid.into());
        }
        self
    }

    /// Adds the keys of another set.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for key in other.keys {
            self.push(key);
        }
        self.unusable.extend(other.unusable);
        self
    }

    /// The ids of the keys; none for those without.
    pub fn kids(&self) -> impl Iterator<Item = Option<&str>> {
        self.keys.iter().map(|key| key.kid.as_deref())
    }

    /// The entries that were left out.
    #[must_use]
    pub fn unusable(&self) -> &[UnusableKey] {
        &self.unusable
    }

    /// A document of an issuer. It may have no usable key.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Unusable> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
        // A sequence would do for serde, but is no JWK Set.
        if !text.trim_ascii_start().starts_with('{') {
            return Err("it is not a JWK Set");
        }
        let document: Document<'_> =
            serde_json::from_str(text).map_err(|_| "it is not a JWK Set")?;
        if document.keys.len() > MOST_KEYS {
            return Err("it has more than 256 keys");
        }
        let mut set = Self::default();
        for entry in document.keys {
            let is_object = entry.get().starts_with('{');
            let Some(members) = is_object
                .then(|| serde_json::from_str::<Members<'_>>(entry.get()).ok())
                .flatten()
            else {
                let reason = "it is not a JWK";
                set.unusable.push(UnusableKey { kid: None, reason });
                continue;
            };
            let kid = members.kid.as_deref().map(Box::from);
            match members.key(false) {
                Ok(key) => set.push(key),
                Err(reason) => set.unusable.push(UnusableKey { kid, reason }),
            }
        }
        Ok(set)
    }

    /// Adds a key, unless it is there.
    fn push(&mut self, key: Jwk) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }
}

/// The members of a JWK that decide what it is.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    kty: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    alg: Option<Cow<'a, str>>,
    #[serde(borrow)]
    r#use: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_ops: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    crv: Option<Cow<'a, str>>,
    #[serde(borrow)]
    n: Option<Cow<'a, str>>,
    #[serde(borrow)]
    e: Option<Cow<'a, str>>,
    #[serde(borrow)]
    x: Option<Cow<'a, str>>,
    #[serde(borrow)]
    y: Option<Cow<'a, str>>,
    k: Option<Zeroizing<String>>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
}

impl Members<'_> {
    fn key(&self, may_be_secret: bool) -> Result<Jwk, Unusable> {
        if self.r#use.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("its use is not sig");
        }
        if let Some(operations) = &self.key_ops
            && !operations.iter().any(|operation| operation == "verify")
        {
            return Err("its key_ops are without verify");
        }
        let private = [
            &self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth,
        ];
        if private.iter().any(|member| member.is_some()) {
            return Err("it is a private key");
        }
        if self.kid.as_ref().is_some_and(|kid| kid.len() > MOST_KID) {
            return Err("its kid is longer than 256 bytes");
        }
        let alg = match &self.alg {
            Some(name) => Some(Algorithm::named(name).ok_or("its alg is not one for signatures")?),
            None => None,
        };
        let material = self.material(alg, may_be_secret)?;
        if alg.is_some_and(|alg| !material.fits(alg)) {
            return Err("it is not a key for its alg");
        }
        check(&material)?;
        let kid = self.kid.as_deref().map(Box::from);
        Ok(Jwk { kid, alg, material })
    }

    fn material(&self, alg: Option<Algorithm>, may_be_secret: bool) -> Result<Material, Unusable> {
        let bytes = |member: &Option<Cow<'_, str>>| match member.as_deref() {
            Some(text) => base64url(text),
            None => Err("a member is missing"),
        };
        if self.k.is_some() && self.kty != "oct" {
            return Err("it is a private key");
        }
        match &*self.kty {
            "RSA" => Material::rsa(&bytes(&self.n)?, &bytes(&self.e)?),
            "EC" => {
                let curve = self.crv.as_deref().and_then(Curve::named);
                let curve = curve.ok_or("its curve is not P-256, P-384 or P-521")?;
                Material::ec(curve, &bytes(&self.x)?, &bytes(&self.y)?)
            }
            "OKP" if self.crv.as_deref() == Some("Ed25519") => Material::ed25519(&bytes(&self.x)?),
            "OKP" => Err("its curve is not Ed25519"),
            "oct" if may_be_secret => {
                let algorithm = alg.ok_or("a secret must name its alg")?;
                let secret = self.k.as_ref().ok_or("a member is missing")?;
                let secret = Zeroizing::new(base64url(secret)?);
                Material::secret(&secret, algorithm)
            }
            "oct" => Err("it is a secret, in a set that is public; read it by `KeySet::from_jwk`"),
            _ => Err("its kty is unknown"),
        }
    }
}

impl fmt::Display for UnusableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kid() {
            Some(kid) => match kid.char_indices().nth(MOST_SHOWN) {
                Some((end, _)) => write!(f, "key {:?}…: {}", &kid[..end], self.reason),
                None => write!(f, "key {kid:?}: {}", self.reason),
            },
            None => write!(f, "a key without a `kid`: {}", self.reason),
        }
    }
}

/// The first of these keys and what is wrong with them. `None` if there are no such keys.
pub(crate) fn unusable_keys(keys: &[UnusableKey]) -> Option<String> {
    let shown: Vec<_> = keys.iter().take(5).map(ToString::to_string).collect();
    let more = keys.len() - shown.len();
    let mut text = shown.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    (!text.is_empty()).then_some(text)
}

fn refused(constructor: &str, reason: &str) -> ConfigError {
    ConfigError::new(format!("`KeySet::{constructor}`: {reason}"))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let text = std::fs::read(path).map(Zeroizing::new);
    text.map_err(|error| {
        let path = path.display();
        ConfigError::new(format!("`KeySet`: the file {path} cannot be read: {error}"))
    })
}

const PATH: &str = "it is the path of a file; call `KeySet::from_jwks_file`";
const MOST_KEYS: usize = 256;
/// Maximum number of characters of a `kid` in an error.
const MOST_SHOWN: usize = 64;
/// `kid` is opaque, and bounded.
pub(crate) const MOST_KID: usize = 256;
