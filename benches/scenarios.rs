//! What the benches measure, for the wall clock and for the count of instructions alike.
//! A service is driven as a server drives it: a clone, readiness, the call, the body.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::Empty;
use tollgate::keys::NewKey;
use tollgate::testing::TestKeys;
use tollgate::{AuthLayer, RequireLayer, scope};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// One case: a service, and the request that it is sent.
pub(crate) struct Scenario {
    service: BoxCloneSyncService<Request<()>, u16, Infallible>,
    headers: HeaderMap,
}

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
        let with_scope = |needed| {
            let stack = ServiceBuilder::new().layer(door.clone());
            measured(stack.layer(RequireLayer::new(scope(needed))).service(Inner))
        };
        let alone = || measured(door.layer(Inner));
        let (service, key) = match name {
            "passthrough" => (measured(Inner), Some(&good)),
            "key accepted" => (alone(), Some(&good)),
            "unknown key, 401" => (alone(), Some(&unknown)),
            "bad checksum, 401" => (alone(), Some(&mistyped)),
            "key accepted, scope met" => (with_scope("items:read"), Some(&good)),
            "scope missing, 403" => (with_scope("items:write"), Some(&good)),
            "anonymous, optional" => (measured(door.clone().optional().layer(Inner)), None),
            other => panic!("{other} is no scenario"),
        };
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
        let scenario = Self { service, headers };
        let status = scenario.run();
        let expected = name
            .rsplit(", ")
            .next()
            .and_then(|end| end.parse().ok())
            .unwrap_or(200);
        assert_eq!(status, expected, "{name}");
        scenario
    }

    /// One request, to its end.
    pub(crate) fn run(&self) -> u16 {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("/v1/items?limit=20");
        *request.headers_mut() = self.headers.clone();
        now(self.service.clone().oneshot(black_box(request))).unwrap_or_else(|never| match never {})
    }
}

/// The service, with its body read to the end and its status for an answer.
fn measured<S, B>(service: S) -> BoxCloneSyncService<Request<()>, u16, Infallible>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
{
    BoxCloneSyncService::new(service.map_response(|response| {
        let status = response.status().as_u16();
        let mut body = pin!(response.into_body());
        while now(poll_fn(|cx| body.as_mut().poll_frame(cx))).is_some() {}
        status
    }))
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
