//! Limits: who is let through, who has to wait for how long, and what they are told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use tollgate::auth::Source;
use tollgate::clock::{Clock, ManualClock, Timestamp};
use tollgate::keys::{MemoryKeys, NewKey, Rotation};
use tollgate::limit::{
    ConcurrencyLayer, Cost, Fields, KeyBy, LimitKey, Limiter, MemoryLimiter, Plans, Quota, Quotas,
    RateLimitLayer,
};
use tollgate::rejection::Cause;
use tollgate::{AuthLayer, Identity, RequireLayer, scope};
use tower::{Layer, Service, service_fn};

use super::ServiceBuilder;
use crate::support::{Answer, Events, clock, get, issue, keys_over, send, who, with};

fn ann() -> Identity {
    Identity::for_test().subject("ann").build()
}

fn of(identity: &Identity) -> Request<()> {
    let mut request = get();
    request.extensions_mut().insert(identity.clone());
    request
}

/// A limit at a clock that is moved by hand, over a service that answers.
fn limited(
    layer: RateLimitLayer,
    clock: &ManualClock,
) -> impl Service<
    Request<()>,
    Response = Response<tollgate::body::Body<Full<Bytes>>>,
    Error = Infallible,
    Future: Send,
> + Clone {
    layer.clock(clock.clone()).layer(who())
}

async fn statuses<S>(service: &S, request: &Request<()>, times: usize) -> Vec<u16>
where
    S: Service<Request<()>, Response = Response<tollgate::body::Body<Full<Bytes>>>> + Clone,
    S::Error: std::fmt::Debug,
{
    let mut all = Vec::new();
    for _ in 0..times {
        all.push(send(service, request.clone()).await.status.as_u16());
    }
    all
}

#[tokio::test]
async fn a_quota_admits_its_burst_and_then_its_rate() {
    let clock = clock();
    let service = limited(RateLimitLayer::new(Quota::per_minute(60).burst(3)), &clock);
    let ann = of(&ann());
    assert_eq!(statuses(&service, &ann, 4).await, [200, 200, 200, 429]);
    clock.advance(Duration::from_millis(999));
    assert_eq!(statuses(&service, &ann, 1).await, [429]);
    clock.advance(Duration::from_millis(1));
    assert_eq!(statuses(&service, &ann, 2).await, [200, 429]);
    clock.advance(Duration::from_secs(3600));
    assert_eq!(statuses(&service, &ann, 4).await, [200, 200, 200, 429]);
    // Another caller has a budget of their own.
    let bob = of(&Identity::for_test().subject("bob").build());
    assert_eq!(statuses(&service, &bob, 1).await, [200]);
}

