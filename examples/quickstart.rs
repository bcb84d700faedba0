//! An API behind keys and tokens, in one file.
//!
//! ```text
//! cargo run --example quickstart
//! curl -i localhost:3000/orders -H "X-API-Key: <the reader_key that it prints>"
//! ```

use std::env;
use std::error::Error;
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate::auth::ProtectedResource;
use tollgate::keys::{NewKey, Peppers};
use tollgate::testing::TestIssuer;
use tollgate::usage::metrics::{Metrics, SIZE_BUCKETS, TIME_BUCKETS};
use tollgate::usage::{Snapshot, Usage};
use tollgate::{
    ApiKeys, AuthLayer, Identity, Jwt, Quota, RateLimitLayer, RequireLayer, UsageLayer, role, scope,
};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Keys are stored as HMACs under a pepper. This one is gone with the process, and so
    // is the store: see `Peppers::from_env` and `KeyStore` for what stays.
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    let mut demo = Demo::issue(&keys).await?;

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let url = format!("http://{}", listener.local_addr()?);

    // Users come with tokens of an authority. This one is a part of the program: with one of
    // your own, leave `keys` out, and its keys are fetched and kept up to date.
    let authority = TestIssuer::new("https://id.acme.example/");
    let jwt = Jwt::issuer(authority.url())
        .audience(&*url)
        .keys(authority.keys())
        .build()?;
    demo.sign(&authority, &url);
    let resource = ProtectedResource::new(&url)
        .authorization_server(authority.url())
        .scopes(["orders:read", "orders:write"]);

    // A request without a credential may see whether the server is up, and nothing else.
    let public = Router::new()
        .route("/health", get(|| async { "ok" }))
        .route_service(resource.path(), resource.clone());

    // What each route needs stands beside it.
    let orders: MethodRouter = get(list_orders)
        .layer(RequireLayer::new(scope("orders:read")))
        .merge(
            axum::routing::post(create_order)
                .layer(RequireLayer::new(scope("orders:write") | role("admin"))),
        );
    // Generous to a person, and not to a loop: ten a second, and a thousand at once.
    let limit = RateLimitLayer::new(Quota::per_second(10).burst(1_000));
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIME_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &SIZE_BUCKETS)?
        .build_recorder();
    let prometheus = recorder.handle();
    let tidied = prometheus.clone();
    tokio::spawn(async move {
        // Else it would keep each sample until somebody asks for a page.
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            tidied.run_upkeep();
        }
    });
    let metrics = Metrics::to_recorder(recorder);
    metrics.watch("tokens", &jwt);
    // Outside of all else: it counts those who are refused, too.
    let usage = Usage::builder().observer(metrics.clone()).build();
    let totals = usage.clone();
    let used = get(async move || Json::<Snapshot>(totals.snapshot()));
    let measured = get(async move || {
        metrics.refresh();
        let format = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
        (format, prometheus.render())
    });
    let admin = RequireLayer::new(role("admin"));
    let protected = Router::new()
        .route("/whoami", get(whoami))
        .route("/orders", orders.layer(limit))
        .route("/usage", used.layer(admin.clone()))
        .route("/metrics", measured.layer(admin))
        .layer(
            ServiceBuilder::new()
                .layer(UsageLayer::new(usage.clone()))
                .layer(
                    AuthLayer::new(keys.or(jwt))
                        .realm("acme")
                        .protected_resource(&resource),
                ),
        );

    demo.print(&url);
    axum::serve(listener, public.merge(protected))
        .with_graceful_shutdown(async {
            tokio::signal::ctrl_c().await.ok();
        })
        .await?;
    println!("\n{}", usage.snapshot());
    Ok(())
}

/// Any caller that is known. The extractor is the identity that the layer found.
async fn whoami(identity: Identity) -> Json<Value> {
    Json(json!({
        "subject": identity.subject(),
        "kind": format!("{:?}", identity.kind()),
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

async fn create_order(identity: Identity) -> (StatusCode, Json<Value>) {
    (
        StatusCode::CREATED,
        Json(json!({ "id": 2, "created_by": identity.subject() })),
    )
}

/// A credential for each thing to try.
struct Demo(Vec<(&'static str, String)>);

impl Demo {
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

    fn sign(&mut self, authority: &TestIssuer, audience: &str) {
        let token = |subject| {
            let token = authority.token(subject).audience(audience);
            token.expires_in(Duration::from_secs(3600))
        };
        let reader = || token("ann").scopes(["orders:read"]);
        let writer = token("bob").scopes(["orders:read", "orders:write"]);
        self.0.extend([
            ("reader_token", reader().sign()),
            ("writer_token", writer.sign()),
            (
                "expired_token",
                reader().expired(Duration::from_secs(3600)).sign(),
            ),
            ("alg_none_token", reader().unsigned()),
        ]);
    }

    fn print(&self, url: &str) {
        for (name, credential) in &self.0 {
            println!("{name}={credential}");
        }
        let credential = |name| {
            let mut held = self.0.iter();
            held.find(|(held, _)| *held == name)
                .map_or("", |(_, credential)| credential)
        };
        println!("\nlistening on {url}; try");
        println!("  curl -i {url}/health");
        println!("  curl -i {url}/whoami                               # 401: no credential");
        for (method, path, name, outcome) in [
            ("GET", "/whoami", "reader_key", "200: who you are"),
            ("GET", "/orders", "reader_key", "200: may read"),
            ("POST", "/orders", "reader_key", "403: may not write"),
            ("POST", "/orders", "writer_key", "201: may write"),
            ("GET", "/orders", "expired_key", "401: its time is over"),
            ("GET", "/orders", "revoked_key", "401: it was revoked"),
            ("GET", "/whoami", "reader_token", "200: a user"),
            ("POST", "/orders", "reader_token", "403: may not write"),
            ("POST", "/orders", "writer_token", "201: may write"),
            ("GET", "/orders", "expired_token", "401: its time is over"),
            ("GET", "/orders", "alg_none_token", "401: nobody signed it"),
            ("GET", "/usage", "admin_key", "200: who has used what"),
            ("GET", "/metrics", "admin_key", "200: for Prometheus"),
        ] {
            let credential = credential(name);
            let field = if name.ends_with("_key") {
                format!("X-API-Key: {credential}")
            } else {
                format!("Authorization: Bearer {credential}")
            };
            println!("  curl -i -X {method} {url}{path} -H '{field}'  # {outcome}");
        }
        println!("  curl -i {url}/.well-known/oauth-protected-resource  # where to get a token");
        println!(
            "  curl -s -o /dev/null -w '%{{http_code}}\\n' '{url}/orders?[1-1500]' -H 'X-API-Key: {}' | uniq -c  # 429 after a thousand",
            credential("reader_key")
        );
    }
}
