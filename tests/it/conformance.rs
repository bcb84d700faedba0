//! The contract of stores: those of this crate keep it, and those that do not are found out.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tollgate::clock::Timestamp;
use tollgate::keys::{
    Cached, KeyFilter, KeyId, KeyPage, KeyRecord, KeyStore, MemoryKeys, StoreError,
};
use tollgate::testing::key_store_conforms;

use crate::support::{Script, Scripted};

#[tokio::test]
async fn every_store_keeps_the_contract() {
    key_store_conforms(async || MemoryKeys::new()).await;
    key_store_conforms(async || Scripted::new(Script::Later)).await;
    key_store_conforms(async || Cached::new(MemoryKeys::new())).await;
    key_store_conforms(async || {
        Cached::new(Scripted::new(Script::Later)).stale_on_error(Duration::from_secs(60))
    })
    .await;
    key_store_conforms(async || Cached::new(MemoryKeys::new()).strict()).await;
}

/// What a store in memory does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    /// What it knows at once is what was inserted.
    NowIsOld,
    /// What it knows at once, it knows of removed keys too.
    NowIsForever,
    /// It looks whether an id is free, and inserts a moment later.
    LooksThenInserts,
    /// It compares revisions, and writes a moment later.
    LooksThenUpdates,
    /// What it finds is old, not so what is asked for changes.
    FindsOld,
    KeepsNoRoles,
}

struct Faulty {
    fault: Fault,
    memory: MemoryKeys,
    known: Mutex<HashMap<KeyId, Arc<KeyRecord>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            memory: MemoryKeys::new(),
            known: Mutex::default(),
        }
    }

    fn known(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.known.lock().unwrap().get(&id).cloned()
    }

    /// Replaces whatever is there.
    async fn put(&self, record: KeyRecord) {
        self.memory.remove(record.id).await.unwrap();
        self.memory.insert(record).await.unwrap();
    }
}

impl KeyStore for Faulty {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        if self.fault == Fault::FindsOld {
            return Ok(self.known(id));
        }
        self.memory.find(id).await
    }

    async fn find_latest(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.memory.find(id).await
    }

    fn find_now(
        &self,
        id: KeyId,
        _: Timestamp,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        let is_asked = matches!(self.fault, Fault::NowIsOld | Fault::NowIsForever);
        let known = self.known(id).filter(|_| is_asked)?;
        Some(Ok(Some(known)))
    }

    async fn insert(&self, mut record: KeyRecord) -> Result<bool, StoreError> {
        let known = Arc::new(record.clone());
        if self.fault == Fault::KeepsNoRoles {
            record.roles.clear();
        }
        if self.fault == Fault::LooksThenInserts {
            let is_taken = self.memory.find(record.id).await?.is_some();
            tokio::task::yield_now().await;
            if !is_taken {
                self.put(record).await;
            }
            return Ok(!is_taken);
        }
        let inserted = self.memory.insert(record).await?;
        if inserted {
            self.known.lock().unwrap().insert(known.id, known);
        }
        Ok(inserted)
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        let known = Arc::new(record.clone());
        if self.fault == Fault::LooksThenUpdates {
            let held = self.memory.find(record.id).await?;
            tokio::task::yield_now().await;
            let fits = held.is_some_and(|held| held.revision + 1 == record.revision);
            if fits {
                self.put(record).await;
            }
            return Ok(fits);
        }
        let updated = self.memory.update(record).await?;
        if updated && self.fault == Fault::NowIsForever {
            self.known.lock().unwrap().insert(known.id, known);
        }
        Ok(updated)
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        if self.fault != Fault::NowIsForever {
            self.known.lock().unwrap().remove(&id);
        }
        self.memory.remove(id).await
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.memory.list(filter).await
    }
}

#[tokio::test]
async fn a_store_that_breaks_the_contract_is_found_out() {
    key_store_conforms(async || Faulty::new(Fault::None)).await;
    for fault in [
        Fault::NowIsOld,
        Fault::NowIsForever,
        Fault::LooksThenInserts,
        Fault::LooksThenUpdates,
        Fault::FindsOld,
        Fault::KeepsNoRoles,
    ] {
        let run = key_store_conforms(async || Faulty::new(fault));
        let found_out = AssertUnwindSafe(run).catch_unwind().await.is_err();
        assert!(found_out, "{fault:?}");
    }
}

#[tokio::test]
async fn a_cache_that_is_not_told_of_changes_is_found_out() {
    /// Reads through the cache, and writes behind its back.
    struct BehindItsBack(Cached<MemoryKeys>, MemoryKeys);

    impl KeyStore for BehindItsBack {
        async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
            self.0.find(id).await
        }

        fn find_now(
            &self,
            id: KeyId,
            now: Timestamp,
        ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
            self.0.find_now(id, now)
        }

        async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
            self.0.insert(record).await
        }

        async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
            self.1.update(record).await
        }

        async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
            self.0.remove(id).await
        }

        async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
            self.0.list(filter).await
        }
    }

    let run = key_store_conforms(async || {
        let memory = MemoryKeys::new();
        BehindItsBack(Cached::new(memory.clone()), memory)
    });
    assert!(AssertUnwindSafe(run).catch_unwind().await.is_err());
}
