//! Metrics for Prometheus: a page over HTTP, parsed. Rows I4 and I5.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tollgate::keys::{Cached, NewKey};
use tollgate::limit::MemoryLimiter;
use tollgate::usage::metrics::{Metrics, SIZE_BUCKETS, TIME_BUCKETS};
use tollgate::usage::{ChannelSink, Usage};
use tollgate::{ApiKeys, AuthLayer, Quota, RateLimitLayer, RequireLayer, UsageLayer, scope};
use tower::ServiceExt;

use super::ServiceBuilder;
use crate::support::{Script, Scripted, clock, issue, peppers};

/// One line of a page: labels and value.
pub(crate) type Line = (BTreeMap<String, String>, f64);

/// A page in the text format of Prometheus, by name. Whatever is not in that format fails.
#[track_caller]
fn parse(page: &str) -> BTreeMap<String, Vec<Line>> {
    let mut lines: BTreeMap<_, Vec<Line>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let is_known = comment.starts_with("HELP ") || comment.starts_with("TYPE ");
            assert!(is_known, "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect(line))),
            None => (series, BTreeMap::new()),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        assert!(name.bytes().all(is_name), "{line}");
        let value = value.parse().expect(line);
        lines
            .entry(name.to_owned())
            .or_default()
            .push((labels, value));
    }
    lines
}

fn labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect(rest) {
                (end, '"') => break end,
                (_, '\\') => value.push(chars.next().expect(rest).1),
                (_, char) => value.push(char),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    assert_eq!(text, "");
    labels
}

/// The value of the only line with these labels.
#[track_caller]
pub(crate) fn value(
    page: &BTreeMap<String, Vec<Line>>,
    name: &str,
    wanted: &[(&str, &str)],
) -> f64 {
    let lines = page
        .get(name)
        .unwrap_or_else(|| panic!("{name} in {page:#?}"));
    let fits = |(labels, _): &&Line| {
        let is_there =
            |(name, value): &(&str, &str)| labels.get(*name).is_some_and(|is| is == value);
        wanted.iter().all(is_there)
    };
    let found: Vec<_> = lines.iter().filter(fits).collect();
    let [(_, value)] = found[..] else {
        panic!("one line with {wanted:?}: {lines:#?}");
    };
    *value
}

/// An API with a route for each thing that can be seen, and a key.
pub(crate) async fn api(metrics: &Metrics, usage: &Usage) -> (Router, String) {
    let store = Scripted::new(Script::Later);
    let cached = Cached::new(metrics.measured("keys", store)).clock(clock());
    metrics.watch("keys", &cached);
    let keys = ApiKeys::new(cached, peppers())
        .prefix("acme")
        .clock(clock());
    let key = issue(&keys, NewKey::for_owner("ann").plan("pro")).await;
    let limiter = MemoryLimiter::new();
    metrics.watch("orders", &limiter);
    let limit = RateLimitLayer::new(Quota::per_hour(2))
        .limiter(limiter)
        .clock(clock());
    let router = Router::new()
        .route("/orders/{id}", get(|| async { "hello" }).layer(limit))
        .route(
            "/secret",
            get(|| async {}).layer(RequireLayer::new(scope("none:has"))),
        )
        .route("/bad", post(|_: String| async { StatusCode::BAD_GATEWAY }))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(
            ServiceBuilder::new()
                .layer(UsageLayer::new(usage.clone()))
                .layer(AuthLayer::new(keys).clock(clock())),
        );
    (router, key)
}

async fn ask(api: &Router, method: &str, path: &str, key: &str) -> StatusCode {
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path)
        .header("x-api-key", key)
        .body("abc".to_owned())
        .unwrap();
    let response = api.clone().oneshot(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// All that the tests look for, and what clients make up.
pub(crate) async fn traffic(api: &Router, key: &str) {
    for path in ["/orders/1", "/orders/2"] {
        assert_eq!(ask(api, "GET", path, key).await, 200);
    }
    assert_eq!(ask(api, "GET", "/orders/3", key).await, 429);
    assert_eq!(ask(api, "GET", "/secret", key).await, 403);
    assert_eq!(ask(api, "POST", "/bad", key).await, 502);
    for i in 0..50 {
        let path = format!("/no/{i}\"\\\n{{}}").replace(['"', '\\', '\n', '{', '}'], "%22");
        assert_eq!(ask(api, &format!("FROB{i}"), &path, key).await, 404);
    }
    assert_eq!(ask(api, "GET", "/orders/1", "").await, 400);
}

fn prometheus() -> (Metrics, metrics_exporter_prometheus::PrometheusHandle) {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIME_BUCKETS)
        .unwrap()
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &SIZE_BUCKETS)
        .unwrap()
        .build_recorder();
    let handle = recorder.handle();
    (Metrics::to_recorder(recorder), handle)
}

