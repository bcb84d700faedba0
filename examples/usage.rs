//! Usage: what callers have used, in units of the API's own, and records for a bill.
//!
//! ```text
//! cargo run --example usage
//! curl localhost:3000/tell -H "X-API-Key: <the ann_key that it prints>"
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures_util::stream::{self, StreamExt};
use tokio::net::TcpListener;
use tollgate::keys::{NewKey, Peppers};
use tollgate::usage::{Record, Sink, SinkError, Total, Usage, UsageSlot};
use tollgate::{ApiKeys, AuthLayer, Identity, UsageLayer};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    let ann = keys.issue(NewKey::for_owner("ann")).await?;
    println!("ann_key={}", ann.key.expose());

    let usage = Usage::builder().units(["words"]).sink(Bill).build();
    let app = Router::new()
        .route("/tell", get(tell))
        .route("/used", get(used))
        .layer(
            ServiceBuilder::new()
                .layer(UsageLayer::new(usage.clone()))
                .layer(AuthLayer::new(keys)),
        )
        .with_state(usage.clone());

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!(
        "listening on http://{}; try /tell, /used, and Ctrl-C",
        listener.local_addr()?
    );
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            tokio::signal::ctrl_c().await.ok();
        })
        .await?;

    // Nobody is served any more: what waits for the sink has five seconds.
    for sink in usage.shutdown(Duration::from_secs(5)).await {
        println!("delivered {}, lost {}", sink.delivered, sink.lost);
    }
    println!("\n{}", usage.snapshot());
    Ok(())
}

/// A stream is counted as it goes: who hangs up pays for the words that were told.
async fn tell(Extension(usage): Extension<UsageSlot>) -> Body {
    let words = stream::iter("once there was a gate ".split_inclusive(' '));
    Body::from_stream(words.map(move |word| {
        usage.add("words", 1);
        Ok::<_, std::convert::Infallible>(word)
    }))
}

async fn used(State(usage): State<Usage>, caller: Identity) -> Json<Option<Total>> {
    Json(usage.of(caller.principal()))
}

/// Gets each record at least once: its id tells whether it was there before.
struct Bill;

impl Sink<Record> for Bill {
    async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
        for record in batch {
            let line = serde_json::to_string(record).map_err(SinkError::rejected)?;
            println!("bill {line}");
        }
        Ok(())
    }
}
