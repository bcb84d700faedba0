//! What must not make a budget larger, or a refusal longer, than its quota says.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use futures_util::FutureExt;
use http::{Method, Request, Response};
use serde_json::json;
use tollgate::auth::{Answer, Authenticate};
use tollgate::clock::{Clock, ManualClock, SystemClock, Timestamp};
use tollgate::credential::Credential;
use tollgate::limit::{
    ConcurrencyLayer, Control, Cost, Decision, KeyBy, LimitKey, Limiter, MemoryLimiter, Quota,
    Quotas, RateLimitLayer,
};
use tollgate::pending::Pending;
use tollgate::rejection::Cause;
use tollgate::{AuthLayer, Identity};
use tower::{Layer, ServiceExt, service_fn};

use super::ServiceBuilder;
use crate::support::{clock, get, send, who, with};

fn identity(subject: &str) -> Identity {
    Identity::for_test().subject(subject).build()
}

fn of(subject: &str, path: &str) -> Request<()> {
    let mut request = Request::get(path).body(()).unwrap();
    request.extensions_mut().insert(identity(subject));
    request
}

fn take(limiter: &MemoryLimiter, quotas: &Quotas, now: Timestamp) -> Decision {
    match limiter.take(&LimitKey::custom("a"), quotas, 1, now) {
        Pending::Ready(taken) => taken.unwrap(),
        Pending::Later(_) => unreachable!("it is at hand"),
    }
}

async fn left(control: &Control, subject: &str, quotas: &Quotas) -> u32 {
    let identity = identity(subject);
    let key = LimitKey::principal(identity.principal());
    let standing = control.peek(&key, quotas).await.unwrap();
    standing.remaining(quotas).next().unwrap()
}

/// Requests that have looked at the clock earlier than others, and come later.
#[test]
fn who_comes_late_pays_as_everybody_does() {
    let (limiter, quotas) = (MemoryLimiter::new(), Quota::per_second(50).burst(1).into());
    let mut now = SystemClock.now();
    let mut admitted = 0;
    for _ in 0..1_000 {
        now = now.saturating_add(Duration::from_millis(1));
        for late in [0, 100, 4_000] {
            let at = now.saturating_sub(Duration::from_millis(late));
            admitted += u32::from(take(&limiter, &quotas, at).is_admitted());
        }
    }
    assert_eq!(admitted, 50);
}

/// G3: one burst too many, and nobody is locked out for longer than a budget takes to come
/// back.
#[test]
fn a_clock_that_is_set_back_locks_nobody_out() {
    let (limiter, quotas) = (MemoryLimiter::new(), Quota::per_second(10).into());
    let now = SystemClock.now();
    let mut at = now;
    let mut admitted = 0;
    for _ in 0..2 {
        for _ in 0..100 {
            admitted += u32::from(take(&limiter, &quotas, at).is_admitted());
        }
        at = now.saturating_sub(Duration::from_secs(3_600));
    }
    assert!((10..=20).contains(&admitted), "{admitted}");
    let later = at.saturating_add(Duration::from_secs(1));
    assert!(take(&limiter, &quotas, later).is_admitted());
}

/// Finds out who calls, for every other request only after a while.
struct Slow(AtomicUsize);

impl Authenticate for Slow {
    fn claims(&self, _: &[u8]) -> bool {
        true
    }

