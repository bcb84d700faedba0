//! Keys that tokens are verified with: [`KeySet`], out of a JWK Set, a PEM or a secret;
//! [`RemoteKeys`], out of the URL of an issuer.
//!
//! One key is for one algorithm: the `alg` that it names or, if it names none, the first of
//! the issuer's algorithms that fits its type. What a token says about itself decides
//! nothing: it picks among the keys of its issuer, by `kid`, and must be of their algorithm.

mod algorithm;
mod keyring;
mod keys;
mod material;
mod pem;
mod remote;
mod ring;
mod set;
mod spelling;
mod verifier;

pub use algorithm::Algorithm;
pub use keys::Keys;
pub use remote::{FetchError, KeyFetchError, KeyStatus, RemoteKeys};
pub use set::{KeySet, UnusableKey};
pub use verifier::Backend;

pub(crate) use keyring::Keyring;
pub(crate) use keys::Origin;
pub(crate) use remote::{LookUp, Remote, Wanted};
pub(crate) use ring::{KeyName, Ring, Verdict};
pub(crate) use set::{MOST_KID, unusable_keys};
pub(crate) use spelling::{is_similar, is_similar_audience};
