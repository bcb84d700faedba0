//! What the benches measure, for the wall clock and for the count of instructions alike.
//! A service is driven as a server drives it: a clone, readiness, the call, the body.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::Empty;
use tollgate::keys::{Cached, KeyStore, MemoryKeys, NewKey, Peppers};
use tollgate::testing::TestKeys;
use tollgate::usage::Usage;
use tollgate::{
    ApiKeys, AuthLayer, Quota, RateLimitLayer, RequireLayer, Tollgate, UsageLayer, scope,
};
use tower::{Layer, Service, ServiceExt};

/// One case: sends a request through a service, and tells the status of the answer.
pub(crate) struct Scenario(Box<dyn Fn() -> u16 + Sync>);

impl Scenario {
    pub(crate) fn named(name: &str) -> Self {
        let kit = TestKeys::new("acme");
        let mut good = String::new();
        for i in 0..1_000 {
            let key = kit.mint(NewKey::for_owner(format!("acct_{i}")).scopes(["items:read"]));
            if i == 500 {
                good = key;
            }
        }
        let unknown = TestKeys::new("acme").mint(NewKey::for_owner("eve"));
        let last = if good.ends_with('0') { "1" } else { "0" };
        let mistyped = format!("{}{last}", &good[..good.len() - 1]);
        let door = AuthLayer::new(kit.keys());
        let auth = || door.layer(Inner);
        let auth_and = |needed| {
            let require = RequireLayer::new(scope(needed));
            Tollgate::new((door.clone(), require)).layer(Inner)
        };
        let whole = |quota| {
            let usage = UsageLayer::new(Usage::new());
            let require = RequireLayer::new(scope("items:read"));
            (usage, door.clone(), require, RateLimitLayer::new(quota))
        };
        let scenario = match name {
            "passthrough" => Self::new(Inner, Some(&good)),
            "key accepted" => Self::new(auth(), Some(&good)),
            "unknown key, 401" => Self::new(auth(), Some(&unknown)),
            "bad checksum, 401" => Self::new(auth(), Some(&mistyped)),
            "key accepted, scope met" => Self::new(auth_and("items:read"), Some(&good)),
            "scope missing, 403" => Self::new(auth_and("items:write"), Some(&good)),
            "counted" => Self::new(UsageLayer::new(Usage::new()).layer(Inner), None),
            "counted, key accepted" => {
                let usage = UsageLayer::new(Usage::new());
                let stack = Tollgate::new((usage, door.clone()));
                Self::new(stack.layer(Inner), Some(&good))
            }
            "whole stack" => {
                let stack = Tollgate::new(whole(Quota::per_second(1_000_000)));
                Self::new(stack.layer(Inner), Some(&good))
            }
            // A tuple of layers is a layer, and nests them.
            "whole stack, nested" => {
                let nested = whole(Quota::per_second(1_000_000));
                Self::new(nested.layer(Inner), Some(&good))
            }
            "whole stack, over the limit, 429" => {
                let stack = Tollgate::new(whole(Quota::per_day(1)));
                let scenario = Self::new(stack.layer(Inner), Some(&good));
                scenario.run();
                scenario
            }
            "anonymous, optional" => Self::new(door.clone().optional().layer(Inner), None),
            other => panic!("{other} is no scenario"),
        };
        let status = scenario.run();
        let expected = name
            .rsplit(", ")
            .next()
            .and_then(|end| end.parse().ok())
            .unwrap_or(200);
        assert_eq!(status, expected, "{name}");
        scenario
    }

    /// A good key behind a cache, and what goes before each of its requests: nothing, or
    /// a flood of ids that nobody has.
    #[allow(dead_code, reason = "not counted in instructions")]
    pub(crate) fn beside_flood(per_request: usize) -> (Self, impl Fn() + Sync) {
        let records = MemoryKeys::new();
        let peppers = Peppers::random();
        let stored = ApiKeys::new(records.clone(), peppers.clone()).prefix("acme");
        let issued = now(stored.issue(NewKey::for_owner("acct"))).expect("memory does not fail");
        let cached = Cached::new(records);
        let door = AuthLayer::new(ApiKeys::new(cached.clone(), peppers).prefix("acme"));
        let good = Self::new(door.layer(Inner), Some(issued.key.expose()));
        let next = AtomicU32::new(0);
        let flood = move || {
            for _ in 0..per_request {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let id = format!("{n:012}").parse().expect("digits");
                let found = now(cached.find(id)).expect("memory does not fail");
                assert!(found.is_none());
            }
        };
        (good, flood)
    }

    /// One request, to its end.
    pub(crate) fn run(&self) -> u16 {
        (self.0)()
    }

    /// The types of the service and its future are kept, as they are under a server:
    /// to box them for each request would be measured too.
    fn new<S, B>(service: S, key: Option<&str>) -> Self
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        S: Clone + Sync + 'static,
        B: Body,
    {
        let uri = Uri::from_static("/v1/items?limit=20");
        let headers = headers(key);
        Self(Box::new(move || {
            let mut request = Request::new(());
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            now(async {
                let Ok(response) = service.clone().oneshot(black_box(request)).await;
                let status = response.status().as_u16();
                let mut body = pin!(response.into_body());
                while !body.is_end_stream() {
                    let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
                    if black_box(frame).is_none() {
                        break;
                    }
                }
                status
            })
        }))
    }
}

/// What an ordinary client of an API sends.
fn headers(key: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "example-client/2.31.0 (linux; x86_64)"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("x-request-id", "01j9zq5c5y3m3t6a1n6q0h8w2d"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    if let Some(key) = key {
        headers.insert(
            "x-api-key",
            HeaderValue::from_str(key).expect("a key is ASCII"),
        );
    }
    headers
}

/// What is ready at once: nothing here has to wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing in the benches waits"),
    }
}

/// The innermost service: an empty 200.
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
        drop(black_box(request));
        ready(Ok(Response::new(Empty::new())))
    }
}
