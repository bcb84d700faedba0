//! [`Peppers`]: the server-side secrets under which keys are hashed.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::ConfigError;
use crate::keys::format::KeyId;

/// The least that a pepper may have: the output size of the hash (RFC 2104 §3).
const MIN_LEN: usize = 32;

/// The secrets under which the MACs of keys are computed, by version.
///
/// A store that leaks without them lets nobody confirm a key, nor plant one. The MACs of new keys
/// are computed under the *current* version.
///
/// # Rotation
/// Make the new pepper current and keep the old one with [`Peppers::with_previous`]. The MAC of an old
/// key is replaced by one under the current version when the key is next used. Remove the old pepper
/// once no record names it: see [`KeyRecord::pepper_version`](crate::keys::KeyRecord).
///
/// A key whose pepper is not configured is rejected with 500 `internal`, since its secret cannot be
/// verified. The first such key of each version is logged at `ERROR` with the version and the
/// fix.
///
/// ```
/// use tollgate::keys::Peppers;
///
/// # let (old, new) = ([1; 32], [2; 32]);
/// let peppers = Peppers::new(2, new)?.with_previous(1, old)?;
/// assert_eq!(peppers.current_version(), 2);
/// assert_eq!(format!("{peppers:?}"), "Peppers { current: 2, previous: [1] }");
/// # Ok::<(), tollgate::ConfigError>(())
/// ```
///
/// # Cost
/// The key schedule is computed once, here; a MAC costs three blocks of SHA-256.
#[derive(Clone)]
pub struct Peppers {
    /// The current one first.
    versions: Vec<(u32, Hmac<Sha256>)>,
}

impl Peppers {
    /// Creates peppers with one version, the current one.
    ///
    /// # Errors
    /// Returns `Err` if the secret has less than 32 bytes.
    pub fn new(version: u32, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        Ok(Self {
            versions: vec![(version, prepare("Peppers::new", version, secret.as_ref())?)],
        })
    }

    /// Adds a pepper that the MACs of old keys may be computed under.
    ///
    /// # Errors
    /// Returns `Err` if the secret has less than 32 bytes, or the version was added before.
    pub fn with_previous(
        mut self,
        version: u32,
        secret: impl AsRef<[u8]>,
    ) -> Result<Self, ConfigError> {
        if self.get(version).is_some() {
            return Err(ConfigError::new(format!(
                "Peppers::with_previous: version {version} was added before; give each secret a \
                 version of its own"
            )));
        }
        let prepared = prepare("Peppers::with_previous", version, secret.as_ref())?;
        self.versions.push((version, prepared));
        Ok(self)
    }

    /// Reads `version:secret[,version:secret…]` from an environment variable, the
    /// current one first. A secret is taken as it stands; `openssl rand -hex 32`
    /// makes a good one.
    ///
    /// # Errors
    /// Returns `Err` if the variable is not set, does not have that form, or has a secret that
    /// [`Peppers::new`] refuses. The error names the entry by its position and does not repeat the value.
    pub fn from_env(name: &str) -> Result<Self, ConfigError> {
        let value = std::env::var(name).map(Zeroizing::new).map_err(|_| {
            ConfigError::new(format!(
                "Peppers::from_env: the variable {name} is not set or not Unicode; set it to \
                     `1:` and the output of `openssl rand -hex 32`"
            ))
        })?;
        Self::parse(&value).map_err(|error| {
            ConfigError::new(format!("Peppers::from_env: variable {name}: {error}"))
        })
    }

    /// One pepper from the operating system's generator: for tests and for demos.
    /// Keys that are hashed under it are worth nothing after a restart.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn random() -> Self {
        let mut secret = Zeroizing::new([0; MIN_LEN]);
        getrandom::fill(secret.as_mut()).expect("the operating system gives randomness");
        Self::new(1, secret.as_ref()).expect("a secret of that length is taken")
    }

    /// Errors name an entry by its position, since any part of the text may be a secret.
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut peppers: Option<Self> = None;
        for (n, part) in (1..).zip(text.split(',')) {
            let (version, secret) = part.trim().split_once(':').ok_or_else(|| {
                ConfigError::new(format!(
                    "entry {n} has no `:`; write `version:secret`, with commas only between entries"
                ))
            })?;
            let version = version.parse().map_err(|_| {
                ConfigError::new(format!(
                    "entry {n} does not start with a version; write a number before the first `:`"
                ))
            })?;
            peppers = Some(match peppers {
                None => Self::new(version, secret)?,
                Some(peppers) => peppers.with_previous(version, secret)?,
            });
        }
        peppers.ok_or_else(|| ConfigError::new("there is no entry; write `version:secret`"))
    }

    /// The version that new keys are hashed under.
    #[must_use]
    pub fn current_version(&self) -> u32 {
        self.versions[0].0
    }

    /// The MAC of a key under the current version.
    pub(crate) fn mac(&self, key: &[u8]) -> KeyMac {
        mac(&self.versions[0].1, key)
    }

    /// The MAC of a key under that version.
    pub(crate) fn mac_under(&self, version: u32, key: &[u8]) -> Option<KeyMac> {
        self.get(version).map(|pepper| mac(pepper, key))
    }

    /// The n-th block of what the current pepper makes of a seed: HMAC in counter mode
    /// (NIST SP 800-108). Nobody without the pepper can tell it from random.
    pub(crate) fn expand(&self, seed: &[u8], block: u32) -> [u8; 32] {
        let mut input = self.versions[0].1.clone();
        input.update(&block.to_be_bytes());
        // No key has this in it, so that no MAC of a key is a block of anything.
        input.update(b"\0tollgate derive\0");
        input.update(seed);
        input.finalize().into_bytes().into()
    }

    fn get(&self, version: u32) -> Option<&Hmac<Sha256>> {
        self.versions
            .iter()
            .find(|(held, _)| *held == version)
            .map(|(_, pepper)| pepper)
    }
}

