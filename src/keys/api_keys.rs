//! [`ApiKeys`]: issuing keys and ending them. How one is judged is in
//! [`auth::api_key`](crate::auth).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{ConfigError, literal};
use crate::keys::format::{ApiKey, KeyId, is_word};
use crate::keys::memory::MemoryKeys;
use crate::keys::pepper::Peppers;
use crate::keys::record::{CachedIdentity, KeyRecord};
use crate::keys::store::{KeyFilter, KeyPage, KeyStore, StoreError};
use crate::scope::{InvalidScope, ScopeSet};

/// The keys of an API: where they are stored, how they look, how they are issued
/// and ended. Give a clone to [`AuthLayer`](crate::AuthLayer) to let them in.
///
/// # Cost
/// To judge a key: one CRC-32, one look-up by its id, one HMAC-SHA-256. With a store
/// in memory that is well under a microsecond and without a boxed future.
pub struct ApiKeys<S = MemoryKeys> {
    pub(crate) shared: Arc<Shared<S>>,
}

pub(crate) struct Shared<S> {
    pub(crate) store: S,
    pub(crate) look: Look,
}

/// All but the store.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) peppers: Peppers,
    /// `{prefix}_`
    pub(crate) prefix: String,
    /// `{prefix}_{env}`, the one that is issued unless said otherwise first.
    pub(crate) heads: Vec<String>,
    pub(crate) source: Box<str>,
    pub(crate) store_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl ApiKeys<MemoryKeys> {
    /// Keys in an empty store in memory.
    #[must_use]
    pub fn in_memory(peppers: Peppers) -> Self {
        Self::new(MemoryKeys::new(), peppers)
    }

    /// Keys that are known beforehand, for instance from a configuration file: the
    /// records that [`ApiKeys::issue`] returned, kept without the keys themselves.
    ///
    /// # Errors
    /// If two records have the same id, or one names a pepper version that is not
    /// there.
    pub fn from_records(
        records: impl IntoIterator<Item = KeyRecord>,
        peppers: Peppers,
    ) -> Result<Self, ConfigError> {
        let store = MemoryKeys::new();
        for record in records {
            let (id, version) = (record.id, record.pepper_version);
            if peppers.mac_under(version, &[]).is_none() {
                return Err(ConfigError::new(format!(
                    "key {id}: no pepper of version {version}"
                )));
            }
            if !store.insert_now(record) {
                return Err(ConfigError::new(format!("key {id} is there twice")));
            }
        }
        Ok(Self::new(store, peppers))
    }
}

impl<S: KeyStore> ApiKeys<S> {
    /// Keys in that store. They look like `tg_live_…` until told otherwise.
    pub fn new(store: S, peppers: Peppers) -> Self {
        let look = Look {
            peppers,
            prefix: "tg_".into(),
            heads: vec!["tg_live".into()],
            source: "api-key".into(),
            store_timeout: Duration::from_millis(500),
            clock: Arc::new(SystemClock),
        };
        Self {
            shared: Arc::new(Shared { store, look }),
        }
    }

    /// Sets the prefix of keys: what starts with it and an underscore is a key.
    ///
    /// # Panics
    /// If it is not of the form `[a-z][a-z0-9]{1,15}`, or the keys were cloned
    /// already.
    #[must_use]
    #[track_caller]
    pub fn prefix(self, prefix: &str) -> Self {
        literal(self.try_prefix(prefix))
    }

    /// As [`ApiKeys::prefix`], for a prefix from configuration.
    ///
    /// # Errors
    /// Where `prefix` panics.
    pub fn try_prefix(self, prefix: &str) -> Result<Self, ConfigError> {
        word(prefix)?;
        self.set(|look| {
            let envs = look.heads.iter().map(|head| &head[look.prefix.len()..]);
            look.heads = envs.map(|env| format!("{prefix}_{env}")).collect();
            look.prefix = format!("{prefix}_");
        })
    }

