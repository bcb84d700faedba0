//! Ending all keys of an owner.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::keys::{
    EndCause, KeyError, KeyFilter, KeyId, KeyPage, KeyRecord, KeyState, KeyStore, KeyUpdate,
    MemoryKeys, NewKey, Rotation, StoreError,
};

use crate::support::{clock, keys_over};

/// A store with faults for chosen keys and listings.
#[derive(Clone, Default)]
struct Faulty {
    memory: MemoryKeys,
    failing: Arc<Mutex<HashSet<KeyId>>>,
    contended: Arc<Mutex<HashSet<KeyId>>>,
    ignores_filters: bool,
    repeats_pages: bool,
    fails_after_pages: Arc<Mutex<Option<usize>>>,
    /// The number of keys that are yet to be stored, one for each key that is changed.
    successors: Arc<Mutex<usize>>,
    /// The page that each listing returns, once it was listed, if listings lag.
    lagging: Option<Arc<Mutex<Option<KeyPage>>>>,
}

impl KeyStore for Faulty {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.memory.find(id).await
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.memory.insert(record).await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        if self.failing.lock().unwrap().contains(&record.id) {
            return Err(StoreError::unavailable("read only"));
        }
        if self.contended.lock().unwrap().contains(&record.id) {
            return Ok(false);
        }
        let successor = KeyRecord {
            id: format!("{:012}", *self.successors.lock().unwrap())
                .parse()
                .unwrap(),
            ended: None,
            ..record.clone()
        };
        let updated = self.memory.update(record).await?;
        let next = self.successors.lock().unwrap().checked_sub(1);
        if let Some(left) = next {
            *self.successors.lock().unwrap() = left;
            self.memory.insert(successor).await?;
        }
        Ok(updated)
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.memory.remove(id).await
    }

    async fn list(&self, mut filter: KeyFilter) -> Result<KeyPage, StoreError> {
        if let Some(pages) = &mut *self.fails_after_pages.lock().unwrap() {
            *pages = pages
                .checked_sub(1)
                .ok_or_else(|| StoreError::unavailable("gone"))?;
        }
        if self.ignores_filters {
            filter.owner = None;
            filter.tenant = None;
        }
        if self.repeats_pages {
            filter.after = None;
        }
        let Some(lagging) = &self.lagging else {
            return self.memory.list(filter).await;
        };
        if lagging.lock().unwrap().is_none() {
            let page = self.memory.list(filter).await?;
            *lagging.lock().unwrap() = Some(page);
        }
        Ok(lagging.lock().unwrap().clone().unwrap())
    }
}

#[tokio::test]
async fn end_owner_ends_all_keys_of_that_owner_only() {
    for ignores_filters in [false, true] {
        let clock = clock();
        let store = Faulty {
            ignores_filters,
            ..Faulty::default()
        };
        let keys = keys_over(store).clock(clock.clone());
        let issue = async |new: NewKey| keys.issue(new).await.unwrap().record.id;
        let alice = || NewKey::for_owner("alice");
        // More than two pages.
        let mut owned = Vec::new();
        for _ in 0..250 {
            owned.push(issue(alice()).await);
        }
        owned.push(issue(alice().tenant("emea")).await);
        owned.push(issue(alice().not_before(clock.now().saturating_add(Duration::MAX))).await);
        let disabled = issue(alice()).await;
        keys.disable(disabled).await.unwrap();
        owned.push(disabled);
        let retiring = issue(alice()).await;
        let rotation = Rotation::with_grace(Duration::from_secs(60));
        let successor = keys.rotate(retiring, rotation).await.unwrap().record.id;
        owned.extend([retiring, successor]);
        let revoked = issue(alice()).await;
        keys.revoke(revoked).await.unwrap();
        let others = [
            issue(NewKey::for_owner("bob")).await,
            issue(NewKey::for_owner("Alice")).await,
            issue(NewKey::for_owner("alice2").tenant("alice")).await,
        ];
        assert_eq!(keys.end_owner("alice").await.unwrap(), owned.len());
        assert_eq!(keys.end_owner("alice").await.unwrap(), 0);
        let state = async |id| keys.get(id).await.unwrap().unwrap().state(clock.now());
        for id in owned {
            let ended = KeyState::Ended(EndCause::OwnerRemoved);
            assert_eq!(state(id).await, ended);
        }
        assert_eq!(state(revoked).await, KeyState::Ended(EndCause::Revoked));
        for id in others {
            assert_eq!(state(id).await, KeyState::Active);
        }
        assert_eq!(keys.end_owner("nobody").await.unwrap(), 0);
    }
}

