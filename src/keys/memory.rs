//! [`MemoryKeys`]: records in this process.

use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use papaya::{Compute, HashMap, Operation};

use crate::clock::Timestamp;
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::keys::store::{KeyFilter, KeyPage, KeyStore, StoreError};

/// A store in memory: for tests, demos, and keys that come from configuration.
///
/// Reads take no lock. It grows with the keys that are inserted, never with the
/// requests that are made, and forgets everything with the process. Clones share the
/// records.
#[derive(Clone, Default)]
pub struct MemoryKeys {
    // Ids are drawn by this crate, so nobody chooses what collides.
    records: Arc<HashMap<KeyId, Arc<KeyRecord>, RandomState>>,
}

impl MemoryKeys {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn get(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.records.pin().get(&id).cloned()
    }

    pub(crate) fn insert_now(&self, record: KeyRecord) -> bool {
        self.records
            .pin()
            .try_insert(record.id, Arc::new(record))
            .is_ok()
    }
}

impl KeyStore for MemoryKeys {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        Ok(self.get(id))
    }

    fn find_now(
        &self,
        id: KeyId,
        _: Timestamp,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        Some(Ok(self.get(id)))
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        Ok(self.insert_now(record))
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        let record = Arc::new(record);
        let records = self.records.pin();
        let outcome = records.compute(record.id, |held| match held {
            Some((_, held)) if held.revision.checked_add(1) == Some(record.revision) => {
                Operation::Insert(Arc::clone(&record))
            }
            _ => Operation::Abort(()),
        });
        Ok(matches!(outcome, Compute::Updated { .. }))
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.records.pin().remove(&id);
        Ok(())
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        let mut records: Vec<_> = self
            .records
            .pin()
            .values()
            .filter(|record| filter.admits(record))
            .map(Arc::clone)
            .collect();
        records.sort_unstable_by_key(|record| record.id);
        let more = records.len() > filter.limit;
        records.truncate(filter.limit);
        Ok(KeyPage::new(records, more))
    }
}

impl fmt::Debug for MemoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKeys")
            .field("len", &self.records.len())
            .finish()
    }
}
