//! The end of a credential while its request goes on.

use std::time::Duration;

use http::Request;
use tokio::time::{Instant, advance, timeout};
use tollgate::clock::ManualClock;
use tollgate::keys::{Cached, KeyStore, MemoryKeys, NewKey, Rotation};
use tollgate::lapse::Lapse;
use tollgate::{ApiKeys, AuthLayer, Identity};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{NOW, Script, Scripted, clock, peppers, send, who, with};

const LONG: Duration = Duration::from_secs(3_600);

/// Who a key stands for, as a handler gets to know.
async fn identity<S: KeyStore>(keys: &ApiKeys<S>, key: &str, clock: &ManualClock) -> Identity {
    let service = AuthLayer::new(keys.clone())
        .clock(clock.clone())
        .layer(service_fn(async |request: Request<()>| {
            let identity = request.extensions().get::<Identity>().unwrap().clone();
            let mut response = http::Response::new(());
            response.extensions_mut().insert(identity);
            Ok::<_, std::convert::Infallible>(response)
        }));
    let request = Request::get("/").header("x-api-key", key).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.extensions().get::<Identity>().unwrap().clone()
}

fn keys_at<S: KeyStore>(store: S, clock: &ManualClock) -> ApiKeys<S> {
    ApiKeys::new(store, peppers())
        .prefix("acme")
        .clock(clock.clone())
}

