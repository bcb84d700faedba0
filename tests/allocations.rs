//! What a request may allocate. A binary of its own, since it counts for the whole process.

#[path = "it/support.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests, which need more of it"
)]
mod support;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderName, Request, Response, Version};
use http_body::Body;
use http_body_util::{Empty, Full};
use tollgate::auth::Source;
use tollgate::drain::{DrainBody, DrainLayer};
use tollgate::keys::{Cached, MemoryKeys, NewKey};
use tollgate::limit::{Fields, Quota, RateLimitLayer};
use tollgate::testing::TestIssuer;
use tollgate::usage::Usage;
use tollgate::{ApiKeys, AuthLayer, Identity, Jwt, RequireLayer, Tollgate, UsageLayer, scope};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use support::{issue, keys_over, with};

/// An empty 200.
#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        drop(request);
        ready(Ok(Response::new(Empty::new())))
    }
}

/// What a service allocates for a request that it lets in, beyond what is done without it.
/// The second of two is counted: the first one finds caches empty.
fn allocations<S, B>(service: &S, request: &Request<()>) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let count = |request: Request<()>| {
        let mut status = None;
        let counted = measure(|| {
            let mut call = pin!(service.clone().oneshot(request));
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
                panic!("nothing here waits");
            };
            status = Some(response.status());
        });
        assert_eq!(status.unwrap(), 200);
        counted.count_total
    };
    count(request.clone());
    count(request.clone())
}

#[tokio::test]
async fn a_good_key_allocates_no_more_than_five_times() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann").scopes(["orders:read"])).await;
    let bare = allocations(&Inner, &with("x-api-key", &key));
    let door = AuthLayer::new(keys);
    let stack = ServiceBuilder::new()
        .layer(door.clone())
        .layer(RequireLayer::new(scope("orders:read")));
    for request in [
        with("x-api-key", &key),
        with("authorization", format!("Bearer {key}")),
    ] {
        let alone = allocations(&door.layer(Inner), &request) - bare;
        assert!(alone <= 5, "{alone}");
        let with_scope = allocations(&stack.service(Inner), &request) - bare;
        assert_eq!(with_scope, alone, "a requirement that is met costs none");
    }
}

/// Counts the allocations of a service for the third of three equal requests.
fn allocations_of_second<S, B>(service: &S, request: &Request<()>, status: u16) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    let count = |request: Request<()>| {
        let mut last = 0;
        let counted = measure(|| {
            let mut call = pin!(service.clone().oneshot(request));
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
                panic!("nothing here waits");
            };
            last = response.status().as_u16();
        });
        (last, counted.count_total)
    };
    for _ in 0..2 {
        count(request.clone());
    }
    let (last, counted) = count(request.clone());
    assert_eq!(last, status);
    counted
}

#[tokio::test]
async fn a_whole_stack_allocates_little() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann").scopes(["orders:read"])).await;
    let request = with("x-api-key", &key);
    let bare = allocations(&Inner, &request);
    let stack = |quota| {
        let usage = UsageLayer::new(Usage::new());
        let require = RequireLayer::new(scope("orders:read"));
        let limit = RateLimitLayer::new(quota);
        Tollgate::new((usage, AuthLayer::new(keys.clone()), require, limit)).layer(Inner)
    };
    let accepted = allocations(&stack(Quota::per_second(1_000)), &request) - bare;
    assert!(accepted <= 8, "{accepted}");
    let refused = allocations_of_second(&stack(Quota::per_day(1)), &request, 429) - bare;
    assert!(refused <= 13, "{refused}");
    let unknown = with("x-api-key", "acme_unknown");
    let refused = allocations_of_second(&stack(Quota::per_day(1)), &unknown, 401) - bare;
    assert!(refused <= 8, "{refused}");
}

#[tokio::test]
async fn a_key_in_a_cache_allocates_no_more_than_one_in_memory() {
    let store = MemoryKeys::new();
    let cached = |store| ApiKeys::new(Cached::new(store), support::peppers()).prefix("acme");
    let key = issue(&keys_over(store.clone()), NewKey::for_owner("ann")).await;
    let request = with("x-api-key", &key);
    let in_memory = AuthLayer::new(keys_over(store.clone())).layer(Inner);
    let in_cache = AuthLayer::new(cached(store)).layer(Inner);
    in_cache.clone().oneshot(request.clone()).await.unwrap();
    assert!(allocations(&in_cache, &request) <= allocations(&in_memory, &request));
}

