//! Usage of gRPC services: a call is counted once, with the status of its trailers. Row I5.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::get;
use bytes::Bytes;
use http_body_util::Full;
use tokio::net::TcpListener;
use tollgate::keys::NewKey;
use tollgate::rejection::{Cause, Reason};
use tollgate::usage::{End, Record, Usage, UsageBuilder};
use tollgate::{AuthLayer, Identity, Rejection, UsageLayer};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tower::util::MapResponse;
use tower::{Layer, service_fn};

use crate::greeter::{COUNT, Greeter, HELLO, call};
use super::ServiceBuilder;
use crate::support::{Script, Scripted, clock, issue, keys_over, send};
use super::usage::{Seen, watched};

async fn server() -> (Channel, String, Seen) {
    server_with(Usage::builder()).await
}

/// A server of gRPC, a client of it, a key, and what is recorded.
pub(crate) async fn server_with(builder: UsageBuilder) -> (Channel, String, Seen) {
    let keys = keys_over(Scripted::new(Script::Now));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let (usage, seen) = watched(builder);
    let stack = ServiceBuilder::new()
        .layer(UsageLayer::new(usage))
        .layer(AuthLayer::new(keys).clock(clock()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(stack.into_inner())
        .add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (endpoint.connect().await.unwrap(), key, seen)
}

/// The records of so many requests, as soon as they are there, and no more.
pub(crate) async fn records(seen: &Seen, count: usize) -> Vec<Record> {
    while seen.all().len() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let all = seen.all();
    assert_eq!(all.len(), count, "{all:?}");
    all
}

#[tokio::test]
async fn a_stream_of_a_server_is_counted_once_with_the_status_of_its_trailers() {
    let (channel, key, seen) = server().await;
    let mut stream = call(channel.clone(), COUNT, "3", Some(&key))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        stream.message().await.unwrap().unwrap();
    }
    assert_eq!(
        stream.message().await.unwrap_err().code(),
        tonic::Code::Aborted
    );
    let record = &records(&seen, 1).await[0];
    assert_eq!(record.end(), End::Complete);
    assert_eq!(record.grpc_status(), Some(tonic::Code::Aborted as u32));
    assert_eq!(record.status(), Some(http::StatusCode::OK));
    assert_eq!(record.route(), Some(COUNT));
    assert_eq!(record.principal().unwrap().subject(), "ann");
    // Three messages of five bytes and their frames, and one of one byte in.
    assert_eq!(
        (record.bytes_out(), record.bytes_in()),
        (3 * (5 + 7), 5 + 3)
    );

    let mut stream = call(channel, HELLO, "you", Some(&key))
        .await
        .unwrap()
        .into_inner();
    while stream.message().await.unwrap().is_some() {}
    let record = records(&seen, 2).await.pop().unwrap();
    assert_eq!(
        (record.end(), record.grpc_status()),
        (End::Complete, Some(0))
    );
}

#[tokio::test]
async fn a_stream_that_is_given_up_is_counted_once_without_a_status() {
    let (channel, key, seen) = server().await;
    let mut stream = call(channel, COUNT, "100000000", Some(&key))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    let record = &records(&seen, 1).await[0];
    assert_eq!(
        (record.end(), record.grpc_status()),
        (End::Disconnected, None)
    );
    assert!(record.bytes_out() > 0);
}

#[tokio::test]
async fn a_path_is_no_route_until_a_service_has_said_so() {
    let (channel, key, seen) = server().await;
    let refused = call(channel.clone(), HELLO, "you", None).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unauthenticated);
    let unknown = call(channel.clone(), "/greet.Greeter/Nope", "", Some(&key)).await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::Unimplemented);
    let all = records(&seen, 2).await;
    assert_eq!((all[0].end(), all[0].route()), (End::Refused, None));
    assert_eq!(all[0].refusal(), Some(Reason::CredentialsMissing));
    assert_eq!(all[0].grpc_status(), Some(16));
    assert_eq!((all[1].end(), all[1].route()), (End::Complete, None));
    assert_eq!(all[1].grpc_status(), Some(12));
    // Once it has answered, those who are refused ask for it, too.
    call(channel.clone(), HELLO, "you", Some(&key))
        .await
        .unwrap();
    call(channel, HELLO, "you", None).await.unwrap_err();
    let all = records(&seen, 4).await;
    let routes = [all[2].route(), all[3].route()];
    assert_eq!(routes, [Some(HELLO); 2]);
}