/// Lets both clocks run, a second at a time, and says how long it took.
async fn run<T>(
    clock: &ManualClock,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<(T, Duration)> {
    let start = Instant::now();
    let ticking = async {
        loop {
            advance(Duration::from_secs(1)).await;
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = timeout(limit, future) => done.ok().map(|done| (done, start.elapsed())),
        () = ticking => None,
    }
}

#[tokio::test(start_paused = true)]
async fn it_completes_when_the_key_expires_and_not_before() {
    let clock = clock();
    let keys = keys_at(MemoryKeys::new(), &clock);
    let new = NewKey::for_owner("ann").expires_at(NOW.saturating_add(Duration::from_secs(60)));
    let issued = keys.issue(new).await.unwrap();
    let identity = identity(&keys, issued.key.expose(), &clock).await;
    let (lapse, took) = run(&clock, LONG, identity.lapsed()).await.unwrap();
    assert_eq!(lapse, Lapse::Expired);
    assert!((60..=61).contains(&took.as_secs()), "{took:?}");
    // Once it is over, it is over at once.
    assert_eq!(identity.lapsed().await, Lapse::Expired);
}

#[tokio::test(start_paused = true)]
async fn what_this_node_changes_is_known_at_once() {
    let clock = clock();
    let keys = keys_at(MemoryKeys::new(), &clock);
    for disable in [false, true] {
        let issued = keys.issue(NewKey::for_owner("ann")).await.unwrap();
        let other = keys.issue(NewKey::for_owner("bob")).await.unwrap();
        let identity = identity(&keys, issued.key.expose(), &clock).await;
        let lapsed = tokio::spawn(identity.lapsed());
        tokio::task::yield_now().await;
        let start = Instant::now();
        keys.revoke(other.record.id).await.unwrap();
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        assert!(!lapsed.is_finished(), "that was another key");
        if disable {
            keys.disable(issued.record.id).await.unwrap();
        } else {
            keys.revoke(issued.record.id).await.unwrap();
        }
        assert_eq!(lapsed.await.unwrap(), Lapse::Revoked);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_share_a_store_each_tell_of_their_own_changes() {
    let clock = clock();
    let store = MemoryKeys::new();
    let first = keys_at(store.clone(), &clock);
    let issued = first.issue(NewKey::for_owner("ann")).await.unwrap();
    let of_first = identity(&first, issued.key.expose(), &clock).await;
    let second = keys_at(store, &clock);
    let of_second = identity(&second, issued.key.expose(), &clock).await;
    drop(first);
    let lapsed = tokio::spawn(of_second.lapsed());
    tokio::task::yield_now().await;
    let start = Instant::now();
    second.revoke(issued.record.id).await.unwrap();
    assert_eq!(
        timeout(LONG, lapsed).await.unwrap().unwrap(),
        Lapse::Revoked
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Who came through keys that are gone is not told any more.
    assert!(timeout(LONG, of_first.lapsed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_use_of_another_key_asks_the_store_nothing() {
    let clock = clock();
    let store = Scripted::new(Script::Later);
    let keys = keys_at(store.clone(), &clock);
    let good = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    let revoked = keys.issue(NewKey::for_owner("bob")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let identity = identity(&keys, good.key.expose(), &clock).await;
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(identity.lapsed())).collect();
    tokio::task::yield_now().await;
    let service = AuthLayer::new(keys).clock(clock).layer(who());
    let before = store.finds();
    let uses = 200;
    // More at once than those who wait could be told of one by one.
    let all = (0..uses).map(|_| send(&service, with("x-api-key", revoked.key.expose())));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.code(), "credential_revoked");
    }
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.finds() - before, uses);
    assert!(waiting.iter().all(|task| !task.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn what_another_node_changes_is_known_within_the_bound() {
    let clock = clock();
    let shared = Scripted::new(Script::Later);
    let here = keys_at(Cached::new(shared.clone()).clock(clock.clone()), &clock);
    let there = keys_at(shared, &clock);
    let issued = here.issue(NewKey::for_owner("ann")).await.unwrap();
    let identity = identity(&here, issued.key.expose(), &clock).await;
    assert!(
        run(&clock, LONG, identity.lapsed()).await.is_none(),
        "a good key goes on"
    );
    let lapsed = identity.lapsed();
    there.revoke(issued.record.id).await.unwrap();
    let (lapse, took) = run(&clock, LONG, lapsed).await.unwrap();
    assert_eq!(lapse, Lapse::Revoked);
    assert!(
        took <= here.lapse_bound(),
        "{took:?} of {:?}",
        here.lapse_bound()
    );
    assert!(here.lapse_bound() < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_key_with_a_successor_goes_on_to_the_end_of_its_grace() {
    let clock = clock();
    let keys = keys_at(MemoryKeys::new(), &clock);
    let issued = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    let identity = identity(&keys, issued.key.expose(), &clock).await;
    let lapsed = identity.lapsed();
    let grace = Rotation::with_grace(Duration::from_secs(100));
    keys.rotate(issued.record.id, grace).await.unwrap();
    let (lapse, took) = run(&clock, LONG, lapsed).await.unwrap();
    assert_eq!(lapse, Lapse::Expired);
    assert!((100..=101).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_ends_nothing_and_keys_that_are_gone_neither() {
    let clock = clock();
    let store = Scripted::new(Script::Later);
    let keys = keys_at(store.clone(), &clock);
    let end = NOW.saturating_add(Duration::from_secs(10_000));
    let issued = keys
        .issue(NewKey::for_owner("ann").expires_at(end))
        .await
        .unwrap();
    let identity = identity(&keys, issued.key.expose(), &clock).await;
    store.fail_finds(true);
    assert!(run(&clock, LONG, identity.lapsed()).await.is_none());
    store.fail_finds(false);
    let owners = store.owners();
    let lapsed = identity.lapsed();
    drop(keys);
    assert!(
        store.owners() < owners,
        "the identity does not hold the keys"
    );
    // By the system's clock the key of this test has years to go.
    assert!(run(&clock, LONG, lapsed).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_identity_from_elsewhere_ends_at_its_expiry() {
    let soon = std::time::SystemTime::now() - Duration::from_secs(1);
    let identity = Identity::for_test().expires_at(soon).build();
    assert_eq!(identity.lapsed().await, Lapse::Expired);
    let forever = Identity::for_test().build();
    assert!(timeout(LONG, forever.lapsed()).await.is_err());
}
