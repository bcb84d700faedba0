//! Metrics for OpenTelemetry, read back from its SDK. Rows I4 and I5.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, HistogramDataPoint, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tollgate::keys::{Cached, MemoryKeys, NewKey};
use tollgate::network::ClientIp;
use tollgate::network::Transport;
use tollgate::usage::Usage;
use tollgate::usage::metrics::{Metrics, SIZE_BUCKETS, STORE_TIME_BUCKETS, TIME_BUCKETS};
use tollgate::{ApiKeys, AuthLayer, Identity, UsageLayer};
use tower::{Layer, ServiceExt, service_fn};

use super::metrics::{Line, api, traffic, value};
use super::ServiceBuilder;
use crate::support::{Script, Scripted, issue, peppers};

fn ann() -> Identity {
    Identity::for_test().subject("ann").build()
}

/// A meter whose measurements are read back.
struct Meter {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Meter {
    fn new() -> (Metrics, Self) {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let metrics = Metrics::to_meter(provider.meter("tollgate"));
        (metrics, Self { provider, exporter })
    }

    /// What was measured in the last collection, by name.
    fn read(&self) -> BTreeMap<String, Vec<Line>> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let mut all: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for resource in self.exporter.get_finished_metrics().unwrap() {
            for metric in resource.scope_metrics().flat_map(|scope| scope.metrics()) {
                let lines = all.entry(metric.name().to_owned()).or_default();
                assert!(!metric.description().is_empty(), "{}", metric.name());
                match metric.data() {
                    AggregatedMetrics::F64(data) => lines.extend(points(data, |value| value)),
                    AggregatedMetrics::U64(data) => {
                        lines.extend(points(data, |value| value as f64))
                    }
                    AggregatedMetrics::I64(data) => {
                        lines.extend(points(data, |value| value as f64))
                    }
                }
            }
        }
        all
    }
}

/// The values of counters and gauges, and the counts of histograms.
fn points<T: Copy>(data: &MetricData<T>, to_f64: impl Fn(T) -> f64) -> Vec<Line> {
    let attributes = |attributes: &mut dyn Iterator<Item = &KeyValue>| {
        let attribute = |pair: &KeyValue| {
            // Of what is no text it is told what it is.
            let value = match &pair.value {
                Value::String(text) => text.as_str().to_owned(),
                other => format!("{other:?}"),
            };
            (pair.key.to_string(), value)
        };
        attributes.map(attribute).collect::<BTreeMap<_, _>>()
    };
    match data {
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points();
            let line = |point: &opentelemetry_sdk::metrics::data::GaugeDataPoint<T>| {
                (attributes(&mut point.attributes()), to_f64(point.value()))
            };
            points.map(line).collect()
        }
        MetricData::Sum(sum) => {
            let points = sum.data_points();
            let line = |point: &opentelemetry_sdk::metrics::data::SumDataPoint<T>| {
                (attributes(&mut point.attributes()), to_f64(point.value()))
            };
            points.map(line).collect()
        }
        MetricData::Histogram(histogram) => {
            let points = histogram.data_points();
            let line = |point: &HistogramDataPoint<T>| {
                let bounds: Vec<_> = point.bounds().collect();
                assert!(
                    [&TIME_BUCKETS[..], &STORE_TIME_BUCKETS, &SIZE_BUCKETS].contains(&&bounds[..]),
                    "{bounds:?}"
                );
                (attributes(&mut point.attributes()), point.count() as f64)
            };
            points.map(line).collect()
        }
        MetricData::ExponentialHistogram(_) => panic!("nobody has asked for one"),
    }
}