    fn authenticate(&self, _: &Credential, _: Timestamp) -> Answer {
        let is_slow = self.0.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        Answer::Mine(Pending::later(async move {
            if is_slow {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            Ok(identity("ann"))
        }))
    }
}

#[tokio::test]
async fn a_door_that_takes_its_time_gives_nothing_away() {
    let service = ServiceBuilder::new()
        .layer(AuthLayer::new(Slow(AtomicUsize::new(0))))
        .layer(RateLimitLayer::new(Quota::per_second(50).burst(1)))
        .service(who());
    let start = tokio::time::Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let service = service.clone();
        tasks.push(tokio::spawn(async move {
            send(&service, with("x-api-key", "k")).await.status == 200
        }));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut admitted = 0;
    for task in tasks {
        admitted += u32::from(task.await.unwrap());
    }
    let most = 2 + 50 * u32::try_from(start.elapsed().as_millis()).unwrap() / 1_000;
    assert!((2..=most).contains(&admitted), "{admitted} of {most}");
}

/// Sent again from inside of the door, with what the door has left in it.
#[tokio::test]
async fn waiting_is_enough_for_who_tries_again_inside() {
    let clock = clock();
    let layer = RateLimitLayer::new(Quota::per_second(1)).clock(clock.clone());
    let service = layer.layer(who());
    let door = AuthLayer::new(Slow(AtomicUsize::new(0))).clock(ManualClock::new(clock.now()));
    let retried = service_fn(move |request: Request<()>| {
        let (service, clock) = (service.clone(), clock.clone());
        async move {
            assert_eq!(send(&service, request.clone()).await.status, 200);
            assert_eq!(send(&service, request.clone()).await.status, 429);
            clock.advance(Duration::from_secs(1));
            service.oneshot(request).await
        }
    });
    let answer = send(&door.layer(retried), with("x-api-key", "k")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn four_things_are_counted_by_and_none_is_left_out() {
    let key = KeyBy::tenant()
        .and(KeyBy::route())
        .and(KeyBy::network())
        .and(KeyBy::principal());
    let app = Router::new()
        .route("/x", any(async || ()))
        .layer(RateLimitLayer::new(Quota::per_day(1)).key(key));
    for (subject, status) in [("ann", 200), ("bob", 200), ("ann", 429)] {
        let request = of(subject, "/x").map(|()| axum::body::Body::empty());
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status, "{subject}");
    }
}

#[test]
#[should_panic = "`LimitKey::and`: the key has more than 4 parts"]
fn a_fifth_thing_is_a_mistake() {
    let custom = LimitKey::custom;
    let _ = custom("1")
        .and(custom("2"))
        .and(custom("3"))
        .and(custom("4"))
        .and(custom("5"));
}

#[tokio::test]
async fn a_route_is_one_whatever_a_client_calls_it() {
    let quotas: Quotas = Quota::per_day(5).into();
    let layer = RateLimitLayer::new(quotas.clone()).key(KeyBy::principal().and(KeyBy::route()));
    let control = layer.control();
    let app = Router::new()
        .route("/orders/{id}", any(async || ()))
        .layer(layer.clone());
    let ask = async |method: &str, path: &str| {
        let mut request = of("ann", path).map(|()| axum::body::Body::empty());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        let content_type = "application/grpc".parse().unwrap();
        request.headers_mut().insert("content-type", content_type);
        let answer = app.clone().oneshot(request).await.unwrap();
        answer.status() == 200 && !answer.headers().contains_key("grpc-status")
    };
    let mut admitted = 0;
    for i in 0..20 {
        admitted += u32::from(ask(&format!("M{i}"), &format!("/orders/{i}")).await);
    }
    assert_eq!(admitted, 5);
    for method in ["GET", "HEAD"] {
        assert!(ask(method, "/orders/1").await);
    }
    let ann = identity("ann");
    let key = LimitKey::principal(ann.principal()).and(LimitKey::route("GET", "/orders/{id}"));
    let standing = control.peek(&key, &quotas).await.unwrap();
    assert_eq!(standing.remaining(&quotas).next(), Some(3));

    // What nobody has matched shares a budget, and is no route because it says so.
    let plain = layer.layer(who());
    let mut admitted = 0;
    for i in 0..20 {
        let mut request = of("ann", &format!("/{i}"));
        *request.method_mut() = Method::POST;
        let content_type = "application/grpc".parse().unwrap();
        request.headers_mut().insert("content-type", content_type);
        let answer = send(&plain, request).await;
        admitted += u32::from(answer.rejection.is_none());
    }
    assert_eq!(admitted, 5);
    let calls = RateLimitLayer::new(Quota::per_day(1)).key(KeyBy::grpc_method());
    let calls = calls.layer(who());
    for (path, status) in [("/s.S/A", 200), ("/s.S/B", 200), ("/s.S/A", 429)] {
        assert_eq!(send(&calls, of("ann", path)).await.status, status);
    }
}

/// A handler that says what it has cost, 15 units.
async fn costly(request: Request<()>) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    if request.uri().path() == "/costly" {
        response.extensions_mut().insert(Cost(15));
    }
    Ok(response)
}

#[tokio::test]
async fn only_a_limit_that_has_a_cost_makes_up_for_it() {
    let clock = clock();
    let (requests, units) = (
        Quotas::from(Quota::per_minute(60).named("requests")),
        Quotas::from(Quota::per_minute(100).named("units")),
    );
    let outer = RateLimitLayer::new(requests.clone()).clock(clock.clone());
    let inner = RateLimitLayer::new(units.clone())
        .clock(clock.clone())
        .cost(|_| 2);
    let controls = (outer.control(), inner.control());
    let service = ServiceBuilder::new()
        .layer(outer)
        .layer(inner)
        .service_fn(costly);
    assert_eq!(send(&service, of("ann", "/costly")).await.status, 200);
    assert_eq!(left(&controls.0, "ann", &requests).await, 59);
    assert_eq!(left(&controls.1, "ann", &units).await, 85);
}

#[tokio::test]
async fn what_costs_nothing_is_let_through_in_debt_too_but_not_when_banned() {
    let clock = clock();
    let quotas: Quotas = Quota::per_minute(10).into();
    let layer = RateLimitLayer::new(quotas).clock(clock.clone());
    let layer = layer.cost(|parts| u32::from(parts.uri.path() != "/free"));
    let control = layer.control();
    let service = layer.layer(service_fn(costly));
    assert_eq!(send(&service, of("ann", "/costly")).await.status, 200);
    assert_eq!(send(&service, of("ann", "/")).await.status, 429);
    assert_eq!(send(&service, of("ann", "/free")).await.status, 200);
    let ann = identity("ann");
    let key = LimitKey::principal(ann.principal());
    control.ban(&key, Duration::from_secs(60)).await;
    let answer = send(&service, of("ann", "/free")).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(answer.rejection.unwrap().cause(), Cause::Banned);
}

#[tokio::test]
async fn nobody_is_told_two_times_to_wait() {
    let clock = clock();
    let layer = RateLimitLayer::new(Quota::per_minute(10)).clock(clock.clone());
    let layer = layer.cost(|parts| if parts.uri.path() == "/4" { 4 } else { 7 });
    let service = layer.layer(who());
    send(&service, of("ann", "/7")).await;
    let answer = send(&service, of("ann", "/4")).await;
    assert_eq!(answer.header("retry-after"), Some("6"));
    assert_eq!(answer.header("ratelimit"), Some(r#""minute";r=3;t=6"#));
}

#[tokio::test]
async fn an_auth_layer_outside_keeps_headers_of_the_refusing_limit() {
    let clock = clock();
    for has_id in [false, true] {
        let mut door = AuthLayer::new(Slow(AtomicUsize::new(0)));
        if has_id {
            door = door.request_id(|_| Some("r-1".into()));
        }
        let service = ServiceBuilder::new()
            .layer(door)
            .layer(RateLimitLayer::new(Quota::per_hour(100)).clock(clock.clone()))
            .layer(RateLimitLayer::new(Quota::per_minute(1)).clock(clock.clone()))
            .service(who());
        let ask = || with("x-api-key", "k");
        assert_eq!(service.clone().oneshot(ask()).await.unwrap().status(), 200);
        let answer = service.oneshot(ask()).await.unwrap();
        assert_eq!(answer.status(), 429);
        let told: Vec<_> = answer.headers().get_all("ratelimit").iter().collect();
        assert_eq!(told, [r#""minute";r=0;t=60"#]);
        clock.advance(Duration::from_secs(3_600));
    }
}

/// G12: the work may have been done.
#[tokio::test]
async fn who_gives_up_has_paid() {
    let quotas: Quotas = Quota::per_minute(10).into();
    let layer = RateLimitLayer::new(quotas.clone()).clock(clock());
    let layer = layer.refund_server_errors();
    let control = layer.control();
    let hangs =
        service_fn(|_: Request<()>| std::future::pending::<Result<Response<String>, Infallible>>());
    let call = layer.layer(hangs).oneshot(of("ann", "/"));
    assert!(
        tokio::time::timeout(Duration::from_millis(5), call)
            .await
            .is_err()
    );
    assert_eq!(left(&control, "ann", &quotas).await, 9);
}

/// A clock that panics when it is asked while nobody expects it.
#[derive(Clone, Default)]
struct Trap(Arc<AtomicBool>);

impl Clock for Trap {
    fn now(&self) -> Timestamp {
        assert!(!self.0.load(Ordering::SeqCst), "it panics");
        SystemClock.now()
    }
}

#[tokio::test]
async fn what_goes_wrong_afterwards_does_not_take_the_answer_away() {
    let trap = Trap::default();
    let set = Arc::clone(&trap.0);
    let layer = RateLimitLayer::new(Quota::per_minute(10))
        .clock(trap.clone())
        .cost(|_| 1);
    let service = layer.layer(service_fn(move |request| {
        set.store(true, Ordering::SeqCst);
        costly(request)
    }));
    assert_eq!(send(&service, of("ann", "/costly")).await.status, 200);
    let answer = send(&service, of("ann", "/costly")).await;
    assert_eq!(answer.rejection.unwrap().cause(), Cause::Panicked);
    trap.0.store(false, Ordering::SeqCst);
    assert_eq!(send(&service, of("ann", "/")).await.status, 200);
}

#[tokio::test]
async fn a_permit_comes_back_from_head_from_errors_and_from_panics() {
    let service =
        ConcurrencyLayer::per_caller(1).layer(service_fn(
            async |request: Request<()>| match request.uri().path() {
                "/error" => Err("no"),
                "/panic" => panic!("it panics"),
                _ => Ok(Response::new("answer".to_owned())),
            },
        ));
    let ask = async |path: &str, method: Method| {
        let mut request = of("ann", path);
        *request.method_mut() = method;
        let call = service.clone().oneshot(request);
        let answer = AssertUnwindSafe(call).catch_unwind().await;
        answer
            .ok()
            .and_then(Result::ok)
            .map(|response| response.status().as_u16())
    };
    for _ in 0..3 {
        assert_eq!(ask("/", Method::HEAD).await, Some(200));
        assert_eq!(ask("/error", Method::GET).await, None);
        assert_eq!(ask("/panic", Method::GET).await, None);
        assert_eq!(ask("/", Method::GET).await, Some(200));
    }
}

#[tokio::test]
async fn a_tenant_without_a_door_is_a_mistake_and_not_a_budget() {
    let service = RateLimitLayer::new(Quota::per_day(5)).key(KeyBy::tenant());
    assert_eq!(send(&service.layer(who()), get()).await.status, 500);
}

#[test]
fn any_capacity_is_one() {
    assert!(MemoryLimiter::with_capacity(0).capacity() > 0);
    assert!(MemoryLimiter::with_capacity(usize::MAX).capacity() > 1 << 60);
}

/// Each sequence goes through the limiter until its clock steps back: the limiter holds on to the
/// latest time then, and the vectors do not.
#[test]
fn gcra_vectors_hold_for_the_memory_limiter() {
    let file = crate::support::vectors("gcra-sequences");
    let mut seen = 0;
    for (n, sequence) in file["sequences"].as_array().unwrap().iter().enumerate() {
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let interval = Duration::from_nanos(number(&sequence["emission_interval_ns"]));
        // A quota has a period of at least one millisecond.
        if interval < Duration::from_millis(1) {
            continue;
        }
        let burst = u32::try_from(number(&sequence["burst"])).unwrap();
        let quotas = Quotas::from(Quota::per(1, interval).burst(burst));
        let (limiter, mut latest) = (MemoryLimiter::new(), 0);
        for (i, step) in sequence["steps"].as_array().unwrap().iter().enumerate() {
            let at = number(&step["t_ns"]);
            if at < latest {
                break;
            }
            latest = at;
            let now = Timestamp::EPOCH.saturating_add(Duration::from_nanos(at));
            let cost = u32::try_from(number(&step["cost"])).unwrap();
            let taken = limiter.take(&LimitKey::custom("a"), &quotas, cost, now);
            let Pending::Ready(Ok(decision)) = taken else {
                panic!("the limiter is in memory");
            };
            let what = format!("sequence {n}, step {i}");
            assert_eq!(decision.is_admitted(), step["allowed"], "{what}");
            let remaining: Vec<_> = decision.remaining(&quotas).collect();
            assert_eq!(json!(remaining), json!([step["remaining"]]), "{what}");
            let wait = decision.wait().map(|wait| wait.as_nanos());
            let expected = step["retry_after_ns"].as_u64().map(u128::from);
            assert_eq!(wait, expected, "{what}");
            seen += 1;
        }
    }
    assert!(seen >= 36, "{seen}");
}
