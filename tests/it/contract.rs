//! The contract of tower: rows J1 to J11.

use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tollgate::auth::{
    Answer as Verdict, AuthFailureLimitLayer, Authenticate, CredentialSource, Source,
};
use tollgate::authorize::{Policy, authenticated};
use tollgate::clock::{Clock, Timestamp};
use tollgate::credential::Credential;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::pending::Pending;
use tollgate::rejection::Cause;
use tollgate::respond::Restyled;
use tollgate::{ApiKeys, AuthLayer, Identity, Rejection, RequireLayer, role};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::ServiceBuilder;
use crate::support::{Foreign, Script, Scripted, get, issue, keys_over, send, who, with};

async fn keys_of(script: Script) -> (ApiKeys<Scripted>, String) {
    let keys = keys_over(Scripted::new(script));
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    (keys, key)
}

/// A service that may only be called on the instance that was polled ready.
#[derive(Default)]
struct Fussy {
    ready: bool,
}

impl Clone for Fussy {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<()>> for Fussy {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(
            self.ready,
            "called on an instance that was not polled ready"
        );
        self.ready = false;
        ready(Ok(Response::new(Full::default())))
    }
}

#[tokio::test]
async fn the_instance_that_was_ready_is_the_one_that_is_called() {
    for script in [Script::Now, Script::Later] {
        let (keys, key) = keys_of(script).await;
        let policy = Policy::asynchronous("slow", |_, _| async { true });
        let mut service = ServiceBuilder::new()
            .layer(AuthLayer::new(keys))
            .layer(RequireLayer::new(authenticated()).policy(policy))
            .service(Fussy::default());
        // On one instance, as a connection without multiplexing uses it.
        for request in [with("x-api-key", &key), get(), with("x-api-key", &key)] {
            service.ready().await.unwrap().call(request).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stack_over_a_single_permit_works_whether_it_accepts_or_refuses() {
    for script in [Script::Now, Script::Later] {
        let (keys, key) = keys_of(script).await;
        let mut service = ServiceBuilder::new()
            .layer(AuthLayer::new(keys))
            .layer(RequireLayer::new(!role("banned")))
            .foreign(ConcurrencyLimitLayer::new(1))
            .service(who());
        for _ in 0..3 {
            for (request, status) in [
                (with("x-api-key", &key), 200),
                (get(), 401),
                (with("x-api-key", "no"), 401),
            ] {
                let response = service.ready().await.unwrap().call(request).await.unwrap();
                assert_eq!(response.status(), status);
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_gives_back_what_readiness_has_reserved() {
    let (keys, _) = keys_of(Script::Now).await;
    let limit = tower::limit::GlobalConcurrencyLimitLayer::new(1);
    let mut service = AuthLayer::new(keys).layer(limit.layer(who()));
    // The response of the refusal is kept, and so is the service.
    let refused = service.ready().await.unwrap().call(get()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let mut other = limit.layer(who());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Service::<Request<()>>::poll_ready(&mut other, &mut cx).is_ready());
}

#[tokio::test]
async fn dropping_the_future_at_any_await_frees_everything() {
    let (keys, key) = keys_of(Script::Later).await;
    let limit = tower::limit::GlobalConcurrencyLimitLayer::new(1);
    let policy = Policy::asynchronous("slow", |_, _| async {
        tokio::task::yield_now().await;
        true
    });
    let inner = service_fn(|_: Request<()>| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .layer(RequireLayer::new(authenticated()).policy(policy))
        .foreign(limit)
        .service(inner);
    let mut polls = 0;
    loop {
        let mut service = stack.clone();
        let future = service.ready().await.unwrap().call(with("x-api-key", &key));
        // Polled so many times, then dropped; the next round gets one further.
        let mut future = Box::pin(future);
        let mut cx = Context::from_waker(Waker::noop());
        let done = (0..polls).any(|_| future.as_mut().poll(&mut cx).is_ready());
        drop(future);
        drop(service);
        if done {
            break;
        }
        polls += 1;
    }
    assert!(
        polls >= 3,
        "the store, the policy and the handler each wait once: {polls}"
    );
    assert_eq!(
        send(&stack, with("x-api-key", &key)).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn backpressure_and_errors_of_the_inner_service_pass_through() {
    #[derive(Clone)]
    struct Stuck(Option<&'static str>);
    impl Service<Request<()>> for Stuck {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            self.0
                .map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            unreachable!()
        }
    }
    let (keys, key) = keys_of(Script::Now).await;
    let layer = AuthLayer::new(keys);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(layer.layer(Stuck(None)).poll_ready(&mut cx).is_pending());
    assert_eq!(
        layer.layer(Stuck(Some("down"))).poll_ready(&mut cx),
        Poll::Ready(Err("down"))
    );

    let failing = service_fn(|_: Request<()>| async { Err::<Response<Full<Bytes>>, _>("lost") });
    let error = layer
        .layer(failing)
        .oneshot(with("x-api-key", &key))
        .await
        .unwrap_err();
    assert_eq!(error, "lost");
}

#[tokio::test]
async fn a_panic_behind_the_gates_leaves_them_as_they_were() {
    let (keys, key) = keys_of(Script::Now).await;
    let bad = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&bad);
    let service = AuthLayer::new(keys).layer(service_fn(move |_: Request<()>| {
        let bad = switch.load(Ordering::SeqCst);
        async move {
            assert!(!bad, "a handler that panics");
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let call = service.clone().oneshot(with("x-api-key", &key));
    assert!(tokio::spawn(call).await.unwrap_err().is_panic());
    bad.store(false, Ordering::SeqCst);
    assert_eq!(
        send(&service, with("x-api-key", &key)).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_panic_in_the_call_or_in_a_body_leaves_the_gates_as_they_were() {
    /// A body that panics when it is read.
    #[derive(Debug)]
    struct Bad;
    impl http_body::Body for Bad {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("a body that panics")
        }
    }
    for script in [Script::Now, Script::Later] {
        let (keys, key) = keys_of(script).await;
        let bad = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&bad);
        let limit = tower::limit::GlobalConcurrencyLimitLayer::new(1);
        let service = ServiceBuilder::new()
            .layer(AuthFailureLimitLayer::failures_per_minute(1))
            .layer(AuthLayer::new(keys))
            .layer(RequireLayer::new(authenticated()))
            .foreign(limit)
            .service(service_fn(move |_: Request<()>| {
                assert!(!switch.load(Ordering::SeqCst), "a call that panics");
                ready(Ok::<_, Infallible>(Response::new(Bad)))
            }));
        let request = || {
            let mut request = with("x-api-key", &key);
            let peer: std::net::SocketAddr = "192.0.2.7:1".parse().unwrap();
            request.extensions_mut().insert(peer);
            request
        };
        let call = async || tokio::spawn(service.clone().oneshot(request())).await;
        for _ in 0..3 {
            assert!(call().await.unwrap_err().is_panic());
        }
        bad.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            let response = call().await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let read = AssertUnwindSafe(response.into_body().collect());
            assert!(read.catch_unwind().await.is_err());
        }
    }
}

/// Row J6, for all that a user may bring along.
#[tokio::test]
async fn what_a_user_brings_along_may_panic_and_spoils_that_request_only() {
    #[derive(Clone, Copy, PartialEq)]
    enum Bad {
        Authenticate,
        Later,
        Source,
        RequestId,
        Clock,
        ThrottleClock,
        Policy,
        Respond,
        Nothing,
    }
    struct Trap(Bad);
    impl Trap {
        fn spring(&self, at: Bad, is_set: bool) {
            assert!(self.0 != at || !is_set, "it panics");
        }
    }
    /// It panics when the request says so, or the flag.
    static SET: AtomicBool = AtomicBool::new(false);
    impl Authenticate for Trap {
        fn authenticate(&self, credential: &Credential, _: Timestamp) -> Verdict {
            let set = SET.load(Ordering::SeqCst);
            self.spring(Bad::Authenticate, set);
            let later = self.0 == Bad::Later && set;
            let identity = Identity::builder("trap", "alice").build();
            assert!(credential.expose() == b"key");
            Verdict::Mine(Pending::later(async move {
                assert!(!later, "it panics");
                Ok(identity)
            }))
        }
        fn claims(&self, _: &[u8]) -> bool {
            false
        }
    }
    impl CredentialSource for Trap {
        fn take(&self, parts: &mut http::request::Parts) -> Result<Option<Credential>, Rejection> {
            self.spring(Bad::Source, SET.load(Ordering::SeqCst));
            let value = parts.headers.remove("x-api-key");
            Ok(value.map(|value| Credential::new(value.as_bytes())))
        }
    }
    impl Clock for Trap {
        fn now(&self) -> Timestamp {
            self.spring(Bad::Clock, SET.load(Ordering::SeqCst));
            Timestamp::EPOCH
        }
    }
    for bad in [
        Bad::Authenticate,
        Bad::Later,
        Bad::Source,
        Bad::RequestId,
        Bad::Clock,
        Bad::ThrottleClock,
        Bad::Policy,
        Bad::Respond,
        Bad::Nothing,
    ] {
        let set = move |at: Bad| bad == at && SET.load(Ordering::SeqCst);
        let throttle_clock = if bad == Bad::ThrottleClock {
            Trap(Bad::Clock)
        } else {
            Trap(Bad::Nothing)
        };
        let policy = Policy::new("trap", move |_, _| {
            assert!(!set(Bad::Policy), "it panics");
            true
        });
        let limit = tower::limit::GlobalConcurrencyLimitLayer::new(1);
        let stack = ServiceBuilder::new()
            .layer(AuthFailureLimitLayer::failures_per_minute(1).clock(throttle_clock))
            .layer(
                AuthLayer::new(Trap(bad))
                    .sources([Source::custom(Trap(bad))])
                    .clock(Trap(bad))
                    .respond_with(move |_: &Rejection| -> Restyled {
                        assert!(!set(Bad::Respond), "it panics");
                        Restyled::new("text/plain".parse().unwrap(), "no")
                    })
                    .request_id(move |_| {
                        assert!(!set(Bad::RequestId), "it panics");
                        None
                    }),
            )
            .layer(RequireLayer::new(authenticated()).policy(policy))
            .foreign(limit)
            .service(who());
        let ask = async |key: Option<&str>| {
            let mut request = key.map_or_else(get, |key| with("x-api-key", key));
            let peer: std::net::SocketAddr = "192.0.2.7:1".parse().unwrap();
            request.extensions_mut().insert(peer);
            send(&stack, request).await
        };
        for round in 0..3 {
            SET.store(true, Ordering::SeqCst);
            let answer = ask(Some("key")).await;
            // The failure limit needs no time for a credential that was good before.
            let is_known = bad == Bad::ThrottleClock && round > 0;
            if is_known || matches!(bad, Bad::Nothing | Bad::Respond) {
                assert_eq!(answer.body, "alice");
            } else {
                assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
                assert_eq!(answer.rejection.unwrap().cause(), Cause::Panicked);
            }
            if bad == Bad::Respond {
                assert_eq!(ask(None).await.code(), "credentials_missing");
            }
            SET.store(false, Ordering::SeqCst);
            assert_eq!(ask(Some("key")).await.body, "alice");
            assert_eq!(ask(None).await.body, "no");
        }
    }
}

#[tokio::test]
async fn a_requirement_outside_of_the_door_is_an_error_and_never_a_pass() {
    let (keys, key) = keys_of(Script::Now).await;
    for optional in [false, true] {
        let door = AuthLayer::new(keys.clone());
        let door = if optional { door.optional() } else { door };
        // As a `Tollgate`, it does not build.
        let stack = tower::ServiceBuilder::new()
            .layer(RequireLayer::new(authenticated()))
            .layer(door)
            .service(who());
        for request in [with("x-api-key", &key), get()] {
            let answer = send(&stack, request).await;
            assert_eq!(answer.code(), "internal");
            assert_eq!(answer.rejection.unwrap().cause(), Cause::Misconfigured);
        }
    }
}

/// Row J10: what a handler says of its own accord.
#[tokio::test]
async fn what_the_handler_says_stands_beside_what_the_door_says() {
    let (keys, key) = keys_of(Script::Now).await;
    let inner = service_fn(|_: Request<()>| async {
        let mut response = Response::new(Full::<Bytes>::from("log in"));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        for (name, value) in [
            ("www-authenticate", "Basic realm=\"mine\""),
            ("www-authenticate", "Negotiate"),
            ("vary", "accept"),
            ("cache-control", "max-age=5"),
            ("retry-after", "7"),
            ("ratelimit", "\"mine\";r=1;t=1"),
            ("credential-expiration", "never"),
        ] {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        Ok::<_, Infallible>(response)
    });
    let answer = send(&AuthLayer::new(keys).layer(inner), with("x-api-key", &key)).await;
    assert_eq!(answer.challenges(), ["Basic realm=\"mine\"", "Negotiate"]);
    assert_eq!(answer.body, "log in");
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["accept", "x-api-key"]);
    for (name, value) in [
        ("cache-control", "max-age=5"),
        ("retry-after", "7"),
        ("ratelimit", "\"mine\";r=1;t=1"),
        ("credential-expiration", "never"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
}

#[tokio::test]
async fn a_handler_is_called_once_for_an_accepted_request_and_not_at_all_for_a_refused_one() {
    let (keys, key) = keys_of(Script::Later).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let service = AuthLayer::new(keys).layer(service_fn(move |_: Request<()>| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    }));
    send(&service, get()).await;
    send(&service, with("x-api-key", "acme_nonsense")).await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    send(&service, with("x-api-key", &key)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn streams_pass_frame_by_frame_with_their_hints_and_trailers() {
    let (keys, key) = keys_of(Script::Now).await;
    let service = AuthLayer::new(keys).layer(service_fn(|_: Request<()>| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from("one"))),
            Ok(Frame::data(Bytes::from("two"))),
            Ok(Frame::trailers(trailers)),
        ];
        Ok::<_, Infallible>(Response::new(StreamBody::new(tokio_stream(frames))))
    }));
    let response = service.oneshot(with("x-api-key", &key)).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.size_hint().exact(), None);
    assert!(!body.is_end_stream());
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "one"
    );
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "two"
    );
    let trailers = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(body.frame().await.is_none());
}

/// A stream out of an array.
fn tokio_stream<T, const N: usize>(items: [T; N]) -> impl futures_core::Stream<Item = T> {
    let mut items = items.into_iter();
    futures_util::stream::poll_fn(move |_| Poll::Ready(items.next()))
}

#[tokio::test]
async fn a_body_of_known_size_keeps_it_and_one_that_never_ends_is_not_waited_for() {
    /// A body that is never done.
    struct Endless;
    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }
    let (keys, key) = keys_of(Script::Now).await;
    let layer = AuthLayer::new(keys);
    let sized = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("12345")))
    });
    let response = layer
        .layer(sized)
        .oneshot(with("x-api-key", &key))
        .await
        .unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(5));
    let endless =
        service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Endless)) });
    let response = layer
        .layer(endless)
        .oneshot(with("x-api-key", &key))
        .await
        .unwrap();
    let mut body = pin!(response.into_body());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(body.as_mut().poll_frame(&mut cx).is_pending());

    let refused = layer.layer(sized).oneshot(get()).await.unwrap();
    assert!(!refused.body().is_end_stream());
    let size = refused.body().size_hint().exact().unwrap();
    assert_eq!(refused.headers()["content-length"], size.to_string());
}

