//! The cache in front of a store: rows B7 to B11.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tollgate::clock::{Clock, ManualClock};
use tollgate::keys::{Cached, KeyId, KeyState, KeyStore, NewKey, Rotation};
use tollgate::rejection::Cause;
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{Answer, NOW, Script, Scripted, clock, issue, node, peppers, send, who, with};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Keys behind a cache, on a clock that is moved by hand.
struct Node {
    keys: ApiKeys<Cached<Scripted>>,
    clock: ManualClock,
}

impl Node {
    fn new(store: &Scripted, clock: &ManualClock) -> Self {
        Self::with(store, clock, |cached| cached)
    }

    fn with(
        store: &Scripted,
        clock: &ManualClock,
        set: impl Fn(Cached<Scripted>) -> Cached<Scripted>,
    ) -> Self {
        let cached = set(Cached::new(store.clone()).clock(clock.clone()));
        let keys = ApiKeys::new(cached, peppers())
            .prefix("acme")
            .clock(clock.clone());
        Self {
            keys,
            clock: clock.clone(),
        }
    }

    async fn answer(&self, key: &str) -> Answer {
        ask(&self.keys, key, &self.clock).await
    }
}

async fn ask<S: KeyStore>(keys: &ApiKeys<S>, key: &str, clock: &ManualClock) -> Answer {
    let service = AuthLayer::new(keys.clone())
        .clock(clock.clone())
        .layer(who());
    send(&service, with("x-api-key", key)).await
}

#[tokio::test]
async fn a_record_is_read_once_while_it_is_fresh_and_again_after() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::new(&store, &clock);
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    for _ in 0..5 {
        assert_eq!(node.answer(&key).await.body, "alice");
    }
    assert_eq!(store.finds(), 1);
    clock.advance(Duration::from_nanos(9_999_999_999));
    assert_eq!(node.answer(&key).await.status, 200);
    assert_eq!(store.finds(), 1);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(node.answer(&key).await.status, 200);
    assert_eq!(store.finds(), 2);
}

#[tokio::test]
async fn a_clock_that_steps_back_makes_answers_old_not_young() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::new(&store, &clock);
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    node.answer(&key).await;
    clock.set(NOW.saturating_sub(seconds(3_600)));
    node.answer(&key).await;
    assert_eq!(store.finds(), 2);
}

#[tokio::test]
async fn what_this_node_changes_holds_at_once_and_what_another_changes_within_the_bound() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (Node::new(&store, &clock), Node::new(&store, &clock));
    let bound = here.keys.revocation_bound();
    assert_eq!(bound, seconds(10));
    let issued = here.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let key = issued.key.expose();
    for node in [&here, &there] {
        assert_eq!(node.answer(key).await.status, 200);
    }
    here.keys.revoke(issued.record.id).await.unwrap();
    assert_eq!(here.answer(key).await.code(), "credential_revoked");

    let revoked_at = clock.now();
    while clock.now().since(revoked_at) < bound {
        there.answer(key).await;
        clock.advance(seconds(1));
    }
    assert_eq!(there.answer(key).await.code(), "credential_revoked");
    // A push from elsewhere makes it sooner.
    let again = here.keys.issue(NewKey::for_owner("bob")).await.unwrap();
    assert_eq!(there.answer(again.key.expose()).await.status, 200);
    here.keys.revoke(again.record.id).await.unwrap();
    there.keys.store().forget(again.record.id);
    assert_eq!(
        there.answer(again.key.expose()).await.code(),
        "credential_revoked"
    );
}

#[tokio::test]
async fn commands_are_decided_on_what_is_stored_not_on_what_is_cached() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (node(&store, &clock), node(&store, &clock));
    let issued = here.issue(NewKey::for_owner("alice")).await.unwrap();
    let id = issued.record.id;
    here.disable(id).await.unwrap();
    here.get(id).await.unwrap();
    there.enable(id).await.unwrap();
    // This node takes it for disabled still.
    here.disable(id).await.unwrap();
    let stored = store.memory.find(id).await.unwrap().unwrap();
    assert_eq!(stored.state(NOW), KeyState::Disabled);
    // What is done already holds here at once all the same.
    let key = issued.key.expose();
    here.enable(id).await.unwrap();
    assert_eq!(ask(&here, key, &clock).await.status, 200);
    there.revoke(id).await.unwrap();
    assert_eq!(ask(&here, key, &clock).await.status, 200);
    here.revoke(id).await.unwrap();
    assert_eq!(ask(&here, key, &clock).await.code(), "credential_revoked");
    // Nor is one that another node has issued unknown to a report of a leak.
    let guess = guess(1);
    assert!(here.report_leaked(&guess).await.unwrap().is_none());
    let issued = there.issue(NewKey::for_owner("bob")).await.unwrap();
    there.store().remove(issued.record.id).await.unwrap();
    assert!(here.get(issued.record.id).await.unwrap().is_none());
    there.store().insert(issued.record.clone()).await.unwrap();
    let report = here.report_leaked(issued.key.expose()).await.unwrap();
    assert!(report.is_some());
}