/// The versions, without the secrets.
impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous = self.versions.iter().skip(1).map(|(version, _)| version);
        f.debug_struct("Peppers")
            .field("current", &self.current_version())
            .field("previous", &previous.collect::<Vec<_>>())
            .finish()
    }
}

/// The pepper versions that records name although they are not configured. Each is logged once.
#[derive(Default)]
pub(crate) struct MissingPeppers(Mutex<Vec<u32>>);

impl MissingPeppers {
    /// Bounds the memory and the log if a store returns arbitrary versions.
    const MAX: usize = 32;

    /// Logs the version of a record, unless that was done before.
    pub(crate) fn report(&self, id: KeyId, version: u32, peppers: &Peppers) {
        {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.contains(&version) || known.len() >= Self::MAX {
                return;
            }
            known.push(version);
        }
        tracing::error!(
            target: "tollgate::keys",
            key_id = %id,
            pepper_version = version,
            ?peppers,
            "the pepper of a key is not configured, so that the key cannot be verified; add it with \
             `Peppers::with_previous({version}, secret)`, or revoke the keys that need it"
        );
    }
}

/// What the MAC of a key is made with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub enum MacAlgorithm {
    /// HMAC-SHA-256 (RFC 2104) under one of the [`Peppers`].
    #[default]
    #[serde(rename = "hmac-sha-256")]
    HmacSha256,
}

/// HMAC-SHA-256 of a key: what a store holds of it. Equality takes the same time
/// wherever the first difference is. In JSON it is a text of 64 hex digits.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyMac([u8; 32]);

impl KeyMac {
    /// For ids that nobody has: compared against all the same.
    pub(crate) const DUMMY: Self = Self([0x5a; 32]);

    /// The 32 bytes, for a store's own encoding.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The MAC out of a store's own encoding.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for KeyMac {
    fn eq(&self, other: &Self) -> bool {
        words(self).ct_eq(&words(other)).into()
    }
}

impl Eq for KeyMac {}

impl From<KeyMac> for String {
    fn from(mac: KeyMac) -> Self {
        mac.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for KeyMac {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let error = "the MAC of a key is 64 hex digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error);
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| error)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for KeyMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMac(..)")
    }
}

/// Four words are compared in a fraction of the time of 32 bytes.
fn words(mac: &KeyMac) -> [u64; 4] {
    std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|byte| mac.0[8 * i + byte])))
}

fn prepare(setting: &str, version: u32, secret: &[u8]) -> Result<Hmac<Sha256>, ConfigError> {
    let len = secret.len();
    if len < MIN_LEN {
        return Err(ConfigError::new(format!(
            "{setting}: the secret of version {version} has {len} bytes; use at least {MIN_LEN}, \
             such as the output of `openssl rand -hex 32`"
        )));
    }
    Ok(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
}

fn mac(pepper: &Hmac<Sha256>, key: &[u8]) -> KeyMac {
    #[cfg(test)]
    MACS.set(MACS.get() + 1);
    let mut mac = pepper.clone();
    mac.update(key);
    KeyMac(mac.finalize().into_bytes().into())
}

#[cfg(test)]
thread_local! {
    /// How many were computed on this thread.
    pub(crate) static MACS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef";
    const B: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn the_first_of_the_variable_is_current() {
        let peppers = Peppers::parse(&format!("2:{B}, 1:{A}")).unwrap();
        assert_eq!(peppers.current_version(), 2);
        let old = Peppers::new(1, A).unwrap();
        assert_eq!(peppers.mac_under(1, b"key"), Some(old.mac(b"key")));
        assert_ne!(peppers.mac(b"key"), old.mac(b"key"));
        assert_eq!(peppers.mac_under(3, b"key"), None);
    }

    #[test]
    fn errors_name_the_entry_and_repeat_no_secret() {
        let unversioned = format!("{B}:{A}");
        for (bad, expected) in [
            ("", "entry 1 has no `:`"),
            ("1", "entry 1 has no `:`"),
            (B, "entry 1 has no `:`"),
            ("1:fedc", "the secret of version 1 has 4 bytes"),
            (&*unversioned, "entry 1 does not start with a version"),
            (&format!("-1:{A}"), "entry 1 does not start with a version"),
            (&format!("1:{A},1:{B}"), "version 1 was added before"),
            (&format!("1:{A},"), "entry 2 has no `:`"),
            (&format!("2:{A},1:fedc"), "the secret of version 1 has 4"),
        ] {
            let error = Peppers::parse(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
            assert!(error.contains("; "), "there is a fix: {error}");
            assert!(
                !error.contains("0123") && !error.contains("fedc"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_mac_is_kept_as_hex_and_hex_only() {
        let mac = Peppers::new(1, A).unwrap().mac(b"key");
        let text = serde_json::to_string(&mac).unwrap();
        assert_eq!(serde_json::from_str::<KeyMac>(&text).unwrap(), mac);
        assert!(KeyMac::try_from("+f".repeat(32)).is_err());
        assert!(KeyMac::try_from("é".repeat(32)).is_err());
    }
}
