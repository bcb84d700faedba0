//! An issuer rotates its keys, and an API that has never heard of them follows.
//!
//! ```text
//! cargo run --example jwks --features jwks
//! ```
//!
//! The issuer is a server of its own on loopback: what is fetched is fetched over HTTP.

use std::error::Error;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use tokio::net::TcpListener;
use tollgate::jwks::RemoteKeys;
use tollgate::testing::TestIssuer;
use tollgate::{AuthLayer, Identity, Jwt};
use tower::ServiceExt;

const AUDIENCE: &str = "https://api.example.com";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The issuer: its metadata, and a key set that changes.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = TestIssuer::new(&format!("http://{}", listener.local_addr()?));
    let server = Router::new().fallback_service(authority.clone());
    tokio::spawn(async move { axum::serve(listener, server).await });

    // The API knows the name of the issuer, and nothing else. Keys are read again every
    // second here; in earnest it is what the issuer's Cache-Control says.
    let second = Duration::from_secs(1);
    let keys = RemoteKeys::discover()
        .allow_loopback_http()
        .refresh_between(second, second);
    let jwt = Jwt::issuer(authority.url())
        .audience(AUDIENCE)
        .keys(keys)
        .build()?;
    let api = Router::new()
        .route(
            "/",
            get(async |identity: Identity| identity.subject().to_owned()),
        )
        .layer(AuthLayer::new(jwt.clone()));

    let start = Instant::now();
    let tell = async |event: &str, token: &str| {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::empty()).expect("the request is good");
        let Ok(response) = api.clone().oneshot(request).await;
        let status = jwt.status(SystemTime::now());
        let kids: Vec<_> = status[0].kids().flatten().collect();
        println!(
            "{:4} ms  {event:44} {}  keys {kids:?}, {} fetches",
            start.elapsed().as_millis(),
            response.status().as_u16(),
            status[0].fetches(),
        );
    };
    let token = || authority.token("ann").audience(AUDIENCE).sign();

    let old = token();
    tell("the first token: its keys are fetched", &old).await;
    tell("again: the token is remembered", &old).await;
    authority.rotate();
    let new = token();
    tell("a token of a new key: fetched ahead of time", &new).await;
    tell("a token of the old key, which stays", &old).await;
    authority.withdraw_old();
    tokio::time::sleep(3 * second).await;
    tell("a token of the old key, which was withdrawn", &old).await;
    tell("a token of the new key", &new).await;
    authority.set_down(true);
    tokio::time::sleep(3 * second).await;
    tell("the issuer is down: the last keys stay", &token()).await;
    Ok(())
}
