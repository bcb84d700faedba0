//! What key servers answer, and what becomes of it.
#![cfg(test)]

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Response, StatusCode};

use super::*;
use crate::clock::ManualClock;
use crate::jwks::remote::status::FetchError;

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
        assert!(
            matches!(
                at_once(&remote, "c", clock.now()),
                Some(LookUp::Unavailable(_))
            ),
            "{what}"
        );
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
    let mut looking = look_up(&remote, "new", clock.now()).wait().boxed();
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
    let mut first = look_up(&remote, "nobody", clock.now()).wait().boxed();
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

#[tokio::test(start_paused = true)]
async fn set_asked_for_before_the_key_does_not_prove_its_absence() {
    let server = Server::of(&["old"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    for kid in ["1", "2", "3"] {
        let found = look_up(&remote, kid, clock.now()).wait().await;
        assert_eq!(found, LookUp::Absent);
    }
    server.takes(Duration::from_millis(200));
    let mut last = look_up(&remote, "4", clock.now()).wait().boxed();
    assert!(!polled(&mut last).await);
    tokio::task::yield_now().await;
    // It joins the fetch that was asked for before, and may not start another one.
    let joined = look_up(&remote, "5", clock.now()).wait();
    let (last, joined) = tokio::join!(last, joined);
    assert_eq!(last, LookUp::Absent);
    assert!(
        matches!(joined, LookUp::Unavailable(wait) if wait > secs(28) && wait <= secs(30)),
        "{joined:?}"
    );
    assert_eq!(server.asked(), 5);
}

#[tokio::test(start_paused = true)]
async fn absent_key_that_was_forgotten_is_looked_up_again() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    for kid in ["1", "2", "3", "4"] {
        assert!(!find(&remote, kid, clock.now()).await);
        assert_eq!(at_once(&remote, kid, clock.now()), Some(LookUp::Absent));
    }
    remote.shared.absent.clear();
    let found = at_once(&remote, "1", clock.now());
    assert!(matches!(found, Some(LookUp::Unavailable(_))), "{found:?}");
    pass(secs(30)).await;
    let found = look_up(&remote, "1", clock.now()).wait().await;
    assert_eq!(found, LookUp::Absent);
    assert_eq!(server.asked(), 6);
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
    assert!(remote.shared.absent.len() <= 1000);
    assert!(knows(&remote, "a", clock.now()));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_the_issuer_did_not_know_is_not_asked_for_again_for_a_while() {
    let server = Server::of(&["a"]);
    let (remote, clock) = remote(&server);
    remote.warm_up().await.unwrap();
    assert!(!find(&remote, "b", clock.now()).await);
    assert_eq!(at_once(&remote, "b", clock.now()), Some(LookUp::Absent));
    assert_eq!(server.asked(), 2);
    server.has(&["a", "b"]);
    pass(secs(31)).await;
    assert!(find(&remote, "b", clock.now()).await);
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
    obtain(&remote, manual.now()).await;
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
    let waits = (0..100).map(|_| obtain(&remote, clock.now()));
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
