//! The rate-limit headers of responses that have passed several limits.

use std::convert::Infallible;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use tollgate::auth::{Answer as Authentication, Authenticate};
use tollgate::clock::{ManualClock, Timestamp};
use tollgate::credential::Credential;
use tollgate::limit::{ConcurrencyLayer, Fields, KeyBy, LimitKey, Quota, Quotas, RateLimitLayer};
use tollgate::pending::Pending;
use tollgate::{AuthLayer, Identity};
use tower::{Layer, Service, service_fn};

use super::ServiceBuilder;
use crate::support::{Answer, clock, get, send, who, with};

fn ann() -> Identity {
    Identity::for_test().subject("ann").build()
}

fn request() -> Request<()> {
    let mut request = get();
    request.extensions_mut().insert(ann());
    request
}

/// 1,000 a minute for each network.
fn by_network(fields: Fields, clock: &ManualClock) -> RateLimitLayer {
    RateLimitLayer::new(Quota::per_minute(1_000))
        .key(KeyBy::network())
        .fields(fields)
        .clock(clock.clone())
}

/// 2 an hour for each caller.
fn by_caller(fields: Fields, clock: &ManualClock) -> RateLimitLayer {
    RateLimitLayer::new(Quota::per_hour(2))
        .fields(fields)
        .clock(clock.clone())
}