#[tokio::test]
async fn a_refusal_says_what_is_used_up_and_how_long_to_wait() {
    let clock = clock();
    let quotas = [
        Quota::per_second(10).burst(2),
        Quota::per_hour(2).named("hourly"),
    ];
    let service = limited(RateLimitLayer::new(quotas), &clock);
    let ann = of(&ann());
    statuses(&service, &ann, 2).await;
    let answer = send(&service, ann.clone()).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let problem = answer.json();
    assert_eq!(
        problem["type"],
        "https://iana.org/assignments/http-problem-types#quota-exceeded"
    );
    assert_eq!(problem["code"], "rate_limited");
    assert_eq!(
        problem["violated-policies"],
        serde_json::json!(["second", "hourly"])
    );
    assert_eq!(answer.header("retry-after"), Some("1800"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some(r#""second";q=2;w=1, "hourly";q=2;w=3600"#)
    );
    assert_eq!(
        answer.header("ratelimit"),
        Some(r#""second";r=0;t=1, "hourly";r=0;t=1800"#)
    );
    assert!(answer.challenges().is_empty());

    clock.advance(Duration::from_millis(250));
    let answer = send(&service, ann).await;
    assert_eq!(
        answer.json()["violated-policies"],
        serde_json::json!(["hourly"])
    );
    assert_eq!(
        answer.header("ratelimit"),
        Some(r#""second";r=2;t=1, "hourly";r=0;t=1800"#)
    );
}

#[tokio::test]
async fn waiting_as_told_is_enough() {
    for quota in [
        Quota::per_second(7),
        Quota::per_minute(7).burst(3),
        Quota::per(3, Duration::from_millis(1_100)).burst(1),
    ] {
        let clock = clock();
        let service = limited(RateLimitLayer::new(quota), &clock);
        let ann = of(&ann());
        for _ in 0..50 {
            let answer = send(&service, ann.clone()).await;
            let Some(wait) = answer.header("retry-after") else {
                assert_eq!(answer.status, 200);
                continue;
            };
            let wait: u64 = wait.parse().unwrap();
            assert!(wait > 0);
            clock.advance(Duration::from_secs(wait));
            assert_eq!(send(&service, ann.clone()).await.status, 200);
        }
    }
}

#[tokio::test]
async fn what_one_quota_refuses_costs_nothing_of_the_others() {
    let clock = clock();
    let quotas = Quotas::new([Quota::per_second(1), Quota::per_day(100)]);
    let layer = RateLimitLayer::new(quotas.clone()).clock(clock.clone());
    let control = layer.control();
    let (service, ann) = (limited(layer, &clock), ann());
    statuses(&service, &of(&ann), 20).await;
    let key = LimitKey::principal(ann.principal());
    let standing = control.peek(&key, &quotas).await.unwrap();
    assert_eq!(standing.remaining(&quotas).collect::<Vec<_>>(), [0, 99]);
}

#[tokio::test]
async fn a_request_may_cost_more_or_nothing_or_too_much() {
    let clock = clock();
    let cost = |parts: &http::request::Parts| {
        let cost = parts
            .headers
            .get("x-cost")
            .and_then(|cost| cost.to_str().ok());
        cost.and_then(|cost| cost.parse().ok()).unwrap_or(1)
    };
    let service = limited(
        RateLimitLayer::new(Quota::per_minute(10)).cost(cost),
        &clock,
    );
    let costing = |cost: &str| {
        let mut request = of(&ann());
        request
            .headers_mut()
            .insert("x-cost", cost.parse().unwrap());
        request
    };
    assert_eq!(send(&service, costing("7")).await.status, 200);
    assert_eq!(
        send(&service, costing("4")).await.header("retry-after"),
        Some("6")
    );
    assert_eq!(send(&service, costing("3")).await.status, 200);
    for _ in 0..3 {
        assert_eq!(
            send(&service, costing("0")).await.status,
            200,
            "it only looks"
        );
    }
    let never = send(&service, costing("11")).await;
    assert_eq!(never.status, 429);
    assert_eq!(never.header("retry-after"), None, "no wait would be enough");
    assert_eq!(never.rejection.unwrap().cause(), Cause::CostTooHigh);
    assert_eq!(send(&service, costing("4294967295")).await.status, 429);
}

#[tokio::test]
async fn what_a_request_has_cost_may_be_known_afterwards() {
    let clock = clock();
    let quotas: Quotas = Quota::per_minute(100).into();
    let service = |answer: fn(Response<String>) -> Response<String>| {
        let layer = RateLimitLayer::new(quotas.clone()).clock(clock.clone());
        let layer = layer.cost(|_| 10).refund_server_errors();
        let control = layer.control();
        let service = layer.layer(service_fn(move |_: Request<()>| async move {
            Ok::<_, Infallible>(answer(Response::new(String::new())))
        }));
        (service, control)
    };
    let ann = ann();
    for (answer, left) in [
        (service(|response| response), 90),
        (
            service(|mut response| {
                response.extensions_mut().insert(Cost(3));
                response
            }),
            97,
        ),
        (
            service(|mut response| {
                response.extensions_mut().insert(Cost(40));
                response
            }),
            60,
        ),
        (
            service(|mut response| {
                response.extensions_mut().insert(Cost(4_000_000_000));
                response
            }),
            0,
        ),
        (
            service(|mut response| {
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            }),
            100,
        ),
        (
            service(|mut response| {
                response
                    .headers_mut()
                    .insert("grpc-status", "13".parse().unwrap());
                response
            }),
            100,
        ),
    ] {
        let (service, control) = answer;
        send(&service, of(&ann)).await;
        let key = LimitKey::principal(ann.principal());
        let standing = control.peek(&key, &quotas).await.unwrap();
        assert_eq!(standing.remaining(&quotas).next(), Some(left));
    }
}

#[tokio::test]
async fn a_rotated_key_has_no_second_budget() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("acct_1")).await.unwrap();
    let old = issued.key.expose().to_owned();
    let rotated = keys
        .rotate(
            issued.record.id,
            Rotation::with_grace(Duration::from_secs(3600)),
        )
        .await
        .unwrap();
    let new = rotated.key.expose().to_owned();
    let service = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).clock(clock.clone()))
        .layer(RateLimitLayer::new(Quota::per_minute(3)).clock(clock.clone()))
        .service(who());
    let mut seen = Vec::new();
    for key in [&old, &new, &old, &new] {
        seen.push(send(&service, with("x-api-key", key)).await.status.as_u16());
    }
    assert_eq!(seen, [200, 200, 200, 429]);
}

