//! Usage: every request is counted once, at its true end, whatever happens. Rows I5, I6, J4,
//! J5, J7.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tollgate::keys::NewKey;
use tollgate::rejection::Reason;
use tollgate::usage::{Arrival, End, Observer, Record, Usage, UsageBuilder, UsageSlot};
use tollgate::{AuthLayer, Identity, RequireLayer, UsageLayer, scope};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::ServiceBuilder;
use crate::support::{Script, Scripted, clock, get, issue, keys_over, send, who};

/// All records, in order.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Record>>>, Arc<Mutex<i64>>);

impl Observer for Seen {
    fn begun(&self, _: Arrival<'_>) {
        *self.1.lock().unwrap() += 1;
    }

    fn ended(&self, record: &Record) {
        *self.1.lock().unwrap() -= 1;
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Seen {
    pub(crate) fn all(&self) -> Vec<Record> {
        self.0.lock().unwrap().clone()
    }

    /// The only one.
    #[track_caller]
    fn one(&self) -> Record {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(*self.1.lock().unwrap(), 0, "what has begun has ended");
        all.into_iter().next().unwrap()
    }

    /// The only one since the last time.
    #[track_caller]
    pub(crate) fn next(&self) -> Record {
        let record = self.one();
        self.0.lock().unwrap().clear();
        record
    }
}

pub(crate) fn watched(builder: UsageBuilder) -> (Usage, Seen) {
    let seen = Seen::default();
    (builder.observer(seen.clone()).build(), seen)
}

/// What a body does, poll by poll.
#[derive(Clone)]
enum Part {
    Data(&'static str),
    Trailers(HeaderMap),
    Wait,
    Fail,
    Panic,
}
use Part::{Data, Fail, Panic, Trailers, Wait};

#[derive(Clone)]
struct Parts {
    parts: VecDeque<Part>,
    exact: Option<u64>,
    tells_end: bool,
}

fn body(parts: impl IntoIterator<Item = Part>) -> Parts {
    Parts {
        parts: parts.into_iter().collect(),
        exact: None,
        tells_end: false,
    }
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(match self.parts.pop_front() {
            Some(Data(text)) => Some(Ok(Frame::data(Bytes::from(text)))),
            Some(Trailers(fields)) => Some(Ok(Frame::trailers(fields))),
            Some(Wait) => return Poll::Pending,
            Some(Fail) => Some(Err("broken")),
            Some(Panic) => panic!("a body that panics"),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn answering<B>(
    response: impl Fn() -> Response<B> + Clone,
) -> impl Service<Request<()>, Response = Response<B>, Error = Infallible, Future: Send> + Clone
where
    B: Clone + Send + 'static,
{
    service_fn(move |_: Request<()>| std::future::ready(Ok(response())))
}

/// The response to a request through a layer that counts, and what it has seen.
async fn respond<B>(
    request: Request<()>,
    response: impl Fn() -> Response<B> + Clone,
) -> (Response<tollgate::body::Body<B>>, Seen)
where
    B: http_body::Body + Clone + Send + 'static,
{
    let (usage, seen) = watched(Usage::builder());
    let service = UsageLayer::new(usage).layer(answering(response));
    (service.oneshot(request).await.unwrap(), seen)
}

pub(crate) type Polled<B> =
    Poll<Option<Result<Frame<<B as http_body::Body>::Data>, <B as http_body::Body>::Error>>>;

pub(crate) fn poll_body<B: http_body::Body + Unpin>(body: &mut B) -> Polled<B> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_request_is_counted_for_its_caller() {
    let keys = keys_over(Scripted::new(Script::Later));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let (usage, seen) = watched(Usage::builder().clock(clock()));
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(usage.clone()))
        .layer(AuthLayer::new(keys).clock(clock()))
        .service(who());
    let request = Request::post("/a/secret/path?token=x")
        .header("x-api-key", &key)
        .header("content-length", "12")
        .body(())
        .unwrap();
    send(&service, request).await;
    let record = seen.next();
    assert_eq!(record.principal().unwrap().subject(), "ann");
    assert_eq!((record.end(), record.refusal()), (End::Complete, None));
    assert_eq!(record.status(), Some(StatusCode::OK));
    assert_eq!((record.method(), record.route()), (&Method::POST, None));
    assert_eq!((record.bytes_in(), record.bytes_out()), (12, 3));
    assert_eq!((record.grpc_status(), record.requests()), (None, 1));
    assert_eq!(record.at(), crate::support::NOW);

    // Without a credential, and with a wrong one, nobody knows who it was.
    for header in ["x-other", "x-api-key"] {
        let request = Request::get("/")
            .header(header, "nonsense")
            .body(())
            .unwrap();
        let answer = send(&service, request).await;
        let record = seen.next();
        assert!(record.principal().is_none());
        assert_eq!(record.end(), End::Refused);
        assert_eq!(record.refusal(), Some(answer.rejection.unwrap().reason()));
        assert_eq!(record.status(), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(record.bytes_out(), answer.body.len() as u64);
    }
    let snapshot = usage.snapshot();
    assert_eq!(snapshot.callers.len(), 1);
    let total = usage.of(record.principal().unwrap()).unwrap();
    assert_eq!((total.requests(), total.refused()), (1, 0));
    assert_eq!((total.bytes_in(), total.bytes_out()), (12, 3));
    assert_eq!(total.last_seen(), Some(crate::support::NOW));
    assert_eq!(
        (snapshot.anonymous.requests(), snapshot.anonymous.refused()),
        (2, 2)
    );
    let refusals: Vec<_> = snapshot.sum().refusals().collect();
    assert_eq!(
        refusals,
        [
            (Reason::CredentialsMissing, 1),
            (Reason::CredentialInvalid, 1)
        ]
    );
    let printed = format!("{record:?} {snapshot:?} {snapshot} {usage:?}")
        + &serde_json::to_string(&record).unwrap()
        + &serde_json::to_string(&snapshot).unwrap();
    for canary in [&key[23..31], "secret", "token", "nonsense"] {
        assert!(!printed.contains(canary), "{canary}: {printed}");
    }
}

#[tokio::test]
async fn who_is_refused_once_they_are_known_is_named() {
    let keys = keys_over(Scripted::new(Script::Now));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let local = NewKey::for_owner("bob").networks(["192.0.2.0/24"]);
    let elsewhere = issue(&keys, local).await;
    let (usage, seen) = watched(Usage::builder());
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(usage))
        .layer(AuthLayer::new(keys).clock(clock()))
        .layer(RequireLayer::new(scope("orders:read")))
        .service(who());
    for (key, subject, reason) in [
        (&key, "ann", Reason::InsufficientScope),
        (&elsewhere, "bob", Reason::SourceNotAllowed),
    ] {
        let request = Request::get("/").header("x-api-key", key);
        send(&service, request.body(()).unwrap()).await;
        let record = seen.next();
        assert_eq!(record.principal().unwrap().subject(), subject);
        assert_eq!(
            (record.end(), record.refusal()),
            (End::Refused, Some(reason))
        );
    }
    // A refusal whose body nobody reads is one all the same.
    let response = service.oneshot(get()).await.unwrap();
    drop(response);
    assert_eq!((seen.next().end()), End::Refused);
}

/// The rejection stays in the extensions, whatever the answer is then.
#[tokio::test]
async fn a_refusal_that_a_layer_has_answered_otherwise_is_none() {
    let (usage, seen) = watched(Usage::builder());
    let keys = keys_over(Scripted::new(Script::Now));
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(usage))
        .map_response(|mut response: Response<_>| {
            *response.status_mut() = StatusCode::OK;
            response
        })
        .layer(AuthLayer::new(keys))
        .service(who());
    assert!(send(&service, get()).await.rejection.is_some());
    let record = seen.one();
    assert_eq!((record.end(), record.refusal()), (End::Complete, None));
    assert_eq!(record.status(), Some(StatusCode::OK));
}

#[tokio::test]
async fn a_request_that_is_given_up_is_counted_wherever_it_is() {
    let store = Scripted::new(Script::Now);
    let keys = keys_over(store.clone());
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let (usage, seen) = watched(Usage::builder());
    let stack = ServiceBuilder::new()
        .layer(UsageLayer::new(usage))
        .layer(AuthLayer::new(keys).clock(clock()));
    let service = stack.service(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let ask = || {
        Request::get("/")
            .header("x-api-key", &key)
            .body(())
            .unwrap()
    };
    let poll = async |mut future: Pin<Box<dyn Future<Output = _> + Send>>| {
        assert!(future.as_mut().now_or_never().is_none());
    };

    // Never polled; in the handler; while the store is asked.
    drop(service.clone().call(ask()));
    assert_eq!(seen.next().end(), End::Cancelled);
    poll(Box::pin(service.clone().oneshot(ask()))).await;
    let record = seen.next();
    assert_eq!(record.end(), End::Cancelled);
    assert_eq!(record.principal().unwrap().subject(), "ann");
    assert_eq!((record.status(), record.time_to_headers()), (None, None));
    store.turn(Script::Hangs);
    poll(Box::pin(service.clone().oneshot(ask()))).await;
    let record = seen.next();
    assert_eq!((record.end(), record.principal()), (End::Cancelled, None));
}

#[tokio::test]
async fn a_body_has_one_of_five_ends() {
    let fields = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let ends = |parts: Vec<Part>| async move {
        let (response, seen) = respond(get(), || Response::new(body(parts.clone()))).await;
        assert!(seen.all().is_empty(), "it has not ended");
        let mut body = response.into_body();
        while let Poll::Ready(Some(Ok(_))) = poll_body(&mut body) {}
        drop(body);
        let record = seen.one();
        (record.end(), record.bytes_out())
    };
    let expected = (End::Complete, 5);
    assert_eq!(ends(vec![Data("abc"), Data("de")]).await, expected);
    assert_eq!(ends(vec![Data("abcde"), Trailers(fields)]).await, expected);
    assert_eq!(ends(vec![]).await, (End::Complete, 0));
    assert_eq!(ends(vec![Wait]).await, (End::Disconnected, 0));
    assert_eq!(ends(vec![Data("abc"), Wait]).await, (End::Disconnected, 3));
    assert_eq!(ends(vec![Data("abc"), Fail]).await, (End::BodyError, 3));
    assert_eq!(ends(vec![Fail]).await, (End::BodyError, 0));
}

#[tokio::test]
async fn who_hangs_up_without_a_look_at_the_body_has_not_had_it() {
    let (response, seen) = respond(get(), || Response::new(Full::<Bytes>::from("abc"))).await;
    drop(response);
    assert_eq!(
        (seen.one().end(), seen.one().bytes_out()),
        (End::Disconnected, 0)
    );
}

/// hyper asks no more once it has as many bytes as it was told of.
#[tokio::test]
async fn a_body_of_known_length_is_complete_when_it_has_gone() {
    let exact = |exact| Parts {
        exact,
        ..body([Data("abc"), Data("de"), Wait])
    };
    let by_hint = move || Response::new(exact(Some(5)));
    let by_field = move || {
        let response = Response::builder().header("content-length", "5");
        response.body(exact(None)).unwrap()
    };
    let by_end = || {
        let parts = body([Data("abc"), Data("de")]);
        Response::new(Parts {
            tells_end: true,
            ..parts
        })
    };
    for response in [&by_hint as &(dyn Fn() -> _ + Sync), &by_field, &by_end] {
        let (response, seen) = respond(get(), response).await;
        let mut body = response.into_body();
        assert!(poll_body(&mut body).is_ready());
        assert!(seen.all().is_empty());
        assert!(poll_body(&mut body).is_ready());
        let record = seen.one();
        assert_eq!((record.end(), record.bytes_out()), (End::Complete, 5));
        drop(body);
        seen.one();
    }
    // Less than was said is no whole body, and nothing is less than something.
    let none = || {
        let response = Response::builder().header("content-length", "5");
        response.body(Full::<Bytes>::default()).unwrap()
    };
    let (_response, seen) = respond(get(), none).await;
    assert_eq!(
        (seen.one().end(), seen.one().bytes_out()),
        (End::BodyError, 0)
    );
    let short = || {
        Response::new(Parts {
            exact: Some(9),
            ..body([Data("abc")])
        })
    };
    let (response, seen) = respond(get(), short).await;
    response.into_body().collect().await.unwrap();
    assert_eq!(
        (seen.one().end(), seen.one().bytes_out()),
        (End::BodyError, 3)
    );
}

#[tokio::test]
async fn what_has_no_content_ends_with_its_fields() {
    for (method, status) in [
        (Method::HEAD, 200),
        (Method::GET, 204),
        (Method::GET, 304),
        (Method::GET, 101),
        (Method::CONNECT, 200),
    ] {
        let request = Request::builder().method(method).body(()).unwrap();
        let response = move || {
            let response = Response::builder().status(status);
            let response = response.header("content-length", "5");
            response.body(body([Data("abcde")])).unwrap()
        };
        let (response, seen) = respond(request, response).await;
        let record = seen.one();
        assert_eq!((record.end(), record.bytes_out()), (End::Complete, 0));
        assert_eq!(record.time_to_headers(), Some(record.time_to_end()));
        drop(response);
        seen.one();
    }
    let (_response, seen) = respond(get(), || Response::new(Full::<Bytes>::default())).await;
    assert_eq!(seen.one().end(), End::Complete);
}

#[tokio::test]
async fn an_error_of_the_service_passes_and_is_counted() {
    let (usage, seen) = watched(Usage::builder());
    let service = service_fn(|_: Request<()>| async { Err::<Response<Full<Bytes>>, _>("down") });
    let service = UsageLayer::new(usage).layer(service);
    assert_eq!(service.oneshot(get()).await.unwrap_err(), "down");
    let record = seen.one();
    assert_eq!((record.end(), record.status()), (End::ServiceError, None));
}

#[tokio::test]
async fn a_panic_is_counted_once_and_goes_on() {
    let (usage, seen) = watched(Usage::builder());
    let layer = UsageLayer::new(usage.clone());
    let in_call = service_fn(
        |_: Request<()>| -> std::future::Ready<Result<Response<Parts>, Infallible>> {
            panic!("in call")
        },
    );
    let in_poll = service_fn(|_: Request<()>| async {
        tokio::task::yield_now().await;
        if true {
            panic!("in poll");
        }
        Ok::<Response<Parts>, Infallible>(Response::new(body([])))
    });
    let call = catch_unwind(AssertUnwindSafe(|| layer.layer(in_call).call(get())));
    assert!(call.is_err());
    assert_eq!(seen.next().end(), End::ServiceError);
    // As a server does it, and as one who catches panics outside of the layer does.
    let task = tokio::spawn(layer.layer(in_poll).oneshot(get()));
    assert!(task.await.is_err());
    assert_eq!(seen.next().end(), End::ServiceError);
    let call = layer.layer(in_poll).oneshot(get());
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert_eq!(seen.next().end(), End::ServiceError);

    let service = layer.layer(answering(|| Response::new(body([Data("abc"), Panic]))));
    let mut answer = service.clone().oneshot(get()).await.unwrap().into_body();
    assert!(poll_body(&mut answer).is_ready());
    let polled = catch_unwind(AssertUnwindSafe(|| poll_body(&mut answer)));
    assert!(polled.is_err());
    let record = seen.next();
    assert_eq!((record.end(), record.bytes_out()), (End::BodyError, 3));
    drop(answer);
    assert!(seen.all().is_empty());
    // The next request finds all as it should be.
    let mut answer = service.oneshot(get()).await.unwrap().into_body();
    assert!(poll_body(&mut answer).is_ready());
    drop(answer);
    assert_eq!(seen.next().end(), End::Disconnected);
    assert_eq!(usage.snapshot().anonymous.requests(), 5);
}

#[tokio::test]
async fn an_observer_that_panics_is_nobody_s_business() {
    struct Bad;
    impl Observer for Bad {
        fn begun(&self, _: Arrival<'_>) {
            panic!("begun")
        }
        fn ended(&self, _: &Record) {
            panic!("ended")
        }
    }
    let (usage, seen) = watched(Usage::builder().observer(Bad));
    let service = UsageLayer::new(usage).layer(who());
    assert_eq!(send(&service, get()).await.status, 200);
    let panics = service_fn(|_: Request<()>| async {
        if true {
            panic!("in poll");
        }
        Ok::<Response<Parts>, Infallible>(Response::new(body([])))
    });
    assert_eq!(seen.next().end(), End::Complete);
    let (usage, seen) = watched(Usage::builder().observer(Bad));
    let task = tokio::spawn(UsageLayer::new(usage).layer(panics).oneshot(get()));
    assert!(task.await.is_err());
    assert_eq!(seen.next().end(), End::ServiceError);
}

#[tokio::test]
async fn times_are_by_a_clock_that_never_goes_back() {
    let ticks = Arc::new(Mutex::new(Duration::from_secs(100)));
    let advance = {
        let ticks = Arc::clone(&ticks);
        move |by: u64| *ticks.lock().unwrap() += Duration::from_millis(by)
    };
    let read = Arc::clone(&ticks);
    let builder = Usage::builder().ticks(move || *read.lock().unwrap());
    let (usage, seen) = watched(builder);
    let slow = advance.clone();
    let service = UsageLayer::new(usage).layer(answering(move || {
        slow(30);
        Response::new(body([Data("abc")]))
    }));
    let response = service.clone().oneshot(get()).await.unwrap();
    advance(500);
    response.into_body().collect().await.unwrap();
    let record = seen.next();
    assert_eq!(record.time_to_headers(), Some(Duration::from_millis(30)));
    assert_eq!(record.time_to_end(), Duration::from_millis(530));
    // One that does is not believed.
    let response = service.oneshot(get()).await.unwrap();
    *ticks.lock().unwrap() = Duration::ZERO;
    response.into_body().collect().await.unwrap();
    assert_eq!(seen.next().time_to_end(), Duration::ZERO);
}

#[tokio::test]
async fn handlers_count_in_units_of_their_own() {
    let (usage, seen) = watched(Usage::builder().units(["tokens", "rows"]));
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let service = service_fn(move |request: Request<()>| {
        assert!(Usage::add(request.extensions(), "tokens", 800));
        assert!(Usage::add(request.extensions(), "tokens", 12));
        assert!(!Usage::add(request.extensions(), "tea", 1), "no such unit");
        let slot = request.extensions().get::<UsageSlot>().unwrap();
        *keep.lock().unwrap() = Some(slot.clone());
        async { Ok::<_, Infallible>(Response::new(body([Data("abc")]))) }
    });
    let service = UsageLayer::new(usage.clone()).layer(service);
    let response = service.oneshot(get()).await.unwrap();
    // A stream counts as it goes.
    let slot = kept.lock().unwrap().take().unwrap();
    assert!(slot.add("rows", u64::MAX));
    assert!(slot.add("rows", 1), "it saturates");
    response.into_body().collect().await.unwrap();
    assert!(!slot.add("rows", 1), "it has ended");
    let record = seen.one();
    assert_eq!(
        (record.unit("tokens"), record.unit("rows")),
        (812, u64::MAX)
    );
    let total = usage.snapshot().anonymous;
    let units: Vec<_> = total.units().collect();
    assert_eq!(units, [("tokens", 812), ("rows", u64::MAX)]);
    assert!(
        !Usage::add(&http::Extensions::new(), "tokens", 1),
        "no layer"
    );

    let bad: [&[&str]; 3] = [
        &["a", "a"],
        &[""],
        &["1", "2", "3", "4", "5", "6", "7", "8", "9"],
    ];
    for names in bad {
        assert!(Usage::builder().try_units(names.iter().copied()).is_err());
    }
}

#[tokio::test]
async fn one_usage_counts_once_and_two_count_both() {
    let (outer, seen_outside) = watched(Usage::builder().units(["a", "b"]));
    let (inner, seen_inside) = watched(Usage::builder().units(["b"]));
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(outer.clone()))
        .layer(UsageLayer::new(outer.clone()))
        .layer(UsageLayer::new(inner))
        .layer(UsageLayer::new(outer))
        .service(service_fn(|request: Request<()>| async move {
            assert!(Usage::add(request.extensions(), "a", 1));
            assert!(Usage::add(request.extensions(), "b", 2));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("abc")))
        }));
    send(&service, get()).await;
    let (outside, inside) = (seen_outside.one(), seen_inside.one());
    assert_eq!((outside.unit("a"), outside.unit("b")), (1, 2));
    assert_eq!((inside.unit("a"), inside.unit("b")), (0, 2));
}

#[tokio::test]
async fn on_axum_a_route_is_its_template_and_uploads_are_counted() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::{get, post};

    let (usage, seen) = watched(Usage::builder());
    let nested = Router::new().route("/{id}", get(|| async { "order" }));
    let router = Router::new()
        .nest("/orders", nested)
        .route(
            "/upload",
            post(|body: String| async move { body.len().to_string() }),
        )
        .route("/unread", post(|| async { "no" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "none") })
        .layer(UsageLayer::new(usage));
    let ask = async |method: &str, path: &str, body: Body| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(body)
            .unwrap();
        send(&router, request).await;
        seen.next()
    };
    let record = ask("GET", "/orders/17", Body::empty()).await;
    assert_eq!(record.route(), Some("/orders/{id}"));
    assert_eq!((record.bytes_in(), record.bytes_out()), (0, 5));
    let record = ask("HEAD", "/orders/17", Body::empty()).await;
    assert_eq!((record.end(), record.bytes_out()), (End::Complete, 0));
    for path in ["/wp-admin", "/orders", "/orders/1/2"] {
        let record = ask("GET", path, Body::empty()).await;
        assert_eq!(
            (record.route(), record.status()),
            (None, Some(StatusCode::NOT_FOUND))
        );
    }
    let chunks = futures_util::stream::iter([Ok::<_, Infallible>("abc"), Ok("de")]);
    let record = ask("POST", "/upload", Body::from_stream(chunks)).await;
    assert_eq!((record.bytes_in(), record.bytes_out()), (5, 1));
    let record = ask("POST", "/unread", Body::from("abc")).await;
    assert_eq!(record.bytes_in(), 0, "nobody has read it");
}