#[tokio::test]
async fn a_limit_allocates_nothing_but_what_it_tells() {
    let mut request = with("x-other", "");
    let ann = Identity::for_test().subject("ann").build();
    request.extensions_mut().insert(ann);
    let quotas = || [Quota::per_second(50).burst(1_000), Quota::per_day(100_000)];
    let limit = RateLimitLayer::new(quotas());
    let bare = allocations(&Inner, &request);
    let told = allocations(&limit.clone().layer(Inner), &request) - bare;
    assert!(told <= 4, "{told}");
    let untold = allocations(&limit.fields(Fields::Off).layer(Inner), &request);
    assert_eq!(untold, bare);
}

/// Row A8: however long a credential is, no copy is made of what is over the cap.
#[tokio::test]
async fn what_is_too_long_is_not_copied() {
    let sources = [
        Source::authorization(),
        Source::header(HeaderName::from_static("x-api-key")),
        Source::query("key"),
        Source::cookie("key"),
        Source::websocket_protocol("key."),
    ];
    let service = AuthLayer::new(keys_over(MemoryKeys::new()))
        .sources(sources)
        .layer(Inner);
    let long = ".".repeat(60_000);
    let mut in_query = with("x-other", "");
    *in_query.uri_mut() = format!("/?key={long}").parse().unwrap();
    for request in [
        in_query,
        with("authorization", format!("Bearer {long}")),
        with("x-api-key", &long),
        with("cookie", format!("key={long}")),
        with("sec-websocket-protocol", format!("key.{long}")),
    ] {
        let mut statuses = Vec::with_capacity(1);
        let counted = measure(|| {
            let mut call = pin!(service.clone().oneshot(request));
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) {
                statuses.push(response.status());
            }
        });
        assert_eq!(statuses, [400]);
        assert!(counted.bytes_max < 8 * 1024, "{counted:?}");
    }
}

#[tokio::test]
async fn a_token_that_was_seen_before_allocates_no_more_than_five_times() {
    let authority = TestIssuer::new("https://id.example.com/");
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys())
        .build()
        .unwrap();
    let token = authority.token("alice").audience("api").sign();
    let request = with("authorization", format!("Bearer {token}"));
    let service = AuthLayer::new(jwt).layer(Inner);
    let counted = allocations(&service, &request) - allocations(&Inner, &request);
    assert!(counted <= 5, "{counted}");
}

/// Row E: a slot, its place in the extensions, and what is known of the request; recording
/// itself allocates nothing.
#[tokio::test]
async fn to_count_a_request_allocates_no_more_than_five_times() {
    let usage = Usage::new();
    let mut request = support::get();
    request
        .extensions_mut()
        .insert(Identity::for_test().build());
    let service = UsageLayer::new(usage).layer(Inner);
    let counted = allocations(&service, &request) - allocations(&Inner, &request);
    assert!(counted <= 5, "{counted}");
}

#[tokio::test]
async fn drain_layer_allocates_only_for_http_1_1_bodies() {
    let read = service_fn(|request: Request<DrainBody<Full<Bytes>>>| {
        let mut body = pin!(request.into_body());
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(_))) = body.as_mut().poll_frame(&mut cx) {}
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let layer = DrainLayer::new();
    let mut service = layer.layer(read);
    for (version, body, most) in [
        (Version::HTTP_11, "", 0),
        (Version::HTTP_2, "an upload", 0),
        (Version::HTTP_11, "an upload", 2),
    ] {
        let mut request = Request::new(Full::from(body));
        *request.version_mut() = version;
        let counted = measure(|| {
            let mut call = pin!(service.call(request));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_ready());
        });
        assert_eq!(counted.count_total, most, "{version:?} {body:?}");
    }
    assert_eq!(layer.counters().drained(), 0);
}
