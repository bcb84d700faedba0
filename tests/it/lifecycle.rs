//! The life of a key: the table of transitions, rotation, events, last uses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate::clock::{Clock, ManualClock, Timestamp};
use tollgate::keys::{
    EndCause, KeyError, KeyEvent, KeyEventKind, KeyId, KeyState, KeyStore, KeyUpdate,
    LifecycleError, NewKey, Peppers, Rotation,
};
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{NOW, Script, Scripted, clock, node, send, who, with};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn keys_at(clock: &ManualClock) -> ApiKeys {
    let peppers = Peppers::new(1, [7; 32]).unwrap();
    ApiKeys::in_memory(peppers)
        .prefix("acme")
        .clock(clock.clone())
}

async fn state<S: KeyStore>(keys: &ApiKeys<S>, id: KeyId, clock: &ManualClock) -> KeyState {
    keys.get(id).await.unwrap().unwrap().state(clock.now())
}

/// What a request with the key is answered: nothing, or a code.
async fn told<S: KeyStore>(keys: &ApiKeys<S>, key: &str, clock: &ManualClock) -> Option<String> {
    let service = AuthLayer::new(keys.clone())
        .clock(clock.clone())
        .layer(who());
    let answer = send(&service, with("x-api-key", key)).await;
    (answer.status != 200).then(|| answer.code())
}

#[tokio::test]
async fn a_compromise_is_written_down_even_of_an_ended_key_and_other_causes_are_not() {
    let clock = clock();
    let keys = keys_at(&clock);
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let id = issued.record.id;
    assert_eq!(told(&keys, issued.key.expose(), &clock).await, None);
    keys.revoke(id).await.unwrap();
    keys.end(id, EndCause::OwnerRemoved).await.unwrap();
    assert_eq!(
        state(&keys, id, &clock).await,
        KeyState::Ended(EndCause::Revoked)
    );
    let report = keys.report_compromised(id).await.unwrap();
    assert_eq!(report.last_used, Some(NOW));
    assert_eq!(report.refused_within, Duration::ZERO);
    assert_eq!(
        state(&keys, id, &clock).await,
        KeyState::Ended(EndCause::Compromised)
    );
    keys.revoke(id).await.unwrap();
    assert_eq!(
        state(&keys, id, &clock).await,
        KeyState::Ended(EndCause::Compromised)
    );
}

#[tokio::test]
async fn a_successor_is_the_same_principal_with_the_same_rights() {
    let clock = clock();
    let keys = keys_at(&clock);
    let new = NewKey::for_owner("alice")
        .tenant("emea")
        .scopes(["a"])
        .role("clerk")
        .plan("pro")
        .networks(["10.0.0.0/8"])
        .expires_in(seconds(100));
    let old = keys.issue(new).await.unwrap();
    clock.advance(seconds(60));
    let rotation = Rotation::with_grace(seconds(1_000));
    let successor = keys.rotate(old.record.id, rotation).await.unwrap();
    let record = &successor.record;
    assert_eq!(record.rotated_from, Some(old.record.id));
    assert_eq!(
        (&*record.owner, record.tenant.as_deref()),
        ("alice", Some("emea"))
    );
    assert_eq!(record.restrictions, old.record.restrictions);
    assert_eq!(
        (record.scopes.as_str(), record.plan.as_deref()),
        ("a", Some("pro"))
    );
    assert_eq!(
        record.expires_at,
        Some(NOW.saturating_add(seconds(160))),
        "as long as the old one"
    );
    // The grace never reaches beyond the old expiry.
    let old = keys.get(old.record.id).await.unwrap().unwrap();
    assert_eq!(old.good_until(), Some(NOW.saturating_add(seconds(100))));
}

