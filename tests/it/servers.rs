//! The same stack on axum, on tonic and on plain hyper, over real sockets: the three give
//! the same answers, on HTTP/1.1 as on HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::auth::{AuthFailureLimitLayer, HttpsOnlyLayer};
use tollgate::authorize::{Rules, authenticated, role, scope};
use tollgate::keys::{KeyStore, MemoryKeys, NewKey};
use tollgate::{ApiKeys, AuthLayer, Identity, RequireLayer};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::service_fn;

use crate::greeter::{COUNT, Greeter, HELLO, call};
use super::ServiceBuilder;
use crate::support::{Answer, Script, Scripted, clock, issue, keys_over};

fn rules() -> Rules {
    Rules::new()
        .route("GET /orders/{id}", scope("orders:read"))
        .route("POST /orders", scope("orders:write") | role("clerk"))
        .route("/greet.Greeter/Hello", authenticated())
        .route("/greet.Greeter/Count", scope("count"))
        .public("GET /health")
        .otherwise_deny()
}

/// The whole stack, in front of anything.
macro_rules! stack {
    ($keys:expr, $failures:expr) => {
        ServiceBuilder::new()
            .layer(HttpsOnlyLayer::new().allow_loopback())
            .layer(AuthFailureLimitLayer::failures_per_minute($failures).clock(clock()))
            .layer(
                AuthLayer::new($keys)
                    .optional()
                    .clock(clock())
                    .realm("shop"),
            )
            .layer(RequireLayer::new(rules()))
    };
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn name(extensions: &http::Extensions) -> String {
    let identity = extensions.get::<Identity>();
    identity.map_or("nobody", Identity::subject).to_owned()
}

async fn on_axum<S: KeyStore>(keys: ApiKeys<S>, failures: u32) -> SocketAddr {
    let (listener, address) = listener().await;
    let echo = async |request: axum::extract::Request| name(request.extensions());
    let app = axum::Router::new()
        .route_service("/greet.Greeter/{method}", Greeter)
        .fallback(echo)
        .layer(stack!(keys, failures));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn on_tonic<S: KeyStore>(keys: ApiKeys<S>, failures: u32) -> SocketAddr {
    let (listener, address) = listener().await;
    let mut routes = tonic::service::Routes::builder();
    routes.add_service(Greeter);
    let echo = async |request: axum::extract::Request| name(request.extensions());
    let routes = routes.routes().into_axum_router().fallback(echo);
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .layer(stack!(keys, failures))
        .add_routes(routes.into());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

async fn on_hyper<S: KeyStore>(keys: ApiKeys<S>, failures: u32) -> SocketAddr {
    let (listener, address) = listener().await;
    let stack = stack!(keys, failures).service(service_fn(
        |request: Request<hyper::body::Incoming>| async {
            if request.uri().path().starts_with("/greet.Greeter/") {
                let request = request.map(tonic::body::Body::new);
                return tower::Service::call(&mut Greeter, request).await;
            }
            // Unlike routers, hyper sends on HTTP/2 what a handler answers to HEAD.
            let is_head = request.method() == Method::HEAD;
            let text = if is_head {
                String::new()
            } else {
                name(request.extensions())
            };
            let body = Full::new(Bytes::from(text));
            Ok(http::Response::new(tonic::body::Body::new(
                body.map_err(|never| match never {}),
            )))
        },
    ));
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let stack = stack.clone();
            let noting = service_fn(move |mut request: Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer);
                tower::ServiceExt::oneshot(stack.clone(), request)
            });
            let service = TowerToHyperService::new(noting);
            let builder = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    address
}

/// The three, with these keys, each letting a network fail so often.
async fn servers<S: KeyStore>(keys: &ApiKeys<S>, failures: u32) -> [(&'static str, SocketAddr); 3] {
    [
        ("axum", on_axum(keys.clone(), failures).await),
        ("tonic", on_tonic(keys.clone(), failures).await),
        ("hyper", on_hyper(keys.clone(), failures).await),
    ]
}

/// Keys in a store that all servers share: of a clerk, and one that was revoked.
struct Keys {
    keys: ApiKeys,
    good: String,
    plain: String,
    revoked: String,
}

async fn keys() -> Keys {
    let keys = keys_over(MemoryKeys::new());
    let clerk = NewKey::for_owner("ann")
        .role("clerk")
        .scopes(["orders:read", "count"]);
    let revoked = keys.issue(NewKey::for_owner("bob")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    Keys {
        good: issue(&keys, clerk).await,
        plain: issue(&keys, NewKey::for_owner("cid")).await,
        revoked: revoked.key.expose().into(),
        keys,
    }
}

async fn ask(address: SocketAddr, http2: bool, request: Request<Full<Bytes>>) -> Answer {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let (mut parts, body) = request.into_parts();
    parts.uri = format!("http://{address}{}", parts.uri).parse().unwrap();
    let response = client.request(Request::from_parts(parts, body)).await;
    let response = response.unwrap();
    if response.headers().contains_key("grpc-status") {
        // The one frame says that it is the last.
        assert!(response.body().is_end_stream());
    }
    Answer::of(response).await
}

#[tokio::test]
async fn the_three_servers_agree() {
    let keys = keys().await;
    let servers = servers(&keys.keys, 1_000).await;
    const GRPC: &str = "application/grpc";
    const JSON: &str = "application/json";
    let (good, plain, revoked) = (&*keys.good, &*keys.plain, &*keys.revoked);
    // Method, path, content type, keys, HTTP status; then what the body or the code says.
    type Scenario<'a> = (Method, &'a str, &'a str, &'a [&'a str], u16, &'a str);
    let scenarios: &[Scenario<'_>] = &[
        (Method::GET, "/health", JSON, &[], 200, "nobody"),
        (Method::GET, "/health", JSON, &[good], 200, "ann"),
        (
            Method::GET,
            "/health",
            JSON,
            &[revoked],
            401,
            "credential_revoked",
        ),
        (
            Method::GET,
            "/orders/7",
            JSON,
            &[],
            401,
            "credentials_missing",
        ),
        (Method::GET, "/orders/7", JSON, &[good], 200, "ann"),
        (Method::HEAD, "/orders/7", JSON, &[good], 200, ""),
        (Method::HEAD, "/orders/7", JSON, &[], 401, ""),
        (
            Method::GET,
            "/orders/7",
            JSON,
            &[plain],
            403,
            "insufficient_scope",
        ),
        (
            Method::GET,
            "/orders/7",
            JSON,
            &[good, good],
            400,
            "credentials_ambiguous",
        ),
        (
            Method::GET,
            "/orders/7",
            JSON,
            &["a,b"],
            400,
            "request_malformed",
        ),
        (
            Method::GET,
            "/orders/7",
            JSON,
            &["acme_live_x"],
            401,
            "credential_invalid",
        ),
        (Method::POST, "/orders", JSON, &[good], 200, "ann"),
        (
            Method::POST,
            "/orders",
            JSON,
            &[plain],
            403,
            "insufficient_scope",
        ),
        (Method::PUT, "/orders", JSON, &[good], 403, "forbidden"),
        (
            Method::OPTIONS,
            "/orders/7",
            JSON,
            &[good],
            403,
            "forbidden",
        ),
        (
            Method::OPTIONS,
            "/orders/7",
            JSON,
            &[],
            401,
            "credentials_missing",
        ),
        (Method::GET, "//orders/7", JSON, &[good], 403, "forbidden"),
        (Method::GET, "/orders//7", JSON, &[good], 403, "forbidden"),
        (Method::GET, "/orders/7/", JSON, &[good], 403, "forbidden"),
        (Method::GET, "/orders/%37", JSON, &[good], 200, "ann"),
        (Method::GET, "/%6Frders/7", JSON, &[good], 403, "forbidden"),
        (Method::GET, "/elsewhere", JSON, &[good], 403, "forbidden"),
        (Method::POST, HELLO, GRPC, &[], 200, "CREDENTIALS_MISSING"),
        (
            Method::POST,
            HELLO,
            GRPC,
            &[revoked],
            200,
            "API_KEY_REVOKED",
        ),
        (
            Method::POST,
            HELLO,
            GRPC,
            &[good, good],
            200,
            "OVERLOADED_CREDENTIALS",
        ),
        (
            Method::POST,
            HELLO,
            GRPC,
            &["acme_live_x"],
            200,
            "API_KEY_INVALID",
        ),
        (
            Method::POST,
            HELLO,
            "application/grpc-web+proto",
            &[],
            200,
            "CREDENTIALS_MISSING",
        ),
        (
            Method::POST,
            COUNT,
            GRPC,
            &[plain],
            200,
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        ),
        (
            Method::POST,
            "/greet.Other/X",
            GRPC,
            &[good],
            200,
            "SECURITY_POLICY_VIOLATED",
        ),
        (Method::POST, HELLO, JSON, &[], 401, "credentials_missing"),
    ];
    for (method, path, content_type, keys, status, says) in scenarios {
        let mut answers = Vec::new();
        for http2 in [false, true] {
            for (server, address) in &servers {
                let mut request = Request::builder()
                    .method(method.clone())
                    .uri(*path)
                    .header("content-type", *content_type)
                    .header("te", "trailers");
                for key in *keys {
                    request = request.header("x-api-key", *key);
                }
                let request = request.body(Full::default()).unwrap();
                let answer = ask(*address, http2, request).await;
                let what = format!("{method} {path} {content_type} {keys:?} on {server}, {http2}");
                assert_eq!(answer.status, *status, "{what}: {answer:?}");
                let said = match answer.header("grpc-status") {
                    Some(_) => {
                        assert!(answer.body.is_empty(), "{what}");
                        assert_eq!(answer.header("content-type"), Some(*content_type), "{what}");
                        let status = Status::from_header_map(&answer.headers).unwrap();
                        status.get_details_error_info().unwrap().reason
                    }
                    None if answer.status.is_success() || answer.body.is_empty() => {
                        String::from_utf8(answer.body.to_vec()).unwrap()
                    }
                    None => answer.code(),
                };
                assert_eq!(said, *says, "{what}");
                let mut headers = answer.headers.clone();
                // These are the server's, not the stack's.
                for name in ["date", "content-length"] {
                    headers.remove(name);
                }
                if !status.eq(&200) || answer.header("grpc-status").is_some() {
                    answers.push((what, headers, answer.body));
                }
            }
        }
        for other in answers.iter().skip(1) {
            assert_eq!(
                (&other.1, &other.2),
                (&answers[0].1, &answers[0].2),
                "{}",
                other.0
            );
        }
    }
}

/// What a refusal says: its status, its code or its reason, and its wait.
fn said(answer: &Answer) -> (u16, String, Option<u64>) {
    let says = match answer.header("grpc-status") {
        Some(_) => {
            let status = Status::from_header_map(&answer.headers).unwrap();
            status.get_details_error_info().unwrap().reason
        }
        None => answer.code(),
    };
    let wait = answer.header("retry-after");
    let wait = wait.map(|wait| wait.parse().unwrap());
    (answer.status.as_u16(), says, wait)
}

#[tokio::test]
async fn the_three_servers_agree_when_the_store_is_down() {
    let keys = keys_over(Scripted::new(Script::Fails));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    for (server, address) in servers(&keys, 1_000).await {
        for http2 in [false, true] {
            let call = |request: http::request::Builder| {
                let request = request.header("x-api-key", &key).header("te", "trailers");
                ask(address, http2, request.body(Full::default()).unwrap())
            };
            let answer = call(Request::get("/orders/7")).await;
            let (status, code, wait) = said(&answer);
            assert_eq!((status, &*code), (503, "verifier_unavailable"), "{server}");
            assert!((1..=3).contains(&wait.unwrap()), "{server}");
            let grpc = Request::post(HELLO).header("content-type", "application/grpc");
            let answer = call(grpc).await;
            let (status, reason, wait) = said(&answer);
            assert_eq!(
                (status, &*reason, wait),
                (200, "SERVICE_NOT_AVAILABLE", None)
            );
            let status = Status::from_header_map(&answer.headers).unwrap();
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.get_details_retry_info().is_some(), "{server}");
        }
    }
}

#[tokio::test]
async fn the_three_servers_agree_when_a_network_is_held_back() {
    let keys = keys().await;
    // The form of a key, and nobody's.
    let guess = issue(&keys_over(MemoryKeys::new()), NewKey::for_owner("eve")).await;
    for http2 in [false, true] {
        for (server, address) in servers(&keys.keys, 2).await {
            let call = |request: http::request::Builder, key: &str| {
                let request = request.header("x-api-key", key).header("te", "trailers");
                ask(address, http2, request.body(Full::default()).unwrap())
            };
            for _ in 0..2 {
                let answer = call(Request::get("/orders/7"), &guess).await;
                assert_eq!(answer.code(), "credential_invalid", "{server}");
            }
            let answer = call(Request::get("/orders/7"), &keys.good).await;
            let held = (429, "too_many_failures".to_owned(), Some(30));
            assert_eq!(said(&answer), held, "{server}");
            let grpc = Request::post(HELLO).header("content-type", "application/grpc");
            let answer = call(grpc, &keys.good).await;
            let held = (200, "ABNORMAL_USAGE_DETECTED".to_owned(), None);
            assert_eq!(said(&answer), held, "{server}");
        }
    }
}

/// Sends these bytes, and reads until the server has closed or what came ends like that.
async fn exchange(stream: &mut TcpStream, send: &str, end: &str) -> String {
    stream.write_all(send.as_bytes()).await.unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.ends_with(end) {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            read => text.push_str(str::from_utf8(&buffer[..read]).unwrap()),
        }
    }
    text
}

/// Row J11, and what a request may be about beside a path.
#[tokio::test]
async fn the_three_servers_agree_on_old_and_odd_requests() {
    let keys = keys().await;
    for (server, address) in servers(&keys.keys, 1_000).await {
        for (line, known, unknown) in [
            (
                "GET http://h/orders/7 HTTP/1.1",
                "HTTP/1.1 200",
                "HTTP/1.1 401",
            ),
            ("GET http://h/else HTTP/1.1", "HTTP/1.1 403", "HTTP/1.1 401"),
            ("OPTIONS * HTTP/1.1", "HTTP/1.1 403", "HTTP/1.1 401"),
            ("CONNECT h:80 HTTP/1.1", "HTTP/1.1 403", "HTTP/1.1 401"),
            ("GET //orders/7 HTTP/1.1", "HTTP/1.1 403", "HTTP/1.1 401"),
            ("GET /orders/7 HTTP/1.0", "HTTP/1.0 200", "HTTP/1.0 401"),
            ("HEAD /orders/7 HTTP/1.1", "HTTP/1.1 200", "HTTP/1.1 401"),
        ] {
            let key = format!("x-api-key: {}\r\n", keys.good);
            for (key, status) in [(&*key, known), ("", unknown)] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let request = format!("{line}\r\nhost: h\r\nconnection: close\r\n{key}\r\n");
                let answer = exchange(&mut stream, &request, "nothing ends like that").await;
                assert!(answer.starts_with(status), "{server}, {line}: {answer}");
            }
        }
        // A client that waits before it sends gets its refusal at once.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let post = "POST /orders HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n";
        let waits = format!("{post}expect: 100-continue\r\n\r\n");
        let answer = exchange(&mut stream, &waits, "credentials_missing\"}").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{server}: {answer}");
        // What was sent along with a request that is refused is in nobody's way.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let sent = format!("{post}\r\n123456789");
        let answer = exchange(&mut stream, &sent, "credentials_missing\"}").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{server}: {answer}");
        let get = format!(
            "GET /health HTTP/1.1\r\nhost: h\r\nx-api-key: {}\r\n\r\n",
            keys.good
        );
        let answer = exchange(&mut stream, &get, "ann").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{server}: {answer}");
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// Calls, and reads the stream to its end.
async fn read(
    address: SocketAddr,
    path: &'static str,
    text: &str,
    key: Option<&str>,
) -> (Vec<String>, Result<(), Status>) {
    let mut texts = Vec::new();
    let mut streaming = match call(channel(address).await, path, text, key).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (texts, Err(status)),
    };
    loop {
        match streaming.message().await {
            Ok(Some(message)) => texts.push(message.text),
            Ok(None) => return (texts, Ok(())),
            Err(status) => return (texts, Err(status)),
        }
    }
}

#[tokio::test]
async fn tonic_s_own_client_reads_code_message_and_details() {
    let keys = keys().await;
    for (_, address) in servers(&keys.keys, 1_000).await {
        let (texts, end) = read(address, HELLO, "you", Some(&keys.good)).await;
        assert_eq!(texts, ["hello ann: you"]);
        assert!(end.is_ok());
        // Streams keep their messages and the status of their trailers.
        let (texts, end) = read(address, COUNT, "3", Some(&keys.good)).await;
        assert_eq!(texts, ["1 ann", "2 ann", "3 ann"]);
        assert_eq!(end.unwrap_err().code(), Code::Aborted);
        for (path, key, code, reason) in [
            (HELLO, None, Code::Unauthenticated, "CREDENTIALS_MISSING"),
            (
                HELLO,
                Some(&keys.revoked),
                Code::Unauthenticated,
                "API_KEY_REVOKED",
            ),
            (
                COUNT,
                Some(&keys.plain),
                Code::PermissionDenied,
                "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            ),
        ] {
            let (texts, end) = read(address, path, "1", key.map(String::as_str)).await;
            let status = end.unwrap_err();
            assert!(texts.is_empty());
            assert_eq!(status.code(), code);
            assert!(status.message().ends_with('.'), "{status:?}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                (reason, "shop")
            );
        }
    }
}

/// Peers as tonic's and axum's servers note them down: what a key is restricted to.
#[tokio::test]
async fn the_peer_is_found_on_every_server() {
    let keys = keys_over(MemoryKeys::new());
    let here = NewKey::for_owner("ann").networks(["127.0.0.0/8"]);
    let elsewhere = NewKey::for_owner("bob").networks(["10.0.0.0/8"]);
    let (here, elsewhere) = (issue(&keys, here).await, issue(&keys, elsewhere).await);
    for (_, address) in servers(&keys, 1_000).await {
        for (key, status) in [(&here, 200), (&elsewhere, 403)] {
            let request = Request::get("/health").header("x-api-key", key);
            let answer = ask(address, true, request.body(Full::default()).unwrap()).await;
            assert_eq!(answer.status, status);
        }
    }
}

/// A gate around one service keeps the name by which tonic routes to it.
#[tokio::test]
async fn a_gated_service_keeps_its_name() {
    use tonic::server::NamedService;
    fn name_of<S: NamedService>(_: &S) -> &'static str {
        S::NAME
    }
    let keys = keys().await;
    let (listener, address) = listener().await;
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys.keys).clock(clock()))
        .layer(RequireLayer::new(scope("count")))
        .service(Greeter);
    assert_eq!(name_of(&stack), "greet.Greeter");
    let server = tonic::transport::Server::builder().add_service(stack);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let (texts, _) = read(address, HELLO, "you", Some(&keys.good)).await;
    assert_eq!(texts, ["hello ann: you"]);
    let (_, end) = read(address, HELLO, "you", Some(&keys.plain)).await;
    assert_eq!(end.unwrap_err().code(), Code::PermissionDenied);
}