#[tokio::test]
async fn with_stale_answers_a_revocation_elsewhere_holds_within_the_bound_too() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let lenient = |cached: Cached<Scripted>| cached.stale_on_error(seconds(60));
    let here = Node::with(&store, &clock, lenient);
    let there = Node::new(&store, &clock);
    let bound = here.keys.revocation_bound();
    assert_eq!(bound, seconds(70));
    // The worst case: the store fails from the moment that it is revoked.
    let issued = here.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    assert_eq!(here.answer(issued.key.expose()).await.status, 200);
    there.keys.revoke(issued.record.id).await.unwrap();
    store.fail_finds(true);
    let revoked_at = clock.now();
    let mut good_for = Duration::ZERO;
    for _ in 0..100 {
        if here.answer(issued.key.expose()).await.status == 200 {
            good_for = clock.now().since(revoked_at);
        }
        clock.advance(seconds(1));
    }
    assert_eq!(
        good_for,
        bound - seconds(1),
        "to the last second, and no further"
    );
    store.fail_finds(false);
    let answer = here.answer(issued.key.expose()).await;
    assert_eq!(answer.code(), "credential_revoked");
}

#[tokio::test]
async fn the_bound_is_one_number_out_of_the_settings() {
    let cached = || Cached::new(Scripted::new(Script::Now));
    assert_eq!(cached().revocation_bound(), seconds(10));
    assert_eq!(
        cached().fresh_for(seconds(3)).revocation_bound(),
        seconds(3)
    );
    assert_eq!(
        cached()
            .fresh_for(seconds(3))
            .timeout(seconds(5))
            .revocation_bound(),
        seconds(5)
    );
    assert_eq!(
        cached().stale_on_error(seconds(60)).revocation_bound(),
        seconds(70)
    );
    let capped = cached().stale_on_error(seconds(86_400)).revocation_bound();
    assert_eq!(capped, seconds(310), "five minutes are the most");
    let nested = Cached::new(cached().fresh_for(seconds(3)));
    assert_eq!(nested.revocation_bound(), seconds(13));
    let keys = ApiKeys::new(cached(), peppers());
    assert_eq!(keys.revocation_bound(), seconds(10));
    assert_eq!(keys.strict().revocation_bound(), Duration::ZERO);
}

#[tokio::test]
async fn a_rotation_without_grace_holds_at_once() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::new(&store, &clock);
    let old = node.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    assert_eq!(node.answer(old.key.expose()).await.status, 200);
    let new = node
        .keys
        .rotate(old.record.id, Rotation::at_once())
        .await
        .unwrap();
    assert_eq!(
        node.answer(old.key.expose()).await.code(),
        "credential_revoked"
    );
    assert_eq!(node.answer(new.key.expose()).await.body, "alice");
}

#[tokio::test]
async fn expiry_is_judged_on_every_hit() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::new(&store, &clock);
    let key = issue(
        &node.keys,
        NewKey::for_owner("alice").expires_in(seconds(5)),
    )
    .await;
    assert_eq!(node.answer(&key).await.status, 200);
    clock.advance(seconds(5));
    assert_eq!(node.answer(&key).await.code(), "credential_expired");
    assert_eq!(store.finds(), 1);
}

#[tokio::test]
async fn that_an_id_is_unknown_is_remembered_for_two_seconds_and_not_once_it_is_issued() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (Node::new(&store, &clock), Node::new(&store, &clock));
    let issued = there.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let (id, key) = (issued.record.id, issued.key.expose());
    there.keys.store().remove(id).await.unwrap();
    for _ in 0..3 {
        assert_eq!(here.answer(key).await.code(), "credential_invalid");
    }
    assert_eq!(store.finds(), 1);
    // Another node issues it: known here within two seconds.
    there
        .keys
        .store()
        .insert(issued.record.clone())
        .await
        .unwrap();
    assert_eq!(here.answer(key).await.code(), "credential_invalid");
    clock.advance(seconds(2));
    assert_eq!(here.answer(key).await.status, 200);
    // This node issues it: known at once.
    here.keys.store().remove(id).await.unwrap();
    assert_eq!(here.answer(key).await.code(), "credential_invalid");
    here.keys
        .store()
        .insert(issued.record.clone())
        .await
        .unwrap();
    assert_eq!(here.answer(key).await.status, 200);
}

