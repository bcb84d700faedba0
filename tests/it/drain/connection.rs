//! The same over connections of a real server, and with the layers inside.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tollgate::drain::AbandonReason::{ClientGone, TooLarge};
use tollgate::drain::{DrainCounters, DrainLayer};
use tollgate::keys::MemoryKeys;
use tollgate::usage::Usage;
use tollgate::usage::metrics::Metrics;
use tollgate::{AuthLayer, UsageLayer};
use tower::{ServiceBuilder, ServiceExt};

use super::script::{counted, reject};
use super::{post as post_script, three_frames};
use crate::nested::usage::watched;
use crate::support::keys_over;

/// `POST /` reads the upload; nobody gets there without a key.
pub(super) fn router() -> Router {
    Router::new()
        .route("/", post(async |body: String| body.len().to_string()))
        .layer(AuthLayer::new(keys_over(MemoryKeys::new())))
        .route("/health", get(async || "fine"))
}

pub(super) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A layer whose bounds on time are not reached, however slow the machine is.
pub(super) fn patient() -> DrainLayer {
    DrainLayer::new().min_rate(0).timeout(LONG)
}

async fn drained() -> (SocketAddr, DrainCounters) {
    let layer = patient();
    let counters = layer.counters();
    (serve(router().layer(layer)).await, counters)
}

pub(super) const LONG: Duration = Duration::from_secs(60);

/// Reads until this is in what came, or the connection ends.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&text).contains(end) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => text.extend(&buffer[..read]),
            }
        }
    };
    timeout(LONG, read)
        .await
        .expect("the server answers or closes");
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) const UPLOAD: usize = 400_000;

fn upload(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn connection_is_used_again_after_a_rejected_upload() {
    let (address, counters) = drained().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1_000, "x".repeat(1_000)).repeat(UPLOAD / 1_000);
    for (fields, body) in [
        (format!("content-length: {UPLOAD}\r\n"), "x".repeat(UPLOAD)),
        (
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("{chunk}0\r\n\r\n"),
        ),
    ] {
        // The next request comes in the same segment as the end of the body.
        let message = format!("{}{body}{HEALTH}", upload(&fields));
        stream.write_all(message.as_bytes()).await.unwrap();
        let text = read_until(&mut stream, "\r\n\r\nfine").await;
        assert!(text.starts_with("HTTP/1.1 401"), "{text}");
        assert!(text.ends_with("\r\n\r\nfine"), "{text}");
        assert!(!text.to_lowercase().contains("connection: close"), "{text}");
    }
    assert_eq!(counted(&counters), (2, 2 * UPLOAD as u64, vec![]));
}

#[tokio::test]
async fn connection_is_closed_without_the_layer() {
    let address = serve(router()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = upload(&format!("content-length: {UPLOAD}\r\n"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "an end").await;
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
}

#[tokio::test]
async fn declared_length_above_the_bound_closes_the_connection() {
    let (address, counters) = drained().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = upload("content-length: 8388609\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "an end").await;
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    assert_eq!(counted(&counters), (0, 0, vec![(TooLarge, 1)]));
}

#[tokio::test]
async fn client_that_expects_continue_is_answered_at_once() {
    let (address, counters) = drained().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = upload("content-length: 400000\r\nexpect: 100-continue\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "an end").await;
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    assert_eq!(counted(&counters), (0, 0, vec![]));
}

#[tokio::test]
async fn upload_over_http_1_0_is_drained() {
    for (keep_alive, is_kept) in [("connection: keep-alive\r\n", true), ("", false)] {
        let (address, counters) = drained().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST / HTTP/1.0\r\ncontent-length: {UPLOAD}\r\n{keep_alive}\r\n");
        let message = format!("{head}{}", "x".repeat(UPLOAD));
        stream.write_all(message.as_bytes()).await.unwrap();
        if is_kept {
            let next = "GET /health HTTP/1.0\r\n\r\n";
            stream.write_all(next.as_bytes()).await.unwrap();
        }
        let text = read_until(&mut stream, "an end").await;
        assert!(text.starts_with("HTTP/1.0 401"), "{text}");
        assert_eq!(text.ends_with("\r\n\r\nfine"), is_kept, "{text}");
        assert_eq!(counted(&counters), (1, UPLOAD as u64, vec![]));
    }
}

#[tokio::test]
async fn client_that_goes_away_is_counted() {
    let (address, counters) = drained().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = upload("content-length: 400000\r\n");
    let message = format!("{head}{}", "x".repeat(1_000));
    stream.write_all(message.as_bytes()).await.unwrap();
    let under_way = async {
        while counters.under_way() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(stream);
        while counters.under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, under_way).await.unwrap();
    assert_eq!(counted(&counters), (0, 1_000, vec![(ClientGone, 1)]));
}

#[tokio::test]
async fn responses_of_axum_itself_are_drained() {
    let layer = DrainLayer::new();
    let router = Router::new()
        .route("/read", get(async || "fine"))
        .route("/json", post(async |_: axum::Json<u8>| "fine"))
        .layer(layer.clone());
    for (uri, status) in [("/read", 405), ("/nowhere", 404), ("/json", 415)] {
        let request = Request::post(uri).body("an upload".to_owned()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(counted(&layer.counters()), (3, 27, vec![]));
}

#[tokio::test]
async fn usage_counts_uploads_inside_of_the_layer() {
    let (usage, seen) = watched(Usage::builder());
    let router = Router::new()
        .route("/", post(async |body: String| body.len().to_string()))
        .layer(
            ServiceBuilder::new()
                .layer(DrainLayer::new())
                .layer(UsageLayer::new(usage)),
        );
    let request = Request::post("/").body("an upload".to_owned()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(crate::support::Answer::of(response).await.body, "9");
    assert_eq!(seen.next().bytes_in(), 9);
}

#[tokio::test]
async fn counters_are_exported_as_metrics() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let metrics = Metrics::to_recorder(recorder);
    let layer = DrainLayer::new().max_bytes(100);
    metrics.watch("edge", &layer.counters());
    reject(&layer, post_script(three_frames()), 401).await;
    reject(&layer, post_script(three_frames().declaring(101)), 401).await;
    metrics.refresh();
    let page = page.render();
    for line in [
        r#"tollgate_drain_io_bytes_total{tollgate_name="edge"} 60"#,
        r#"tollgate_drain_bodies_total{tollgate_name="edge",tollgate_drain_result="drained"} 1"#,
        r#"tollgate_drain_bodies_total{tollgate_name="edge",tollgate_drain_result="too_large"} 1"#,
        r#"tollgate_drain_bodies_total{tollgate_name="edge",tollgate_drain_result="busy"} 0"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}