/// What stands for the real thing: hyper asks for as many bytes as there are, and no more.
#[tokio::test]
async fn over_a_socket_the_end_is_the_true_one() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (usage, seen) = watched(Usage::builder());
    let endless = || async {
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 1_024]));
        Body::from_stream(chunks)
    };
    let router = Router::new()
        .route("/text", get(|| async { "hello" }))
        .route("/endless", get(endless))
        .route("/slow", get(std::future::pending::<&'static str>))
        .layer(UsageLayer::new(usage));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    for (method, path, end) in [
        ("GET", "/text", End::Complete),
        ("HEAD", "/text", End::Complete),
        ("GET", "/endless", End::Disconnected),
        ("GET", "/slow", End::Cancelled),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        if path != "/slow" {
            let mut some = [0; 64];
            assert!(stream.read(&mut some).await.unwrap() > 0);
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(stream);
        while seen.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let record = seen.next();
        assert_eq!(
            (record.end(), record.route()),
            (end, Some(path)),
            "{method}"
        );
    }
    server.abort();
}

#[test]
fn without_a_runtime_everything_is_counted_too() {
    let (usage, seen) = watched(Usage::builder().sink(tollgate::usage::TracingSink::new()));
    let service = UsageLayer::new(usage.clone()).layer(who());
    let mut call = pin!(send(&service, get()));
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready());
    seen.one();
    assert_eq!(
        usage.sinks()[0].waiting,
        1,
        "until somebody comes by with a runtime"
    );
}

/// Row J4: given up after so many polls, whatever those were.
#[tokio::test]
async fn dropped_after_any_number_of_polls_it_is_counted_exactly_once() {
    let keys = keys_over(Scripted::new(Script::Slow(2)));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let (usage, seen) = watched(Usage::builder());
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(usage.clone()))
        .layer(AuthLayer::new(keys).clock(clock()))
        .service(service_fn(|_: Request<()>| async {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Response::new(body([Wait, Data("abc"), Wait, Data("de")])))
        }));
    let mut ends = Vec::new();
    for budget in 0..12 {
        let request = Request::get("/").header("x-api-key", &key);
        let whole = async {
            let response = service.clone().call(request.body(()).unwrap()).await;
            response.unwrap().into_body().collect().await.is_ok()
        };
        let mut whole = Box::pin(whole);
        // A call that was never made is none.
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_done = false;
        for _ in 0..=budget {
            is_done = is_done || whole.as_mut().poll(&mut cx).is_ready();
        }
        drop(whole);
        let record = seen.next();
        assert_eq!(record.end() == End::Complete, is_done);
        ends.push((record.end(), record.bytes_out()));
    }
    ends.dedup();
    assert_eq!(
        ends,
        [
            (End::Cancelled, 0),
            (End::Disconnected, 0),
            (End::Disconnected, 3),
            (End::Complete, 5)
        ]
    );
    assert_eq!(usage.snapshot().sum().requests(), 12);
}

