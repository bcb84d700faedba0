//! An audit trail: a key has leaked, and one call says what it was used for.
//!
//! ```text
//! cargo run --example audit
//! curl localhost:3000/orders -H "X-API-Key: <the ann_key that it prints>"
//! curl -X POST localhost:3000/report/<the id in it> -H "X-API-Key: <the admin_key>"
//! ```

use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tollgate::audit::{Activity, Audit, Event};
use tollgate::keys::{KeyError, KeyId, NewKey, Peppers};
use tollgate::usage::{Sink, SinkError, Usage};
use tollgate::{ApiKeys, AuthLayer, RequireLayer, UsageLayer, role};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let audit = Audit::builder().sink(Print).build();
    let keys = ApiKeys::in_memory(Peppers::random())
        .prefix("acme")
        .audit(audit.clone());
    for new in [
        NewKey::for_owner("ann"),
        NewKey::for_owner("admin").role("admin"),
    ] {
        let issued = keys.issue(new).await?;
        println!("{}_key={}", issued.record.owner, issued.key.expose());
    }

    let usage = Usage::builder().audit(audit.clone()).build();
    let report = post(report).layer(RequireLayer::new(role("admin")));
    let app = Router::new()
        .route("/orders", get(|| async { "tea" }))
        .route("/secrets", get(|| async { "the tea is green" }))
        .route("/report/{id}", report)
        .layer(
            ServiceBuilder::new()
                .layer(UsageLayer::new(usage))
                .layer(AuthLayer::new(keys.clone())),
        )
        .with_state(keys);

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!(
        "listening on http://{}; try /orders, /secrets, /report/{{id}}, and Ctrl-C",
        listener.local_addr()?
    );
    // With the address of the peer, so that the trail has it.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            tokio::signal::ctrl_c().await.ok();
        })
        .await?;
    audit.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Ends a key, and says what it was used for. Its id is the part of it behind `acme_live_`.
async fn report(
    State(keys): State<ApiKeys>,
    Path(id): Path<String>,
) -> Result<Json<Option<Activity>>, StatusCode> {
    let id: KeyId = id.parse().map_err(|_| StatusCode::NOT_FOUND)?;
    match keys.report_compromised(id).await {
        Ok(report) => Ok(Json(report.activity)),
        Err(KeyError::NotFound) => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Yours is a file, a queue, a table: an event has an id, so that it can be told apart from one
/// that is there already.
struct Print;

impl Sink<Event> for Print {
    async fn deliver(&self, batch: &[Event]) -> Result<(), SinkError> {
        for event in batch {
            let line = serde_json::to_string(event).map_err(SinkError::rejected)?;
            println!("event {line}");
        }
        Ok(())
    }
}
