//! A test suite for implementations of [`KeyStore`].

mod listing;
mod updating;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::keys::{EndCause, Ended, KeyFilter, KeyId, KeyMac, KeyRecord, KeyStore, Rotated};
use crate::restriction::Restrictions;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// Tests a store against the contract of [`KeyStore`]. `empty` returns a store without records each
/// time it is called.
///
/// The number of calls is bounded, whatever the store returns. A call that never completes blocks the
/// test: run it under a timeout of the test runner.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use tollgate::keys::MemoryKeys;
///
/// tollgate::testing::key_store_conforms(async || MemoryKeys::new()).await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
/// Panics if the store violates the contract. The text names the method and the fault.
pub async fn key_store_conforms<S: KeyStore>(empty: impl AsyncFn() -> S) {
    keeps_all_that_it_is_given(&empty().await).await;
    inserts_only_what_is_not_there(&empty().await).await;
    updates_only_what_nobody_changed(&empty().await).await;
    removes_for_good(&empty().await).await;
    compares_texts_byte_by_byte(&empty().await).await;
    listing::lists_a_page_at_a_time(&empty().await).await;
    updating::replaces_all_fields(&empty().await).await;
    notes_the_latest_use(&empty().await).await;
    takes_one_of_many_at_once(&Arc::new(empty().await)).await;
    inserts_one_of_many_at_once(&Arc::new(empty().await)).await;
}

async fn keeps_all_that_it_is_given<S: KeyStore>(store: &S) {
    let plain = record(1, "alice");
    let full = full_record(2);
    for record in [&plain, &full] {
        assert!(
            store.insert(record.clone()).await.expect("insert"),
            "a new id is inserted"
        );
        let held = find(store, record.id)
            .await
            .expect("what was inserted is found");
        assert_eq!(
            text(&held),
            text(record),
            "a record comes back as it was given"
        );
    }
    assert!(
        find(store, id(3)).await.is_none(),
        "an unknown id is not found"
    );
}

async fn inserts_only_what_is_not_there<S: KeyStore>(store: &S) {
    let first = record(1, "alice");
    let second = KeyRecord {
        owner: "bob".into(),
        ..first.clone()
    };
    assert!(store.insert(first.clone()).await.expect("insert"));
    assert!(
        !store.insert(second).await.expect("insert"),
        "an id that is taken is not inserted"
    );
    let held = find(store, first.id).await.expect("it is there");
    assert_eq!(held.owner, "alice", "and what was there stays");
}

async fn updates_only_what_nobody_changed<S: KeyStore>(store: &S) {
    let first = record(1, "alice");
    assert!(
        !store.update(first.clone()).await.expect("update"),
        "nothing is there to update"
    );
    store.insert(first.clone()).await.expect("insert");
    let held = find(store, first.id).await.expect("it is there");
    assert_eq!(held.revision, first.revision);
    let next = |by: u64, plan: &str| KeyRecord {
        revision: first.revision + by,
        plan: Some(plan.into()),
        ..first.clone()
    };
    assert!(
        !store.update(next(0, "same")).await.expect("update"),
        "the same revision is no change"
    );
    assert!(
        !store.update(next(2, "ahead")).await.expect("update"),
        "a revision was skipped"
    );
    assert!(
        store.update(next(1, "mine")).await.expect("update"),
        "the next revision is taken"
    );
    assert!(
        !store.update(next(1, "theirs")).await.expect("update"),
        "and taken once"
    );
    let held = find(store, first.id).await.expect("it is there");
    assert_eq!(
        (held.plan.as_deref(), held.revision),
        (Some("mine"), first.revision + 1)
    );
}

async fn removes_for_good<S: KeyStore>(store: &S) {
    let one = record(1, "alice");
    store.insert(one.clone()).await.expect("insert");
    assert!(find(store, one.id).await.is_some());
    store.remove(one.id).await.expect("remove");
    assert!(
        find(store, one.id).await.is_none(),
        "what was removed is not found"
    );
    store
        .remove(one.id)
        .await
        .expect("removing it again is no error");
    assert!(
        store.insert(one.clone()).await.expect("insert"),
        "its id is free again"
    );
    assert!(find(store, one.id).await.is_some());
    store.remove(one.id).await.expect("remove");
    let listed = store.list(KeyFilter::all()).await.expect("list");
    assert!(listed.records.is_empty(), "nor listed");
}

