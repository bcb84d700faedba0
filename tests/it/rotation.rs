//! Rotations that are repeated, broken off, or meet other changes halfway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate::ApiKeys;
use tollgate::clock::{Clock, ManualClock};
use tollgate::keys::{
    KeyError, KeyFilter, KeyId, KeyPage, KeyRecord, KeyStore, KeyUpdate, LifecycleError,
    MemoryKeys, NewKey, Rotation, StoreError,
};

use crate::support::{Script, Scripted, clock, keys_over, node, peppers};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn repeatable() -> Rotation {
    Rotation::with_grace(seconds(60)).token("b7f5a1d0-3")
}

async fn stored(store: &MemoryKeys, id: KeyId) -> Arc<KeyRecord> {
    store.find(id).await.unwrap().unwrap()
}

/// All of a record but what is computed from it.
fn text(record: &KeyRecord) -> String {
    serde_json::to_string(record).unwrap()
}

#[tokio::test]
async fn a_token_that_is_repeated_on_another_node_leads_to_the_same_successor_which_stays_good() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (node(&store, &clock), node(&store, &clock));
    let old = here.issue(NewKey::for_owner("alice")).await.unwrap();
    // What this node knows of the key is from before its rotation elsewhere.
    here.get(old.record.id).await.unwrap();
    let first = there.rotate(old.record.id, repeatable()).await.unwrap();
    clock.advance(seconds(5));
    let again = here.rotate(old.record.id, repeatable()).await.unwrap();
    assert_eq!(again.key.expose(), first.key.expose());
    let successor = stored(&store.memory, first.record.id).await;
    assert!(successor.state(clock.now()).is_good());
}

#[tokio::test]
async fn a_token_that_is_shown_twice_at_once_leads_to_one_successor() {
    // All of them have read the key before one of them has rotated it.
    let (store, clock) = (Scripted::new(Script::Slow(2)), clock());
    let keys = node(&store, &clock);
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let calls = (0..8).map(|_| keys.rotate(old.record.id, repeatable()));
    let all = futures_util::future::join_all(calls).await;
    let first = all[0].as_ref().unwrap();
    for issued in &all {
        let issued = issued.as_ref().unwrap();
        assert_eq!(issued.key.expose(), first.key.expose());
        let held = stored(&store.memory, issued.record.id).await;
        assert!(held.state(clock.now()).is_good());
        assert_eq!(text(&issued.record), text(&held), "what is told is stored");
    }
    let all = keys.list(KeyFilter::all()).await.unwrap();
    assert_eq!(all.records.len(), 2);
}

#[tokio::test]
async fn a_rotation_that_is_resumed_after_a_change_has_the_rights_of_now_and_tells_what_is_stored()
{
    let clock = clock();
    let store = Scripted::new(Script::Now);
    let keys = ApiKeys::new(store.clone(), peppers())
        .prefix("acme")
        .clock(clock.clone());
    let new = NewKey::for_owner("alice").scopes(["a", "admin"]);
    let old = keys.issue(new.expires_in(seconds(1_000))).await.unwrap();
    let id = old.record.id;
    for cut in [false, true] {
        store.fail_updates(true);
        let broken_off = keys.rotate(id, repeatable()).await;
        assert!(matches!(broken_off, Err(KeyError::Store(_))));
        store.fail_updates(false);
        clock.advance(seconds(100));
        if cut {
            keys.update(id, KeyUpdate::new().set_scopes(["a"]))
                .await
                .unwrap();
            let resumed = keys.rotate(id, repeatable()).await.unwrap();
            let held = stored(&store.memory, resumed.record.id).await;
            assert_eq!(text(&resumed.record), text(&held));
            assert_eq!(held.scopes.as_str(), "a");
            let again = keys.rotate(id, repeatable()).await.unwrap();
            assert_eq!(again.key.expose(), resumed.key.expose());
        }
    }
}

#[tokio::test]
async fn a_rotation_that_is_resumed_tells_the_record_that_it_stored_before() {
    let clock = clock();
    let store = Scripted::new(Script::Now);
    let keys = ApiKeys::new(store.clone(), peppers()).clock(clock.clone());
    let new = NewKey::for_owner("alice").expires_in(seconds(1_000));
    let id = keys.issue(new).await.unwrap().record.id;
    store.fail_updates(true);
    keys.rotate(id, repeatable()).await.unwrap_err();
    store.fail_updates(false);
    clock.advance(seconds(100));
    let resumed = keys.rotate(id, repeatable()).await.unwrap();
    let held = stored(&store.memory, resumed.record.id).await;
    assert_eq!(text(&resumed.record), text(&held));
    // One that would be over by now is of no use to anybody.
    let new = NewKey::for_owner("bob").expires_in(seconds(1_000));
    let id = keys.issue(new).await.unwrap().record.id;
    let short = || repeatable().expires_in(seconds(50));
    store.fail_updates(true);
    keys.rotate(id, short()).await.unwrap_err();
    store.fail_updates(false);
    clock.advance(seconds(100));
    let resumed = keys.rotate(id, short()).await.unwrap();
    assert!(resumed.record.state(clock.now()).is_good());
}

