//! An API behind keys, in one file.
//!
//! ```text
//! cargo run --example quickstart
//! curl -i localhost:3000/orders -H "X-API-Key: <the reader_key that it prints>"
//! ```

use std::env;
use std::error::Error;
use std::time::{Duration, SystemTime};

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate::keys::{NewKey, Peppers};
use tollgate::{ApiKeys, AuthLayer, Identity, RequireLayer, role, scope};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Keys are stored as HMACs under a pepper. This one is gone with the process, and so
    // is the store: see `Peppers::from_env` and `KeyStore` for what stays.
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    let demo = DemoKeys::issue(&keys).await?;

    // A request without a key may see whether the server is up, and nothing else.
    let public = Router::new().route("/health", get(|| async { "ok" }));

    // What each route needs stands beside it.
    let orders = get(list_orders)
        .layer(RequireLayer::new(scope("orders:read")))
        .merge(
            axum::routing::post(create_order)
                .layer(RequireLayer::new(scope("orders:write") | role("admin"))),
        );
    let protected = Router::new()
        .route("/whoami", get(whoami))
        .route("/orders", orders)
        .layer(ServiceBuilder::new().layer(AuthLayer::new(keys).realm("acme")));

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    demo.print(&format!("http://{}", listener.local_addr()?));
    axum::serve(listener, public.merge(protected))
        .with_graceful_shutdown(async {
            tokio::signal::ctrl_c().await.ok();
        })
        .await?;
    Ok(())
}

/// Any caller that is known. The extractor is the identity that the layer found.
async fn whoami(identity: Identity) -> Json<Value> {
    Json(json!({
        "subject": identity.subject(),
        "tenant": identity.tenant(),
        "credential_id": identity.credential_id(),
        "scopes": identity.scopes().iter().collect::<Vec<_>>(),
        "roles": identity.roles().collect::<Vec<_>>(),
        "plan": identity.plan(),
    }))
}

async fn list_orders(identity: Identity) -> Json<Value> {
    Json(json!({ "orders": [{ "id": 1, "item": "tea" }], "seen_by": identity.subject() }))
}

async fn create_order(identity: Identity) -> (axum::http::StatusCode, Json<Value>) {
    (
        axum::http::StatusCode::CREATED,
        Json(json!({ "id": 2, "created_by": identity.subject() })),
    )
}

/// A key for each thing to try.
struct DemoKeys(Vec<(&'static str, String)>);

impl DemoKeys {
    async fn issue(keys: &ApiKeys) -> Result<Self, Box<dyn Error>> {
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let reader = || {
            NewKey::for_owner("reader")
                .tenant("demo")
                .scopes(["orders:read"])
        };
        let writer = NewKey::for_owner("writer").scopes(["orders:read", "orders:write"]);
        let admin = NewKey::for_owner("admin")
            .scopes(["orders:read"])
            .role("admin")
            .plan("pro");
        let expired = reader()
            .not_before(an_hour_ago - Duration::from_secs(3600))
            .expires_at(an_hour_ago);
        let mut issued = Vec::new();
        for (name, new) in [
            ("reader_key", reader()),
            ("writer_key", writer),
            ("admin_key", admin),
            ("expired_key", expired),
            ("revoked_key", reader()),
        ] {
            let key = keys.issue(new).await?;
            if name == "revoked_key" {
                keys.revoke(key.record.id).await?;
            }
            issued.push((name, key.key.expose().to_owned()));
        }
        Ok(Self(issued))
    }

    fn print(&self, url: &str) {
        for (name, key) in &self.0 {
            println!("{name}={key}");
        }
        let key = |name| {
            self.0
                .iter()
                .find(|(held, _)| *held == name)
                .map_or("", |(_, key)| key)
        };
        println!("\nlistening on {url}; try");
        println!("  curl -i {url}/health");
        println!("  curl -i {url}/whoami                               # 401: no key");
        for (method, path, name, outcome) in [
            ("GET", "/whoami", "reader_key", "200: who you are"),
            ("GET", "/orders", "reader_key", "200: may read"),
            ("POST", "/orders", "reader_key", "403: may not write"),
            ("POST", "/orders", "writer_key", "201: may write"),
            ("GET", "/orders", "expired_key", "401: its time is over"),
            ("GET", "/orders", "revoked_key", "401: it was revoked"),
        ] {
            let key = key(name);
            println!("  curl -i -X {method} {url}{path} -H 'X-API-Key: {key}'  # {outcome}");
        }
    }
}