/// Ids, owners and tenants that some databases compare as equal.
async fn compares_texts_byte_by_byte<S: KeyStore>(store: &S) {
    let upper: KeyId = "AAAAAAAAAAAA".parse().expect("an id");
    let lower: KeyId = "aaaaaaaaaaaa".parse().expect("an id");
    let mixed: KeyId = "aAaAaAaAaAaA".parse().expect("an id");
    let of = |id: KeyId, owner: &str| KeyRecord {
        id,
        tenant: Some(format!("{owner}-tenant")),
        ..record(1, owner)
    };
    let first = of(upper, "alice");
    store.insert(first.clone()).await.expect("insert");
    for other in [lower, mixed] {
        assert!(
            find(store, other).await.is_none(),
            "`find` returns key {upper} for id {other}: ids are compared without case; compare them \
             byte by byte, in SQL with a binary collation"
        );
    }
    assert!(
        store.insert(of(lower, "Alice")).await.expect("insert"),
        "`insert` finds id {lower} taken by key {upper}: ids are compared without case; compare them \
         byte by byte, in SQL with a binary collation"
    );
    let next = KeyRecord {
        revision: first.revision + 1,
        ..of(mixed, "alice")
    };
    assert!(
        !store.update(next).await.expect("update"),
        "`update` takes id {mixed} for another key: ids are compared without case"
    );
    store.remove(mixed).await.expect("remove");
    for id in [upper, lower] {
        assert!(
            find(store, id).await.is_some_and(|held| held.id == id),
            "key {id} is gone or changed after a command for {mixed}: ids are compared without case"
        );
    }
    for (filter, owner) in [
        (KeyFilter::of_owner("alice"), "alice"),
        (KeyFilter::of_owner("Alice"), "Alice"),
        (KeyFilter::all().tenant("alice-tenant"), "alice"),
        (KeyFilter::of_owner("ALICE"), ""),
        (KeyFilter::of_owner("alice "), ""),
        (KeyFilter::all().tenant("ALICE-tenant"), ""),
    ] {
        let listed = store.list(filter.clone()).await.expect("list").records;
        let owners: Vec<_> = listed.iter().map(|record| &*record.owner).collect();
        let expected: &[&str] = if owner.is_empty() { &[] } else { &[owner] };
        assert_eq!(
            owners, expected,
            "`list` with {filter:?} returns keys of other owners or tenants, or leaves keys out: \
             owners and tenants are compared byte by byte, with case and trailing spaces"
        );
    }
}

async fn notes_the_latest_use<S: KeyStore>(store: &S) {
    let one = record(1, "alice");
    store.insert(one.clone()).await.expect("insert");
    let later = NOW.saturating_add(Duration::from_secs(600));
    store
        .note_uses(vec![(one.id, later), (id(9), later)])
        .await
        .expect("note");
    store.note_uses(vec![(one.id, NOW)]).await.expect("note");
    let held = find(store, one.id).await.expect("it is there");
    let noted = held.last_used.get();
    assert!(
        !store.keeps_uses() || noted.is_some(),
        "what is said to be kept is kept"
    );
    assert!(
        noted.is_none() || noted == Some(later),
        "an earlier use replaces no later one"
    );
    assert_eq!(
        held.revision, one.revision,
        "a use is no change of the record"
    );
}

async fn takes_one_of_many_at_once<S: KeyStore>(store: &Arc<S>) {
    let first = record(1, "alice");
    store.insert(first.clone()).await.expect("insert");
    let mut tasks = Vec::new();
    for n in 0..16 {
        let (store, first) = (Arc::clone(store), first.clone());
        tasks.push(tokio::spawn(async move {
            let plan = Some(n.to_string());
            let next = KeyRecord {
                revision: first.revision + 1,
                plan,
                ..first
            };
            store.update(next).await.expect("update")
        }));
    }
    let mut taken = 0;
    for task in tasks {
        taken += usize::from(task.await.expect("the store does not panic"));
    }
    assert_eq!(taken, 1, "of many changes of one revision, one is taken");
}