#[tokio::test]
async fn the_sdk_of_opentelemetry_has_it_all_by_its_own_names() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder().observer(metrics.clone()).build();
    let (api, key) = api(&metrics, &usage).await;
    traffic(&api, &key).await;
    let all = meter.read();

    let orders = [
        ("http.route", "/orders/{id}"),
        ("http.request.method", "GET"),
        ("http.response.status_code", "I64(200)"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
    ];
    for name in [
        "http.server.request.duration",
        "http.server.request.body.size",
        "http.server.response.body.size",
    ] {
        assert_eq!(value(&all, name, &orders), 2.0);
    }
    let others: Vec<_> = all["http.server.request.duration"]
        .iter()
        .filter(|(labels, _)| labels["http.request.method"] == "_OTHER")
        .collect();
    let [(labels, count)] = others[..] else {
        panic!("one for all that clients make up: {others:#?}");
    };
    assert_eq!(*count, 50.0);
    assert!(
        !labels.contains_key("http.route"),
        "there was none: {labels:?}"
    );
    for (_, value) in &all["http.server.active_requests"] {
        assert_eq!(*value, 0.0);
    }
    let refused = [("tollgate.refusal.code", "rate_limited")];
    assert_eq!(value(&all, "tollgate.refusals", &refused), 1.0);
    let hits = [("tollgate.name", "keys"), ("tollgate.cache.result", "hit")];
    assert_eq!(value(&all, "tollgate.cache.lookups", &hits), 54.0);
    let find = [("tollgate.operation", "find")];
    assert_eq!(value(&all, "tollgate.store.duration", &find), 1.0);
    let budgets = [("tollgate.name", "orders")];
    assert_eq!(value(&all, "tollgate.limiter.budgets", &budgets), 1.0);
}

#[tokio::test]
async fn what_is_under_way_is_seen_and_what_is_given_up_is_gone() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder().observer(metrics).build();
    let layer = UsageLayer::new(usage);
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>()
        }));
    let request = Request::get("/")
        .extension(Transport::Tls)
        .body(())
        .unwrap();
    let mut waiting = Box::pin(service.oneshot(request));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let active = [("http.request.method", "GET"), ("url.scheme", "https")];
    assert_eq!(
        value(&meter.read(), "http.server.active_requests", &active),
        1.0
    );
    drop(waiting);
    let all = meter.read();
    assert_eq!(value(&all, "http.server.active_requests", &active), 0.0);
    let cancelled = [("error.type", "cancelled"), ("url.scheme", "https")];
    assert_eq!(value(&all, "http.server.request.duration", &cancelled), 1.0);
}

#[tokio::test]
async fn series_have_an_end() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder().observer(metrics.series(10)).build();
    // Somebody takes the paths for routes.
    let layer = UsageLayer::new(usage).route(|request| Some(request.uri.path().into()));
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(tower::service_fn(|_: Request<()>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        }));
    for i in 0..1_000 {
        let request = Request::get(format!("/{i}"))
            .extension(ann())
            .body(())
            .unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    let all = meter.read();
    let series = &all["http.server.request.duration"];
    assert_eq!(series.len(), 11);
    assert_eq!(series.iter().map(|(_, count)| count).sum::<f64>(), 1_000.0);
    let overflow = [("otel.metric.overflow", "Bool(true)")];
    assert_eq!(
        value(&all, "http.server.request.duration", &overflow),
        990.0
    );
}

#[tokio::test]
async fn a_store_that_fails_or_is_given_up_says_so() {
    let (metrics, meter) = Meter::new();
    let store = Scripted::new(Script::Later);
    let keys = ApiKeys::new(metrics.measured("keys", store.clone()), peppers())
        .prefix("acme")
        .store_timeout(Duration::from_millis(20));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let service = AuthLayer::new(keys);
    let service = ServiceBuilder::new()
        .layer(service)
        .service(tower::service_fn(|request: Request<()>| async move {
            let is_known = request.extensions().get::<Identity>().is_some();
            Ok::<_, std::convert::Infallible>(http::Response::new(is_known.to_string()))
        }));
    for (script, count) in [(Script::Later, 1), (Script::Fails, 2), (Script::Hangs, 3)] {
        store.turn(script);
        for _ in 0..count {
            let request = Request::get("/")
                .header("x-api-key", &key)
                .body(())
                .unwrap();
            service.clone().oneshot(request).await.unwrap();
        }
    }
    let all = meter.read();
    let of = |error: Option<&'static str>| {
        let lines = all["tollgate.store.duration"].iter().filter(|(labels, _)| {
            labels["tollgate.operation"] == "find"
                && labels.get("error.type").map(String::as_str) == error
        });
        lines.map(|(_, count)| *count).sum::<f64>()
    };
    assert_eq!(
        (of(None), of(Some("unavailable")), of(Some("given_up"))),
        (1.0, 2.0, 3.0)
    );
}

