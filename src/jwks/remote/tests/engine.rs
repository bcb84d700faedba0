//! When keys are fetched, and what becomes of the answers.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use tokio::runtime::Builder;

use super::events::Events;
use super::*;
use crate::clock::ManualClock;
use crate::jwks::remote::status::FetchError;

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
        obtain(&remote, clock.now())
    });
    join_all(waits).await;
    assert!(knows(&remote, "a", clock.now()));
    assert_eq!(server.asked(), 1);
    let status = remote.status(clock.now());
    assert!(status.is_ready());
    assert_eq!(status.kids().collect::<Vec<_>>(), [Some("a")]);
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
    let asking = look_up(&remote, "b", clock.now());
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
        obtain(&remote, clock.now()).await;
    }
    assert_eq!(server.asked(), 1);
    assert!(remote.keyring().current(clock.now()).is_none());
    let status = remote.status(clock.now());
    assert!(!status.is_ready());
    let error = FetchError::Status(StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!((status.last_error(), status.failures()), (Some(error), 1));
    assert_eq!(remote.warm_up().await, Err(error));
    assert!(matches!(
        at_once(&remote, "a", clock.now()),
        Some(LookUp::Unavailable(wait)) if wait >= secs(1)
    ));
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
    obtain(&remote, clock.now()).await;
    assert_eq!(clock.now().since(NOW).as_secs(), 1);
    assert!(remote.keyring().current(clock.now()).is_none());
    // One that goes away at once changes nothing.
    assert!(obtain(&remote, clock.now()).now_or_never().is_none());
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
        let found = at_once(&remote, &format!("k{second}"), clock.now());
        assert!(matches!(found, Some(LookUp::Unavailable(wait)) if wait > secs(0)));
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

#[tokio::test(start_paused = true)]
async fn a_client_that_panics_is_a_fetch_that_failed() {
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let server = Server::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        panic!("a client that panics");
    });
    let (remote, clock) = remote(&server);
    obtain(&remote, clock.now()).await;
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
        obtain(&remote, clock.now()).await;
        assert!(knows(&remote, "a", clock.now()));
        clock.advance(secs(481));
        remote.tick(clock.now());
        tokio::task::yield_now().await;
        assert_eq!(server.asked(), 2);
        let hanging = RemoteKeys::at(URL).client(tower::service_fn(|_| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        }));
        let hanging = build(hanging.clock(clock.clone()));
        let mut waiting = obtain(&hanging, clock.now()).boxed();
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
    obtain(&remote, clock.now()).now_or_never().unwrap();
    assert!(knows(&remote, "a", clock.now()));
    server.has(&["b"]);
    assert!(find(&remote, "b", clock.now()).now_or_never().unwrap());
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
        obtain(&remote, clock.now()).await;
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
    obtain(&remote, clock.now()).await;
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
    obtain(&remote, clock.now()).await;
    assert!(knows(&remote, "a", clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_is_one_event_without_what_was_received() {
    let (events, _guard) = Events::listen();
    let server = Server::new(|_| Response::new("CANARY".to_owned()));
    let settings = RemoteKeys::at("https://id.example.com/keys?token=CANARY");
    let remote = build(settings.client(server).clock(Ticking::new()));
    assert!(remote.warm_up().await.is_err());
    let seen = events.of("tollgate::jwks");
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