#[tokio::test]
async fn plans_can_be_changed_while_the_server_runs() {
    let clock = clock();
    let plans = Plans::new(Quota::per_minute(1))
        .plan("pro", Quota::per_minute(3))
        .unlimited("internal");
    let service = limited(RateLimitLayer::by_plan(plans.clone()), &clock);
    let on = |plan: Option<&str>| {
        let mut identity = Identity::for_test().subject(plan.unwrap_or("nobody"));
        if let Some(plan) = plan {
            identity = identity.plan(plan);
        }
        of(&identity.build())
    };
    assert_eq!(statuses(&service, &on(None), 2).await, [200, 429]);
    assert_eq!(
        statuses(&service, &on(Some("unheard-of")), 2).await,
        [200, 429]
    );
    assert_eq!(
        statuses(&service, &on(Some("pro")), 4).await,
        [200, 200, 200, 429]
    );
    assert_eq!(statuses(&service, &on(Some("internal")), 9).await, [200; 9]);
    plans.set("pro", Quota::per_minute(5));
    // Who has used everything has used everything; it comes back at the new rate.
    assert_eq!(statuses(&service, &on(Some("pro")), 1).await, [429]);
    clock.advance(Duration::from_secs(12));
    assert_eq!(statuses(&service, &on(Some("pro")), 2).await, [200, 429]);
    plans.remove("pro");
    clock.advance(Duration::from_secs(60));
    assert_eq!(statuses(&service, &on(Some("pro")), 2).await, [200, 429]);
    plans.replace(&Plans::new(Quota::per_minute(2)));
    clock.advance(Duration::from_secs(60));
    assert_eq!(
        statuses(&service, &on(Some("internal")), 3).await,
        [200, 200, 429]
    );
}

#[tokio::test]
async fn a_limit_counts_by_what_it_is_told_to() {
    let clock = clock();
    let tenant = |tenant: &str, subject: &str| {
        of(&Identity::for_test().tenant(tenant).subject(subject).build())
    };
    let by = |key: KeyBy| limited(RateLimitLayer::new(Quota::per_minute(1)).key(key), &clock);

    let service = by(KeyBy::tenant());
    assert_eq!(statuses(&service, &tenant("a", "x"), 1).await, [200]);
    assert_eq!(statuses(&service, &tenant("a", "y"), 1).await, [429]);
    assert_eq!(statuses(&service, &tenant("b", "x"), 1).await, [200]);

    let service = by(KeyBy::header(HeaderName::from_static("x-shop")));
    for (shop, status) in [("1", 200), ("2", 200), ("1", 429)] {
        assert_eq!(statuses(&service, &with("x-shop", shop), 1).await, [status]);
    }
    assert_eq!(
        statuses(&service, &get(), 2).await,
        [200, 429],
        "those without share one"
    );

    let service = by(KeyBy::custom(|parts| {
        parts.uri.path().strip_prefix("/a/").map(Into::into)
    }));
    for (path, status) in [
        ("/a/1", 200),
        ("/a/2", 200),
        ("/a/1", 429),
        ("/", 200),
        ("/b", 429),
    ] {
        let request = Request::get(path).body(()).unwrap();
        assert_eq!(statuses(&service, &request, 1).await, [status], "{path}");
    }

    let both = by(KeyBy::principal().and(KeyBy::header(HeaderName::from_static("x-shop"))));
    let mut in_shop = of(&ann());
    assert_eq!(statuses(&both, &in_shop, 2).await, [200, 429]);
    in_shop.headers_mut().insert("x-shop", "1".parse().unwrap());
    assert_eq!(statuses(&both, &in_shop, 2).await, [200, 429]);
    let five = || {
        KeyBy::tenant()
            .and(KeyBy::route())
            .and(KeyBy::network())
            .and(KeyBy::principal())
    };
    assert!(five().try_and(KeyBy::tenant()).is_err());
}