#[cfg(feature = "tonic")]
#[tokio::test]
async fn calls_of_grpc_are_measured_as_such_to_their_trailers() {
    use crate::greeter::{COUNT, HELLO, call};
    use super::usage_of_calls::{records, server_with};

    let (metrics, meter) = Meter::new();
    let (channel, key, seen) = server_with(Usage::builder().observer(metrics)).await;
    for (method, text) in [(HELLO, "ann"), (COUNT, "3")] {
        let answer = call(channel.clone(), method, text, Some(&key)).await;
        let mut stream = answer.unwrap().into_inner();
        while let Ok(Some(_)) = stream.message().await {}
    }
    assert!(call(channel, HELLO, "ann", None).await.is_err());
    records(&seen, 3).await;

    let all = meter.read();
    let of = |method: &'static str, status: &'static str| {
        let labels = [
            ("rpc.system.name", "grpc"),
            ("rpc.method", method),
            ("rpc.response.status_code", status),
        ];
        value(&all, "rpc.server.call.duration", &labels)
    };
    let (hello, count) = (HELLO.trim_start_matches('/'), COUNT.trim_start_matches('/'));
    assert_eq!((of(hello, "OK"), of(count, "ABORTED")), (1.0, 1.0));
    assert_eq!(of(hello, "UNAUTHENTICATED"), 1.0);
    assert!(
        !all.contains_key("http.server.request.duration"),
        "they count once"
    );
    let errors = all["rpc.server.call.duration"].iter();
    let errors = errors.filter(|(labels, _)| labels.contains_key("error.type"));
    assert_eq!(
        errors.count(),
        0,
        "what a caller does wrong is no error of the server"
    );
}

const DURATION: &str = "http.server.request.duration";
const CALL: &str = "rpc.server.call.duration";

/// What is counted of a histogram, whatever its labels.
fn count(all: &BTreeMap<String, Vec<Line>>, name: &str) -> f64 {
    let lines = all.get(name).into_iter().flatten();
    lines.map(|(_, count)| count).sum()
}

#[tokio::test]
async fn calls_and_other_requests_are_told_apart_before_anybody_has_answered() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder().observer(metrics).build();
    let service = UsageLayer::new(usage).layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    for content_type in ["application/grpc", "application/json"] {
        let request = Request::post("/a.B/C").version(Version::HTTP_2);
        let request = request.header("content-type", content_type).body(());
        let waiting = service.clone().oneshot(request.unwrap());
        assert!(waiting.now_or_never().is_none());
    }
    let all = meter.read();
    assert_eq!((count(&all, CALL), count(&all, DURATION)), (1.0, 1.0));
}

/// Behind a router that has one route for a whole service.
#[tokio::test]
async fn a_call_that_is_answered_by_something_else_is_an_error_of_no_method() {
    for (status, error) in [(StatusCode::NOT_FOUND, "404"), (StatusCode::OK, "UNKNOWN")] {
        let (metrics, meter) = Meter::new();
        let usage = Usage::builder().observer(metrics).build();
        let layer = UsageLayer::new(usage).route(|_| Some("/a.B/{*rest}".into()));
        let service = layer.layer(service_fn(move |_: Request<()>| async move {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }));
        let request = Request::post("/a.B/C").header("content-type", "application/grpc");
        service.oneshot(request.body(()).unwrap()).await.unwrap();
        let labels = [("rpc.method", "_OTHER"), ("error.type", error)];
        assert_eq!(value(&meter.read(), CALL, &labels), 1.0);
    }
}