#[tokio::test]
async fn a_rotation_with_a_token_can_be_repeated() {
    let clock = clock();
    let keys = keys_at(&clock);
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let id = old.record.id;
    let rotation = || Rotation::with_grace(seconds(60)).token("b7f5a1d0-1");
    let first = keys.rotate(id, rotation()).await.unwrap();
    clock.advance(seconds(10));
    let again = keys.rotate(id, rotation()).await.unwrap();
    assert_eq!(first.key.expose(), again.key.expose());
    assert_eq!(told(&keys, again.key.expose(), &clock).await, None);
    let all = keys.list(tollgate::keys::KeyFilter::all()).await.unwrap();
    assert_eq!(all.records.len(), 2, "there is one successor");

    let other = keys.rotate(id, Rotation::at_once().token("another")).await;
    assert!(matches!(
        other,
        Err(KeyError::Lifecycle(LifecycleError::AlreadyRotated))
    ));
    let random = keys.rotate(id, Rotation::at_once()).await;
    assert!(matches!(
        random,
        Err(KeyError::Lifecycle(LifecycleError::AlreadyRotated))
    ));
    // The same token of another key gives another successor.
    let bob = keys.issue(NewKey::for_owner("bob")).await.unwrap();
    let bobs = keys.rotate(bob.record.id, rotation()).await.unwrap();
    assert_ne!(bobs.key.expose(), first.key.expose());
}

#[tokio::test]
async fn a_rotation_that_broke_off_is_finished_by_its_token() {
    let clock = clock();
    let store = Scripted::new(Script::Now);
    let peppers = Peppers::new(1, [7; 32]).unwrap();
    let keys = ApiKeys::new(store.clone(), peppers)
        .prefix("acme")
        .clock(clock.clone());
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let rotation = || Rotation::with_grace(seconds(60)).token("b7f5a1d0-2");
    store.fail_updates(true);
    assert!(matches!(
        keys.rotate(old.record.id, rotation()).await,
        Err(KeyError::Store(_))
    ));
    assert_eq!(
        told(&keys, old.key.expose(), &clock).await,
        None,
        "the old key goes on"
    );
    store.fail_updates(false);
    let successor = keys.rotate(old.record.id, rotation()).await.unwrap();
    assert_eq!(told(&keys, successor.key.expose(), &clock).await, None);
    let held = state(&keys, old.record.id, &clock).await;
    assert!(matches!(held, KeyState::Retiring { .. }));
}

#[tokio::test]
async fn of_two_rotations_at_once_one_wins_and_the_other_leaves_nothing_good() {
    let clock = clock();
    let keys = keys_at(&clock);
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let rotate = || keys.rotate(old.record.id, Rotation::with_grace(seconds(60)));
    let mut won = 0;
    for rotated in futures_util::future::join_all((0..8).map(|_| rotate())).await {
        won += usize::from(rotated.is_ok());
    }
    assert_eq!(won, 1);
    let all = keys.list(tollgate::keys::KeyFilter::all()).await.unwrap();
    let good = all
        .records
        .iter()
        .filter(|record| record.state(clock.now()).is_good())
        .count();
    assert_eq!(good, 2);
}

#[tokio::test]
async fn a_schedule_can_be_moved_until_it_has_begun() {
    let clock = clock();
    let keys = keys_at(&clock);
    let at = |count: u64| NOW.saturating_add(seconds(count));
    let new = NewKey::for_owner("alice")
        .not_before(at(10))
        .expires_at(at(100));
    let id = keys.issue(new).await.unwrap().record.id;
    keys.schedule(id, at(20)).await.unwrap();
    clock.advance(seconds(10));
    assert_eq!(state(&keys, id, &clock).await, KeyState::Scheduled);
    assert!(matches!(
        keys.schedule(id, at(100)).await,
        Err(KeyError::InvalidTimes(_))
    ));
    clock.advance(seconds(10));
    assert_eq!(state(&keys, id, &clock).await, KeyState::Active);
    let late = keys.schedule(id, at(50)).await;
    assert!(matches!(
        late,
        Err(KeyError::Lifecycle(LifecycleError::Started))
    ));
}

#[tokio::test]
async fn other_scopes_count_from_the_next_request_on() {
    let clock = clock();
    let keys = keys_at(&clock);
    let issued = keys
        .issue(NewKey::for_owner("alice").scopes(["a"]))
        .await
        .unwrap();
    let stack = tower::ServiceBuilder::new()
        .layer(AuthLayer::new(keys.clone()).clock(clock))
        .layer(tollgate::RequireLayer::new(tollgate::scope("b")))
        .service(who());
    assert_eq!(
        send(&stack, with("x-api-key", issued.key.expose()))
            .await
            .status,
        403
    );
    keys.update(issued.record.id, KeyUpdate::new().set_scopes(["b"]))
        .await
        .unwrap();
    assert_eq!(
        send(&stack, with("x-api-key", issued.key.expose()))
            .await
            .status,
        200
    );
    assert!(matches!(
        keys.update(issued.record.id, KeyUpdate::new().set_scopes(["a b"]))
            .await,
        Err(KeyError::InvalidScope(_))
    ));
}

