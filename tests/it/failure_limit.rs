//! Networks whose credentials keep failing: row 21.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, Request};
use tollgate::auth::{AuthFailureLimitLayer, Source};
use tollgate::clock::ManualClock;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::network::ClientIp;
use tollgate::{ApiKeys, AuthLayer, RequireLayer, scope};
use tower::{Service, ServiceExt};

use super::ServiceBuilder;
use crate::support::{NOW, Script, Scripted, clock, get, issue, keys_over, send, who, with};

fn from(peer: &str, key: &str) -> Request<()> {
    let mut request = with("x-api-key", key);
    request
        .extensions_mut()
        .insert(SocketAddr::new(peer.parse().unwrap(), 4711));
    request
}

/// A key of the right form that nobody here has.
async fn guess() -> String {
    issue(&keys_over(MemoryKeys::new()), NewKey::for_owner("eve")).await
}

fn stack(
    keys: ApiKeys,
    clock: &ManualClock,
) -> impl Service<
    Request<()>,
    Response = http::Response<
        impl http_body::Body<Data = bytes::Bytes, Error = std::convert::Infallible>,
    >,
    Error = std::convert::Infallible,
> + Clone {
    let throttle = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(3)
        .clock(clock.clone());
    ServiceBuilder::new()
        .layer(throttle)
        .layer(AuthLayer::new(keys).clock(clock.clone()))
        .layer(RequireLayer::new(scope("a")))
        .service(who())
}

#[tokio::test]
async fn network_over_its_budget_gets_429_and_others_do_not() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let good = issue(&keys, NewKey::for_owner("alice").scopes(["a"])).await;
    let service = stack(keys, &clock);
    for _ in 0..3 {
        assert_eq!(
            send(&service, from("192.0.2.7", &guess().await))
                .await
                .status,
            401
        );
    }
    let answer = send(&service, from("192.0.2.7", &guess().await)).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("10"));
    assert_eq!(answer.header("ratelimit"), None);
    let problem = answer.json();
    let abnormal = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected";
    assert_eq!(problem["type"], abnormal);
    assert_eq!(problem["code"], "too_many_failures");
    assert_eq!(send(&service, from("192.0.2.7", &good)).await.status, 429);
    assert_eq!(send(&service, from("192.0.2.8", &good)).await.status, 200);
    // Waiting for as long as it says is enough.
    clock.advance(Duration::from_secs(10));
    assert_eq!(send(&service, from("192.0.2.7", &good)).await.status, 200);
}

#[tokio::test]
async fn only_a_wrong_secret_is_charged() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let good = issue(&keys, NewKey::for_owner("alice").scopes(["a"])).await;
    let poor = issue(&keys, NewKey::for_owner("bob")).await;
    let revoked = keys.issue(NewKey::for_owner("carol")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let service = stack(keys, &clock);
    let mut nothing = get();
    nothing
        .extensions_mut()
        .insert(SocketAddr::new("192.0.2.7".parse().unwrap(), 1));
    for _ in 0..20 {
        for (key, status) in [
            (&*good, 200),
            (&*poor, 403),
            (revoked.key.expose(), 401),
            ("acme_live_mistyped", 401),
            ("{}", 400),
        ] {
            assert_eq!(
                send(&service, from("192.0.2.7", key)).await.status,
                status,
                "{key}"
            );
        }
        assert_eq!(send(&service, nothing.clone()).await.status, 401);
    }
}