#[tokio::test]
async fn strangers_leave_room_to_those_who_are_known() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder().observer(metrics.series(100)).build();
    let layer = UsageLayer::new(usage).route(|request| Some(request.uri.path().into()));
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    for i in 0..100 {
        for method in ["GET", "PUT", "POST"] {
            let request = Request::builder().method(method).uri(format!("/{i}"));
            let request = request.body(()).unwrap();
            service.clone().oneshot(request).await.unwrap();
        }
    }
    for i in 0..50 {
        let request = Request::get(format!("/known/{i}")).extension(ann());
        let request = request.body(()).unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    let all = meter.read();
    for i in 0..50 {
        let route = format!("/known/{i}");
        assert_eq!(value(&all, DURATION, &[("http.route", &route)]), 1.0);
    }
    assert_eq!(all[DURATION].len(), 101);
    assert_eq!(count(&all, DURATION), 350.0);
}

#[test]
fn threads_that_meet_at_the_same_series_take_room_once() {
    for _ in 0..50 {
        let (metrics, meter) = Meter::new();
        let usage = Usage::builder().observer(metrics.series(4)).build();
        let service = UsageLayer::new(usage).layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let ask = |method: &str| {
            let request = Request::builder().method(method).uri("/").extension(ann());
            let answer = service.clone().oneshot(request.body(()).unwrap());
            answer.now_or_never().unwrap().unwrap();
        };
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    ask("GET");
                });
            }
        });
        ["POST", "PUT", "DELETE"].into_iter().for_each(ask);
        let all = meter.read();
        let methods = all[DURATION]
            .iter()
            .filter(|(labels, _)| labels.contains_key("url.scheme"));
        assert_eq!((methods.count(), count(&all, DURATION)), (4, 11.0));
    }
}

#[tokio::test]
async fn what_is_watched_goes_with_the_metrics() {
    let (metrics, meter) = Meter::new();
    let gone = Arc::new(());
    let held = Arc::downgrade(&gone);
    let clock = move || {
        let _ = &gone;
        std::time::SystemTime::now().into()
    };
    let cached = Cached::new(metrics.measured("keys", MemoryKeys::new())).clock(Clocked(clock));
    metrics.watch("keys", &cached);
    assert_eq!(meter.read()["tollgate.cache.lookups"].len(), 2);
    drop((cached, metrics));
    assert!(held.upgrade().is_none());
    assert!(!meter.read().contains_key("tollgate.cache.lookups"));
}

/// A clock that holds something.
struct Clocked<F>(F);

impl<F: Fn() -> tollgate::clock::Timestamp + Send + Sync + 'static> tollgate::clock::Clock
    for Clocked<F>
{
    fn now(&self) -> tollgate::clock::Timestamp {
        (self.0)()
    }
}

#[tokio::test]
async fn a_way_to_the_peer_that_panics_does_not_touch_the_request() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder()
        .observer(metrics)
        .client_addresses()
        .build();
    let clients = ClientIp::new()
        .trusted_proxies(["10.0.0.0/8"])
        .peer_from(|_| panic!("of a user"));
    let service =
        UsageLayer::new(usage)
            .client_ip(clients)
            .layer(service_fn(|_: Request<()>| async {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
    let answer = service
        .oneshot(Request::get("/").body(()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(count(&meter.read(), DURATION), 1.0);
}

/// Anybody can write one, and it must not be the end of all sums.
#[tokio::test]
async fn a_length_that_is_made_up_is_a_tebibyte_at_most() {
    let (metrics, meter) = Meter::new();
    let usage = Usage::builder().observer(metrics).build();
    let service = UsageLayer::new(usage.clone()).layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let most = u64::MAX.to_string();
    for length in [&most, &most, "5", "5"] {
        let request = Request::put("/").header("content-length", length);
        service
            .clone()
            .oneshot(request.body(()).unwrap())
            .await
            .unwrap();
    }
    let all = meter.read();
    assert_eq!(count(&all, "http.server.request.body.size"), 4.0);
    assert_eq!(usage.snapshot().anonymous.bytes_in(), (2 << 40) + 10);
}