#[tokio::test]
async fn networks_are_counted_as_what_they_are() {
    let clock = clock();
    let layer = || RateLimitLayer::new(Quota::per_minute(1)).key(KeyBy::network());
    let from = |address: Option<&str>| {
        let mut request = get();
        if let Some(address) = address {
            let address: std::net::IpAddr = address.parse().unwrap();
            request
                .extensions_mut()
                .insert(std::net::SocketAddr::from((address, 1)));
        }
        request
    };
    let service = limited(layer(), &clock);
    for (address, status) in [
        (Some("10.0.0.1"), 200),
        (Some("10.0.0.2"), 200),
        (Some("::ffff:10.0.0.1"), 429),
        (Some("2001:db8::1"), 200),
        (Some("2001:db8::ffff:2"), 429),
        (Some("2001:db8:0:1::1"), 200),
        (None, 200),
        (None, 429),
    ] {
        assert_eq!(
            statuses(&service, &from(address), 1).await,
            [status],
            "{address:?}"
        );
    }
}

#[tokio::test]
async fn anonymous_callers_are_counted_by_their_network() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("acct_1")).await;
    let service = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).optional().clock(clock.clone()))
        .layer(RateLimitLayer::new(Quota::per_minute(1)).clock(clock.clone()))
        .service(who());
    assert_eq!(send(&service, get()).await.status, 200);
    assert_eq!(send(&service, get()).await.status, 429);
    assert_eq!(send(&service, with("x-api-key", &key)).await.status, 200);
}

#[tokio::test]
async fn a_limit_by_caller_without_an_auth_layer_answers_500() {
    let (events, _guard) = Events::listen();
    let clock = clock();
    let by = |key: KeyBy| limited(RateLimitLayer::new(Quota::per_minute(9)).key(key), &clock);
    for (key, name) in [
        (KeyBy::principal(), "principal"),
        (KeyBy::tenant(), "tenant"),
        (KeyBy::network().and(KeyBy::tenant()), "tenant"),
    ] {
        assert_eq!(statuses(&by(key), &get(), 1).await, [500]);
        let concurrency = ConcurrencyLayer::per_caller(1).layer(who());
        assert_eq!(send(&concurrency, get()).await.status, 500);
        let errors = events.of("ERROR");
        for fix in [
            format!("RateLimitLayer::key(KeyBy::{name}())"),
            "ConcurrencyLayer::key(KeyBy::principal())".into(),
            "put an `AuthLayer` outside".into(),
            ".optional()".into(),
            "KeyBy::network()".into(),
        ] {
            assert!(
                errors.iter().any(|event| event.contains(&fix)),
                "{errors:?}"
            );
        }
    }
    assert_eq!(statuses(&by(KeyBy::network()), &get(), 1).await, [200]);
    assert_eq!(
        statuses(&by(KeyBy::principal()), &of(&ann()), 1).await,
        [200]
    );
}