#[tokio::test]
async fn guesses_at_once_are_held_to_the_budget() {
    let clock = clock();
    let keys = keys_over(Scripted::new(Script::Later));
    let mut good = Vec::new();
    for owner in 0..10 {
        good.push(issue(&keys, NewKey::for_owner(format!("owner-{owner}"))).await);
    }
    let throttle = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(3)
        .clock(clock.clone());
    let slow = tower::service_fn(|_: Request<()>| async {
        tokio::task::yield_now().await;
        Ok::<_, std::convert::Infallible>(http::Response::new(
            http_body_util::Full::<bytes::Bytes>::default(),
        ))
    });
    let service = ServiceBuilder::new()
        .layer(throttle)
        .layer(AuthLayer::new(keys))
        .service(slow);
    let guess = guess().await;
    let guesses = (0..10).map(|_| send(&service, from("192.0.2.7", &guess)));
    let answers = futures_util::future::join_all(guesses).await;
    let count = |status: u16| answers.iter().filter(|each| each.status == status).count();
    assert_eq!((count(401), count(429)), (3, 7));

    // Ten that are in the handler at once: a place is free again once the caller is known.
    let mut inside = Vec::new();
    for key in &good {
        let mut call = Box::pin(service.clone().oneshot(from("192.0.2.9", key)));
        for _ in 0..2 {
            assert!(futures_util::poll!(&mut call).is_pending());
        }
        inside.push(call);
    }
    for call in inside {
        assert_eq!(call.await.unwrap().status(), 200);
    }
}

/// A handler that counts its requests and never answers.
fn counting(
    handled: &std::sync::Arc<std::sync::atomic::AtomicUsize>,
) -> impl Service<
    Request<()>,
    Response = http::Response<http_body_util::Full<bytes::Bytes>>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ use<> {
    let handled = handled.clone();
    tower::service_fn(move |_: Request<()>| {
        handled.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::future::pending()
    })
}

fn anonymous(peer: &str) -> Request<()> {
    let mut request = get();
    request
        .extensions_mut()
        .insert(SocketAddr::new(peer.parse().unwrap(), 4711));
    request
}

#[tokio::test]
async fn anonymous_callers_are_no_guesses_while_their_handlers_run() {
    let (clock, handled) = (clock(), std::sync::Arc::default());
    let keys = keys_over(MemoryKeys::new());
    let alice = issue(&keys, NewKey::for_owner("alice")).await;
    let bob = issue(&keys, NewKey::for_owner("bob")).await;
    let service = ServiceBuilder::new()
        .layer(
            AuthFailureLimitLayer::failures_per_minute(6)
                .burst(3)
                .clock(clock),
        )
        .layer(AuthLayer::new(keys).optional())
        .service(counting(&handled));
    let mut inside = Vec::new();
    for _ in 0..5 {
        let mut call = Box::pin(service.clone().oneshot(anonymous("192.0.2.7")));
        assert!(futures_util::poll!(&mut call).is_pending());
        inside.push(call);
    }
    for key in [&alice, &bob] {
        let mut call = Box::pin(service.clone().oneshot(from("192.0.2.7", key)));
        assert!(futures_util::poll!(&mut call).is_pending());
        inside.push(call);
    }
    assert_eq!(
        handled.load(std::sync::atomic::Ordering::SeqCst),
        7,
        "each is let in"
    );
}