#[tokio::test]
async fn operators_hear_of_the_life_of_keys_and_of_their_misuse() {
    let clock = clock();
    let heard = Arc::new(Mutex::new(Vec::<KeyEvent>::new()));
    let ears = Arc::clone(&heard);
    let keys = keys_at(&clock).on_event(move |event| ears.lock().unwrap().push(*event));
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let (id, key) = (old.record.id, old.key.expose());
    // Its use a moment ago does not hide the first one beside the successor.
    assert_eq!(told(&keys, key, &clock).await, None);
    clock.advance(Duration::from_millis(500));
    let successor = keys
        .rotate(id, Rotation::with_grace(seconds(100)))
        .await
        .unwrap();
    clock.advance(Duration::from_millis(500));
    for _ in 0..3 {
        assert_eq!(told(&keys, key, &clock).await, None);
    }
    clock.advance(seconds(60));
    assert_eq!(told(&keys, key, &clock).await, None);
    clock.advance(seconds(40));
    assert!(told(&keys, key, &clock).await.is_some());
    keys.report_compromised(id).await.unwrap();
    assert!(told(&keys, key, &clock).await.is_some());
    assert!(
        told(&keys, &key.replace("acme", "acmf"), &clock)
            .await
            .is_some()
    );

    let until = NOW.saturating_add(Duration::from_millis(100_500));
    let kinds: Vec<_> = heard
        .lock()
        .unwrap()
        .iter()
        .filter(|event| event.id == id)
        .map(|event| event.kind)
        .collect();
    let expected = [
        KeyEventKind::Issued,
        KeyEventKind::RotatedTo(successor.record.id),
        KeyEventKind::UsedInGrace { until },
        KeyEventKind::UsedInGrace { until },
        KeyEventKind::UsedAfterEnd(EndCause::RotatedOut),
        KeyEventKind::Ended(EndCause::Compromised),
        KeyEventKind::UsedAfterEnd(EndCause::Compromised),
    ];
    assert_eq!(kinds, expected);
    let heard = heard.lock().unwrap();
    let of_both: Vec<_> = heard.iter().map(|event| (event.id, event.kind)).collect();
    let rotation = [
        (successor.record.id, KeyEventKind::Issued),
        (id, KeyEventKind::RotatedTo(successor.record.id)),
    ];
    assert_eq!(of_both[1..3], rotation, "the successor is there first");
}

#[tokio::test]
async fn a_key_in_its_grace_is_told_of_once_a_minute_whatever_the_store_and_the_door() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let heard = Arc::new(Mutex::new(0));
    let ears = Arc::clone(&heard);
    let count = move |event: &KeyEvent| {
        if matches!(event.kind, KeyEventKind::UsedInGrace { .. }) {
            *ears.lock().unwrap() += 1;
        }
    };
    // Neither has a record twice: the store makes a new one for each question.
    let keys = node(&store, &clock).on_event(count);
    let strict = keys.strict();
    let old = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let key = old.key.expose();
    assert_eq!(told(&strict, key, &clock).await, None);
    clock.advance(Duration::from_millis(500));
    keys.rotate(old.record.id, Rotation::with_grace(seconds(600)))
        .await
        .unwrap();
    for minute in 1..4 {
        for _ in 0..120 {
            clock.advance(Duration::from_millis(499));
            assert_eq!(told(&strict, key, &clock).await, None);
            assert_eq!(told(&keys, key, &clock).await, None);
        }
        assert_eq!(*heard.lock().unwrap(), minute);
        clock.advance(Duration::from_millis(120));
    }
}

#[tokio::test]
async fn a_report_knows_of_uses_that_the_store_has_not_heard_of() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let keys = node(&store, &clock);
    let strict = keys.strict();
    for through_cache in [true, false] {
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let key = issued.key.expose();
        let used_at = clock.now();
        let refused = if through_cache {
            told(&keys, key, &clock).await
        } else {
            told(&strict, key, &clock).await
        };
        assert_eq!(refused, None);
        clock.advance(seconds(5));
        let report = keys.report_compromised(issued.record.id).await.unwrap();
        assert_eq!(report.last_used, Some(used_at));
    }
    assert_eq!(store.notes(), 0);
}

