//! Unread request bodies: which are drained, within which bounds, and what is counted. Row R22.

mod connection;
mod guide;
mod log;
mod nginx;
mod script;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use tollgate::drain::AbandonReason::{
    self, Busy, ClientGone, NetworkBusy, NoTimer, Timeout, TooLarge, TooSlow,
};
use tollgate::drain::{DrainBody, DrainLayer};
use tollgate::network::ClientIp;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::Events;
use script::Step::{self, Data, Fail, Hang, Trailers, Wait};
use script::{Script, answer, closes, counted, reject, rejecting, timed};

fn post(body: Script) -> Request<Script> {
    Request::post("/").body(body).unwrap()
}

fn three_frames() -> Script {
    Script::new([Data(10), Data(20), Data(30)])
}

#[tokio::test(start_paused = true)]
async fn unread_body_is_read_before_any_response() {
    for status in [200, 204, 302, 401, 403, 405, 413, 429, 500, 503] {
        let layer = DrainLayer::new();
        let body = Script::new([
            Data(10),
            Wait(Duration::from_millis(500)),
            Data(20),
            Trailers,
        ]);
        let (response, waited) = timed(reject(&layer, post(body), status)).await;
        assert_eq!(response.status(), status);
        assert!(!closes(&response), "{status}");
        assert_eq!(waited, Duration::from_millis(500), "{status}");
        assert_eq!(counted(&layer.counters()), (1, 30, vec![]), "{status}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "an answer");
    }
}

#[tokio::test]
async fn rest_of_a_partly_read_body_is_drained() {
    let layer = DrainLayer::new();
    let service = layer.layer(service_fn(async |request: Request<DrainBody<Script>>| {
        let mut body = Box::pin(request.into_body());
        assert_eq!(
            body.frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .len(),
            10
        );
        Ok::<_, &str>(answer(413))
    }));
    let response = service.oneshot(post(three_frames())).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(counted(&layer.counters()), (1, 50, vec![]));
}

#[tokio::test]
async fn bodies_that_were_read_are_left_alone() {
    let layer = DrainLayer::new().max_bytes(0);
    // To the last byte, to the end of the stream, and to an error.
    for (body, frames) in [
        (three_frames(), 3),
        (three_frames(), 4),
        (Script::new([Data(1), Fail, Hang]), 2),
    ] {
        let service = layer.layer(service_fn(async |request: Request<DrainBody<Script>>| {
            let mut body = Box::pin(request.into_body());
            for _ in 0..frames {
                let _ = body.frame().await;
            }
            Ok::<_, &str>(answer(403))
        }));
        let response = service.oneshot(post(body)).await.unwrap();
        assert!(!closes(&response));
    }
    // None to begin with.
    let response = reject(&layer, post(Script::new([])), 403).await;
    assert!(!closes(&response));
    assert_eq!(counted(&layer.counters()), (0, 0, vec![]));
}

#[tokio::test]
async fn body_that_a_task_still_reads_is_left_alone() {
    let layer = DrainLayer::new();
    let (sender, reads_on) = tokio::sync::oneshot::channel();
    let mut sender = Some(sender);
    let mut service = layer.layer(service_fn(move |request: Request<DrainBody<Script>>| {
        sender.take().unwrap().send(request.into_body()).ok();
        async { Ok::<_, &str>(answer(202)) }
    }));
    let response = service.call(post(three_frames())).await.unwrap();
    assert_eq!(response.status(), 202);
    assert!(!closes(&response));
    let body = reads_on.await.unwrap().collect().await.unwrap();
    assert_eq!(body.to_bytes().len(), 60);
    assert_eq!(counted(&layer.counters()), (0, 0, vec![]));
}

#[tokio::test]
async fn body_in_the_response_is_left_alone() {
    let layer = DrainLayer::new();
    let service = layer.layer(service_fn(async |request: Request<DrainBody<Script>>| {
        Ok::<_, &str>(Response::new(request.into_body()))
    }));
    let response = service.oneshot(post(three_frames())).await.unwrap();
    let echo = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(echo.len(), 60);
    assert_eq!(counted(&layer.counters()), (0, 0, vec![]));
}

#[tokio::test]
async fn only_http_1_messages_are_drained() {
    let with = |change: fn(&mut Request<Script>)| {
        let mut request = post(three_frames());
        change(&mut request);
        request
    };
    for (name, request, status, is_drained) in [
        (
            "HTTP/0.9",
            with(|it| *it.version_mut() = Version::HTTP_09),
            401,
            false,
        ),
        (
            "HTTP/1.0",
            with(|it| *it.version_mut() = Version::HTTP_10),
            401,
            true,
        ),
        (
            "HTTP/1.1",
            with(|it| *it.version_mut() = Version::HTTP_11),
            401,
            true,
        ),
        (
            "HTTP/2",
            with(|it| *it.version_mut() = Version::HTTP_2),
            401,
            false,
        ),
        (
            "HTTP/3",
            with(|it| *it.version_mut() = Version::HTTP_3),
            401,
            false,
        ),
        (
            "CONNECT",
            with(|it| *it.method_mut() = http::Method::CONNECT),
            200,
            false,
        ),
        ("upgrade", with(|_| ()), 101, false),
        (
            "GET",
            with(|it| *it.method_mut() = http::Method::GET),
            401,
            true,
        ),
        ("another Expect", expect("something-else"), 417, true),
        ("Expect and upgrade", expect("100-continue"), 101, false),
    ] {
        let layer = DrainLayer::new();
        let response = reject(&layer, request, status).await;
        assert!(!closes(&response), "{name}");
        let expected = (
            u64::from(is_drained),
            if is_drained { 60 } else { 0 },
            vec![],
        );
        assert_eq!(counted(&layer.counters()), expected, "{name}");
    }
}

/// A request whose client may wait for `100 Continue`.
fn expect(value: &str) -> Request<Script> {
    let mut request = post(three_frames());
    let value = value.parse().unwrap();
    request.headers_mut().insert("expect", value);
    request
}

#[tokio::test]
async fn response_without_100_continue_closes_the_connection() {
    for value in ["100-continue", "100-Continue"] {
        let layer = DrainLayer::new();
        let response = reject(&layer, expect(value), 401).await;
        assert!(closes(&response), "{value}");
        assert_eq!(counted(&layer.counters()), (0, 0, vec![]), "{value}");
    }
    let others = DrainLayer::new().statuses(|status| status == 413);
    assert!(!closes(&reject(&others, expect("100-continue"), 401).await));
}

#[tokio::test]
async fn expect_of_http_1_0_is_ignored() {
    let layer = DrainLayer::new();
    let mut request = expect("100-continue");
    *request.version_mut() = Version::HTTP_10;
    assert!(!closes(&reject(&layer, request, 401).await));
    assert_eq!(counted(&layer.counters()), (1, 60, vec![]));
}

#[tokio::test]
async fn unknown_peer_is_reported_when_a_body_is_drained() {
    let (events, _guard) = Events::listen();
    let layer = DrainLayer::new();
    let read = layer.layer(service_fn(async |request: Request<DrainBody<Script>>| {
        request.into_body().collect().await.unwrap();
        Ok::<_, &str>(answer(200))
    }));
    read.oneshot(post(three_frames())).await.unwrap();
    assert_eq!(events.of("WARN"), [] as [String; 0]);
    for _ in 0..2 {
        reject(&layer, post(three_frames()), 401).await;
    }
    let reports = events.of("WARN");
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].contains("no peer address"), "{reports:?}");
}

