//! A key that is rotated under load, without one refused request.
//!
//! ```text
//! cargo run --example rotation
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use tokio::sync::watch;
use tollgate::keys::{Cached, KeyEventKind, MemoryKeys, NewKey, Peppers, Rotation};
use tollgate::{ApiKeys, AuthLayer, Identity};
use tower::ServiceExt;

const GRACE: Duration = Duration::from_millis(1_200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let log = move |text: String| println!("{:>5} ms  {text}", start.elapsed().as_millis());

    // Any store can stand behind the cache; how long another node may take to notice a
    // change is one number.
    let store = Cached::new(MemoryKeys::new()).fresh_for(Duration::from_millis(100));
    let keys = ApiKeys::new(store, Peppers::random())
        .prefix("acme")
        .on_event(move |event| match event.kind {
            KeyEventKind::Issued => log(format!("{} issued", event.id)),
            KeyEventKind::RotatedTo(to) => log(format!("{} has a successor: {to}", event.id)),
            KeyEventKind::UsedInGrace { .. } => log(format!("{} used in its grace", event.id)),
            KeyEventKind::UsedAfterEnd(_) => log(format!("{} used after its end", event.id)),
            _ => {}
        });
    log(format!(
        "a change on another node is noticed within {:?}",
        keys.revocation_bound()
    ));

    let old = keys
        .issue(NewKey::for_owner("acct_1").name("export"))
        .await?;
    let app = Router::new()
        .route(
            "/",
            get(async |identity: Identity| identity.subject().to_owned()),
        )
        .layer(AuthLayer::new(keys.clone()));

    // Clients that learn of the new key one after another, as deployments do.
    let (publish, published) = watch::channel(old.key.expose().to_owned());
    let (accepted, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for client in 0..8_u64 {
        let (app, mut published) = (app.clone(), published.clone());
        let (accepted, refused) = (Arc::clone(&accepted), Arc::clone(&refused));
        clients.push(tokio::spawn(async move {
            let mut key = published.borrow_and_update().clone();
            let mut moves_at = None;
            while start.elapsed() < Duration::from_secs(2) {
                if published.has_changed().unwrap_or(false) {
                    published.mark_unchanged();
                    moves_at = Some(start.elapsed() + Duration::from_millis(100 * (client + 1)));
                }
                if moves_at.is_some_and(|at| start.elapsed() >= at) {
                    key = published.borrow().clone();
                    moves_at = None;
                }
                let request = Request::get("/").header("x-api-key", &key);
                let request = request
                    .body(Body::empty())
                    .expect("a key is a header value");
                let response = app
                    .clone()
                    .oneshot(request)
                    .await
                    .expect("a router does not fail");
                let count = if response.status() == 200 {
                    &accepted
                } else {
                    &refused
                };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
    }

    tokio::time::sleep(Duration::from_millis(400)).await;
    // The token makes it safe to repeat, should the answer get lost.
    let rotation = Rotation::with_grace(GRACE).token("5f0e6a52-8d0b-4a53-9f0e-6f1d2b7c9e55");
    let new = keys.rotate(old.record.id, rotation).await?;
    publish.send(new.key.expose().to_owned())?;
    log(format!(
        "the old key is good for {GRACE:?} more; clients are told of the new one"
    ));

    for client in clients {
        client.await?;
    }
    let (accepted, refused) = (
        accepted.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
    );
    log(format!("{accepted} requests accepted, {refused} refused"));

    let late = Request::get("/")
        .header("x-api-key", old.key.expose())
        .body(Body::empty())?;
    let status = app.oneshot(late).await?.status();
    log(format!("the old key now: {status}"));
    assert_eq!((refused, status.as_u16()), (0, 401));
    Ok(())
}
