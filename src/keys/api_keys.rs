//! [`ApiKeys`]: how keys are set up and issued. What is done to them later is in
//! `manage`, and how one is judged in [`auth`](crate::auth).

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::audit::{Activity, Audit};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{ConfigError, Quoted, literal};
use crate::identity::{Identity, Resolved};
use crate::keys::cache::{Cached, Strict};
use crate::keys::error::KeyError;
use crate::keys::event::{KeyEvent, KeyEventKind};
use crate::keys::format::{ApiKey, KeyId, is_word};
use crate::keys::last_used::Uses;
use crate::keys::memory::MemoryKeys;
use crate::keys::new_key::{Drawn, NewKey};
use crate::keys::pepper::{KeyMac, MissingPeppers, Peppers};
use crate::keys::record::KeyRecord;
use crate::keys::store::{KeyFilter, KeyPage, KeyStore, StoreError, find_within};
use crate::keys::validate;
use crate::lapse::ASK_EVERY;
use crate::pending::Pending;
use crate::timeout::Timer;

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
    /// Shared with those keys that go around the cache.
    pub(crate) uses: Arc<Uses>,
    pub(crate) timer: Timer,
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
    pub(crate) clock: Arc<dyn Clock>,
    missing_peppers: Arc<MissingPeppers>,
    pub(crate) resolve: Option<Arc<Resolve>>,
    hear: Option<Arc<Hear>>,
    audit: Option<Audit>,
    /// Names the keys that were changed here, for [`Identity::lapsed`](crate::Identity::lapsed).
    changes: broadcast::Sender<KeyId>,
}

type Hear = dyn Fn(&KeyEvent) + Send + Sync;
type Resolve = dyn Fn(Identity) -> Pending<Resolved> + Send + Sync;

impl Look {
    pub(crate) fn drawn(&self, key: &ApiKey, id: KeyId, head: &str) -> Drawn {
        Drawn {
            id,
            head: head.to_owned(),
            mac: self.peppers.mac(key.expose().as_bytes()),
            pepper_version: self.peppers.current_version(),
        }
    }

    /// Returns the MAC of a key under the pepper of its record, or `None` if that pepper is not
    /// configured, which is logged.
    pub(crate) fn mac_under_pepper_of(&self, record: &KeyRecord, key: &[u8]) -> Option<KeyMac> {
        let version = record.pepper_version;
        let mac = self.peppers.mac_under(version, key);
        if mac.is_none() {
            self.missing_peppers
                .report(record.id, version, &self.peppers);
        }
        mac
    }

    fn unknown_environment(&self, env: &str) -> KeyError {
        let known = self.heads.iter().map(|head| &head[self.prefix.len()..]);
        let known = known.collect::<Vec<_>>().join(", ");
        KeyError::UnknownEnvironment(ConfigError::new(format!(
            "NewKey::environment: {} is not configured; use one of {known}, or add it to \
             `ApiKeys::environments`",
            Quoted(env)
        )))
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<KeyId> {
        self.changes.subscribe()
    }

    /// Tells the log and whoever listens.
    pub(crate) fn tell(&self, record: &KeyRecord, event: KeyEvent) {
        let id = event.id;
        event.log(record);
        // What has happened has happened, whatever becomes of the one who is told.
        if let Some(hear) = &self.hear
            && catch_unwind(AssertUnwindSafe(|| hear(&event))).is_err()
        {
            tracing::error!(target: "tollgate::keys", %id, "the hook that hears of keys panicked");
        }
    }
}

impl<S: KeyStore> Shared<S> {
    /// Tells all of what was done to a key, those included who wait for a change of it: because
    /// of a request from `client`, if it was one.
    pub(crate) fn tell_change(
        self: &Arc<Self>,
        record: &KeyRecord,
        kind: KeyEventKind,
        at: Timestamp,
        client: Option<IpAddr>,
    ) {
        let (id, look) = (record.id, &self.look);
        // Nobody may be waiting.
        let _ = look.changes.send(id);
        let event = KeyEvent { id, kind, at };
        look.tell(record, event);
        if let Some(audit) = &look.audit {
            // Of a copy, since the record may be changed before it is shared.
            let identity = record.clone().identity(&look.source, self);
            audit.note_key(&event, identity, client);
        }
    }

    /// The record of a key, unless that takes too long.
    pub(crate) async fn find(
        &self,
        id: KeyId,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        find_within(&self.store, id, &self.timer, self.look.store_timeout).await
    }
}

impl ApiKeys<MemoryKeys> {
    /// Keys in an empty store in memory.
    #[must_use]
    pub fn in_memory(peppers: Peppers) -> Self {
        Self::new(MemoryKeys::new(), peppers)
    }