#[tokio::test]
async fn body_after_expect_is_drained_once_it_was_asked_for() {
    let layer = DrainLayer::new();
    let service = layer.layer(service_fn(async |request: Request<DrainBody<Script>>| {
        let mut body = Box::pin(request.into_body());
        body.frame().await.unwrap().unwrap();
        Ok::<_, &str>(answer(413))
    }));
    let mut request = post(three_frames());
    request
        .headers_mut()
        .insert("expect", "100-continue".parse().unwrap());
    service.oneshot(request).await.unwrap();
    assert_eq!(counted(&layer.counters()), (1, 50, vec![]));
}

#[tokio::test]
async fn statuses_can_be_selected() {
    let layer = DrainLayer::new().statuses(|status| status.is_client_error());
    for (status, drained) in [(200, 0), (401, 1), (500, 1), (404, 2)] {
        reject(&layer, post(three_frames()), status).await;
        assert_eq!(layer.counters().drained(), drained, "{status}");
    }
    let panics = DrainLayer::new().statuses(|_| panic!("a function of the user"));
    assert_eq!(
        reject(&panics, post(three_frames()), 401).await.status(),
        401
    );
    assert_eq!(counted(&panics.counters()), (0, 0, vec![]));
}

/// Checks that the bound ends the reading, when, and after how many bytes.
async fn ends(layer: DrainLayer, body: Script, reason: AbandonReason, bytes: u64, seconds: f64) {
    let (response, waited) = timed(reject(&layer, post(body), 401)).await;
    assert_eq!(response.status(), 401);
    assert!(closes(&response), "{reason}");
    assert_eq!(counted(&layer.counters()), (0, bytes, vec![(reason, 1)]));
    // The timer of tokio rounds up to milliseconds.
    let over = waited.as_secs_f64() - seconds;
    assert!((0.0..0.002).contains(&over), "{reason}: {waited:?}");
}