#[tokio::test]
async fn however_many_ask_the_store_is_asked_once() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::new(&store, &clock);
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    let all = futures_util::future::join_all((0..200).map(|_| node.answer(&key))).await;
    assert!(all.iter().all(|answer| answer.status == 200));
    assert_eq!(store.finds(), 1);
}

#[tokio::test]
async fn who_asked_first_may_go_away_and_the_others_get_their_answer() {
    let (store, clock) = (Scripted::new(Script::Slow(3)), clock());
    let node = Node::new(&store, &clock);
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    let mut first = Box::pin(node.answer(&key));
    let mut second = Box::pin(node.answer(&key));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await.status, 200);
    assert_eq!(store.finds(), 1);
}

#[tokio::test]
async fn when_all_go_away_nothing_is_left_behind() {
    let (store, clock) = (Scripted::new(Script::Slow(1_000_000)), clock());
    let node = Node::with(&store, &clock, |cached| cached.concurrency(2));
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    for _ in 0..10 {
        let mut gone = Box::pin(node.answer(&key));
        assert!(futures_util::poll!(&mut gone).is_pending());
    }
    let others = [guess(1), guess(2)];
    let mut waiting: Vec<_> = others
        .iter()
        .map(|key| Box::pin(node.answer(key)))
        .collect();
    for future in &mut waiting {
        assert!(
            futures_util::poll!(future).is_pending(),
            "both places are free"
        );
    }
}

