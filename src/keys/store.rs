//! [`KeyStore`]: where records live.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::timeout::Timer;

/// Where the records of keys live.
///
/// Implementations write plain `async fn`s. The crate calls [`KeyStore::find`] once
/// for each request whose key has a right checksum, under the deadline of
/// [`ApiKeys::store_timeout`](crate::ApiKeys::store_timeout) unless the store has
/// [its own](KeyStore::deadline); a wrong checksum never gets here.
///
/// # What a wrong answer costs
/// - A stale `Some` admits a revoked key for as long as it stays stale, and grants
///   the rights of the past.
/// - A false `None` answers 401 to a good key; clients give up on those.
/// - An error answers 503, which clients retry. When in doubt, return the error.
/// - A record that the store did not get from [`KeyStore::insert`] cannot be made
///   to match a key without the pepper, whoever writes it.
pub trait KeyStore: Send + Sync + 'static {
    /// The record with that id.
    ///
    /// # Cancellation
    /// The future is dropped when the client goes away or the deadline passes.
    fn find(
        &self,
        id: KeyId,
    ) -> impl Future<Output = Result<Option<Arc<KeyRecord>>, StoreError>> + Send;

    /// The answer of [`KeyStore::find`], if it is known without waiting.
    ///
    /// Stores in memory and caches answer here, which spares the request a boxed
    /// future. The default knows nothing.
    fn find_now(
        &self,
        id: KeyId,
        now: Timestamp,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        let _ = (id, now);
        None
    }

    /// The record with that id as it is now: what a change is decided on.
    ///
    /// A stale answer here does harm for good: a key that another node has enabled is
    /// not disabled, a successor gets the scopes of the past. The default is
    /// [`KeyStore::find`]; a store that answers that from a cache or a replica must go
    /// past it here.
    fn find_latest(
        &self,
        id: KeyId,
    ) -> impl Future<Output = Result<Option<Arc<KeyRecord>>, StoreError>> + Send {
        self.find(id)
    }

    /// Adds a record, if there is none with its id: `false` if there is.
    fn insert(&self, record: KeyRecord) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Replaces the record with the same id, if its stored revision is one less than
    /// that of the new one: `false` if it is another, or there is no such record.
    ///
    /// All fields are replaced, also by empty ones. The exception is `last_used`, which a store that
    /// implements [`KeyStore::note_uses`] may leave as it is.
    fn update(&self, record: KeyRecord) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes a record for good: that of a key that ended long ago. No error if there is
    /// none.
    fn remove(&self, id: KeyId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether [`KeyStore::note_uses`] is to be called. A store that implements it says
    /// `true` here; one whose records are shared, as those in memory are, need not: a use
    /// is noted in the record that was found.
    fn keeps_uses(&self) -> bool {
        false
    }

    /// Notes when keys were last used, each with its latest time, a batch a minute.
    ///
    /// An earlier time must not replace a later one, and the revision stays. They are
    /// coarse, and may be lost.
    fn note_uses(
        &self,
        uses: Vec<(KeyId, Timestamp)>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = uses;
        async { Ok(()) }
    }

    /// How old an answer of [`KeyStore::find`] may be, at the most. Zero by default:
    /// stores that read from replicas or caches must say more, since this is what
    /// operators are told about how fast a revocation holds.
    fn staleness(&self) -> Duration {
        Duration::ZERO
    }

    /// Within this, what is changed here is seen on every node that is set up like this
    /// one: [`KeyStore::staleness`], unless other ways to the same records are slower.
    fn settles_within(&self) -> Duration {
        self.staleness()
    }

    /// How long [`KeyStore::find`] may take by its own rule. None by default: then it is
    /// held to a deadline from outside. A store that has something to say when its time
    /// is over, as [`Cached`](crate::keys::Cached) may have, must not be held to another.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// The records that the filter lets through, in the order of their ids.
    fn list(&self, filter: KeyFilter) -> impl Future<Output = Result<KeyPage, StoreError>> + Send;
}

/// The answer of a store within its own deadline or, if it has none, within that limit.
pub(crate) async fn find_within<S: KeyStore>(
    store: &S,
    id: KeyId,
    timer: &Timer,
    limit: Duration,
) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
    if store.deadline().is_some() {
        return Some(store.find(id).await);
    }
    timer.within(limit, store.find(id)).await
}

/// Which records to list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyFilter {
    /// Only keys of this owner.
    pub owner: Option<String>,
    /// Only keys of this tenant.
    pub tenant: Option<String>,
    /// Only records that come after this id: the last one of the page before.
    pub after: Option<KeyId>,
    /// At most so many records.
    pub limit: usize,
}

impl Default for KeyFilter {
    fn default() -> Self {
        Self {
            owner: None,
            tenant: None,
            after: None,
            limit: 100,
        }
    }
}

impl KeyFilter {
    /// All keys, a hundred a page.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys of an owner.
    #[must_use]
    pub fn of_owner(owner: impl Into<String>) -> Self {
        Self {
            owner: Some(owner.into()),
            ..Self::default()
        }
    }

    /// Only those of this tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Continues behind this id.
    #[must_use]
    pub fn after(mut self, id: KeyId) -> Self {
        self.after = Some(id);
        self
    }

    /// Sets the size of a page, of one at the least.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.max(1);
        self
    }

    /// Whether a record belongs to the listing, not looking at the limit.
    #[must_use]
    pub fn admits(&self, record: &KeyRecord) -> bool {
        self.owner
            .as_ref()
            .is_none_or(|owner| *owner == record.owner)
            && self
                .tenant
                .as_ref()
                .is_none_or(|tenant| record.tenant.as_ref() == Some(tenant))
            && self.after.is_none_or(|after| record.id > after)
    }
}

/// A page of records.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct KeyPage {
    /// The records.
    pub records: Vec<Arc<KeyRecord>>,
    /// Where the next page starts, if there may be one: give it to
    /// [`KeyFilter::after`].
    pub next: Option<KeyId>,
}

impl KeyPage {
    /// A page; `more` says whether the listing goes on behind it.
    #[must_use]
    pub fn new(records: Vec<Arc<KeyRecord>>, more: bool) -> Self {
        let next = records.last().filter(|_| more).map(|record| record.id);
        Self { records, next }
    }
}

/// A store could not answer. The client gets 503 and learns no more. What the source
/// says is written to the log, so it must have no password of a connection in it.
#[derive(Clone, Debug)]
pub struct StoreError(Arc<dyn StdError + Send + Sync>);

impl StoreError {
    /// The store cannot be reached, or failed.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into().into())
    }
}

impl StoreError {
    /// What the store said, for the log.
    pub(crate) fn reason(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key store is unavailable")
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}