#[test]
fn errors_of_settings_name_the_value_and_the_fix() {
    let quotas = |count: usize| {
        let quotas = (0..count).map(|at| Quota::per_day(1).named(format!("q{at}")));
        Quotas::try_new(quotas)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let twice = Quotas::try_new([Quota::per_day(1), Quota::per_day(2)]);
    let four = || {
        let two = || KeyBy::tenant().and(KeyBy::route());
        two().and(two())
    };
    for (text, parts) in [
        (
            quotas(0).unwrap_err(),
            ["`Quotas::new`: there are 0 quotas", "1 to 4"],
        ),
        (
            quotas(5).unwrap_err(),
            ["`Quotas::new`: there are 5 quotas", "1 to 4"],
        ),
        (
            twice.unwrap_err().to_string(),
            ["two quotas have the name \"day\"", ".named("],
        ),
        (
            four().try_and(KeyBy::network()).unwrap_err().to_string(),
            ["`KeyBy::and`: the key has more than 4 parts", "at most 4"],
        ),
        (
            ConcurrencyLayer::try_per_caller(0).unwrap_err().to_string(),
            ["`ConcurrencyLayer::per_caller(0)`", "at least 1"],
        ),
    ] {
        for part in parts {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn rights_come_before_limits_where_rules_stand_in_front() {
    use tollgate::authorize::Rules;
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("acct_1").scopes(["a"])).await;
    let rules = Rules::new().route("/a", scope("a")).route("/b", scope("b"));
    let service = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).clock(clock.clone()))
        .layer(RequireLayer::new(rules))
        .layer(RateLimitLayer::new(Quota::per_minute(1)).clock(clock.clone()))
        .service(who());
    let ask = |path: &str| {
        Request::get(path)
            .header("x-api-key", &key)
            .body(())
            .unwrap()
    };
    for _ in 0..5 {
        assert_eq!(send(&service, ask("/b")).await.status, 403);
    }
    assert_eq!(
        send(&service, ask("/a")).await.status,
        200,
        "nothing was charged for that"
    );
    assert_eq!(send(&service, ask("/a")).await.status, 429);
    assert_eq!(send(&service, ask("/b")).await.status, 403);
}

#[tokio::test]
async fn a_refusal_behind_a_door_is_the_same_in_its_style() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("acct_1")).await;
    let stack = |door: AuthLayer<tollgate::ApiKeys>| {
        ServiceBuilder::new()
            .layer(door.clock(clock.clone()))
            .layer(RateLimitLayer::new(Quota::per_minute(1)).clock(clock.clone()))
            .service(who())
    };
    let plain = stack(AuthLayer::new(keys.clone()).realm("acme"));
    send(&plain, with("x-api-key", &key)).await;
    let answer = send(&plain, with("x-api-key", &key)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (429, "rate_limited")
    );
    assert_eq!(answer.headers.get_all("ratelimit").iter().count(), 1);
    assert_eq!(answer.headers.get_all("retry-after").iter().count(), 1);

    let styled = AuthLayer::new(keys)
        .request_id(|_| Some("r-1".into()))
        .respond_with(|rejection: &tollgate::Rejection| {
            let json = http::HeaderValue::from_static("application/json");
            let quotas: Vec<_> = rejection.violated_quotas().collect();
            tollgate::respond::Restyled::new(json, quotas.join(","))
        });
    let styled = stack(styled);
    send(&styled, with("x-api-key", &key)).await;
    let answer = send(&styled, with("x-api-key", &key)).await;
    assert_eq!(answer.body, "minute");
    assert_eq!(answer.header("ratelimit"), Some(r#""minute";r=0;t=60"#));
    assert_eq!(answer.headers.get_all("ratelimit").iter().count(), 1);
}

#[tokio::test]
async fn older_fields_are_there_for_those_who_ask() {
    let clock = clock();
    let told = async |fields: Fields| {
        let layer =
            RateLimitLayer::new([Quota::per_minute(60), Quota::per_hour(90)]).fields(fields);
        send(&limited(layer, &clock), of(&ann())).await
    };
    let answer = told(Fields::LegacyDelta).await;
    assert_eq!(answer.header("x-ratelimit-limit"), Some("60"));
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("59"));
    assert_eq!(answer.header("x-ratelimit-reset"), Some("1"));
    assert_eq!(answer.header("ratelimit"), None);
    let answer = told(Fields::LegacyEpoch).await;
    let reset = clock.now().unix_seconds() + 1;
    assert_eq!(
        answer.header("x-ratelimit-reset"),
        Some(reset.to_string().as_str())
    );
    let answer = told(Fields::Off).await;
    assert!(
        answer
            .headers
            .keys()
            .all(|name| !name.as_str().contains("ratelimit"))
    );
}

#[tokio::test]
async fn over_grpc_it_is_resource_exhausted_with_details() {
    let clock = clock();
    let service = limited(RateLimitLayer::new(Quota::per_minute(1)), &clock);
    let mut call = of(&ann());
    *call.method_mut() = http::Method::POST;
    call.headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let answer = send(&service, call.clone()).await;
    assert_eq!(answer.header("ratelimit"), None);
    let answer = send(&service, call).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("8"));
    assert_eq!(
        answer.header("ratelimit"),
        None,
        "it must not stand in trailers"
    );
    assert_eq!(answer.header("grpc-retry-pushback-ms"), Some("60000"));
    use base64::Engine;
    let details = base64::engine::general_purpose::STANDARD_NO_PAD
        .decode(answer.header("grpc-status-details-bin").unwrap())
        .unwrap();
    let text = String::from_utf8_lossy(&details);
    for part in [
        "RATE_LIMIT_EXCEEDED",
        "google.rpc.RetryInfo",
        "google.rpc.QuotaFailure",
        "minute",
    ] {
        assert!(text.contains(part), "{part} is missing");
    }
}

