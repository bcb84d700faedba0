//! On axum, over a real socket: routers, extractors, HTTP/1.1 as it is.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{MatchedPath, OriginalUri, Request};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::auth::Source;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::{ApiKeys, AuthLayer, Identity, RequireLayer, scope};
use tower::ServiceExt;

use crate::support::{Answer, issue, keys_over};

async fn keys() -> (ApiKeys, String) {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice").scopes(["orders:read"])).await;
    (keys, key)
}

async fn me(identity: Identity) -> String {
    identity.subject().into()
}

async fn me_or_nobody(identity: Option<Identity>) -> String {
    identity.map_or_else(|| "nobody".into(), |identity| identity.subject().into())
}

async fn ask(router: &Router, uri: &str, key: Option<&str>) -> Answer {
    let mut request = Request::get(uri);
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    Answer::of(router.clone().oneshot(request).await.unwrap()).await
}

#[tokio::test]
async fn the_layer_covers_a_router_its_routes_or_a_nested_one() {
    let (keys, key) = keys().await;
    let door = AuthLayer::new(keys);
    let whole = Router::new().route("/me", get(me)).layer(door.clone());
    let routes = Router::new()
        .route("/me", get(me))
        .route_layer(door.clone());
    let nested = Router::new().nest("/api", Router::new().route("/me", get(me)).layer(door));
    for (router, uri) in [
        (whole.clone(), "/me"),
        (routes.clone(), "/me"),
        (nested, "/api/me"),
    ] {
        assert_eq!(ask(&router, uri, Some(&key)).await.body, "alice");
        assert_eq!(
            ask(&router, uri, None).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    // `layer` stands before the 404 of the router, `route_layer` does not.
    assert_eq!(
        ask(&whole, "/none", None).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        ask(&routes, "/none", None).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_route_requires_what_stands_beside_it() {
    let (keys, key) = keys().await;
    let orders = get(me)
        .layer(RequireLayer::new(scope("orders:read")))
        .merge(post(me).layer(RequireLayer::new(scope("orders:write"))));
    let router = Router::new()
        .route("/orders", orders)
        .layer(AuthLayer::new(keys));
    assert_eq!(ask(&router, "/orders", Some(&key)).await.body, "alice");
    let request = Request::post("/orders").header("x-api-key", &key);
    let request = request.body(axum::body::Body::empty()).unwrap();
    let answer = Answer::of(router.oneshot(request).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(
        answer.challenges()[0].starts_with("ApiKey "),
        "{:?}",
        answer.challenges()
    );
}

#[tokio::test]
async fn a_handler_that_nobody_covered_answers_500() {
    for router in [
        Router::new().route("/", get(me)),
        Router::new().route("/", get(me_or_nobody)),
        Router::new().route("/", get(me).layer(RequireLayer::new(scope("a")))),
    ] {
        let answer = ask(&router, "/", None).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.code(), "internal");
    }
}

#[tokio::test]
async fn behind_an_optional_door_the_handler_says_whether_it_must_know() {
    let (keys, key) = keys().await;
    let router = Router::new()
        .route("/me", get(me))
        .route("/maybe", get(me_or_nobody))
        .layer(AuthLayer::new(keys).optional().realm("shop"));
    assert_eq!(ask(&router, "/maybe", None).await.body, "nobody");
    assert_eq!(ask(&router, "/maybe", Some(&key)).await.body, "alice");
    assert_eq!(
        ask(&router, "/maybe", Some("guess")).await.status,
        StatusCode::UNAUTHORIZED
    );
    let answer = ask(&router, "/me", None).await;
    assert_eq!(answer.code(), "credentials_missing");
    assert_eq!(answer.challenges()[0], "Bearer realm=\"shop\"");
}

#[tokio::test]
async fn a_rejection_that_a_handler_returns_is_a_response() {
    let (keys, key) = keys().await;
    let handler = async |request: Request| match request.extensions().get::<Identity>() {
        Some(_) => tollgate::Rejection::new(
            tollgate::rejection::Reason::Forbidden,
            tollgate::rejection::Cause::Other,
        )
        .into_response(),
        None => StatusCode::OK.into_response(),
    };
    let router = Router::new()
        .route("/", get(handler))
        .layer(AuthLayer::new(keys));
    assert_eq!(ask(&router, "/", Some(&key)).await.code(), "forbidden");
}

#[tokio::test]
async fn no_copy_of_the_uri_has_the_key_in_it() {
    let (keys, key) = keys().await;
    let show = async |OriginalUri(original): OriginalUri, path: MatchedPath, request: Request| {
        format!("{original} {} {}", request.uri(), path.as_str())
    };
    let door = AuthLayer::new(keys).sources([Source::query("key")]);
    let inner = Router::new().route("/a", get(show)).layer(door);
    let router = Router::new().nest("/api", inner);
    let answer = ask(&router, &format!("/api/a?x=1&key={key}"), None).await;
    assert_eq!(answer.body, "/api/a?x=1 /a?x=1 /api/a");
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Sends bytes, and reads until the server has sent `end` or closed.
async fn exchange(stream: &mut TcpStream, send: &str, end: &str) -> String {
    stream.write_all(send.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            n => text.push_str(std::str::from_utf8(&buffer[..n]).unwrap()),
        }
    }
    text
}

#[tokio::test]
async fn a_connection_goes_on_after_refusals_with_bodies_unread() {
    let (keys, key) = keys().await;
    let router = Router::new()
        .route("/me", get(me).post(me))
        .layer(AuthLayer::new(keys));
    let mut stream = TcpStream::connect(serve(router).await).await.unwrap();
    let document = "\"code\":\"credentials_missing\"}";

    let post = format!(
        "POST /me HTTP/1.1\r\nhost: h\r\ncontent-length: 5000\r\n\r\n{}",
        "x".repeat(5000)
    );
    let refused = exchange(&mut stream, &post, document).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");

    let head = exchange(
        &mut stream,
        "HEAD /me HTTP/1.1\r\nhost: h\r\n\r\n",
        "\r\n\r\n",
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 401") && head.ends_with("\r\n\r\n"),
        "{head}"
    );

    let get = format!("GET /me HTTP/1.1\r\nhost: h\r\nx-api-key: {key}\r\n\r\n");
    let accepted = exchange(&mut stream, &get, "alice").await;
    assert!(accepted.starts_with("HTTP/1.1 200"), "{accepted}");
}

#[tokio::test]
async fn a_client_that_waits_before_it_sends_gets_its_refusal_at_once() {
    let (keys, _) = keys().await;
    let router = Router::new()
        .route("/me", post(me))
        .layer(AuthLayer::new(keys));
    let mut stream = TcpStream::connect(serve(router).await).await.unwrap();
    let ask = "POST /me HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n";
    let refused = exchange(&mut stream, ask, "credentials_missing\"}").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
}

#[tokio::test]
async fn old_and_odd_requests_are_refused_like_others() {
    let (keys, key) = keys().await;
    let router = Router::new()
        .route("/me", get(me))
        .layer(AuthLayer::new(keys));
    let address = serve(router).await;
    for (line, status) in [
        ("GET /me HTTP/1.0\r\n".to_owned(), "HTTP/1.0 401"),
        (
            format!("GET /me HTTP/1.0\r\nx-api-key: {key}\r\n"),
            "HTTP/1.0 200",
        ),
        (
            "CONNECT h:80 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n".into(),
            "HTTP/1.1 401",
        ),
        (
            "GET http://h/me HTTP/1.1\r\nhost: h\r\nconnection: close\r\n".into(),
            "HTTP/1.1 401",
        ),
        (
            format!(
                "GET /me HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-api-key: {key}\r\nX-API-KEY: {key}\r\n"
            ),
            "HTTP/1.1 400",
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = exchange(&mut stream, &format!("{line}\r\n"), "no such text").await;
        assert!(answer.starts_with(status), "{line}: {answer}");
    }
}