#[test]
fn nothing_needs_a_runtime_until_it_is_called_and_a_store_in_memory_not_even_then() {
    let keys = keys_over(MemoryKeys::new());
    let service = AuthLayer::new(keys.clone()).layer(who());
    let mut issuing = pin!(keys.issue(NewKey::for_owner("alice")));
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(issued)) = issuing.as_mut().poll(&mut cx) else {
        panic!("it is in memory")
    };
    let mut call = pin!(service.oneshot(with("x-api-key", issued.key.expose())));
    let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
        panic!("it is in memory")
    };
    assert_eq!(response.status(), StatusCode::OK);
}

#[test]
fn a_store_that_waits_needs_no_tokio_either() {
    let keys = keys_over(Scripted::new(Script::Later));
    let service = AuthLayer::new(keys).layer(who());
    // Well-formed, so that the store is asked; nothing here gives it tokio's timer.
    let key = "acme_live_7Hq2mZxR0aKd_V3bTq9LmZ1xYcW8rHs5NkPd0JgUe2AfQ077rjO";
    let answer = futures_util::FutureExt::now_or_never(async {
        let mut call = Box::pin(service.oneshot(with("x-api-key", key)));
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                    return Poll::Ready(answer);
                }
            }
        })
        .await
    });
    assert_eq!(answer.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn inner_services_need_not_be_send() {
    let (keys, key) = keys_of(Script::Later).await;
    let here = std::rc::Rc::new(7);
    let service = AuthLayer::new(keys).layer(service_fn(move |_: Request<()>| {
        let here = std::rc::Rc::clone(&here);
        async move {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(here.to_string())))
        }
    }));
    assert_eq!(send(&service, with("x-api-key", &key)).await.body, "7");
}

#[tokio::test]
async fn a_hundred_gates_stand_behind_one_another() {
    let (keys, key) = keys_of(Script::Now).await;
    let mut gates = tower::util::BoxCloneService::new(
        RequireLayer::new(authenticated())
            .layer(who())
            .map_response(|response| response.map(http_body_util::combinators::BoxBody::new)),
    );
    for _ in 0..100 {
        let gate = RequireLayer::new(authenticated()).layer(gates);
        gates = tower::util::BoxCloneService::new(
            gate.map_response(|response| response.map(http_body_util::combinators::BoxBody::new)),
        );
    }
    let service = AuthLayer::new(keys).layer(gates);
    assert_eq!(send(&service, with("x-api-key", &key)).await.body, "alice");
}

#[tokio::test]
async fn a_request_that_hangs_in_the_handler_can_be_dropped() {
    let (keys, key) = keys_of(Script::Now).await;
    let service = AuthLayer::new(keys).layer(service_fn(|request: Request<()>| async move {
        assert!(request.extensions().get::<Identity>().is_some());
        pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let mut call = Box::pin(service.clone().oneshot(with("x-api-key", &key)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    drop(call);
}