    /// Creates keys from records that [`ApiKeys::issue`] returned before, for instance from a
    /// configuration file. The records do not contain the keys themselves.
    ///
    /// Restrictions are normalized, as in [`NewKey::methods`].
    ///
    /// # Errors
    /// Returns `Err` if two records have the same id, a restriction is not valid, or a record needs a
    /// pepper version that is not configured.
    pub fn from_records(
        records: impl IntoIterator<Item = KeyRecord>,
        peppers: Peppers,
    ) -> Result<Self, ConfigError> {
        let store = MemoryKeys::new();
        for mut record in records {
            let (id, version) = (record.id, record.pepper_version);
            if peppers.mac_under(version, &[]).is_none() {
                return Err(ConfigError::new(format!(
                    "ApiKeys::from_records: key {id} needs pepper version {version}, which is not \
                     configured; add its secret with `Peppers::with_previous`, or issue a new key"
                )));
            }
            let setting = format!("ApiKeys::from_records: key {id}: restrictions");
            record.restrictions = validate::restrictions(&setting, &record.restrictions)?;
            if !store.insert_now(record) {
                return Err(ConfigError::new(format!(
                    "ApiKeys::from_records: there are two records of key {id}; remove one of them"
                )));
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
            missing_peppers: Arc::default(),
            resolve: None,
            hear: None,
            audit: None,
            changes: broadcast::Sender::new(64),
        };
        Self {
            shared: Arc::new(Shared {
                store,
                look,
                uses: Arc::default(),
                timer: Timer::default(),
            }),
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
        word("ApiKeys::prefix", prefix)?;
        self.set("ApiKeys::prefix", |look| {
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
            return Err(ConfigError::new(
                "ApiKeys::environments: the list is empty; name at least one, such as \"live\"",
            ));
        }
        let setting = "ApiKeys::environments";
        envs.iter().try_for_each(|env| word(setting, env))?;
        self.set(setting, |look| {
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
        literal(self.set("ApiKeys::source", |look| look.source = source.into()))
    }

    /// Sets how long the store may take to find a key, before the client gets 503:
    /// 500 ms unless set. Enforced by tokio's timer, where there is one. A store that
    /// [has its own deadline](KeyStore::deadline) keeps to that, as
    /// [`Cached`](Cached::timeout) does.
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn store_timeout(self, timeout: Duration) -> Self {
        literal(self.set("ApiKeys::store_timeout", |look| {
            look.store_timeout = timeout
        }))
    }

    /// Sets the clock that keys are issued and revoked by. Requests are judged by
    /// the clock of the layer.
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn clock(self, clock: impl Clock) -> Self {
        literal(self.set("ApiKeys::clock", |look| look.clock = Arc::new(clock)))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// Sets what hears of the life of keys and of misuse: see [`KeyEvent`]. It is called
    /// where the thing happens, so it must not block.
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn on_event(self, hear: impl Fn(&KeyEvent) + Send + Sync + 'static) -> Self {
        literal(self.set("ApiKeys::on_event", |look| look.hear = Some(Arc::new(hear))))
    }

    /// Sets a hook that is asked about each valid key, once per request. It can add to the identity or
    /// reject the request. Defaults to no hook.
    ///
    /// The hook cannot change the id of the key, nor let it end later. Restrictions that the hook sets
    /// apply in addition to those of the key: a request must meet both. The hook adds a boxed future to
    /// each request, and its result is not cached.
    ///
    /// ```
    /// use tollgate::identity::Resolved;
    /// use tollgate::keys::Peppers;
    /// use tollgate::{ApiKeys, Identity};
    ///
    /// async fn plan_of(account: &str) -> Result<Option<String>, std::io::Error> {
    ///     Ok((account != "suspended").then(|| "pro".into()))
    /// }
    ///
    /// let keys = ApiKeys::in_memory(Peppers::random()).resolve_with(async |identity: Identity| {
    ///     match plan_of(identity.subject()).await {
    ///         Ok(Some(plan)) => Resolved::Known(identity.to_builder().plan(plan).build()),
    ///         Ok(None) => Resolved::Denied,
    ///         Err(_) => Resolved::Unavailable,
    ///     }
    /// });
    /// # drop(keys);
    /// ```
    ///
    /// # Panics
    /// Panics if the keys were cloned already. A panic in the hook becomes a 500 for that request.
    #[must_use]
    #[track_caller]
    pub fn resolve_with<F>(self, hook: impl Fn(Identity) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output: Into<Resolved>> + Send + 'static,
    {
        let resolve = move |identity| {
            let resolved = hook(identity);
            Pending::later(async move { resolved.await.into() })
        };
        literal(self.set("ApiKeys::resolve_with", |look| {
            look.resolve = Some(Arc::new(resolve));
        }))
    }

    /// Has what is done to keys written down there, and knows from there what was done with
    /// them. What is done with keys it has to be told by
    /// [`UsageBuilder::audit`](crate::usage::UsageBuilder::audit).
    ///
    /// # Panics
    /// If the keys were cloned already.
    #[must_use]
    #[track_caller]
    pub fn audit(self, audit: Audit) -> Self {
        literal(self.set("ApiKeys::audit", |look| look.audit = Some(audit)))
    }

    /// What was done with a key lately, in this process; none if nothing was, or nobody has
    /// [written it down](ApiKeys::audit).
    #[must_use]
    pub fn activity(&self, id: KeyId) -> Option<Activity> {
        let look = &self.shared.look;
        look.audit.as_ref()?.activity(&look.source, id.as_str())
    }

    /// How long a key that was ended elsewhere may still be let in here, at the most:
    /// zero where every request asks the store. See
    /// [`Cached`](crate::keys::Cached).
    #[must_use]
    pub fn revocation_bound(&self) -> Duration {
        self.shared.store.staleness()
    }

    /// How long [`Identity::lapsed`](crate::Identity::lapsed) may take to learn of the end
    /// of a key that was ended elsewhere: [`ApiKeys::revocation_bound`], the 5 s between
    /// two questions, and how long the store may take.
    #[must_use]
    pub fn lapse_bound(&self) -> Duration {
        let shared = &self.shared;
        let wait = shared.store.deadline();
        self.revocation_bound()
            .saturating_add(ASK_EVERY)
            .saturating_add(wait.unwrap_or(shared.look.store_timeout))
    }

    /// Draws a key and stores its record. The key is in the answer and nowhere else.
    ///
    /// # Errors
    /// Returns
    /// - [`KeyError::NoOwner`], [`KeyError::InvalidName`], [`KeyError::InvalidScope`],
    ///   [`KeyError::InvalidRestriction`], [`KeyError::InvalidTimes`] or [`KeyError::UnknownEnvironment`] if a value is not valid,
    /// - [`KeyError::Store`] if the store fails,
    /// - [`KeyError::Randomness`] if the operating system provides no random bytes.
    pub async fn issue(&self, new: NewKey) -> Result<IssuedKey, KeyError> {
        let look = &self.shared.look;
        let head = match new.environment_name() {
            None => &look.heads[0],
            Some(env) => look
                .heads
                .iter()
                .find(|head| head[look.prefix.len()..] == *env)
                .ok_or_else(|| look.unknown_environment(env))?,
        };
        let now = look.clock.now();
        // 71 bits collide about never; an id that is taken is drawn again all the same.
        for _ in 0..8 {
            let (key, id) = ApiKey::generate(head).map_err(|_| KeyError::Randomness)?;
            let record = new.clone().into_record(look.drawn(&key, id, head), now)?;
            if self.shared.store.insert(record.clone()).await? {
                let kind = KeyEventKind::Issued;
                self.shared.tell_change(&record, kind, now, None);
                return Ok(IssuedKey { key, record });
            }
        }
        Err(KeyError::Randomness)
    }

    /// The record of a key, as requests are judged by it: from the cache, if there is one.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn get(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, KeyError> {
        named(id, self.shared.store.find(id).await?)
    }

    /// The record of a key as it is now, for whoever changes it.
    pub(crate) async fn latest(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, KeyError> {
        named(id, self.shared.store.find_latest(id).await?)
    }

    /// The records that the filter lets through, a page of them.
    ///
    /// # Errors
    /// [`KeyError::Store`].
    pub async fn list(&self, filter: KeyFilter) -> Result<KeyPage, KeyError> {
        Ok(self.shared.store.list(filter).await?)
    }

    fn set(mut self, setting: &str, change: impl FnOnce(&mut Look)) -> Result<Self, ConfigError> {
        let shared = Arc::get_mut(&mut self.shared).ok_or_else(|| {
            ConfigError::new(format!(
                "{setting}: the keys were cloned already; call it before the first clone"
            ))
        })?;
        change(&mut shared.look);
        Ok(self)
    }
}

impl<S: KeyStore> ApiKeys<Cached<S>> {
    /// The same keys without the cache, for an [`AuthLayer`](crate::AuthLayer) over routes
    /// where [`ApiKeys::revocation_bound`] is too long.
    #[must_use]
    pub fn strict(&self) -> ApiKeys<Strict<S>> {
        let store = self.shared.store.strict();
        let shared = Shared {
            store,
            look: self.shared.look.clone(),
            uses: Arc::clone(&self.shared.uses),
            timer: Timer::default(),
        };
        ApiKeys {
            shared: Arc::new(shared),
        }
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

/// A store that compares ids loosely must not have another key changed.
fn named(id: KeyId, found: Option<Arc<KeyRecord>>) -> Result<Option<Arc<KeyRecord>>, KeyError> {
    if found.as_ref().is_some_and(|record| record.id != id) {
        return Err(StoreError::unavailable("the store answered with another key").into());
    }
    Ok(found)
}

fn word(setting: &str, text: &str) -> Result<(), ConfigError> {
    if is_word(text.as_bytes()) {
        return Ok(());
    }
    Err(ConfigError::new(format!(
        "{setting}: {} does not have the form [a-z][a-z0-9]{{1,15}}; use 2 to 16 lower-case \
         letters and digits, such as \"acme\"",
        Quoted(text)
    )))
}
