//! API keys: their format, what is stored of them, and where.
//!
//! A key tells which application calls. Its text is shown to its owner once; a
//! [`KeyStore`] holds an HMAC of it under a server-side [pepper](Peppers), so that
//! neither a copy of the store nor write access to it is worth a key.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use tollgate::ApiKeys;
//! use tollgate::keys::{NewKey, Peppers};
//!
//! let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
//! let issued = keys.issue(NewKey::for_owner("acct_1").scopes(["orders:read"])).await?;
//!
//! println!("keep it safe, it is shown once: {}", issued.key.expose());
//! assert!(issued.key.expose().starts_with("acme_live_"));
//!
//! keys.revoke(issued.record.id).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod api_keys;
mod cache;
mod error;
mod event;
mod flight;
mod format;
mod last_used;
mod leak;
mod lifecycle;
mod manage;
mod memory;
mod new_key;
mod owner;
mod pepper;
mod record;
mod rotate;
mod store;
mod update;
mod validate;
mod watch;

pub use api_keys::{ApiKeys, IssuedKey};
pub use cache::{Cached, Strict};
pub use error::KeyError;
pub use event::{KeyEvent, KeyEventKind};
pub use format::{ApiKey, InvalidKeyId, KeyId};
pub use lifecycle::{EndCause, Ended, KeyState, LifecycleError, Rotated};
pub use manage::Compromised;
pub use memory::MemoryKeys;
pub use new_key::NewKey;
pub use owner::EndOwnerError;
pub use pepper::{KeyMac, MacAlgorithm, Peppers};
pub use record::{CachedIdentity, KeyRecord, LastUsed};
pub use rotate::Rotation;
pub use store::{KeyFilter, KeyPage, KeyStore, StoreError};
pub use update::{KeyField, KeyFields, KeyUpdate};

pub(crate) use api_keys::{Look, Shared};
pub(crate) use format::{SHORTEST, has_shape, is_head, parse};
#[cfg(test)]
pub(crate) use pepper::MACS;
