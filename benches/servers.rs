//! What the stack adds to a call on axum and on tonic: a client of its own over HTTP/2, all
//! in one thread and without a socket, so that the figures are the program's.
//!
//! ```text
//! cargo bench --bench servers --features tonic
//! ```

use std::convert::Infallible;
use std::future::Ready;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{DuplexStream, duplex};
use tollgate::authorize::Rules;
use tollgate::keys::{NewKey, Peppers};
use tollgate::{ApiKeys, AuthLayer, RequireLayer, scope};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceBuilder};

const PATH: &str = "/shop.Orders/Get";
const ROUNDS: usize = 101;
const CALLS: usize = 100;

/// Answers with nothing, as fast as it can.
#[derive(Clone)]
struct Orders;

impl NamedService for Orders {
    const NAME: &'static str = "shop.Orders";
}

impl<B> Service<Request<B>> for Orders {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        std::future::ready(Ok(http::Response::new(Body::empty())))
    }
}

async fn connect(client: DuplexStream) -> SendRequest<Full<Bytes>> {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn on_axum(app: axum::Router) -> SendRequest<Full<Bytes>> {
    let (client, server) = duplex(64 * 1024);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(app);
        let builder = Builder::new(TokioExecutor::new()).http2_only();
        builder
            .serve_connection(TokioIo::new(server), service)
            .await
            .unwrap();
    });
    connect(client).await
}

macro_rules! on_tonic {
    ($server:expr) => {{
        let (client, server) = duplex(64 * 1024);
        let incoming = futures_util::stream::iter([Ok::<_, std::io::Error>(server)]);
        let server = $server.serve_with_incoming(incoming);
        tokio::spawn(async move { server.await.unwrap() });
        connect(client).await
    }};
}

/// Nanoseconds a call.
async fn round(sender: &mut SendRequest<Full<Bytes>>, key: &str) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        let request = Request::post(PATH)
            .header("content-type", "application/grpc")
            .header("x-api-key", key)
            .body(Full::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(
            !response.headers().contains_key("grpc-status"),
            "it was refused"
        );
        response.into_body().collect().await.unwrap();
    }
    start.elapsed().as_secs_f64() * 1e9 / CALLS as f64
}

async fn run() {
    let keys = ApiKeys::in_memory(Peppers::random());
    let new = NewKey::for_owner("ann").scopes(["orders:read"]);
    let key = keys.issue(new).await.unwrap().key.expose().to_owned();
    let stack = || {
        let rules = Rules::new().route("/shop.Orders/*", scope("orders:read"));
        ServiceBuilder::new()
            .layer(AuthLayer::new(keys.clone()))
            .layer(RequireLayer::new(rules))
    };
    let app = || axum::Router::new().route_service("/shop.Orders/{method}", Orders);
    let tonic = tonic::transport::Server::builder;
    let mut senders = [
        on_axum(app()).await,
        on_axum(app().layer(stack())).await,
        on_tonic!(tonic().add_service(Orders)),
        on_tonic!(tonic().layer(stack()).add_service(Orders)),
    ];
    let mut figures = [const { Vec::new() }; 4];
    for n in 0..ROUNDS {
        for at in 0..4 {
            // Rotated, so that none has the same neighbour every time.
            let at = (at + n) % 4;
            let figure = round(&mut senders[at], &key).await;
            figures[at].push(figure);
        }
    }
    for all in &mut figures {
        all.sort_by(f64::total_cmp);
    }
    for (name, at) in [("quiet (p10)", ROUNDS / 10), ("median", ROUNDS / 2)] {
        let [axum, axum_stack, tonic, tonic_stack] = [0, 1, 2, 3].map(|server| figures[server][at]);
        println!(
            "{name:12} axum {axum:.0} ns, with the stack +{:.0}; tonic {tonic:.0} ns, with the stack +{:.0}",
            axum_stack - axum,
            tonic_stack - tonic,
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}
