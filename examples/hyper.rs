//! A service of plain hyper behind keys, on HTTP/1.1 and HTTP/2.
//!
//! ```text
//! cargo run --example hyper
//! curl -i localhost:3000/ -H "X-API-Key: <the key that it prints>"
//! ```

use std::convert::Infallible;
use std::env;
use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tollgate::keys::{NewKey, Peppers};
use tollgate::{ApiKeys, AuthLayer, Identity, RequireLayer, scope};
use tower::{ServiceBuilder, ServiceExt, service_fn};

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Who calls stands in the extensions, on any server.
    let identity = request.extensions().get::<Identity>();
    let name = identity.map_or("nobody", Identity::subject);
    Ok(Response::new(Full::from(format!("hello {name}\n"))))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    let issued = keys
        .issue(NewKey::for_owner("ann").scopes(["hello"]))
        .await?;
    println!("key={}", issued.key.expose());

    let service = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .layer(RequireLayer::new(scope("hello")))
        .service(service_fn(hello));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        // hyper notes down no peer: what wants to know it finds it in an extension.
        let service = service
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer);
                request
            });
        tokio::spawn(async move {
            let service = TowerToHyperService::new(service);
            let builder = Builder::new(TokioExecutor::new());
            if let Err(error) = builder
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                eprintln!("{peer}: {error}");
            }
        });
    }
}