#[tokio::test]
async fn prometheus_reads_it_all_over_http() {
    let (metrics, handle) = prometheus();
    let metrics = metrics.attribute("acme.plan", |record| {
        record.identity()?.plan().map(Into::into)
    });
    let (sink, mut batches) = ChannelSink::new(100);
    let usage = Usage::builder()
        .observer(metrics.clone())
        .sink(sink)
        .build();
    metrics.watch("usage", &usage);
    let (api, key) = api(&metrics, &usage).await;
    traffic(&api, &key).await;
    usage.shutdown(Duration::from_secs(5)).await;
    assert!(batches.recv().await.is_some());

    let page = {
        let metrics = metrics.clone();
        get(async move || {
            metrics.refresh();
            handle.render()
        })
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum::serve(listener, Router::new().route("/metrics", page));
    tokio::spawn(async move { server.await });
    let page = scrape(&format!("{address}")).await;
    for secret in [&key[..], &key[key.len() - 8..], "FROB", "/no/", "ann"] {
        assert!(!page.contains(secret), "{secret} in {page}");
    }
    let page = parse(&page);

    let orders = [
        ("http_route", "/orders/{id}"),
        ("http_response_status_code", "200"),
    ];
    let seconds = "http_server_request_duration_seconds";
    assert_eq!(value(&page, &format!("{seconds}_count"), &orders), 2.0);
    let all = [&orders[..], &[("le", "+Inf")]].concat();
    assert_eq!(value(&page, &format!("{seconds}_bucket"), &all), 2.0);
    let labels = [
        ("http_request_method", "GET"),
        ("url_scheme", "http"),
        ("network_protocol_version", "1.1"),
        ("acme_plan", "pro"),
    ];
    let labels = [&orders[..], &labels].concat();
    assert_eq!(
        value(&page, "http_server_response_body_size_bytes_sum", &labels),
        10.0
    );
    let unmatched = [
        ("http_route", "unmatched"),
        ("http_request_method", "_OTHER"),
    ];
    assert_eq!(value(&page, &format!("{seconds}_count"), &unmatched), 50.0);
    let bad = [("http_route", "/bad"), ("error_type", "502")];
    assert_eq!(
        value(&page, "http_server_request_body_size_bytes_sum", &bad),
        3.0
    );

    for (code, cause) in [
        ("rate_limited", "quota_exceeded"),
        ("insufficient_scope", "scope_missing"),
        ("request_malformed", "empty_carrier"),
    ] {
        let labels = [
            ("tollgate_refusal_code", code),
            ("tollgate_refusal_cause", cause),
        ];
        assert_eq!(value(&page, "tollgate_refusals_total", &labels), 1.0);
    }
    for (_, value) in &page["http_server_active_requests"] {
        assert_eq!(*value, 0.0, "nobody is being served");
    }
    let lookups = |result| [("tollgate_name", "keys"), ("tollgate_cache_result", result)];
    assert_eq!(
        value(&page, "tollgate_cache_lookups_total", &lookups("miss")),
        1.0
    );
    assert_eq!(
        value(&page, "tollgate_cache_lookups_total", &lookups("hit")),
        54.0
    );
    let find = [("tollgate_name", "keys"), ("tollgate_operation", "find")];
    assert_eq!(
        value(&page, "tollgate_store_duration_seconds_count", &find),
        1.0
    );
    let budgets = [("tollgate_name", "orders")];
    assert_eq!(value(&page, "tollgate_limiter_budgets", &budgets), 1.0);
    let sink = [("tollgate_name", "usage"), ("tollgate_sink_number", "0")];
    assert_eq!(value(&page, "tollgate_sink_delivered_total", &sink), 56.0);
    assert_eq!(value(&page, "tollgate_sink_waiting", &sink), 0.0);
}

/// What a client of HTTP/1.1 gets.
async fn scrape(authority: &str) -> String {
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    let client = Client::builder(TokioExecutor::new()).build_http::<String>();
    let url = format!("http://{authority}/metrics").parse().unwrap();
    let response = client.get(url).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}