    /// Sets the environments whose keys are let in; the first one is that of new
    /// keys. Only `live` unless set.
    ///
    /// # Panics
    /// If there is none, one is not of the form `[a-z][a-z0-9]{1,15}`, or the keys
    /// were cloned already.
    #[must_use]
    #[track_caller]
    pub fn environments<'a>(self, envs: impl IntoIterator<Item = &'a str>) -> Self {
        literal(self.try_environments(envs))
    }

    /// As [`ApiKeys::environments`], for environments from configuration.
    ///
    /// # Errors
    /// Where `environments` panics.
    pub fn try_environments<'a>(
        self,
        envs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ConfigError> {
        let envs: Vec<&str> = envs.into_iter().collect();
        if envs.is_empty() {
            return Err(ConfigError::new("keys need an environment"));
        }
        envs.iter().try_for_each(|env| word(env))?;
        self.set(|look| {
            look.heads = envs
                .iter()
                .map(|env| format!("{}{env}", look.prefix))
                .collect();
        })
    }

    /// Sets the source of the principals that these keys stand for: `api-key` unless
    /// set. Owners of different sources are strangers.
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn source(self, source: &str) -> Self {
        literal(self.set(|look| look.source = source.into()))
    }

    /// Sets how long the store may take to find a key, before the client gets 503:
    /// 500 ms unless set. Enforced by tokio's timer, where there is one.
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn store_timeout(self, timeout: Duration) -> Self {
        literal(self.set(|look| look.store_timeout = timeout))
    }

    /// Sets the clock that keys are issued and revoked by. Requests are judged by
    /// the clock of the layer.
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn clock(self, clock: impl Clock) -> Self {
        literal(self.set(|look| look.clock = Arc::new(clock)))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// Draws a key and stores its record. The key is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`KeyError::InvalidScope`] and [`KeyError::InvalidTimes`] for requests that
    /// cannot be met, [`KeyError::UnknownEnvironment`] for an environment that is not
    /// configured, [`KeyError::Store`] if the store fails, and [`KeyError::Randomness`]
    /// if the operating system has none.
    pub async fn issue(&self, new: NewKey) -> Result<IssuedKey, KeyError> {
        let look = &self.shared.look;
        let head = match &new.environment {
            None => &look.heads[0],
            Some(env) => look
                .heads
                .iter()
                .find(|head| head[look.prefix.len()..] == **env)
                .ok_or(KeyError::UnknownEnvironment)?,
        };
        let created_at = look.clock.now();
        let expires_at = new.end.map(|end| end.after(created_at));
        if expires_at.is_some_and(|end| end <= new.not_before.unwrap_or(created_at)) {
            return Err(KeyError::InvalidTimes);
        }
        let scopes = ScopeSet::try_new(&new.scopes)?;
        // 71 bits collide about never; an id that is taken is drawn again all the same.
        for _ in 0..8 {
            let (key, id) = ApiKey::generate(head).map_err(|_| KeyError::Randomness)?;
            let record = KeyRecord {
                id,
                head: head.clone(),
                mac: look.peppers.mac(key.expose().as_bytes()),
                pepper_version: look.peppers.current_version(),
                owner: new.owner.clone(),
                tenant: new.tenant.clone(),
                name: new.name.clone(),
                scopes: scopes.clone(),
                roles: new.roles.clone(),
                plan: new.plan.clone(),
                metadata: new.metadata.clone(),
                created_at,
                not_before: new.not_before,
                expires_at,
                disabled_at: None,
                revoked_at: None,
                revision: 0,
                identity: CachedIdentity::default(),
            };
            if self.shared.store.insert(record.clone()).await? {
                return Ok(IssuedKey { key, record });
            }
        }
        Err(KeyError::Randomness)
    }

    /// Ends a key for good. With a store in memory it is refused from the moment this
    /// returns. Revoking it again changes nothing.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Conflict`] if others keep changing the
    /// record, [`KeyError::Store`].
    pub async fn revoke(&self, id: KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        let now = self.shared.look.clock.now();
        for _ in 0..8 {
            let held = self.get(id).await?.ok_or(KeyError::NotFound)?;
            if held.revoked_at.is_some() {
                return Ok(held);
            }
            let mut revoked = KeyRecord::clone(&held);
            revoked.revoked_at = Some(now);
            revoked.revision = held.revision.saturating_add(1);
            if self.shared.store.update(revoked.clone()).await? {
                return Ok(Arc::new(revoked));
            }
        }
        Err(KeyError::Conflict)
    }

    /// The record of a key.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn get(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, KeyError> {
        Ok(self.shared.store.find(id).await?)
    }

    /// The records that the filter lets through, a page of them.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn list(&self, filter: KeyFilter) -> Result<KeyPage, KeyError> {
        Ok(self.shared.store.list(filter).await?)
    }

    fn set(mut self, change: impl FnOnce(&mut Look)) -> Result<Self, ConfigError> {
        let shared = Arc::get_mut(&mut self.shared)
            .ok_or_else(|| ConfigError::new("set up the keys before they are cloned"))?;
        change(&mut shared.look);
        Ok(self)
    }
}