#[tokio::test]
async fn a_wrong_secret_at_a_second_door_is_charged_too() {
    let clock = clock();
    let service = ServiceBuilder::new()
        .layer(
            AuthFailureLimitLayer::failures_per_minute(6)
                .burst(3)
                .clock(clock),
        )
        .layer(
            AuthLayer::new(keys_over(MemoryKeys::new()))
                .sources([Source::header(HeaderName::from_static("x-outer"))])
                .optional(),
        )
        .layer(AuthLayer::new(keys_over(MemoryKeys::new())))
        .service(who());
    let guess = guess().await;
    for status in [401, 401, 401, 429] {
        let answer = send(&service, from("192.0.2.7", &guess)).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn nested_limits_charge_failures_only() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let mut good = Vec::new();
    for owner in 0..10 {
        good.push(issue(&keys, NewKey::for_owner(format!("owner-{owner}"))).await);
    }
    let handled = std::sync::Arc::default();
    let throttle = |prefix| {
        AuthFailureLimitLayer::failures_per_minute(6)
            .burst(3)
            .clock(clock.clone())
            .client_ip(ClientIp::new().group_by_prefix(prefix, 64))
    };
    let stack = |inner| {
        ServiceBuilder::new()
            .layer(throttle(16))
            .layer(throttle(32))
            .layer(AuthLayer::new(keys.clone()))
            .service(inner)
    };
    let service = stack(tower::util::BoxCloneService::new(counting(&handled)));
    let mut inside = Vec::new();
    for key in &good {
        let mut call = Box::pin(service.clone().oneshot(from("192.0.2.7", key)));
        assert!(futures_util::poll!(&mut call).is_pending());
        inside.push(call);
    }
    assert_eq!(handled.load(std::sync::atomic::Ordering::SeqCst), 10);
    // And both are charged for a guess: the outer one for those of its whole network.
    let service = stack(tower::util::BoxCloneService::new(who()));
    let guess = guess().await;
    for (peer, status) in [
        ("192.0.2.1", 401),
        ("192.0.2.2", 401),
        ("192.0.2.3", 401),
        ("192.0.2.4", 429),
    ] {
        assert_eq!(send(&service, from(peer, &guess)).await.status, status);
    }
}

#[tokio::test]
async fn handler_that_keeps_the_request_keeps_no_place() {
    let keys = keys_over(MemoryKeys::new());
    let mut good = Vec::new();
    for owner in 0..10 {
        good.push(issue(&keys, NewKey::for_owner(format!("owner-{owner}"))).await);
    }
    let kept = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let keeper = kept.clone();
    let limit = AuthFailureLimitLayer::failures_per_minute(6).burst(1);
    let service = ServiceBuilder::new()
        .layer(limit.clock(clock()))
        .layer(AuthLayer::new(keys))
        .service_fn(move |request: Request<()>| {
            keeper.lock().unwrap().push(request.extensions().clone());
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
                http_body_util::Full::<bytes::Bytes>::default(),
            )))
        });
    for key in &good {
        assert_eq!(send(&service, from("192.0.2.7", key)).await.status, 200);
    }
    assert_eq!(kept.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn a_client_that_goes_away_is_not_charged() {
    let clock = clock();
    let store = Scripted::new(Script::Hangs);
    let keys = keys_over(store.clone());
    let throttle = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(1)
        .clock(clock.clone());
    let service = ServiceBuilder::new()
        .layer(throttle)
        .layer(AuthLayer::new(keys))
        .service(who());
    let guess = guess().await;
    for _ in 0..5 {
        let mut call = Box::pin(service.clone().oneshot(from("192.0.2.7", &guess)));
        assert!(futures_util::poll!(&mut call).is_pending());
    }
    assert_eq!(store.finds(), 5, "each is verified, none waits");
}

#[tokio::test]
async fn clients_are_charged_by_network_through_trusted_proxies() {
    let clock = clock();
    let throttle = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(1)
        .clock(clock.clone())
        .client_ip(ClientIp::new().trusted_proxies(["10.0.0.1"]));
    let keys = keys_over(MemoryKeys::new());
    let service = ServiceBuilder::new()
        .layer(throttle)
        .layer(AuthLayer::new(keys))
        .service(who());
    let guess = guess().await;
    let via_proxy = |client: &str| {
        let mut request = from("10.0.0.1", &guess);
        request
            .headers_mut()
            .insert("x-forwarded-for", client.parse().unwrap());
        request
    };
    assert_eq!(send(&service, via_proxy("2001:db8::1")).await.status, 401);
    assert_eq!(
        send(&service, via_proxy("2001:db8::2")).await.status,
        429,
        "the same /64"
    );
    assert_eq!(
        send(&service, via_proxy("2001:db8:0:1::1")).await.status,
        401
    );
    // Without an address nobody can be charged.
    for _ in 0..5 {
        assert_eq!(send(&service, with("x-api-key", &guess)).await.status, 401);
    }
}

#[tokio::test]
async fn clock_that_steps_back_holds_nobody_back_for_longer() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let good = issue(&keys, NewKey::for_owner("alice").scopes(["a"])).await;
    let service = stack(keys, &clock);
    for _ in 0..3 {
        assert_eq!(
            send(&service, from("192.0.2.7", &guess().await))
                .await
                .status,
            401
        );
    }
    clock.set(NOW.saturating_sub(Duration::from_secs(3_600)));
    assert_eq!(send(&service, from("192.0.2.7", &good)).await.status, 429);
    clock.advance(Duration::from_secs(10));
    assert_eq!(send(&service, from("192.0.2.7", &good)).await.status, 200);
}