#[tokio::test]
async fn a_report_around_the_cache_says_how_long_other_caches_may_hold_the_key() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let keys = node(&store, &clock);
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let strict = keys.strict();
    let report = strict.report_compromised(issued.record.id).await.unwrap();
    assert_eq!(report.refused_within, keys.revocation_bound());
}

#[tokio::test]
async fn a_key_that_was_revoked_after_its_time_stays_ended_when_the_clock_steps_back() {
    let clock = clock();
    let keys = keys_at(&clock);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let keys = keys.on_event(move |event| ears.lock().unwrap().push(event.kind));
    let expiring = keys
        .issue(NewKey::for_owner("alice").expires_in(seconds(10)))
        .await
        .unwrap();
    let rotated = keys.issue(NewKey::for_owner("bob")).await.unwrap();
    let grace = Rotation::with_grace(seconds(10));
    keys.rotate(rotated.record.id, grace).await.unwrap();
    clock.advance(seconds(20));
    for (issued, cause) in [
        (&expiring, EndCause::Expired),
        (&rotated, EndCause::RotatedOut),
    ] {
        let id = issued.record.id;
        let record = keys.revoke(id).await.unwrap();
        let ended = record.ended.unwrap();
        assert_eq!(ended.cause, cause, "the first cause wins");
        assert_eq!(ended.at, NOW.saturating_add(seconds(10)));
        assert_eq!(
            heard.lock().unwrap().last(),
            Some(&KeyEventKind::Ended(cause))
        );
        clock.set(NOW.saturating_add(seconds(5)));
        assert_eq!(state(&keys, id, &clock).await, KeyState::Ended(cause));
        clock.set(NOW.saturating_add(seconds(20)));
    }
}

#[tokio::test]
async fn tombstones_stay_for_as_long_as_they_are_wanted() {
    let clock = clock();
    let keys = keys_at(&clock);
    let revoked = keys.issue(NewKey::for_owner("a")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let expired = keys
        .issue(NewKey::for_owner("a").expires_in(seconds(50)))
        .await
        .unwrap();
    let good = keys.issue(NewKey::for_owner("a")).await.unwrap();
    clock.advance(seconds(100));
    assert_eq!(
        told(&keys, revoked.key.expose(), &clock).await.unwrap(),
        "credential_revoked"
    );
    assert_eq!(keys.purge(NOW).await.unwrap(), 0);
    assert_eq!(
        keys.purge(NOW.saturating_add(seconds(50))).await.unwrap(),
        1
    );
    assert_eq!(
        told(&keys, revoked.key.expose(), &clock).await.unwrap(),
        "credential_invalid"
    );
    assert_eq!(
        told(&keys, expired.key.expose(), &clock).await.unwrap(),
        "credential_expired"
    );
    assert_eq!(keys.purge(clock.now()).await.unwrap(), 1);
    assert_eq!(told(&keys, good.key.expose(), &clock).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_store_hears_when_keys_were_used_once_a_minute_and_off_the_path() {
    let clock = clock();
    let store = Scripted::new(Script::Later);
    let peppers = Peppers::new(1, [7; 32]).unwrap();
    let keys = ApiKeys::new(store.clone(), peppers)
        .prefix("acme")
        .clock(clock.clone());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    for _ in 0..50 {
        assert_eq!(told(&keys, issued.key.expose(), &clock).await, None);
    }
    assert_eq!(store.notes(), 0, "no request waits for it");
    tokio::time::sleep(seconds(61)).await;
    assert_eq!(store.notes(), 1, "one batch for all");
    let record = keys.get(issued.record.id).await.unwrap().unwrap();
    assert_eq!(record.last_used.get(), Some(NOW));
    // The task ends with the keys.
    drop(keys);
    tokio::time::sleep(seconds(61)).await;
    assert_eq!(
        store.owners(),
        1,
        "the store is held by the test alone, and by nobody's task"
    );
}

#[test]
fn a_use_is_news_once_in_a_while() {
    let last = tollgate::keys::LastUsed::default();
    let minute = seconds(60);
    assert!(last.note(NOW, minute));
    assert!(!last.note(NOW.saturating_add(seconds(59)), minute));
    assert!(last.note(NOW.saturating_add(minute), minute));
    assert!(
        !last.note(Timestamp::EPOCH, minute),
        "an earlier use is no news"
    );
    assert_eq!(last.get(), Some(NOW.saturating_add(minute)));
}