#[tokio::test]
async fn a_thousand_tasks_on_one_key_are_admitted_to_the_unit() {
    let service = RateLimitLayer::new(Quota::per_day(300))
        .clock(clock())
        .layer(who());
    let admitted = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (service, admitted, request) = (service.clone(), Arc::clone(&admitted), of(&ann()));
            tokio::spawn(async move {
                if send(&service, request).await.status == 200 {
                    admitted.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(admitted.load(Ordering::Relaxed), 300);
}

#[test]
fn threads_on_one_key_are_admitted_to_the_unit() {
    let limiter = MemoryLimiter::new();
    let quotas: Quotas = Quota::per_day(10_000).into();
    let (ann, now) = (ann(), Timestamp::from_unix_seconds(1_800_000_000));
    let key = LimitKey::principal(ann.principal());
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let admitted = |_: &u32| match limiter.take(&key, &quotas, 1, now) {
                        tollgate::pending::Pending::Ready(Ok(decision)) => decision.is_admitted(),
                        _ => false,
                    };
                    (0..5_000).filter(admitted).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(admitted, 10_000);
}

fn take(limiter: &MemoryLimiter, key: &str, quotas: &Quotas, now: Timestamp) -> bool {
    match limiter.take(&LimitKey::custom(key), quotas, 1, now) {
        tollgate::pending::Pending::Ready(Ok(decision)) => decision.is_admitted(),
        _ => panic!("memory does not wait, and does not fail"),
    }
}

#[test]
fn budgets_that_have_come_back_are_forgotten() {
    let limiter = MemoryLimiter::with_capacity(1_000_000);
    let quotas: Quotas = Quota::per_second(10).burst(1).into();
    let mut now = Timestamp::from_unix_seconds(1_800_000_000);
    for at in 0..300_000 {
        assert!(take(&limiter, &at.to_string(), &quotas, now));
        now = now.saturating_add(Duration::from_micros(100));
    }
    // A thousand are in use at a time; of the others some wait to be looked at.
    assert!(limiter.len() < 20_000, "{}", limiter.len());
    assert_eq!(limiter.evicted(), 0);
}

#[test]
fn a_flood_of_keys_does_not_free_the_one_who_is_at_the_limit() {
    let limiter = MemoryLimiter::with_capacity(10_000);
    let quotas: Quotas = Quota::per_hour(100).into();
    let now = Timestamp::from_unix_seconds(1_800_000_000);
    while take(&limiter, "attacker", &quotas, now) {}
    for at in 0..200_000 {
        assert!(
            take(&limiter, &at.to_string(), &quotas, now),
            "whoever is new is let in"
        );
    }
    assert!(limiter.len() <= limiter.capacity());
    assert!(limiter.evicted() > 100_000);
    assert!(
        !take(&limiter, "attacker", &quotas, now),
        "it is the last to be forgotten"
    );
}

#[test]
fn nobody_is_locked_out_by_a_clock_that_steps() {
    let limiter = MemoryLimiter::new();
    let quotas: Quotas = Quota::per_minute(10).into();
    let now = Timestamp::from_unix_seconds(1_800_000_000);
    while take(&limiter, "ann", &quotas, now) {}
    for step in [3_600, 86_400, 366 * 86_400] {
        let back = now.saturating_sub(Duration::from_secs(step));
        let admitted = (0..100)
            .filter(|_| take(&limiter, "ann", &quotas, back))
            .count();
        assert!(admitted <= 10, "{admitted}");
        let later = back.saturating_add(Duration::from_secs(60));
        assert!(
            take(&limiter, "ann", &quotas, later),
            "a period later it is over"
        );
        while take(&limiter, "ann", &quotas, now) {}
    }
    let ahead = now.saturating_add(Duration::from_secs(366 * 86_400));
    assert_eq!(
        (0..100)
            .filter(|_| take(&limiter, "ann", &quotas, ahead))
            .count(),
        10
    );
}

#[tokio::test]
async fn a_caller_has_so_many_requests_under_way_until_their_bodies_end() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let streaming = service_fn(move |_: Request<()>| {
        let receiver = receiver.lock().unwrap().take();
        async move {
            let stream = futures_util::stream::unfold(receiver, |receiver| async {
                let mut receiver = receiver?;
                let data = receiver.recv().await?;
                Some((
                    Ok::<_, Infallible>(http_body::Frame::data(data)),
                    Some(receiver),
                ))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(stream))))
        }
    });
    let layer = ConcurrencyLayer::per_caller(1);
    let service = layer.layer(streaming);
    let call = async || {
        let mut service = service.clone();
        service.call(of(&ann())).await.unwrap()
    };
    let first = call().await;
    let second = call().await;
    assert_eq!(second.status(), 429);
    let second = Answer::of(second).await;
    assert_eq!(
        second.json()["violated-policies"],
        serde_json::json!(["concurrency"])
    );
    assert_eq!(
        second.header("ratelimit-policy"),
        Some(r#""concurrency";q=1;qu="concurrent-requests""#)
    );
    assert_eq!(layer.under_way(), 1);
    drop(sender);
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "");
    assert_eq!(layer.under_way(), 0, "the body has ended");
    let third = call().await;
    assert_eq!(layer.under_way(), 1);
    drop(third);
    assert_eq!(layer.under_way(), 0, "it was given up");
    let waiting =
        service_fn(|_: Request<()>| std::future::pending::<Result<Response<String>, Infallible>>());
    let mut waiting = layer.layer(waiting);
    let future = waiting.call(of(&ann()));
    assert_eq!(layer.under_way(), 1);
    drop(future);
    assert_eq!(
        layer.under_way(),
        0,
        "it was given up before there was a response"
    );
    assert!(ConcurrencyLayer::try_per_caller(0).is_err());
}

#[tokio::test]
async fn a_route_is_counted_by_its_template() {
    use axum::Router;
    use axum::routing::get;
    use tower::ServiceExt;
    let limit = RateLimitLayer::new(Quota::per_minute(2)).clock(clock());
    let app = Router::new()
        .route("/orders/{id}", get(async || ()).post(async || ()))
        .route("/other", get(async || ()))
        .layer(limit.key(KeyBy::route()));
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(axum::body::Body::empty()).unwrap();
        app.clone()
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(ask("GET", "/orders/1").await, 200);
    assert_eq!(ask("GET", "/orders/2").await, 200);
    assert_eq!(ask("GET", "/orders/3").await, 429);
    assert_eq!(ask("POST", "/orders/3").await, 200);
    assert_eq!(ask("GET", "/other").await, 200);
}

#[tokio::test]
async fn a_query_credential_and_a_limit_do_not_get_in_each_others_way() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("acct_1")).await;
    let service = ServiceBuilder::new()
        .layer(
            AuthLayer::new(keys)
                .clock(clock())
                .sources([Source::query("key")]),
        )
        .layer(RateLimitLayer::new(Quota::per_minute(1)).clock(clock()))
        .service(who());
    let ask = || Request::get(format!("/?key={key}")).body(()).unwrap();
    let answer = send(&service, ask()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("cache-control")),
        (200, Some("private"))
    );
    let answer = send(&service, ask()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("cache-control")),
        (429, Some("no-store"))
    );
}

#[test]
fn unknown_plans_are_logged_once_each_and_bounded() {
    let (events, _guard) = Events::listen();
    let plans = Plans::new(Quota::per_minute(1)).plan("pro", Quota::per_minute(2));
    let clone = plans.clone();
    for _ in 0..3 {
        for plan in [None, Some("pro"), Some("Pro"), Some("gold\n")] {
            assert!(clone.of(plan).is_some());
        }
    }
    let logged = events.of("WARN");
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert!(logged[0].contains("plan=\"Pro\""), "{logged:?}");
    assert!(logged[1].contains(r#"plan="gold\n""#), "{logged:?}");
    assert!(logged.iter().all(|text| text.contains("Plans::plan")));
    for n in 0..100 {
        plans.of(Some(&format!("plan {n}")));
    }
    assert_eq!(events.of("WARN").len(), 32);
}
