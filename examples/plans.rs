//! Callers on plans: what each may use, what a request costs, and a plan that changes while
//! the server runs.
//!
//! ```text
//! cargo run --example plans
//! curl -i localhost:3000/complete -H "X-API-Key: <the pro_key that it prints>"
//! ```

use std::env;
use std::error::Error;

use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate::keys::{NewKey, Peppers};
use tollgate::limit::{Control, Cost, LimitKey, Plans, Quota, Quotas};
use tollgate::{ApiKeys, AuthLayer, Identity, RateLimitLayer, RequireLayer, role};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    for (name, new) in [
        ("free_key", NewKey::for_owner("fred")),
        ("pro_key", NewKey::for_owner("paula").plan("pro")),
        (
            "admin_key",
            NewKey::for_owner("admin").plan("internal").role("admin"),
        ),
    ] {
        println!("{name}={}", keys.issue(new).await?.key.expose());
    }

    // Units are what the API sells: a completion costs as many as it has words, and that is
    // known only when it is done. Until then it is held to cost ten.
    let plans = Plans::new(units(100))
        .plan("pro", units(1_000))
        .unlimited("internal");
    let limit = RateLimitLayer::by_plan(plans.clone())
        .cost(|parts| {
            if parts.uri.path() == "/complete" {
                10
            } else {
                0
            }
        })
        .refund_server_errors();

    let (control, known) = (limit.control(), plans.clone());
    let app = Router::new()
        .route("/complete", get(complete))
        .route(
            "/left",
            get(move |identity: Identity| left(control, known, identity)),
        )
        .route(
            "/upgrade",
            post(async move || upgrade(&plans)).layer(RequireLayer::new(role("admin"))),
        )
        .layer(
            ServiceBuilder::new()
                .layer(AuthLayer::new(keys))
                .layer(limit),
        );

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!(
        "listening on http://{}; try /complete, /left, and POST /upgrade",
        listener.local_addr()?
    );
    axum::serve(listener, app).await?;
    Ok(())
}

fn units(a_minute: u32) -> Quotas {
    Quotas::from(Quota::per_minute(a_minute).named("units"))
}

/// The answer says what it has cost: the difference to what was charged is made up.
async fn complete() -> impl IntoResponse {
    let text = "the tea is ready and so am I";
    let words = u32::try_from(text.split(' ').count()).unwrap_or(u32::MAX);
    (Extension(Cost(words)), text)
}

/// Looking costs nothing. Who has no limit is told null.
async fn left(control: Control, plans: Plans, identity: Identity) -> Json<Value> {
    let mut left = None;
    if let Some(quotas) = plans.of(identity.plan()) {
        let caller = LimitKey::principal(identity.principal());
        let standing = control.peek(&caller, &quotas).await;
        left = standing.ok().and_then(|it| it.remaining(&quotas).next());
    }
    Json(json!({ "units": left }))
}

/// From the next request on.
fn upgrade(plans: &Plans) -> &'static str {
    plans.set("pro", units(2_000));
    "pro has 2,000 units a minute now\n"
}