#[test]
fn a_throttle_that_lets_nobody_fail_cannot_be_built() {
    assert!(std::panic::catch_unwind(|| AuthFailureLimitLayer::failures_per_minute(0)).is_err());
    assert!(
        std::panic::catch_unwind(|| AuthFailureLimitLayer::failures_per_minute(1).burst(0))
            .is_err()
    );
}

/// A limit of 3 failures at once in front of keys in a store that takes a few polls.
fn slow_stack(
    store: Scripted,
    wait: Duration,
) -> impl Service<
    Request<()>,
    Response = http::Response<
        impl http_body::Body<Data = bytes::Bytes, Error = std::convert::Infallible>,
    >,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send {
    let limit = AuthFailureLimitLayer::failures_per_minute(6).burst(3);
    ServiceBuilder::new()
        .layer(limit.max_wait(wait).clock(clock()))
        .layer(AuthLayer::new(keys_over(store)).clock(clock()))
        .service(who())
}

#[tokio::test]
async fn good_keys_at_once_are_never_429_within_the_budget() {
    let store = Scripted::new(Script::Later);
    let keys = keys_over(store.clone());
    let mut good = Vec::new();
    for owner in 0..40 {
        good.push(issue(&keys, NewKey::for_owner(format!("owner-{owner}"))).await);
    }
    store.become_slow(50);
    let service = slow_stack(store.clone(), Duration::from_secs(60));
    let requests = good
        .iter()
        .map(|key| send(&service, from("192.0.2.7", key)));
    let answers = futures_util::future::join_all(requests).await;
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses, [200; 40]);
}

#[tokio::test]
async fn verifications_of_a_network_are_bounded_by_its_budget() {
    let store = Scripted::new(Script::Hangs);
    let service = slow_stack(store.clone(), Duration::from_secs(60));
    let guess = guess().await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        let mut call = Box::pin(service.clone().oneshot(from("192.0.2.7", &guess)));
        assert!(futures_util::poll!(&mut call).is_pending());
        calls.push(call);
    }
    assert_eq!(store.finds(), 3);
    let mut other = Box::pin(service.clone().oneshot(from("192.0.2.8", &guess)));
    assert!(futures_util::poll!(&mut other).is_pending());
    assert_eq!(store.finds(), 4, "another network has its own budget");
    // A client that goes away makes place for the next one.
    drop(calls.remove(0));
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    assert_eq!(store.finds(), 5);
    // One that waits and goes away does not keep the others waiting.
    drop(calls.remove(5));
    drop(calls.remove(0));
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    assert_eq!(store.finds(), 6);
}

#[tokio::test(start_paused = true)]
async fn credential_that_waits_too_long_is_503() {
    let store = Scripted::new(Script::Hangs);
    let limit = AuthFailureLimitLayer::failures_per_minute(6).burst(1);
    let keys = keys_over(store.clone()).store_timeout(Duration::from_secs(5));
    let service = ServiceBuilder::new()
        .layer(limit.clock(clock()))
        .layer(AuthLayer::new(keys))
        .service(who());
    let guess = guess().await;
    let mut first = Box::pin(service.clone().oneshot(from("192.0.2.7", &guess)));
    assert!(futures_util::poll!(&mut first).is_pending());
    let start = tokio::time::Instant::now();
    let answer = send(&service, from("192.0.2.7", &guess)).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (503, "verifier_unavailable")
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_eq!(store.finds(), 1);
}

#[tokio::test]
async fn credential_that_was_good_passes_over_the_budget() {
    let store = Scripted::new(Script::Later);
    let keys = keys_over(store.clone());
    let known = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let unknown = issue(&keys, NewKey::for_owner("bob")).await;
    let service = slow_stack(store.clone(), Duration::from_secs(60));
    let alice = known.key.expose();
    // It may be known from elsewhere.
    assert_eq!(send(&service, from("192.0.2.9", alice)).await.status, 200);
    for _ in 0..3 {
        assert_eq!(
            send(&service, from("192.0.2.7", &guess().await))
                .await
                .status,
            401
        );
    }
    for (key, status) in [
        (&*guess().await, 429),
        (&*unknown, 429),
        ("acme_live_mistyped", 429),
        ("{}", 429),
        (alice, 200),
        (alice, 200),
    ] {
        assert_eq!(
            send(&service, from("192.0.2.7", key)).await.status,
            status,
            "{key}"
        );
    }
    assert_eq!(send(&service, anonymous("192.0.2.7")).await.status, 429);
    // It is verified as always.
    keys.revoke(known.record.id).await.unwrap();
    let answer = send(&service, from("192.0.2.7", alice)).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (401, "credential_revoked")
    );
    assert_eq!(
        send(&service, from("192.0.2.7", alice)).await.status,
        429,
        "not good any more"
    );
}