#[tokio::test]
async fn the_time_of_day_is_told_though_it_is_seldom_asked_for() {
    let (usage, seen) = watched(Usage::builder());
    let service = UsageLayer::new(usage).layer(who());
    for _ in 0..3 {
        let before = std::time::SystemTime::now();
        send(&service, get()).await;
        let at = std::time::SystemTime::from(seen.next().at());
        let slack = Duration::from_millis(50);
        assert!(at + slack >= before && at <= std::time::SystemTime::now() + slack);
        std::thread::sleep(Duration::from_millis(600));
    }
}

#[tokio::test]
async fn what_a_user_brings_along_may_panic_and_the_request_goes_on() {
    let builder = Usage::builder().ticks(|| panic!("it panics"));
    let (usage, seen) = watched(builder.clock(Broken));
    let layer = UsageLayer::new(usage).route(|_| panic!("it panics"));
    let service = layer.layer(who());
    let mut request = get();
    request
        .extensions_mut()
        .insert(Identity::for_test().build());
    assert_eq!(send(&service, request).await.status, StatusCode::OK);
    let record = seen.one();
    assert_eq!((record.end(), record.route()), (End::Complete, None));
}

/// A clock that panics.
struct Broken;

impl tollgate::clock::Clock for Broken {
    fn now(&self) -> tollgate::clock::Timestamp {
        panic!("it panics")
    }
}