/// Shares the store and the settings.
impl<S> Clone for ApiKeys<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for ApiKeys<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys")
            .field("store", &self.shared.store)
            .field("peppers", &self.shared.look.peppers)
            .field("heads", &self.shared.look.heads)
            .finish_non_exhaustive()
    }
}

/// A key that was issued.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuedKey {
    /// The key, to be shown to its owner now or never.
    pub key: ApiKey,
    /// What the store holds of it.
    pub record: KeyRecord,
}

/// A key that is to be issued.
///
/// ```
/// use std::time::Duration;
/// use tollgate::keys::NewKey;
///
/// let new = NewKey::for_owner("acct_1")
///     .tenant("emea")
///     .name("nightly export")
///     .scopes(["orders:read"])
///     .plan("pro")
///     .expires_in(Duration::from_secs(90 * 86_400));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct NewKey {
    owner: String,
    tenant: Option<String>,
    environment: Option<String>,
    name: String,
    scopes: Vec<String>,
    roles: Vec<String>,
    plan: Option<String>,
    metadata: BTreeMap<String, String>,
    not_before: Option<Timestamp>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    At(Timestamp),
    In(Duration),
}

impl End {
    fn after(self, start: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::In(life) => start.saturating_add(life),
        }
    }
}

impl NewKey {
    /// A key of that owner, without rights and without end.
    pub fn for_owner(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            tenant: None,
            environment: None,
            name: String::new(),
            scopes: Vec::new(),
            roles: Vec::new(),
            plan: None,
            metadata: BTreeMap::new(),
            not_before: None,
            end: None,
        }
    }

    /// The tenant that the owner belongs to.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The environment, if not the first that is configured.
    pub fn environment(mut self, env: impl Into<String>) -> Self {
        self.environment = Some(env.into());
        self
    }

    /// A name for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds scopes.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a role.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.roles.push(role.into());
        self
    }

    /// The plan that the owner is on.
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Notes something down.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The key is not valid before this.
    pub fn not_before(mut self, start: impl Into<Timestamp>) -> Self {
        self.not_before = Some(start.into());
        self
    }

    /// The key is not valid from this on.
    pub fn expires_at(mut self, end: impl Into<Timestamp>) -> Self {
        self.end = Some(End::At(end.into()));
        self
    }

    /// The key is valid for that long, counted from when it is issued.
    pub fn expires_in(mut self, life: Duration) -> Self {
        self.end = Some(End::In(life));
        self
    }
}

/// A key could not be issued, changed or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyError {
    /// Others kept changing the record.
    Conflict,
    /// One of the scopes is none.
    InvalidScope(InvalidScope),
    /// The key would end before it begins.
    InvalidTimes,
    /// No key has this id.
    NotFound,
    /// The operating system has no randomness to give.
    Randomness,
    /// The store failed.
    Store(StoreError),
    /// The environment is not configured.
    UnknownEnvironment,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conflict => "the key was changed by others at the same time",
            Self::InvalidScope(_) => "one of the scopes of the key is none",
            Self::InvalidTimes => "the key would end before it begins",
            Self::NotFound => "no key has this id",
            Self::Randomness => "no key could be drawn",
            Self::Store(_) => "the key store failed",
            Self::UnknownEnvironment => "the environment of the key is not configured",
        })
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidScope(error) => Some(error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<InvalidScope> for KeyError {
    fn from(error: InvalidScope) -> Self {
        Self::InvalidScope(error)
    }
}

fn word(text: &str) -> Result<(), ConfigError> {
    if is_word(text.as_bytes()) {
        return Ok(());
    }
    Err(ConfigError::new(
        "a prefix or environment of keys has the form [a-z][a-z0-9]{1,15}",
    ))
}