async fn inserts_one_of_many_at_once<S: KeyStore>(store: &Arc<S>) {
    let mut tasks = Vec::new();
    for n in 0..16 {
        let store = Arc::clone(store);
        tasks.push(tokio::spawn(async move {
            let new = record(1, &n.to_string());
            let owner = new.owner.clone();
            let inserted = store.insert(new).await.expect("insert");
            inserted.then_some(owner)
        }));
    }
    let mut inserted = Vec::new();
    for task in tasks {
        inserted.extend(task.await.expect("the store does not panic"));
    }
    assert_eq!(
        inserted.len(),
        1,
        "of many records of one id, one is inserted"
    );
    let held = find(&**store, id(1)).await.expect("it is there");
    assert_eq!(held.owner, inserted[0], "and it is the one that is found");
}

/// What all ways to a record agree on.
async fn find<S: KeyStore>(store: &S, id: KeyId) -> Option<Arc<KeyRecord>> {
    let found = store.find(id).await.expect("find");
    let as_text = found.as_deref().map(text);
    let latest = store.find_latest(id).await.expect("find_latest");
    assert_eq!(
        latest.as_deref().map(text),
        as_text,
        "what is found is what is stored"
    );
    // By the clock of this machine: one that is ahead makes caches forget.
    if let Some(now) = store.find_now(id, SystemClock.now()) {
        let now = now.expect("find_now");
        assert_eq!(
            now.as_deref().map(text),
            as_text,
            "what is known at once is what is found"
        );
    }
    found
}

/// All of a record but what is computed from it.
fn text(record: &KeyRecord) -> String {
    serde_json::to_string(record).expect("a record is text and numbers")
}

fn id(n: u32) -> KeyId {
    format!("{n:012}").parse().expect("digits")
}

fn record(n: u32, owner: &str) -> KeyRecord {
    KeyRecord {
        id: id(n),
        head: "acme_live".into(),
        mac: KeyMac::from_bytes([n as u8; 32]),
        mac_alg: Default::default(),
        pepper_version: 1,
        owner: owner.into(),
        tenant: None,
        name: String::new(),
        scopes: Default::default(),
        roles: Vec::new(),
        plan: None,
        metadata: BTreeMap::new(),
        created_by: None,
        created_at: NOW,
        not_before: None,
        expires_at: None,
        disabled_at: None,
        ended: None,
        rotated_from: None,
        rotated: None,
        restrictions: Restrictions::default(),
        last_used: Default::default(),
        revision: 7,
        identity: Default::default(),
    }
}

/// A record in which nothing is left out, with all that a careless encoding breaks.
fn full_record(n: u32) -> KeyRecord {
    let odd = "o'\"\\;--\u{0}\n\u{1f600}".to_owned();
    KeyRecord {
        tenant: Some(odd.clone()),
        name: odd.clone(),
        scopes: "orders:read orders:write".parse().expect("scopes"),
        roles: vec!["clerk".into(), odd.clone()],
        plan: Some("pro".into()),
        metadata: BTreeMap::from([(odd.clone(), odd.clone())]),
        created_by: Some(odd),
        not_before: Some(NOW),
        expires_at: Some(NOW.saturating_add(Duration::from_secs(86_400))),
        disabled_at: Some(NOW),
        ended: Some(Ended {
            at: NOW,
            cause: EndCause::Compromised,
        }),
        rotated_from: Some(id(n + 1)),
        rotated: Some(Rotated {
            at: NOW,
            to: id(n + 2),
            grace_until: NOW,
        }),
        restrictions: Restrictions {
            networks: vec!["10.0.0.0/8".parse().expect("a network")],
            methods: vec!["GET".into()],
            referrers: vec!["https://app.example.com".into()],
        },
        last_used: Some(NOW).into(),
        revision: u64::from(u32::MAX),
        ..record(n, "Ωwner")
    }
}