/// Records wait in bounded memory, and are added up by what they have in common.
#[tokio::test]
async fn what_a_client_makes_up_is_neither_kept_nor_billed() {
    let (usage, seen) = watched(Usage::builder());
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(usage.clone()))
        .layer(AuthLayer::new(keys_over(tollgate::keys::MemoryKeys::new())))
        .service(who());
    let mut request = get();
    *request.method_mut() = Method::from_bytes(&[b'X'; 4_096]).unwrap();
    let length = u64::MAX.to_string().parse().unwrap();
    request.headers_mut().insert("content-length", length);
    assert_eq!(send(&service, request).await.status, 401);
    let record = seen.one();
    assert_eq!((record.method().as_str(), record.bytes_in()), ("_OTHER", 0));
}

#[tokio::test]
async fn a_body_of_no_bytes_is_complete_though_nobody_asks_for_it() {
    let (usage, seen) = watched(Usage::builder());
    let service = UsageLayer::new(usage).layer(service_fn(async |_: Request<()>| {
        let mut response = Response::new(body([Wait]));
        let length = "0".parse().unwrap();
        response.headers_mut().insert("content-length", length);
        Ok::<_, Infallible>(response)
    }));
    drop(service.oneshot(get()).await.unwrap());
    assert_eq!(seen.one().end(), End::Complete);
}