/// Sends a frame of this length at once, and then one after each wait.
fn every(wait: Duration, bytes: usize) -> Script {
    let steps = (0..1_000).flat_map(|_| [Data(bytes), Wait(wait)]);
    Script::new(steps)
}

#[tokio::test(start_paused = true)]
async fn known_length_above_the_bound_is_not_read() {
    let body = three_frames().declaring(61);
    let polls = body.polls();
    ends(DrainLayer::new().max_bytes(60), body, TooLarge, 0, 0.0).await;
    assert_eq!(polls.load(Ordering::SeqCst), 0);
    let fits = DrainLayer::new().max_bytes(60);
    reject(&fits, post(three_frames().declaring(60)), 401).await;
    assert_eq!(counted(&fits.counters()), (1, 60, vec![]));
}

#[tokio::test(start_paused = true)]
async fn unknown_length_is_read_up_to_the_bound() {
    ends(
        DrainLayer::new().max_bytes(59),
        three_frames(),
        TooLarge,
        60,
        0.0,
    )
    .await;
    let fits = DrainLayer::new().max_bytes(60);
    reject(&fits, post(three_frames()), 401).await;
    assert_eq!(counted(&fits.counters()), (1, 60, vec![]));
    // One that never waits and never ends.
    let endless = Script::new((0..100_000).map(|_| Data(1_000)));
    ends(
        DrainLayer::new().max_bytes(1_000_000),
        endless,
        TooLarge,
        1_001_000,
        0.0,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn timeout_and_minimum_rate_end_the_reading() {
    let layer = || {
        DrainLayer::new()
            .min_rate(1_000)
            .timeout(Duration::from_secs(5))
    };
    let tenth = Duration::from_millis(100);
    ends(layer(), Script::new([Hang]), TooSlow, 0, 1.0).await;
    ends(layer(), Script::new([Data(500), Hang]), TooSlow, 500, 1.5).await;
    ends(
        layer(),
        Script::new([Data(9_000), Hang]),
        Timeout,
        9_000,
        5.0,
    )
    .await;
    ends(
        layer().min_rate(0),
        Script::new([Data(1), Hang]),
        Timeout,
        1,
        5.0,
    )
    .await;
    // A little faster than the bound: 20 frames of the first second are free.
    ends(layer(), every(tenth, 110), Timeout, 5_500, 5.0).await;
    ends(layer(), every(tenth, 0), TooSlow, 0, 1.0).await;
    ends(
        layer().timeout(Duration::ZERO),
        three_frames(),
        Timeout,
        0,
        0.0,
    )
    .await;
    ends(
        layer().timeout(Duration::MAX),
        Script::new([Hang]),
        TooSlow,
        0,
        1.0,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn body_that_fails_ends_the_reading() {
    let body = Script::new([Data(7), Fail, Data(7)]);
    ends(DrainLayer::new(), body, ClientGone, 7, 0.0).await;
}

#[test]
fn nothing_is_read_without_a_timer() {
    let layer = DrainLayer::new();
    let response = reject(&layer, post(three_frames()), 401).now_or_never();
    assert!(closes(&response.unwrap()));
    assert_eq!(counted(&layer.counters()), (0, 0, vec![(NoTimer, 1)]));
}

/// Requests from these clients at once, whose bodies hang. Returns the responses that do not wait.
fn at_once(layer: &DrainLayer, clients: &[&str]) -> Vec<Option<bool>> {
    let proxy: std::net::SocketAddr = "10.0.0.9:4711".parse().unwrap();
    let mut held = Vec::new();
    let mut closed = Vec::new();
    for client in clients {
        let service = layer.layer(rejecting(401));
        let mut request = post(Script::new([Data(1), Hang]));
        if !client.is_empty() {
            request.extensions_mut().insert(proxy);
            request
                .headers_mut()
                .insert("x-forwarded-for", client.parse().unwrap());
        }
        let mut response = Box::pin(service.oneshot(request));
        let polled = response.as_mut().now_or_never();
        closed.push(polled.map(|response| closes(&response.unwrap())));
        held.push(response);
    }
    closed
}

#[tokio::test(start_paused = true)]
async fn bodies_of_one_network_are_bounded() {
    let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let layer = DrainLayer::new()
        .client_ip(client_ip)
        .max_concurrent_per_network(2);
    let (a, b) = ("203.0.113.7", "203.0.113.8");
    let closed = at_once(&layer, &[a, a, a, b, b, b, "", "", ""]);
    let waits_twice = [None, None, Some(true)];
    assert_eq!(closed, [waits_twice, waits_twice, waits_twice].concat());
    // Those that waited were given up.
    let counts = counted(&layer.counters());
    assert_eq!(counts, (0, 6, vec![(NetworkBusy, 3), (ClientGone, 6)]));
    // Their places are free again.
    assert_eq!(at_once(&layer, &[a, a]), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn bodies_of_all_networks_are_bounded() {
    let layer = DrainLayer::new().max_concurrent(3);
    assert_eq!(
        at_once(&layer, &[""; 5]),
        [None, None, None, Some(true), Some(true)]
    );
    let counts = counted(&layer.counters());
    assert_eq!(counts, (0, 3, vec![(Busy, 2), (ClientGone, 3)]));
}

#[tokio::test(start_paused = true)]
async fn clones_share_counters_and_places() {
    let layer = DrainLayer::new().max_concurrent(1);
    let other = layer.clone().timeout(Duration::from_secs(1));
    let mut hanging = Box::pin(reject(&layer, post(Script::new([Hang])), 401));
    assert!(hanging.as_mut().now_or_never().is_none());
    assert_eq!(layer.counters().under_way(), 1);
    assert!(closes(&reject(&other, post(three_frames()), 401).await));
    drop(hanging);
    assert_eq!(counted(&layer.counters()), counted(&other.counters()));
}

#[tokio::test]
async fn service_errors_and_backpressure_pass_unchanged() {
    let layer = DrainLayer::new();
    let service = layer.layer(service_fn(async |_: Request<DrainBody<Script>>| {
        Err::<Response<Full<&[u8]>>, _>("out of order")
    }));
    let failed = service.oneshot(post(three_frames())).await;
    assert_eq!(failed.unwrap_err(), "out of order");
    assert_eq!(counted(&layer.counters()), (0, 0, vec![]));

    let (inner, mut handle) =
        tower_test::mock::pair::<Request<DrainBody<Script>>, Response<Full<&[u8]>>>();
    handle.allow(0);
    let mut service = layer.layer(inner);
    assert!(service.ready().now_or_never().is_none());
    handle.allow(1);
    assert!(service.ready().now_or_never().unwrap().is_ok());
}

#[tokio::test]
async fn close_is_added_to_a_connection_header() {
    let layer = DrainLayer::new().max_bytes(0);
    let service = layer.layer(service_fn(async |_: Request<DrainBody<Script>>| {
        let mut response = answer(401);
        response
            .headers_mut()
            .insert("connection", "x-hop".parse().unwrap());
        Ok::<_, &str>(response)
    }));
    let response = service.oneshot(post(three_frames())).await.unwrap();
    let values: Vec<_> = response.headers().get_all("connection").iter().collect();
    assert_eq!(values, ["x-hop", "close"]);
}

#[tokio::test]
async fn body_keeps_its_frames_trailers_and_length() {
    let layer = DrainLayer::new();
    let steps: [Step; 3] = [Data(10), Data(20), Trailers];
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut request = post(Script::new(steps.clone()).declaring(30));
        *request.version_mut() = version;
        let service = layer.layer(service_fn(async |request: Request<DrainBody<Script>>| {
            let body = request.into_body();
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(30));
            assert!(!http_body::Body::is_end_stream(&body));
            let read = body.collect().await.unwrap();
            assert!(read.trailers().is_some());
            assert_eq!(read.to_bytes().len(), 30);
            Ok::<_, &str>(answer(200))
        }));
        service.oneshot(request).await.unwrap();
    }
    assert_eq!(counted(&layer.counters()), (0, 0, vec![]));
}
