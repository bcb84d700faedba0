//! axum and tonic on one port, behind one door: each client is refused in its own
//! language.
//!
//! ```text
//! cargo run --example one_port --features tonic
//! curl -i localhost:3000/me                # 401, a problem document
//! curl -i --http2-prior-knowledge -X POST localhost:3000/grpc.health.v1.Health/Check \
//!   -H 'content-type: application/grpc'    # 200 with grpc-status: 16
//! ```

use std::env;
use std::error::Error;

use axum::routing::get;
use tokio::net::TcpListener;
use tollgate::authorize::{Rules, authenticated};
use tollgate::keys::{NewKey, Peppers};
use tollgate::{ApiKeys, AuthLayer, Identity, RequireLayer, scope};
use tonic::service::Routes;
use tonic_health::server::health_reporter;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    let issued = keys
        .issue(NewKey::for_owner("ann").scopes(["health"]))
        .await?;
    println!("key={}", issued.key.expose());

    let rules = Rules::new()
        .public("GET /")
        .route("GET /me", authenticated())
        .route("/grpc.health.v1.Health/*", scope("health"))
        .otherwise_deny();
    println!("{}", rules.report());
    // What is public is so behind a door that is optional; all else still needs a caller.
    let gates = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).optional())
        .layer(RequireLayer::new(rules));

    let (_, health) = health_reporter();
    let app = Routes::new(health)
        .into_axum_router()
        .route("/", get(|| async { "see /me\n" }))
        .route(
            "/me",
            get(|identity: Identity| async move { identity.subject().to_owned() }),
        )
        .layer(gates);

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