#[tokio::test]
async fn preflight_is_answered_over_the_budget() {
    let limit = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(1)
        .clock(clock());
    let layer = AuthLayer::new(keys_over(MemoryKeys::new())).allow_preflight();
    let service = ServiceBuilder::new()
        .layer(limit)
        .layer(layer)
        .service(who());
    assert_eq!(
        send(&service, from("192.0.2.7", &guess().await))
            .await
            .status,
        401
    );
    assert_eq!(send(&service, anonymous("192.0.2.7")).await.status, 429);
    let mut preflight = anonymous("192.0.2.7");
    *preflight.method_mut() = http::Method::OPTIONS;
    for (name, value) in [
        ("origin", "https://a.example"),
        ("access-control-request-method", "GET"),
    ] {
        preflight.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(send(&service, preflight).await.status, 200);
}

#[tokio::test]
async fn panic_of_a_store_frees_its_place() {
    let store = Scripted::new(Script::Panics);
    let service = slow_stack(store.clone(), Duration::from_secs(60));
    let guess = guess().await;
    for _ in 0..5 {
        assert_eq!(send(&service, from("192.0.2.7", &guess)).await.status, 500);
    }
    assert_eq!(store.finds(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_guesses_fail_exactly_as_often_as_allowed() {
    let store = Scripted::new(Script::Later);
    store.become_slow(20);
    let service = slow_stack(store.clone(), Duration::from_secs(60));
    let guess = guess().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (service, request) = (service.clone(), from("192.0.2.7", &guess));
        tasks.spawn(async move { service.oneshot(request).await.unwrap().status().as_u16() });
    }
    let statuses = tasks.join_all().await;
    let count = |status| statuses.iter().filter(|each| **each == status).count();
    assert_eq!((count(401), count(429)), (3, 197));
    assert_eq!(store.finds(), 3);
}

#[tokio::test]
async fn store_that_is_down_does_not_make_a_known_credential_unknown() {
    let store = Scripted::new(Script::Now);
    let keys = keys_over(store.clone());
    let alice = issue(&keys, NewKey::for_owner("alice")).await;
    let service = slow_stack(store.clone(), Duration::from_secs(60));
    assert_eq!(send(&service, from("192.0.2.7", &alice)).await.status, 200);
    for _ in 0..3 {
        assert_eq!(
            send(&service, from("192.0.2.7", &guess().await))
                .await
                .status,
            401
        );
    }
    store.turn(Script::Fails);
    assert_eq!(send(&service, from("192.0.2.7", &alice)).await.status, 503);
    store.turn(Script::Later);
    assert_eq!(send(&service, from("192.0.2.7", &alice)).await.status, 200);
}

/// A request that waits for its own network takes no place of the network around it.
#[tokio::test]
async fn request_that_waits_holds_no_place_of_another_limit() {
    let limit = |prefix, burst| {
        AuthFailureLimitLayer::failures_per_minute(6)
            .burst(burst)
            .clock(clock())
            .client_ip(ClientIp::new().group_by_prefix(prefix, 64))
    };
    for (outer, inner) in [((32, 1), (16, 3)), ((16, 3), (32, 1))] {
        let store = Scripted::new(Script::Hangs);
        let service = ServiceBuilder::new()
            .layer(limit(outer.0, outer.1))
            .layer(limit(inner.0, inner.1))
            .layer(AuthLayer::new(keys_over(store.clone())))
            .service(who());
        let guess = guess().await;
        let mut calls = Vec::new();
        for peer in ["192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.8"] {
            let mut call = Box::pin(service.clone().oneshot(from(peer, &guess)));
            assert!(futures_util::poll!(&mut call).is_pending());
            calls.push(call);
        }
        assert_eq!(store.finds(), 2, "one of each client, {outer:?}");
        // The place of the first one goes to the second.
        drop(calls.remove(0));
        for call in &mut calls {
            assert!(futures_util::poll!(call).is_pending());
        }
        assert_eq!(store.finds(), 3, "{outer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_credential_starts_when_failures_are_allowed_again() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let limit = AuthFailureLimitLayer::failures_per_minute(6).burst(2);
    let limit = limit.max_wait(Duration::from_secs(60)).clock(clock.clone());
    let keys = keys_over(store.clone()).store_timeout(Duration::from_secs(3_600));
    let service = ServiceBuilder::new()
        .layer(limit)
        .layer(AuthLayer::new(keys))
        .service(who());
    let guess = guess().await;
    assert_eq!(send(&service, from("192.0.2.7", &guess)).await.status, 401);
    store.turn(Script::Hangs);
    let call = || Box::pin(service.clone().oneshot(from("192.0.2.7", &guess)));
    let (mut hanging, mut waiting, mut late) = (call(), call(), call());
    assert!(futures_util::poll!(&mut hanging).is_pending());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(store.finds(), 2);
    // One more failure is allowed. The one that waits is first.
    clock.advance(Duration::from_secs(10));
    assert!(futures_util::poll!(&mut late).is_pending());
    assert_eq!(store.finds(), 2, "nobody overtakes");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(store.finds(), 3);
    assert!(futures_util::poll!(&mut late).is_pending());
    assert_eq!(store.finds(), 3);
}

#[tokio::test]
async fn limit_inside_of_the_auth_layer_is_reported() {
    let (events, _guard) = crate::support::Events::listen();
    let limit = AuthFailureLimitLayer::failures_per_minute(6).clock(clock());
    let service = ServiceBuilder::new()
        .layer(AuthLayer::new(keys_over(MemoryKeys::new())).optional())
        .layer(limit)
        .service(who());
    for _ in 0..2 {
        assert_eq!(send(&service, anonymous("192.0.2.7")).await.status, 200);
    }
    let errors = events.of("ERROR");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("put it outside of each"), "{errors:?}");
}

/// A credential is charged once, and gets its turn, if the same limit is applied twice.
#[tokio::test(start_paused = true)]
async fn limit_that_is_applied_twice_counts_once() {
    let store = Scripted::new(Script::Later);
    let limit = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(2)
        .clock(clock());
    let keys = keys_over(store.clone());
    let good = issue(&keys, NewKey::for_owner("alice")).await;
    let service = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(limit)
        .layer(AuthLayer::new(keys))
        .service(who());
    assert_eq!(
        send(&service, from("192.0.2.7", &guess().await))
            .await
            .status,
        401
    );
    assert_eq!(send(&service, from("192.0.2.7", &good)).await.status, 200);
    assert_eq!(
        send(&service, from("192.0.2.7", &guess().await))
            .await
            .status,
        401
    );
    assert_eq!(
        send(&service, from("192.0.2.7", &guess().await))
            .await
            .status,
        429
    );
}

/// Requests of one client at once, beside a guess that spends the budget.
#[tokio::test]
async fn credential_that_is_found_good_while_it_waits_passes() {
    let store = Scripted::new(Script::Later);
    let keys = keys_over(store.clone());
    let alice = issue(&keys, NewKey::for_owner("alice")).await;
    store.become_slow(5);
    let limit = AuthFailureLimitLayer::failures_per_minute(6)
        .burst(1)
        .clock(clock());
    let service = ServiceBuilder::new()
        .layer(limit.max_wait(Duration::from_secs(60)))
        .layer(AuthLayer::new(keys))
        .service(who());
    let guess = guess().await;
    let requests =
        [&alice, &guess, &alice, &alice].map(|key| send(&service, from("192.0.2.7", key)));
    let answers = futures_util::future::join_all(requests).await;
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses, [200, 401, 200, 200]);
}
