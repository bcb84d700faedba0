//! When keys are fetched, and what becomes of the answers.
#![cfg(test)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use tokio::runtime::Builder;

use super::*;
use crate::clock::ManualClock;
use crate::jwks::remote::status::FetchError;

const HOUR: Duration = secs(3600);

#[test]
fn nothing_is_fetched_and_no_runtime_is_needed_when_it_is_built() {
    let server = Server::of(&["a"]);
    let settings = RemoteKeys::at(URL).client(server.clone());
    let remote = build(settings);
    let status = remote.status(NOW);
    assert!(!status.is_ready());
    assert_eq!(status.issuer(), ISSUER);
    assert_eq!((status.age(), status.last_error()), (None, None));
    assert_eq!((server.asked(), status.fetches()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_wait_for_one_fetch() {
    let server = Server::of(&["a"]);
    server.takes(Duration::from_millis(300));
    let (remote, clock) = remote(&server);
    let waits = (0..100).map(|_| {
        remote.tick(clock.now());
        remote.obtain(clock.now()).wait()
    });
    join_all(waits).await;
    assert!(knows(&remote, "a", clock.now()));
    assert_eq!(server.asked(), 1);
    let status = remote.status(clock.now());
    assert!(status.is_ready());
    assert_eq!(status.kids().collect::<Vec<_>>(), [Some("a")]);
    assert!(matches!(
        remote.obtain(clock.now()),
        crate::pending::Pending::Ready(())
    ));
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_again_though_no_requests_come() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    pass(secs(431)).await;
    assert_eq!(server.asked(), 1);
    pass(secs(50)).await;
    assert_eq!(server.asked(), 2);
    assert!(remote.status(clock.now()).age().unwrap() < secs(60));
    pass(24 * HOUR).await;
    let asked = server.asked();
    assert!((180..=202).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn the_work_ends_with_the_last_handle() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    server.takes(secs(4));
    server.has(&["b"]);
    let asking = remote.find("b", clock.now()).unwrap();
    drop((asking, remote.clone()));
    tokio::task::yield_now().await;
    assert_eq!(server.asked(), 2);
    drop(remote);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!(server.owners(), 1);
    pass(HOUR).await;
    assert_eq!(server.asked(), 2);
}

// D12
#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_at_the_start_is_asked_ever_less_and_found_when_it_is_back() {
    let server = Server::new(|_| failing());
    let (remote, clock) = remote(&server);
    for _ in 0..1000 {
        remote.tick(clock.now());
        remote.obtain(clock.now()).wait().await;
    }
    assert_eq!(server.asked(), 1);
    assert!(remote.keyring().current(clock.now()).is_none());
    let status = remote.status(clock.now());
    assert!(!status.is_ready());
    let error = FetchError::Status(StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!((status.last_error(), status.failures()), (Some(error), 1));
    assert_eq!(remote.warm_up().await, Err(error));
    assert!(remote.retry_after(clock.now()) >= secs(1));
    // 2, 4, 8, 16, 32 and then 60 seconds, half of it by chance.
    pass(secs(600)).await;
    let asked = server.asked();
    assert!((13..=30).contains(&asked), "{asked}");
    server.has(&["a"]);
    pass(secs(61)).await;
    assert!(knows(&remote, "a", clock.now()));
    let status = remote.status(clock.now());
    assert_eq!((status.last_error(), status.failures()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_a_second_at_the_most_and_the_fetch_goes_on() {
    let server = Server::of(&["a"]);
    server.takes(secs(3));
    let (remote, clock) = remote(&server);
    remote.obtain(clock.now()).wait().await;
    assert_eq!(clock.now().since(NOW).as_secs(), 1);
    assert!(remote.keyring().current(clock.now()).is_none());
    // One that goes away at once changes nothing.
    assert!(remote.obtain(clock.now()).wait().now_or_never().is_none());
    pass(Duration::from_millis(2001)).await;
    assert!(knows(&remote, "a", clock.now()));
    assert_eq!(server.asked(), 1);
}

// D1
#[tokio::test(start_paused = true)]
async fn a_slow_server_is_given_up_and_keys_that_are_there_are_used_meanwhile() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    server.takes(secs(60));
    while server.asked() == 1 {
        pass(secs(1)).await;
    }
    remote.tick(clock.now());
    assert!(matches!(
        remote.obtain(clock.now()),
        crate::pending::Pending::Ready(())
    ));
    assert!(knows(&remote, "a", clock.now()));
    pass(secs(6)).await;
    assert_eq!(
        remote.status(clock.now()).last_error(),
        Some(FetchError::TimedOut)
    );
    assert!(knows(&remote, "a", clock.now()));
}

// D2
#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_by_refreshes_and_by_unknown_kids() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    server.answers(|_| {
        let mut response = status(StatusCode::TOO_MANY_REQUESTS);
        response
            .headers_mut()
            .insert("retry-after", "300".parse().unwrap());
        response
    });
    assert!(!find(&remote, "b", clock.now()).await);
    assert_eq!(server.asked(), 2);
    for second in 0..299 {
        remote.tick(clock.now());
        assert!(remote.find(&format!("k{second}"), clock.now()).is_none());
        pass(secs(1)).await;
    }
    assert_eq!(server.asked(), 2);
    assert!(knows(&remote, "a", clock.now()));
    pass(secs(60)).await;
    assert_eq!(server.asked(), 3);
}

// D13
#[tokio::test(start_paused = true)]
async fn the_last_keys_are_good_for_a_day_when_the_server_is_gone() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    let epoch = remote.keyring().current(clock.now()).unwrap().epoch;
    server.fails();
    pass(23 * HOUR).await;
    assert!(knows(&remote, "a", clock.now()));
    assert_eq!(remote.status(clock.now()).age(), Some(23 * HOUR));
    pass(HOUR).await;
    assert!(remote.keyring().current(clock.now()).is_none());
    assert!(!remote.keyring().holds(epoch, clock.now()));
    let status = remote.status(clock.now());
    assert!(!status.is_ready());
    assert_eq!(status.age(), Some(24 * HOUR));
    // The same keys may come back, and with them what they vouched for.
    server.has(&["a"]);
    pass(secs(61)).await;
    assert!(remote.keyring().holds(epoch, clock.now()));
}

// D3, D4, D5
#[tokio::test(start_paused = true)]
async fn what_is_no_good_set_replaces_none_and_is_not_asked_for_again_at_once() {
    let many = format!(
        r#"{{"keys": [{}]}}"#,
        vec![r#"{"kty":"x"}"#; 10_000].join(",")
    );
    let long = format!(
        r#"{{"keys": [{}], "x5c": "{}"}}"#,
        jwk("b"),
        "A".repeat(5_000_000)
    );
    let good = jwks(&["b"]);
    let table: Vec<(String, FetchError)> = vec![
        (String::new(), FetchError::NotAKeySet),
        ("<!doctype html><html>".into(), FetchError::NotAKeySet),
        (good[..good.len() - 1].into(), FetchError::NotAKeySet),
        (format!("\u{feff}{good}"), FetchError::NotAKeySet),
        ("\u{1f}\u{8b}\u{8}gzip".into(), FetchError::NotAKeySet),
        (format!("[{}]", jwk("b")), FetchError::NotAKeySet),
        (r#"{"keys": {}}"#.into(), FetchError::NotAKeySet),
        (r#"{"keys": null}"#.into(), FetchError::NotAKeySet),
        (many, FetchError::NotAKeySet),
        (long, FetchError::TooLarge),
        (r#"{"keys": []}"#.into(), FetchError::NoUsableKey),
        (
            r#"{"keys": [1, {"kty": "RSA"}]}"#.into(),
            FetchError::NoUsableKey,
        ),
    ];
    for (text, error) in table {
        let server = Server::of(&["a"]);
        let (remote, clock) = remote(&server);
        remote.warm_up().await.unwrap();
        let answer = text.clone();
        server.answers(move |_| Response::new(answer.clone()));
        let what = &text[..text.len().min(40)];
        assert!(!find(&remote, "b", clock.now()).await, "{what}");
        assert_eq!(
            remote.status(clock.now()).last_error(),
            Some(error),
            "{what}"
        );
        assert!(knows(&remote, "a", clock.now()), "{what}");
        assert!(remote.find("c", clock.now()).is_none(), "{what}");
        assert_eq!(server.asked(), 2, "{what}");
    }
}

// D3
#[tokio::test(start_paused = true)]
async fn a_good_set_with_a_wrong_content_type_is_taken() {
    let server = Server::new(|_| {
        let mut response = Response::new(jwks(&["a"]));
        let html = "text/html".parse().unwrap();
        response.headers_mut().insert("content-type", html);
        response
    });
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    assert!(knows(&remote, "a", clock.now()));
    assert!(
        !server
            .last_request()
            .headers
            .contains_key("accept-encoding")
    );
}

// D6
#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_once_by_all_who_need_it() {
    let server = Server::of(&["old"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    let epoch = remote.keyring().current(clock.now()).unwrap().epoch;
    server.has(&["old", "new"]);
    server.takes(Duration::from_millis(300));
    let finders = (0..100).map(|_| find(&remote, "new", clock.now()));
    assert!(join_all(finders).await.into_iter().all(|found| found));
    assert_eq!(server.asked(), 2);
    // No key has left: what was verified holds.
    assert!(remote.keyring().holds(epoch, clock.now()));
}

/// What is planned while a fetch is under way is when to give it up.
#[tokio::test(start_paused = true)]
async fn keys_that_live_shortly_are_fetched_again_after_one_was_looked_for() {
    let server = Server::of(&["old"]);
    let clock = Ticking::new();
    let settings = RemoteKeys::at(URL).client(server.clone()).clock(clock);
    let remote = build(settings.refresh_between(secs(1), secs(1)));
    server.takes(Duration::from_millis(10));
    remote.warm_up().await.unwrap();
    // Before the task that has waited for it, too, has looked when it is to fetch again.
    let mut looking = remote.find("new", clock.now()).unwrap();
    assert!(!polled(&mut looking).await);
    pass(secs(4)).await;
    assert!(server.asked() >= 4, "{}", server.asked());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_came_while_a_fetch_was_under_way_is_fetched_for() {
    let server = Server::of(&["old"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    server.takes(Duration::from_millis(200));
    let mut first = remote.find("nobody", clock.now()).unwrap();
    assert!(!polled(&mut first).await);
    tokio::task::yield_now().await;
    assert_eq!(server.asked(), 2);
    // The answer that is on its way does not have it.
    server.has(&["old", "new"]);
    let (_, found) = tokio::join!(first, find(&remote, "new", clock.now()));
    assert!(found);
    assert_eq!(server.asked(), 3);
    // Nor is it held against an id that it is not in an answer from before.
    assert!(find(&remote, "new", clock.now()).await);
}

// D7
#[tokio::test(start_paused = true)]
async fn what_a_key_vouched_for_falls_with_it_at_the_next_refresh() {
    let server = Server::of(&["old", "new"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    let epoch = remote.keyring().current(clock.now()).unwrap().epoch;
    server.has(&["new"]);
    pass(secs(430)).await;
    assert!(remote.keyring().holds(epoch, clock.now()));
    pass(secs(60)).await;
    assert!(!knows(&remote, "old", clock.now()));
    assert!(!remote.keyring().holds(epoch, clock.now()));
}

// D8, D10
#[tokio::test(start_paused = true)]
async fn entries_are_judged_one_by_one() {
    let private = r#"{"kty": "OKP", "crv": "Ed25519", "kid": "p", "d": "AA", "x": "AA"}"#;
    let secret = r#"{"kty": "oct", "kid": "s", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMko"}"#;
    let ec = r#"{"kty": "EC", "crv": "P-256", "kid": "a",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let entries = [&jwk("a"), private, secret, ec, &jwk("a"), "7"].join(",");
    let server = Server::new(move |_| Response::new(format!(r#"{{"keys": [{entries}]}}"#)));
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    let status = remote.status(clock.now());
    // Both that are called `a`, and the one that is there twice once.
    assert_eq!(status.kids().collect::<Vec<_>>(), [Some("a"), Some("a")]);
    let unusable: Vec<_> = status.unusable().iter().map(|key| key.kid()).collect();
    assert_eq!(unusable, [Some("p"), Some("s"), None]);
}

// D11
#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_kids_forces_four_fetches_and_one_every_30_seconds() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    // Stays under the 432 seconds to the next refresh.
    let start = clock.now();
    for round in 0..4000 {
        for kid in 0..10 {
            remote.tick(clock.now());
            assert!(!find(&remote, &format!("{round}-{kid}"), clock.now()).await);
        }
        pass(Duration::from_millis(100)).await;
    }
    let elapsed = clock.now().since(start).as_secs();
    let forced = server.asked() - 1;
    assert_eq!(forced as u64, 4 + elapsed / 30);
    assert!(remote.shared.unknown.len() <= 1000);
    assert!(knows(&remote, "a", clock.now()));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_the_issuer_did_not_know_is_not_asked_for_again_for_a_while() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    assert!(!find(&remote, "b", clock.now()).await);
    assert!(remote.find("b", clock.now()).is_none());
    assert_eq!(server.asked(), 2);
    server.has(&["a", "b"]);
    pass(secs(31)).await;
    assert!(find(&remote, "b", clock.now()).await);
    assert!(remote.find(&"k".repeat(257), clock.now()).is_none());
    assert_eq!(server.asked(), 3);
}

// D14
#[tokio::test(start_paused = true)]
async fn an_answer_to_an_older_question_is_ignored() {
    let server = Server::of(&["old"]);
    let manual = ManualClock::new(NOW);
    let settings = RemoteKeys::at(URL)
        .client(server.clone())
        .clock(manual.clone());
    let remote = build(settings.fetch_timeout(secs(5)));
    // No task drives the first one, nor ends it.
    server.takes(secs(2));
    let started = remote
        .shared
        .start(&mut remote.shared.lock(), manual.now(), None);
    assert!(!polled(&mut started.clone()).await);
    manual.advance(secs(7));
    // It counts as a failure, after which nobody asks for two seconds.
    remote.tick(manual.now());
    assert_eq!(
        remote.status(manual.now()).last_error(),
        Some(FetchError::TimedOut)
    );
    manual.advance(secs(3));
    server.has(&["new"]);
    server.takes(Duration::ZERO);
    remote.obtain(manual.now()).wait().await;
    assert!(knows(&remote, "new", manual.now()));
    started.await.unwrap();
    assert!(knows(&remote, "new", manual.now()) && !knows(&remote, "old", manual.now()));
    let status = remote.status(manual.now());
    assert_eq!((status.failures(), status.fetches()), (0, 2));
}

// D16
#[tokio::test(start_paused = true)]
async fn all_who_wait_for_a_fetch_that_fails_are_answered_and_none_starts_another() {
    let server = Server::new(|_| failing());
    server.takes(Duration::from_millis(100));
    let (remote, clock) = remote(&server);
    let waits = (0..100).map(|_| remote.obtain(clock.now()).wait());
    join_all(waits).await;
    assert_eq!(server.asked(), 1);
    server.has(&["a"]);
    pass(secs(3)).await;
    assert!(knows(&remote, "a", clock.now()));
    let asked = server.asked();
    server.fails();
    let finders = (0..100).map(|kid| {
        let (remote, kid) = (remote.clone(), format!("k{kid}"));
        async move { find(&remote, &kid, clock.now()).await }
    });
    let finders = finders.map(tokio::spawn);
    assert!(
        join_all(finders)
            .await
            .into_iter()
            .all(|found| !found.unwrap())
    );
    assert_eq!(server.asked(), asked + 1);
}

// D17
#[tokio::test(start_paused = true)]
async fn a_set_with_a_tag_is_confirmed_by_304() {
    let server = Server::new(|request| {
        if request
            .headers
            .get("if-none-match")
            .is_some_and(|tag| tag == "\"1\"")
        {
            return status(StatusCode::NOT_MODIFIED);
        }
        let mut response = Response::new(jwks(&["a"]));
        response
            .headers_mut()
            .insert("etag", "\"1\"".parse().unwrap());
        response
    });
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    assert!(!server.last_request().headers.contains_key("if-none-match"));
    server.takes(Duration::ZERO);
    pass(secs(500)).await;
    assert_eq!(server.asked(), 2);
    let status = remote.status(clock.now());
    assert!(status.age().unwrap() < secs(70));
    assert_eq!((status.last_error(), status.is_ready()), (None, true));
    pass(30 * HOUR).await;
    assert!(knows(&remote, "a", clock.now()));
    // A document with another tag, or with none, is another document.
    server.has(&["b"]);
    pass(secs(500)).await;
    assert!(knows(&remote, "b", clock.now()) && !knows(&remote, "a", clock.now()));
    pass(secs(500)).await;
    assert!(!server.last_request().headers.contains_key("if-none-match"));
}

#[tokio::test(start_paused = true)]
async fn a_304_to_no_tag_is_a_failure() {
    let server = Server::new(|_| status(StatusCode::NOT_MODIFIED));
    let (remote, _) = remote(&server);
    let error = FetchError::Status(StatusCode::NOT_MODIFIED);
    assert_eq!(remote.warm_up().await, Err(error));
}

// D17
#[tokio::test(start_paused = true)]
async fn what_the_server_says_of_its_life_is_kept_within_bounds() {
    for (control, least, most) in [
        ("max-age=0", 43, 49),
        ("max-age=315360000", 62_000, 69_121),
        ("max-age=3600", 2592, 2881),
    ] {
        let server = Server::new(move |_| {
            let mut response = Response::new(jwks(&["a"]));
            let headers = response.headers_mut();
            headers.insert("cache-control", control.parse().unwrap());
            headers.insert("age", "-5".parse().unwrap());
            response
        });
        let (remote, _clock) = remote(&server);
        remote.warm_up().await.unwrap();
        pass(secs(least)).await;
        assert_eq!(server.asked(), 1, "{control}");
        pass(secs(most - least)).await;
        assert_eq!(server.asked(), 2, "{control}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_panics_is_a_fetch_that_failed() {
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let server = Server::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        panic!("a client that panics");
    });
    let (remote, clock) = remote(&server);
    remote.obtain(clock.now()).wait().await;
    assert_eq!(
        remote.status(clock.now()).last_error(),
        Some(FetchError::Panicked)
    );
    pass(secs(3)).await;
    assert_eq!(panics.load(Ordering::SeqCst), 2);
}

#[test]
fn without_timers_requests_refresh_the_keys_and_end_a_fetch_that_hangs() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let server = Server::of(&["a"]);
    let clock = ManualClock::new(NOW);
    let settings = RemoteKeys::at(URL)
        .client(server.clone())
        .clock(clock.clone());
    let remote = build(settings);
    runtime.block_on(async {
        remote.tick(clock.now());
        remote.obtain(clock.now()).wait().await;
        assert!(knows(&remote, "a", clock.now()));
        clock.advance(secs(481));
        remote.tick(clock.now());
        tokio::task::yield_now().await;
        assert_eq!(server.asked(), 2);
        let hanging = RemoteKeys::at(URL).client(tower::service_fn(|_| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        }));
        let hanging = build(hanging.clock(clock.clone()));
        let mut waiting = hanging.obtain(clock.now()).wait().boxed();
        assert!(!polled(&mut waiting).await);
        drop(waiting);
        clock.advance(secs(7));
        hanging.tick(clock.now());
        let status = hanging.status(clock.now());
        assert_eq!((status.failures(), status.fetches()), (1, 1));
        clock.advance(secs(3));
        hanging.tick(clock.now());
        assert_eq!(hanging.status(clock.now()).fetches(), 2);
    });
}

#[test]
fn outside_of_tokio_whoever_needs_keys_fetches_them() {
    let server = Server::of(&["a"]);
    let clock = ManualClock::new(NOW);
    let settings = RemoteKeys::at(URL)
        .client(server.clone())
        .clock(clock.clone());
    let remote = build(settings);
    remote.tick(clock.now());
    assert_eq!(server.asked(), 0);
    remote.obtain(clock.now()).wait().now_or_never().unwrap();
    assert!(knows(&remote, "a", clock.now()));
    server.has(&["b"]);
    let found = remote.find("b", clock.now()).unwrap();
    found.now_or_never().unwrap();
    assert!(knows(&remote, "b", clock.now()));
}

#[test]
fn a_runtime_that_ends_takes_its_fetch_with_it_and_the_next_one_starts_anew() {
    let server = Server::of(&["a"]);
    let clock = ManualClock::new(NOW);
    let settings = RemoteKeys::at(URL)
        .client(server.clone())
        .clock(clock.clone());
    let remote = build(settings);
    let start = || Builder::new_current_thread().enable_time().build().unwrap();
    server.takes(secs(3600));
    start().block_on(async {
        remote.tick(clock.now());
        tokio::task::yield_now().await;
    });
    assert_eq!(server.asked(), 1);
    server.takes(Duration::ZERO);
    start().block_on(async {
        remote.obtain(clock.now()).wait().await;
        assert!(knows(&remote, "a", clock.now()));
    });
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_put_back_has_the_keys_fetched_anew() {
    let server = Server::of(&["a"]);
    let clock = ManualClock::new(NOW);
    let settings = RemoteKeys::at(URL)
        .client(server.clone())
        .clock(clock.clone());
    let remote = build(settings);
    remote.obtain(clock.now()).wait().await;
    clock.set(NOW.saturating_sub(HOUR));
    remote.tick(clock.now());
    tokio::task::yield_now().await;
    assert_eq!(server.asked(), 2);
    remote.tick(clock.now());
    tokio::task::yield_now().await;
    assert_eq!(server.asked(), 2);
    // And a day ahead, the keys are too old: the request waits for others.
    clock.advance(48 * HOUR);
    assert!(remote.keyring().current(clock.now()).is_none());
    remote.obtain(clock.now()).wait().await;
    assert!(knows(&remote, "a", clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_is_one_event_without_what_was_received() {
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Events(Arc<Mutex<Vec<String>>>);
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            struct Text(String);
            impl tracing::field::Visit for Text {
                fn record_debug(
                    &mut self,
                    field: &tracing::field::Field,
                    value: &dyn std::fmt::Debug,
                ) {
                    self.0.push_str(&format!("{field}={value:?} "));
                }
            }
            let mut text = Text(format!("{} ", event.metadata().target()));
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
    let events = Events::default();
    let subscriber = tracing_subscriber::registry().with(events.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::new(|_| Response::new("CANARY".to_owned()));
    let settings = RemoteKeys::at("https://id.example.com/keys?token=CANARY");
    let remote = build(settings.client(server).clock(Ticking::new()));
    assert!(remote.warm_up().await.is_err());
    let seen = events.0.lock().unwrap().clone();
    let seen: Vec<_> = seen
        .iter()
        .filter(|event| event.starts_with("tollgate::jwks"))
        .collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].contains("the answer is not a key set"), "{seen:?}");
    assert!(seen[0].contains("failures=1"), "{seen:?}");
    let said = format!("{seen:?} {remote:?} {:?}", remote.status(NOW));
    assert!(!said.contains("CANARY"), "{said}");
}

#[test]
fn settings_that_cannot_work_are_refused_when_it_is_built() {
    let server = Server::of(&["a"]);
    let refused = |settings: RemoteKeys| {
        let settings = settings.client(server.clone());
        Remote::new(settings, ISSUER, vec![], Backend::default()).is_err()
    };
    let at = || RemoteKeys::at(URL);
    assert!(!refused(at()));
    assert!(!refused(
        at().fetch_timeout(Duration::MAX).max_age(Duration::MAX)
    ));
    assert!(refused(RemoteKeys::at("http://id.example.com/jwks")));
    assert!(refused(RemoteKeys::at("http://127.0.0.1/jwks")));
    assert!(!refused(
        RemoteKeys::at("http://127.0.0.1/jwks").allow_loopback_http()
    ));
    assert!(refused(
        RemoteKeys::at("http://10.0.0.1/jwks").allow_loopback_http()
    ));
    assert!(refused(RemoteKeys::at("file:///etc/passwd")));
    assert!(refused(at().fetch_timeout(Duration::ZERO)));
    assert!(refused(at().max_age(Duration::ZERO)));
    assert!(refused(at().max_document_len(0)));
    assert!(refused(at().refresh_between(Duration::ZERO, HOUR)));
    assert!(refused(at().refresh_between(HOUR, secs(60))));
    assert_eq!(
        Remote::new(at(), ISSUER, vec![], Backend::default()).is_ok(),
        cfg!(feature = "jwks"),
    );
}