#[tokio::test]
async fn end_owner_can_be_limited_to_a_tenant() {
    let keys = keys_over(MemoryKeys::new());
    let alice = || NewKey::for_owner("alice");
    let emea = keys.issue(alice().tenant("emea")).await.unwrap().record.id;
    let apac = keys.issue(alice().tenant("apac")).await.unwrap().record.id;
    let none = keys.issue(alice()).await.unwrap().record.id;
    assert_eq!(keys.end_owner_in_tenant("alice", "emea").await.unwrap(), 1);
    for (id, ended) in [(emea, true), (apac, false), (none, false)] {
        assert_eq!(keys.get(id).await.unwrap().unwrap().ended.is_some(), ended);
    }
}

#[tokio::test]
async fn end_owner_continues_past_failures_and_reports_them() {
    let store = Faulty::default();
    let keys = keys_over(store.clone());
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(keys.issue(NewKey::for_owner("a")).await.unwrap().record.id);
    }
    ids.sort();
    store.failing.lock().unwrap().insert(ids[0]);
    store.contended.lock().unwrap().insert(ids[2]);
    let error = keys.end_owner("a").await.unwrap_err();
    assert_eq!(error.ended, 3);
    assert!(error.listing.is_none());
    let failed: Vec<_> = error
        .failed
        .iter()
        .map(|(id, error)| (*id, error))
        .collect();
    assert!(
        matches!(
            failed[..],
            [(first, KeyError::Store(_)), (second, KeyError::Conflict)]
                if first == ids[0] && second == ids[2]
        ),
        "{failed:?}"
    );
    assert_eq!(error.status(), 503);
    assert!(std::error::Error::source(&error).is_some());
    assert!(
        error
            .to_string()
            .contains("3 keys of the owner were ended; 2 failed")
    );
    store.failing.lock().unwrap().clear();
    store.contended.lock().unwrap().clear();
    assert_eq!(keys.end_owner("a").await.unwrap(), 2);
}

#[tokio::test]
async fn incomplete_listing_is_an_error_of_end_owner() {
    let store = Faulty::default();
    let keys = keys_over(store.clone());
    for _ in 0..150 {
        keys.issue(NewKey::for_owner("a")).await.unwrap();
    }
    *store.fails_after_pages.lock().unwrap() = Some(1);
    let error = keys.end_owner("a").await.unwrap_err();
    assert_eq!((error.ended, error.failed.len()), (100, 0));
    assert!(matches!(error.listing, Some(KeyError::Store(_))));
    *store.fails_after_pages.lock().unwrap() = None;
    assert_eq!(keys.end_owner("a").await.unwrap(), 50);
}

#[tokio::test]
async fn store_that_repeats_pages_does_not_loop_forever() {
    let store = Faulty {
        repeats_pages: true,
        ..Faulty::default()
    };
    let keys = keys_over(store);
    for _ in 0..150 {
        keys.issue(NewKey::for_owner("a")).await.unwrap();
    }
    let error = keys.end_owner("a").await.unwrap_err();
    assert!(matches!(error.listing, Some(KeyError::Store(_))));
    let purged = keys.purge(clock().now()).await.unwrap_err();
    assert!(matches!(purged, KeyError::Store(_)));
    // One key at a time still works.
    let page = keys.list(KeyFilter::all().limit(1)).await.unwrap();
    let id = page.records[0].id;
    let ended = keys.update(id, KeyUpdate::new()).await.unwrap_err();
    assert!(matches!(ended, KeyError::Lifecycle(_)));
}

#[tokio::test]
async fn end_owner_counts_what_it_changed_if_listings_lag() {
    let store = Faulty {
        lagging: Some(Arc::default()),
        ..Faulty::default()
    };
    let keys = keys_over(store);
    for _ in 0..3 {
        keys.issue(NewKey::for_owner("a")).await.unwrap();
    }
    assert_eq!(keys.end_owner("a").await.unwrap(), 3);
    assert_eq!(keys.end_owner("a").await.unwrap(), 0);
}

#[tokio::test]
async fn successor_stored_during_a_listing_is_ended() {
    let store = Faulty::default();
    let keys = keys_over(store.clone());
    keys.issue(NewKey::for_owner("a")).await.unwrap();
    *store.successors.lock().unwrap() = 3;
    assert_eq!(keys.end_owner("a").await.unwrap(), 4);
    let listed = keys.list(KeyFilter::of_owner("a")).await.unwrap().records;
    assert_eq!(listed.len(), 4);
    assert!(listed.iter().all(|record| record.ended.is_some()));
}

#[tokio::test]
async fn endless_successors_are_an_error_of_end_owner() {
    let store = Faulty::default();
    let keys = keys_over(store.clone());
    keys.issue(NewKey::for_owner("a")).await.unwrap();
    *store.successors.lock().unwrap() = 1_000;
    let error = keys.end_owner("a").await.unwrap_err();
    assert_eq!((error.ended, error.failed.len()), (8, 0));
    assert!(matches!(error.listing, Some(KeyError::Conflict)));
    assert_eq!(*store.successors.lock().unwrap(), 1_000 - 8);
    // The stream has an end after all.
    *store.successors.lock().unwrap() = 0;
    assert_eq!(keys.end_owner("a").await.unwrap(), 1);
}
