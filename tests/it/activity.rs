//! What was done with a credential lately, and what is being done with it. Row K1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tollgate::audit::{Activity, Audit};
use tollgate::keys::NewKey;
use tollgate::rejection::Reason;
use tollgate::usage::{End, Usage};
use tollgate::{AuthLayer, Identity, UsageLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::audit::{ask, from, hello, keys, trail, usage};
use super::ServiceBuilder;
use crate::support::{NOW, clock};

/// A response without an end.
async fn endless(
    _: Request<()>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let frame = || Ok(Frame::data(Bytes::from_static(b"secrets")));
    let frames = futures_util::stream::iter(std::iter::repeat_with(frame));
    Ok(Response::new(StreamBody::new(frames)))
}

fn ann() -> Identity {
    Identity::builder("s", "ann").credential_id("7").build()
}

/// The body of the response to a caller, from a network of theirs.
async fn open<S, B>(service: &S, caller: &Identity, path: &str, network: u8) -> B
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
{
    let request = Request::get(path)
        .extension(SocketAddr::from(([192, 0, 2, network], 4711)))
        .extension(caller.clone());
    let response = service.clone().oneshot(request.body(()).unwrap()).await;
    response.unwrap().into_body()
}

/// By route: how many are under way, and how many have ended.
fn acts(activity: &Activity) -> Vec<(&str, u64, u64)> {
    let acts = activity.acts().iter();
    acts.map(|act| (act.route().unwrap(), act.under_way(), act.requests()))
        .collect()
}

#[tokio::test]
async fn a_stream_that_is_open_is_seen_before_it_has_ended() {
    let (audit, _events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let leaked = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .service(service_fn(endless));
    let request = Request::get("/secrets")
        .header("x-api-key", leaked.key.expose())
        .extension(SocketAddr::new(from("198.51.100.1"), 4711));
    let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
    let mut body = response.into_body();
    for _ in 0..1_000 {
        body.frame().await.unwrap().unwrap();
    }
    let report = keys.report_compromised(leaked.record.id).await.unwrap();
    let activity = report.activity.unwrap();
    let [act] = activity.acts() else {
        panic!("{activity:?}");
    };
    assert_eq!(
        (act.client(), act.route()),
        (Some(from("198.51.100.1")), Some("/secrets"))
    );
    assert_eq!((act.under_way(), act.requests()), (1, 0));
    assert_eq!((act.status(), act.end()), (Some(StatusCode::OK), None));
    let json = serde_json::to_value(&activity).unwrap();
    assert_eq!(json["acts"][0]["under_way"], 1);
    assert_eq!(json["acts"][0]["end"], Value::Null);

    clock.advance(Duration::from_secs(1));
    drop(body);
    let activity = keys.activity(leaked.record.id).unwrap();
    let [act] = activity.acts() else {
        panic!("{activity:?}");
    };
    assert_eq!((act.under_way(), act.requests()), (0, 1));
    assert_eq!(
        (act.end(), act.bytes_out()),
        (Some(End::Disconnected), 7_000)
    );
    assert_eq!((activity.forgotten(), activity.since()), (0, NOW));
}

#[tokio::test]
async fn what_is_under_way_makes_room_last_and_is_counted_once() {
    let audit = Audit::builder().acts(2).build();
    let usage = usage(&audit, &clock());
    let service = usage.clone().layer(service_fn(endless));
    let short = usage.layer(service_fn(hello));
    let ann = ann();
    let activity = || audit.activity("s", "7").unwrap();

    let first = open(&service, &ann, "/a", 1).await;
    for path in ["/b", "/c", "/d"] {
        open(&short, &ann, path, 1).await.collect().await.unwrap();
    }
    assert_eq!(acts(&activity()), [("/d", 0, 1), ("/a", 1, 0)]);
    let others = [
        open(&service, &ann, "/e", 1).await,
        open(&service, &ann, "/e", 1).await,
        open(&service, &ann, "/f", 1).await,
    ];
    assert_eq!(acts(&activity()), [("/f", 1, 0), ("/e", 2, 0)]);
    // The place of the first is taken, and its end is not that of another.
    let again = open(&service, &ann, "/a", 1).await;
    assert_eq!(acts(&activity()), [("/a", 1, 0), ("/f", 1, 0)]);
    drop(first);
    assert_eq!(acts(&activity()), [("/a", 0, 1), ("/a", 1, 0)]);
    drop(others);
    assert_eq!(
        activity().acts().iter().map(|act| act.under_way()).max(),
        Some(1)
    );
    drop(again);
    let under_way = activity().acts().iter().map(|act| act.under_way()).max();
    assert_eq!((under_way, activity().requests()), (Some(0), 8));
}

#[tokio::test]
async fn a_credential_that_has_made_room_begins_anew_whatever_was_under_way() {
    let audit = Audit::builder().credentials(20).build();
    let service = usage(&audit, &clock()).layer(service_fn(endless));
    let ann = ann();
    let body = open(&service, &ann, "/a", 1).await;
    for other in 0..200 {
        let other = Identity::builder("s", "eve").credential_id(other.to_string());
        let other = other.build();
        for _ in 0..10 {
            drop(open(&service, &other, "/a", 1).await);
        }
    }
    assert!(audit.activity("s", "7").is_none());
    let again = open(&service, &ann, "/a", 1).await;
    drop(body);
    let activity = audit.activity("s", "7").unwrap();
    assert_eq!(acts(&activity), [("/a", 0, 1), ("/a", 1, 0)]);
    drop(again);
    let activity = audit.activity("s", "7").unwrap();
    assert_eq!(acts(&activity), [("/a", 0, 2)]);
}

#[tokio::test]
async fn a_call_that_ends_well_is_one_act_from_its_beginning() {
    let (audit, clock) = (Audit::builder().acts(1).build(), clock());
    let calls = service_fn(|_: Request<()>| async {
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
        let frames = [
            Frame::data(Bytes::from_static(b"abc")),
            Frame::trailers(trailers),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
        let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let service = usage(&audit, &clock).layer(calls);
    let mut request = Request::post("/tea.Tea/Pour").version(Version::HTTP_2);
    request = request.header(CONTENT_TYPE, "application/grpc");
    let request = request.extension(ann()).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();

    let activity = audit.activity("s", "7").unwrap();
    let act = &activity.acts()[0];
    assert_eq!((act.under_way(), act.grpc_status()), (1, None));
    clock.advance(Duration::from_secs(1));
    response.into_body().collect().await.unwrap();
    let activity = audit.activity("s", "7").unwrap();
    let act = &activity.acts()[0];
    assert_eq!((act.under_way(), act.grpc_status()), (0, Some(0)));
    assert_eq!((act.first(), activity.forgotten()), (NOW, 0));
    assert_eq!(act.last(), NOW.saturating_add(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_leaked_key_says_what_it_did() {
    let (audit, _events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let leaked = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    assert!(keys.activity(leaked.record.id).is_none());
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .service(service_fn(hello));
    let shown = ("x-api-key", leaked.key.expose());
    assert_eq!(ask(&service, shown, "/secrets", "198.51.100.1").await, 200);
    clock.advance(Duration::from_secs(1));
    // Its owner goes on, and does not bury what the thief did.
    for _ in 0..1_000 {
        assert_eq!(ask(&service, shown, "/orders", "192.0.2.1").await, 200);
    }
    let report = keys.report_compromised(leaked.record.id).await.unwrap();
    assert_eq!(ask(&service, shown, "/orders", "198.51.100.1").await, 401);

    let activity = report.activity.unwrap();
    assert_eq!(
        (activity.requests(), activity.since(), activity.forgotten()),
        (1_001, NOW, 0)
    );
    let [owner, thief] = activity.acts() else {
        panic!("{activity:?}");
    };
    assert_eq!((owner.route(), owner.requests()), (Some("/orders"), 1_000));
    assert_eq!(owner.first(), NOW.saturating_add(Duration::from_secs(1)));
    assert_eq!(
        (thief.client(), thief.route()),
        (Some(from("198.51.100.1")), Some("/secrets"))
    );
    assert_eq!(
        (thief.status(), thief.refusal()),
        (Some(StatusCode::OK), None)
    );
    // What it tries afterwards is there, too.
    let after = keys.activity(leaked.record.id).unwrap();
    assert_eq!(after.acts()[0].refusal(), Some(Reason::CredentialRevoked));
    let json = serde_json::to_value(&after).unwrap();
    assert_eq!(json["requests"], 1_002);
    assert_eq!(json["acts"][0]["client"], "198.51.100.1");
    assert_eq!(json["acts"][0]["refusal"], "credential_revoked");
}

#[tokio::test]
async fn what_strangers_can_make_grow_is_bounded() {
    let audit = Audit::builder().credentials(20).acts(4).build();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .service(service_fn(hello));
    let mut ids = Vec::new();
    for owner in 0..200 {
        let key = keys
            .issue(NewKey::for_owner(owner.to_string()))
            .await
            .unwrap();
        let shown = ("x-api-key", key.key.expose());
        for path in 0..10 {
            let path = format!("/{path}");
            assert_eq!(ask(&service, shown, &path, "192.0.2.1").await, 200);
        }
        ids.push(key.record.id);
    }
    let known: Vec<_> = ids.iter().filter_map(|id| keys.activity(*id)).collect();
    assert!(!known.is_empty() && known.len() <= 20, "{}", known.len());
    for activity in known {
        let routes: Vec<_> = activity
            .acts()
            .iter()
            .filter_map(|act| act.route())
            .collect();
        assert_eq!(routes, ["/9", "/8", "/7", "/6"], "the latest are kept");
        assert_eq!((activity.forgotten(), activity.requests()), (6, 10));
    }
}

#[tokio::test]
async fn callers_are_known_by_who_they_are_and_not_by_their_ids_alone() {
    let audit = Audit::new();
    let usage = Usage::builder().audit(audit.clone()).build();
    let service = UsageLayer::new(usage).layer(service_fn(hello));
    for source in ["one", "two", "two"] {
        let identity = Identity::builder(source, "ann").credential_id("7").build();
        let request = Request::get("/").extension(identity).body(()).unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    let requests = |source| audit.activity(source, "7").unwrap().requests();
    assert_eq!((requests("one"), requests("two")), (1, 2));
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