/// A router has one route for a whole service, and one for all that is left.
#[tokio::test]
async fn behind_a_router_the_method_is_the_route_once_it_is_known() {
    let (usage, seen) = watched(Usage::builder());
    let router = axum::Router::new()
        .route_service("/greet.Greeter/{*rest}", Greeter)
        .route("/one", get(|| async { "no service" }))
        .layer(UsageLayer::new(usage));
    let identity = Identity::for_test().build();
    let ask = async |path: &'static str, has_identity: bool| {
        let mut request = request().map(axum::body::Body::new);
        *request.uri_mut() = http::Uri::from_static(path);
        if has_identity {
            request.extensions_mut().insert(identity.clone());
        }
        send(&router, request).await;
        seen.next().route().map(str::to_owned)
    };
    let whole = Some("/greet.Greeter/{*rest}".to_owned());
    assert_eq!(ask("/greet.Greeter/Nope", true).await, whole);
    assert_eq!(ask(HELLO, false).await, whole, "it is not known yet");
    assert_eq!(ask(HELLO, true).await.as_deref(), Some(HELLO));
    assert_eq!(ask(HELLO, false).await.as_deref(), Some(HELLO));
    assert_eq!(ask("/greet.Greeter/Nope", true).await, whole);
    assert_eq!(ask("/one", true).await.as_deref(), Some("/one"));
}

fn request() -> http::Request<Full<Bytes>> {
    http::Request::post(HELLO)
        .header("content-type", "application/grpc")
        .body(Full::from(&[0; 5][..]))
        .unwrap()
}

#[tokio::test]
async fn a_refusal_that_a_handler_has_made_a_status_of_is_one() {
    let (usage, seen) = watched(Usage::builder());
    let layer = UsageLayer::new(usage);
    let door = AuthLayer::new(keys_over(Scripted::new(Script::Now))).optional();

    // By the door that has let them in, by nobody's leave, and by the handler's own.
    send(&layer.layer(door.layer(Greeter)), request()).await;
    let missing = Some(Reason::CredentialsMissing);
    let record = seen.next();
    assert_eq!((record.end(), record.refusal()), (End::Refused, missing));
    send(&layer.layer(Greeter), request()).await;
    let record = seen.next();
    assert_eq!(record.refusal(), Some(Reason::Internal));
    let refuse = service_fn(async |_: http::Request<Full<Bytes>>| {
        let rejection = Rejection::new(Reason::RateLimited, Cause::Other);
        let response = tonic::Status::from(rejection).into_http::<Full<Bytes>>();
        Ok::<_, Infallible>(response)
    });
    send(&layer.layer(refuse), request()).await;
    let record = seen.next();
    assert_eq!(record.refusal(), Some(Reason::RateLimited));
    assert_eq!(record.grpc_status(), Some(8));

    // A layer between that makes something else of it has its way.
    let otherwise = MapResponse::new(refuse, |mut response: http::Response<_>| {
        let status = "5".parse().unwrap();
        response.headers_mut().insert("grpc-status", status);
        response
    });
    send(&layer.layer(otherwise), request()).await;
    let record = seen.next();
    assert_eq!((record.end(), record.refusal()), (End::Complete, None));
    assert_eq!(record.grpc_status(), Some(5));
}

/// In binary gRPC-Web the trailers are a frame of the body.
#[tokio::test]
async fn a_call_of_grpc_web_has_the_status_of_its_last_frame() {
    let (usage, seen) = watched(Usage::builder());
    let ask = async |path: &'static str, answer: &'static [u8]| {
        let service = service_fn(async |_: http::Request<Full<Bytes>>| {
            let response = http::Response::builder();
            let response = response.header("content-type", "application/grpc-web+proto");
            Ok::<_, Infallible>(response.body(Full::<Bytes>::from(answer)).unwrap())
        });
        let mut request = request();
        *request.uri_mut() = http::Uri::from_static(path);
        let web = "application/grpc-web+proto".parse().unwrap();
        request.headers_mut().insert("content-type", web);
        send(&UsageLayer::new(usage.clone()).layer(service), request).await;
        seen.next()
    };
    let record = ask(HELLO, b"\0\0\0\0\x02hi\x80\0\0\0\x10grpc-status:10\r\n").await;
    assert_eq!(
        (record.end(), record.grpc_status()),
        (End::Complete, Some(10))
    );
    assert_eq!((record.route(), record.bytes_out()), (Some(HELLO), 28));
    // A frame of trailers is no answer that says that the method is there.
    let unknown = b"\x80\0\0\0\x10grpc-status:12\r\n";
    let record = ask("/greet.Greeter/Nope", unknown).await;
    assert_eq!((record.grpc_status(), record.route()), (Some(12), None));
}