/// Returns the rate-limit headers, one `name: value` a line, in alphabetical order.
fn told(headers: &HeaderMap) -> Vec<String> {
    let is_limit = |name: &str| name.contains("ratelimit") || name == "retry-after";
    let mut all: Vec<_> = headers
        .iter()
        .filter(|(name, _)| is_limit(name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    all.sort();
    all
}

async fn last<S, B>(service: &S, requests: usize) -> Answer
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
{
    for _ in 1..requests {
        send(service, request()).await;
    }
    send(service, request()).await
}

const STYLES: [Fields; 4] = [
    Fields::Draft10,
    Fields::LegacyDelta,
    Fields::LegacyEpoch,
    Fields::Off,
];

/// The headers of a limit in a style, without those of another style.
fn headers(style: Fields, limit: &str, now: &ManualClock) -> Vec<String> {
    use tollgate::clock::Clock;
    let (name, quota, left, wait, reset, window) = match limit {
        "minute" => ("minute", 1_000, 999, 60, 1, 60),
        "minute, refused" => ("minute", 1, 0, 60, 60, 60),
        "hour" => ("hour", 2, 1, 1_800, 1_800, 3_600),
        "hour, refused" => ("hour", 2, 0, 1_800, 3_600, 3_600),
        _ => unreachable!(),
    };
    let epoch = now.now().unix_seconds() + reset;
    match style {
        Fields::Draft10 => vec![
            format!("ratelimit-policy: \"{name}\";q={quota};w={window}"),
            format!("ratelimit: \"{name}\";r={left};t={wait}"),
        ],
        Fields::LegacyDelta | Fields::LegacyEpoch => {
            let reset = if style == Fields::LegacyEpoch {
                epoch
            } else {
                reset
            };
            vec![
                format!("x-ratelimit-limit: {quota}"),
                format!("x-ratelimit-remaining: {left}"),
                format!("x-ratelimit-reset: {reset}"),
            ]
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn a_429_has_the_headers_of_the_inner_limit_that_refused() {
    for outer in STYLES {
        for inner in STYLES {
            let clock = clock();
            let service = ServiceBuilder::new()
                .layer(by_network(outer, &clock))
                .layer(by_caller(inner, &clock))
                .service(who());
            let answer = last(&service, 3).await;
            assert_eq!(answer.status, 429);
            let mut expected = vec!["retry-after: 1800".to_owned()];
            expected.extend(headers(inner, "hour, refused", &clock));
            expected.sort();
            assert_eq!(told(&answer.headers), expected, "{outer:?} {inner:?}");
        }
    }
}

#[tokio::test]
async fn a_429_has_the_headers_of_the_outer_limit_that_refused() {
    for outer in STYLES {
        for inner in STYLES {
            let clock = clock();
            let service = ServiceBuilder::new()
                .layer(
                    RateLimitLayer::new(Quota::per_minute(1))
                        .key(KeyBy::network())
                        .fields(outer)
                        .clock(clock.clone()),
                )
                .layer(by_caller(inner, &clock))
                .service(who());
            let answer = last(&service, 2).await;
            assert_eq!(answer.status, 429);
            let mut expected = vec!["retry-after: 60".to_owned()];
            expected.extend(headers(outer, "minute, refused", &clock));
            expected.sort();
            assert_eq!(told(&answer.headers), expected, "{outer:?} {inner:?}");
        }
    }
}

#[tokio::test]
async fn success_has_the_tightest_limit_in_each_style_in_use() {
    for outer in STYLES {
        for inner in STYLES {
            for is_tightest_outside in [false, true] {
                let clock = clock();
                let (network, caller) = (by_network(outer, &clock), by_caller(inner, &clock));
                let (network, caller) = if is_tightest_outside {
                    (by_caller(outer, &clock), by_network(inner, &clock))
                } else {
                    (network, caller)
                };
                let service = ServiceBuilder::new()
                    .layer(network)
                    .layer(caller)
                    .service(who());
                let answer = last(&service, 1).await;
                assert_eq!(answer.status, 200);
                // A limit that is not shown does not take part.
                let tightest = match (outer, inner) {
                    (Fields::Off, _) if is_tightest_outside => "minute",
                    (_, Fields::Off) if !is_tightest_outside => "minute",
                    _ => "hour",
                };
                let mut expected = headers(inner, tightest, &clock);
                let legacy = [Fields::LegacyDelta, Fields::LegacyEpoch];
                let is_same = legacy.contains(&outer) && legacy.contains(&inner);
                if outer != inner && !is_same {
                    expected.extend(headers(outer, tightest, &clock));
                }
                expected.sort();
                let what = format!("{outer:?} {inner:?} {is_tightest_outside}");
                assert_eq!(told(&answer.headers), expected, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn the_tightest_of_three_limits_is_found_anywhere() {
    for at in 0..3 {
        let clock = clock();
        let limit = |layer: usize| {
            let quota = if layer == at {
                Quota::per_day(5).named("tight")
            } else {
                Quota::per_day(50).named("wide")
            };
            RateLimitLayer::new(quota).clock(clock.clone())
        };
        let service = limit(0).layer(limit(1).layer(limit(2).layer(who())));
        let mut service = service;
        let answer = Answer::of(service.call(request()).await.unwrap()).await;
        assert_eq!(
            told(&answer.headers),
            [
                r#"ratelimit-policy: "tight";q=5;w=86400"#,
                r#"ratelimit: "tight";r=4;t=69120"#,
            ]
        );
    }
}

#[tokio::test]
async fn limits_of_different_costs_are_compared_by_requests() {
    let clock = clock();
    let units = RateLimitLayer::new(Quota::per_minute(100).named("units")).cost(|_| 30);
    let requests = RateLimitLayer::new(Quota::per_minute(10).named("requests"));
    let service = ServiceBuilder::new()
        .layer(units.clock(clock.clone()))
        .layer(requests.clock(clock.clone()))
        .service(who());
    let answer = last(&service, 1).await;
    // 70 units are two requests, and the other limit has nine left.
    let ratelimit = answer.header("ratelimit").unwrap();
    assert!(ratelimit.starts_with(r#""units";r=70"#), "{ratelimit}");
}

/// Names and values.
type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn headers_of_a_handler_are_kept() {
    let cases: [(Headers, &[Fields]); 7] = [
        (&[("ratelimit", "\"own\";r=1;t=2")], &[Fields::Draft10]),
        (&[("ratelimit-policy", "\"own\";q=1")], &[Fields::Draft10]),
        (
            &[("x-ratelimit-remaining", "7")],
            &[Fields::LegacyDelta, Fields::LegacyEpoch],
        ),
        (
            &[("x-ratelimit-limit", "7")],
            &[Fields::LegacyDelta, Fields::LegacyEpoch],
        ),
        (
            &[("x-ratelimit-reset", "7")],
            &[Fields::LegacyDelta, Fields::LegacyEpoch],
        ),
        (&[("retry-after", "120")], &[]),
        (
            &[("ratelimit", "\"own\";r=1;t=2"), ("x-ratelimit-reset", "7")],
            &[Fields::Draft10, Fields::LegacyDelta, Fields::LegacyEpoch],
        ),
    ];
    for (own, hidden) in cases {
        let handler = service_fn(move |_: Request<()>| async move {
            let mut response = Response::new(http_body_util::Full::default());
            for (name, value) in own {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            Ok::<Response<http_body_util::Full<bytes::Bytes>>, Infallible>(response)
        });
        for outer in STYLES {
            for inner in STYLES {
                let clock = clock();
                let service = ServiceBuilder::new()
                    .layer(by_network(outer, &clock))
                    .layer(by_caller(inner, &clock))
                    .service(handler);
                let answer = last(&service, 1).await;
                let what = format!("{own:?} {outer:?} {inner:?}");
                let told = told(&answer.headers);
                for (name, value) in own {
                    assert!(told.contains(&format!("{name}: {value}")), "{what}");
                }
                let mut styles = vec![outer, inner];
                styles.retain(|style| !hidden.contains(style));
                let mut added = 0;
                if styles.contains(&Fields::Draft10) {
                    added += 2;
                }
                if styles.iter().any(|style| is_legacy(*style)) {
                    added += 3;
                }
                assert_eq!(told.len(), own.len() + added, "{what}: {told:?}");
            }
        }
    }
}

fn is_legacy(style: Fields) -> bool {
    matches!(style, Fields::LegacyDelta | Fields::LegacyEpoch)
}

#[tokio::test]
async fn a_429_of_a_handler_gets_no_other_headers() {
    for own in [None, Some("120")] {
        for style in STYLES {
            let clock = clock();
            let handler = service_fn(move |_: Request<()>| async move {
                let mut response = Response::new(http_body_util::Full::default());
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                if let Some(own) = own {
                    let headers = response.headers_mut();
                    headers.insert("retry-after", own.parse().unwrap());
                }
                Ok::<Response<http_body_util::Full<bytes::Bytes>>, Infallible>(response)
            });
            let service = ServiceBuilder::new()
                .layer(by_network(style, &clock))
                .layer(by_caller(style, &clock))
                .service(handler);
            let answer = last(&service, 1).await;
            let expected: Vec<_> = own
                .map(|own| format!("retry-after: {own}"))
                .into_iter()
                .collect();
            assert_eq!(told(&answer.headers), expected, "{style:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_whose_status_was_changed_keeps_its_headers() {
    let clock = clock();
    let service = ServiceBuilder::new()
        .layer(by_network(Fields::LegacyDelta, &clock))
        .map_response(|mut response: Response<_>| {
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        })
        .layer(by_caller(Fields::LegacyDelta, &clock))
        .service(who());
    let answer = last(&service, 3).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(answer.header("x-ratelimit-limit"), Some("2"));
}

#[tokio::test]
async fn a_concurrency_limit_inside_keeps_its_own_policy() {
    for style in STYLES {
        let clock = clock();
        let concurrency = ConcurrencyLayer::per_caller(1);
        let service = ServiceBuilder::new()
            .layer(by_network(style, &clock))
            .layer(concurrency)
            .service(who());
        let mut first = service.clone();
        let held = first.call(request()).await.unwrap();
        assert_eq!(held.status(), 200);
        let answer = send(&service, request()).await;
        assert_eq!(answer.status, 429);
        assert_eq!(
            told(&answer.headers),
            [
                "ratelimit-policy: \"concurrency\";q=1;qu=\"concurrent-requests\"",
                "retry-after: 1",
            ],
            "{style:?}"
        );
        drop(held);
        let answer = send(&service, request()).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.headers.contains_key("retry-after")
            ),
            (200, false)
        );
    }
}

/// Accepts every credential.
#[derive(Clone)]
struct Known;

impl Authenticate for Known {
    fn claims(&self, _: &[u8]) -> bool {
        true
    }

    fn authenticate(&self, _: &Credential, _: Timestamp) -> Authentication {
        Authentication::Mine(Pending::Ready(Ok(ann())))
    }
}

#[tokio::test]
async fn an_auth_layer_between_keeps_the_refusing_headers() {
    for (request_id, style) in [
        (None, Fields::Draft10),
        (Some("r-1"), Fields::Draft10),
        (None, Fields::LegacyDelta),
        (Some("r-1"), Fields::LegacyDelta),
    ] {
        let clock = clock();
        let mut auth = AuthLayer::new(Known).realm("acme");
        if let Some(id) = request_id {
            auth = auth.request_id(move |_| Some(id.into()));
        }
        let service = ServiceBuilder::new()
            .layer(by_network(style, &clock))
            .layer(auth)
            .layer(by_caller(style, &clock))
            .service(who());
        let ask = || with("x-api-key", "k");
        send(&service, ask()).await;
        send(&service, ask()).await;
        let answer = send(&service, ask()).await;
        assert_eq!(answer.status, 429);
        let mut expected = headers(style, "hour, refused", &clock);
        expected.push("retry-after: 1800".into());
        expected.sort();
        assert_eq!(told(&answer.headers), expected, "{request_id:?}");
    }
}

#[tokio::test]
async fn legacy_headers_of_a_429_match_its_retry_after() {
    let clock = clock();
    let quotas = [
        Quota::per_second(2),
        Quota::per_hour(2),
        Quota::per_minute(2),
    ];
    let layer = RateLimitLayer::new(quotas).fields(Fields::LegacyDelta);
    let service = layer.clock(clock.clone()).layer(who());
    for _ in 0..2 {
        assert_eq!(send(&service, request()).await.status, 200);
    }
    let answer = send(&service, request()).await;
    assert_eq!(
        told(&answer.headers),
        [
            "retry-after: 1800",
            "x-ratelimit-limit: 2",
            "x-ratelimit-remaining: 0",
            "x-ratelimit-reset: 3600",
        ]
    );
}

#[tokio::test]
async fn a_banned_caller_has_nothing_left() {
    for (style, expected) in [
        (
            Fields::Draft10,
            &[
                r#"ratelimit-policy: "minute";q=60;w=60"#,
                r#"ratelimit: "minute";r=0;t=3600"#,
                "retry-after: 3600",
            ][..],
        ),
        (
            Fields::LegacyDelta,
            &[
                "retry-after: 3600",
                "x-ratelimit-limit: 60",
                "x-ratelimit-remaining: 0",
                "x-ratelimit-reset: 3600",
            ][..],
        ),
    ] {
        let clock = clock();
        let quotas: Quotas = Quota::per_minute(60).into();
        let layer = RateLimitLayer::new(quotas)
            .fields(style)
            .clock(clock.clone());
        let (control, identity) = (layer.control(), ann());
        let key = LimitKey::principal(identity.principal());
        control.ban(&key, Duration::from_secs(3_600)).await;
        let answer = send(&layer.layer(who()), request()).await;
        assert_eq!(answer.status, 429);
        assert_eq!(told(&answer.headers), expected);
    }
}