/// axum and tonic on one port: each is refused in its own language.
#[tokio::test]
async fn one_port_serves_both() {
    let keys = keys().await;
    let (listener, address) = listener().await;
    let mut routes = tonic::service::Routes::builder();
    routes.add_service(Greeter);
    let app = routes
        .routes()
        .into_axum_router()
        .route(
            "/me",
            axum::routing::get(async |identity: Identity| identity.subject().to_owned()),
        )
        .layer(AuthLayer::new(keys.keys).clock(clock()));
    tokio::spawn(async { axum::serve(listener, app).await });
    let get = |key: &str| Request::get("/me").header("x-api-key", key);
    let answer = ask(
        address,
        false,
        get(&keys.good).body(Full::default()).unwrap(),
    )
    .await;
    assert_eq!(answer.body, "ann");
    let answer = ask(
        address,
        true,
        get(&keys.revoked).body(Full::default()).unwrap(),
    )
    .await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (401, "credential_revoked")
    );
    let (texts, _) = read(address, HELLO, "you", Some(&keys.good)).await;
    assert_eq!(texts, ["hello ann: you"]);
    let (_, end) = read(address, HELLO, "you", None).await;
    assert_eq!(end.unwrap_err().code(), Code::Unauthenticated);
}

/// Row A14: fields that a proxy split over lines.
#[tokio::test]
async fn a_credential_in_two_lines_is_ambiguous_on_http2_too() {
    let keys = keys().await;
    for (server, address) in servers(&keys.keys, 1_000).await {
        let request = Request::get("/orders/7")
            .header("authorization", format!("Bearer {}", keys.good))
            .header("authorization", format!("Bearer {}", keys.good));
        let answer = ask(address, true, request.body(Full::default()).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "credentials_ambiguous"),
            "{server}"
        );
    }
}

#[test]
fn the_routes_of_a_file_descriptor_set_are_listed() {
    use prost::Message as _;
    use prost_types::{
        FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
    };
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.into()),
        ..Default::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Greeter".into()),
        method: vec![method("Hello"), method("Count"), method("Wave")],
        ..Default::default()
    };
    let file = |package: Option<&str>| FileDescriptorProto {
        package: package.map(Into::into),
        service: vec![service.clone()],
        ..Default::default()
    };
    let set = FileDescriptorSet {
        file: vec![file(Some("greet")), file(None)],
    };
    let routes = tollgate::tonic::routes(&set.encode_to_vec()).unwrap();
    assert_eq!(routes[0], "POST /greet.Greeter/Hello");
    assert_eq!(routes[5], "POST /Greeter/Wave");
    let uncovered = rules().uncovered(&routes[..3]);
    assert_eq!(uncovered, ["POST /greet.Greeter/Wave"]);
    assert!(tollgate::tonic::routes(b"nonsense").is_err());
}