/// A well-formed key that nobody has.
fn guess(n: u32) -> String {
    let body = format!("acme_live_{n:012}_{n:032}");
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut crc = crc32fast::hash(body.as_bytes());
    let mut tail = [b'0'; 6];
    for digit in tail.iter_mut().rev() {
        *digit = digits[(crc % 62) as usize];
        crc /= 62;
    }
    body + std::str::from_utf8(&tail).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_or_hangs_is_503_each_time_and_not_remembered() {
    for (script, took) in [(Script::Fails, 0), (Script::Hangs, 500)] {
        let (store, clock) = (Scripted::new(script), clock());
        let node = Node::new(&store, &clock);
        let key = issue(&node.keys, NewKey::for_owner("alice")).await;
        for asked in 1..4 {
            let start = tokio::time::Instant::now();
            let answer = node.answer(&key).await;
            assert_eq!((answer.status.as_u16(), store.finds()), (503, asked));
            assert_eq!(start.elapsed().as_millis(), took);
            assert!(answer.header("retry-after").is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_busy_turns_unknown_keys_away_and_still_reads_known_ones() {
    let (store, clock) = (Scripted::new(Script::Now), clock());
    let node = Node::with(&store, &clock, |cached| cached.concurrency(4));
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    assert_eq!(node.answer(&key).await.status, 200);
    clock.advance(seconds(11));
    store.become_slow(100);
    let guesses: Vec<_> = (0..20).map(guess).collect();
    let mut flood: Vec<_> = guesses
        .iter()
        .map(|key| Box::pin(node.answer(key)))
        .collect();
    let mut turned_away = 0;
    for future in &mut flood {
        if let std::task::Poll::Ready(answer) = futures_util::poll!(future) {
            assert_eq!(answer.rejection.unwrap().cause(), Cause::StoreUnavailable);
            turned_away += 1;
        }
    }
    assert_eq!(turned_away, 16);
    assert_eq!(node.keys.store().turned_away(), 16);
    assert_eq!(
        node.answer(&key).await.status,
        200,
        "a known key has a place of its own"
    );
}

#[tokio::test]
async fn a_flood_of_unknown_ids_leaves_memory_and_good_keys_alone() {
    let (store, clock) = (Scripted::new(Script::Now), clock());
    let node = Node::with(&store, &clock, |cached| cached.capacity(1_000));
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    assert_eq!(node.answer(&key).await.status, 200);
    let before = store.finds();
    for n in 0..10_000 {
        for _ in 0..3 {
            assert_eq!(node.answer(&guess(n)).await.code(), "credential_invalid");
        }
    }
    assert_eq!(store.finds() - before, 10_000, "each is asked about once");
    assert_eq!(node.answer(&key).await.status, 200);
    assert_eq!(
        store.finds() - before,
        10_000,
        "the good key was not driven out"
    );
    let text = format!("{:?}", node.keys.store());
    assert!(
        text.contains("len: 1,"),
        "unknown ids take no room of records: {text}"
    );
    assert!(
        (50..=100).contains(&node.keys.store().remembered_misses()),
        "and a bounded one of their own"
    );
}

#[tokio::test]
async fn a_stale_record_is_answered_only_where_that_was_asked_for_and_never_past_its_end() {
    let (store, clock) = (Scripted::new(Script::Now), clock());
    let plain = Node::new(&store, &clock);
    let lenient = Node::with(&store, &clock, |cached| cached.stale_on_error(seconds(60)));
    let key = issue(
        &plain.keys,
        NewKey::for_owner("alice").expires_in(seconds(50)),
    )
    .await;
    let lasting = plain.keys.issue(NewKey::for_owner("bob")).await.unwrap();
    for node in [&plain, &lenient] {
        assert_eq!(node.answer(&key).await.status, 200);
        assert_eq!(node.answer(lasting.key.expose()).await.status, 200);
    }
    store.fail_finds(true);
    clock.advance(seconds(10));
    assert_eq!(plain.answer(&key).await.status, 503);
    assert_eq!(lenient.answer(&key).await.status, 200);
    assert_eq!(lenient.keys.store().stale_served(), 1);
    assert_eq!(
        lenient.answer(&guess(1)).await.status,
        503,
        "of the unknown nothing is known"
    );
    clock.advance(seconds(40));
    assert_eq!(lenient.answer(&key).await.code(), "credential_expired");
    assert_eq!(lenient.answer(lasting.key.expose()).await.status, 200);
    // What this node knows to be changed is never answered from before.
    lenient.keys.store().forget(lasting.record.id);
    assert_eq!(lenient.answer(lasting.key.expose()).await.status, 503);
    clock.advance(seconds(20));
    assert_eq!(lenient.answer(&key).await.status, 503, "past its most");
}

#[tokio::test]
async fn no_stale_record_is_answered_while_its_key_is_being_changed() {
    for is_command in [true, false] {
        let (store, clock) = (Scripted::new(Script::Later), clock());
        let node = Node::with(&store, &clock, |cached| cached.stale_on_error(seconds(60)));
        let issued = node.keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let key = issued.key.expose();
        assert_eq!(node.answer(key).await.status, 200);
        store.hang_updates(true);
        let mut change = Box::pin(async {
            if is_command {
                return node.keys.revoke(issued.record.id).await.is_ok();
            }
            let mut disabled = issued.record.clone();
            disabled.disabled_at = Some(NOW);
            disabled.revision += 1;
            node.keys.store().update(disabled).await.is_ok()
        });
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut change).is_pending());
        }
        // What was cached before is out of date, and what is learnt meanwhile may be.
        let before = store.finds();
        node.answer(key).await;
        assert_eq!(store.finds(), before + 1);
        clock.advance(seconds(20));
        store.fail_finds(true);
        assert_eq!(node.answer(key).await.status, 503);
        drop(change);
        assert_eq!(node.answer(key).await.status, 503);
        assert_eq!(node.keys.store().stale_served(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_record_is_answered_where_the_store_hangs_or_panics_too() {
    for (script, timeout) in [
        (Script::Hangs, 500),
        (Script::Hangs, 400),
        (Script::Hangs, 2_000),
        (Script::Panics, 500),
    ] {
        let (store, clock) = (Scripted::new(Script::Later), clock());
        let node = Node::with(&store, &clock, |cached| {
            cached
                .stale_on_error(seconds(60))
                .timeout(Duration::from_millis(timeout))
        });
        let key = issue(&node.keys, NewKey::for_owner("alice")).await;
        assert_eq!(node.answer(&key).await.status, 200);
        clock.advance(seconds(10));
        store.turn(script);
        let start = tokio::time::Instant::now();
        for asked in 1..4 {
            assert_eq!(node.answer(&key).await.status, 200, "{script:?} {timeout}");
            assert_eq!(node.keys.store().stale_served(), asked);
        }
        if matches!(script, Script::Hangs) {
            assert_eq!(start.elapsed(), 3 * Duration::from_millis(timeout));
        }
        clock.advance(seconds(60));
        assert_eq!(node.answer(&key).await.status, 503);
    }
}

#[tokio::test]
async fn a_store_that_panics_is_asked_anew_and_leaves_nobody_waiting() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::with(&store, &clock, |cached| cached.concurrency(1));
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    store.become_slow(20);
    store.turn(Script::Panics);
    // Whoever drives the question when it panics, the others are woken.
    let all = futures_util::future::join_all((0..5).map(|_| node.answer(&key)));
    let all = tokio::time::timeout(seconds(5), all).await.unwrap();
    assert!(all.iter().all(|answer| answer.status == 503));
    assert_eq!(store.finds(), 1);
    // One holds on to the question, and looks at its answer no more.
    let mut holder = Box::pin(node.answer(&key));
    assert!(futures_util::poll!(&mut holder).is_pending());
    assert_eq!(node.answer(&key).await.status, 503);
    store.turn(Script::Later);
    assert_eq!(node.answer(&key).await.status, 200);
    assert_eq!(holder.await.status, 503);
}

#[tokio::test]
async fn strict_routes_ask_the_store_each_time() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (Node::new(&store, &clock), Node::new(&store, &clock));
    let issued = here.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let key = issued.key.expose();
    let strict = here.keys.strict();
    assert_eq!(here.answer(key).await.status, 200);
    there.keys.revoke(issued.record.id).await.unwrap();
    assert_eq!(
        here.answer(key).await.status,
        200,
        "the cache has not noticed"
    );
    assert_eq!(ask(&strict, key, &clock).await.code(), "credential_revoked");
    // A change through the strict keys is seen by the cache.
    let other = here.keys.issue(NewKey::for_owner("bob")).await.unwrap();
    assert_eq!(here.answer(other.key.expose()).await.status, 200);
    strict.revoke(other.record.id).await.unwrap();
    assert_eq!(
        here.answer(other.key.expose()).await.code(),
        "credential_revoked"
    );
}

#[tokio::test]
async fn a_look_up_that_began_before_a_revocation_is_not_kept() {
    let (store, clock) = (Scripted::new(Script::Slow(5)), clock());
    let node = Node::new(&store, &clock);
    let issued = node.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let key = issued.key.expose();
    let mut early = Box::pin(node.answer(key));
    assert!(futures_util::poll!(&mut early).is_pending());
    node.keys.revoke(issued.record.id).await.unwrap();
    early.await;
    assert_eq!(node.answer(key).await.code(), "credential_revoked");
}

/// What it costs in time is measured in `benches`; here it is that nothing is waited for.
#[tokio::test]
async fn good_traffic_does_not_wait_for_a_flood() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let node = Node::new(&store, &clock);
    let key = issue(&node.keys, NewKey::for_owner("alice")).await;
    node.answer(&key).await;
    store.become_slow(1_000_000);
    let guesses: Vec<_> = (0..200).map(guess).collect();
    let mut flood: Vec<_> = guesses
        .iter()
        .map(|guess| Box::pin(node.answer(guess)))
        .collect();
    let asked = store.finds();
    for future in &mut flood {
        let _ = futures_util::poll!(future);
        let mut good = Box::pin(node.answer(&key));
        let std::task::Poll::Ready(answer) = futures_util::poll!(&mut good) else {
            panic!("a good key waits");
        };
        assert_eq!(answer.status, 200);
    }
    assert_eq!(
        store.finds() - asked,
        64,
        "nor does the store get more than it can"
    );
}

#[tokio::test]
async fn a_change_that_is_given_up_halfway_is_looked_up_anew() {
    let (store, clock) = (Scripted::new(Script::Now), clock());
    let node = Node::new(&store, &clock);
    let issued = node.keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    node.answer(issued.key.expose()).await;
    counted.store(store.finds(), Ordering::SeqCst);
    store.hang_updates(true);
    let mut revoke = Box::pin(node.keys.revoke(issued.record.id));
    assert!(futures_util::poll!(&mut revoke).is_pending());
    drop(revoke);
    // Who knows what the store did with it: it is asked.
    node.answer(issued.key.expose()).await;
    assert!(store.finds() > counted.load(Ordering::SeqCst));
}

#[test]
fn an_id_is_an_id() {
    assert!("7Hq2mZxR0aKd".parse::<KeyId>().is_ok());
    for bad in [
        "",
        "7Hq2mZxR0aK",
        "7Hq2mZxR0aKdd",
        "7Hq2mZxR0aK_",
        "7Hq2mZxR0aKé",
    ] {
        assert!(bad.parse::<KeyId>().is_err(), "{bad}");
    }
}