#[tokio::test]
async fn a_successor_that_would_be_over_at_once_is_not_issued() {
    let keys = keys_over(MemoryKeys::new());
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let rotation = Rotation::with_grace(seconds(60)).expires_in(Duration::ZERO);
    let refused = keys.rotate(old.record.id, rotation).await;
    assert!(matches!(refused, Err(KeyError::InvalidTimes(_))));
    let all = keys.list(KeyFilter::all()).await.unwrap();
    assert_eq!(all.records.len(), 1);
}

/// A store in memory in which somebody else is always a moment faster: the first update is
/// overtaken by a change.
#[derive(Clone, Default)]
struct Overtaken {
    memory: MemoryKeys,
    updates: Arc<AtomicUsize>,
    change: Arc<Mutex<Option<Change>>>,
}

type Change = fn(&mut KeyRecord);

impl KeyStore for Overtaken {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.memory.find(id).await
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.memory.insert(record).await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.updates.fetch_add(1, Ordering::SeqCst);
        let change = self.change.lock().unwrap().take();
        if let Some(change) = change {
            let mut faster = KeyRecord::clone(&*stored(&self.memory, record.id).await);
            change(&mut faster);
            faster.revision += 1;
            assert!(self.memory.update(faster).await?);
        }
        self.memory.update(record).await
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.memory.remove(id).await
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.memory.list(filter).await
    }
}

#[tokio::test]
async fn rights_that_are_cut_while_a_key_is_rotated_are_cut_from_its_successor() {
    for token in [None, Some("b7f5a1d0-4")] {
        let store = Overtaken::default();
        let keys = keys_over(store.clone());
        let new = NewKey::for_owner("alice").scopes(["a", "admin"]);
        let old = keys.issue(new).await.unwrap();
        *store.change.lock().unwrap() = Some(|record| record.scopes = "a".parse().unwrap());
        let mut rotation = Rotation::with_grace(seconds(60));
        if let Some(token) = token {
            rotation = rotation.token(token);
        }
        let issued = keys.rotate(old.record.id, rotation).await.unwrap();
        let held = stored(&store.memory, issued.record.id).await;
        assert_eq!(held.scopes.as_str(), "a");
        assert_eq!(issued.record.scopes.as_str(), "a");
        let named = stored(&store.memory, old.record.id).await;
        assert_eq!(named.rotated.as_ref().unwrap().to, issued.record.id);
        assert_eq!(store.updates.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_key_that_is_ended_while_it_is_rotated_has_no_successor() {
    let store = Overtaken::default();
    let keys = keys_over(store.clone());
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    *store.change.lock().unwrap() = Some(|record| {
        let (at, cause) = (record.created_at, tollgate::keys::EndCause::Revoked);
        record.ended = Some(tollgate::keys::Ended { at, cause });
    });
    let refused = keys
        .rotate(old.record.id, Rotation::with_grace(seconds(60)))
        .await;
    assert!(matches!(
        refused,
        Err(KeyError::Lifecycle(LifecycleError::Ended(_)))
    ));
    let all = keys.list(KeyFilter::all()).await.unwrap();
    assert_eq!(all.records.len(), 1, "and what was stored of one is gone");
}

#[tokio::test]
async fn a_rotation_copies_what_another_node_has_made_of_the_key() {
    let (store, clock): (_, ManualClock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (node(&store, &clock), node(&store, &clock));
    let new = NewKey::for_owner("alice").scopes(["a", "admin"]);
    let id = here.issue(new).await.unwrap().record.id;
    here.get(id).await.unwrap();
    there
        .update(id, KeyUpdate::new().set_scopes(["a"]))
        .await
        .unwrap();
    let successor = here
        .rotate(id, Rotation::with_grace(seconds(60)))
        .await
        .unwrap();
    let held = stored(&store.memory, successor.record.id).await;
    assert_eq!(held.scopes.as_str(), "a");
}
