//! A WebSocket that closes when the key of its client ends.
//!
//! ```text
//! cargo run --example websocket
//! ```
//!
//! It prints what to paste into the console of a browser. The key ends after a while:
//! the socket closes with 1008 (policy violation). So it does at once if the key is
//! revoked, by `curl -X DELETE`.

use std::env;
use std::error::Error;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use axum::routing::{delete, get};
use tokio::net::TcpListener;
use tokio::time::interval;
use tollgate::auth::Source;
use tollgate::keys::{KeyId, NewKey, Peppers};
use tollgate::lapse::Lapse;
use tollgate::{ApiKeys, AuthLayer, Identity};

async fn open(identity: Identity, upgrade: WebSocketUpgrade) -> Response {
    // The browser offered this protocol, and beside it the key, which is gone from the list.
    upgrade
        .protocols(["ticks.v1"])
        .on_upgrade(move |socket| tick(identity, socket))
}

async fn tick(identity: Identity, mut socket: WebSocket) {
    let mut lapsed = Box::pin(identity.lapsed());
    let mut ticks = interval(Duration::from_millis(500));
    let lapse = loop {
        tokio::select! {
            lapse = &mut lapsed => break lapse,
            _ = ticks.tick() => {
                let text = format!("tick, {}", identity.subject());
                if socket.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    };
    let reason = match lapse {
        Lapse::Expired => "the key has expired",
        _ => "the key was revoked",
    };
    let close = CloseFrame {
        code: close_code::POLICY,
        reason: reason.into(),
    };
    // The client may be gone already.
    let _ = socket.send(Message::Close(Some(close))).await;
}

async fn revoke(State((keys, id)): State<(ApiKeys, KeyId)>) -> String {
    match keys.revoke(id).await {
        Ok(_) => "revoked\n".into(),
        Err(error) => format!("{error}\n"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let life = env::var("LIFE_SECONDS").map_or(Ok(60), |life| life.parse())?;
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    let end = SystemTime::now() + Duration::from_secs(life);
    let issued = keys.issue(NewKey::for_owner("ann").expires_at(end)).await?;
    let key = issued.key.expose();
    println!("key={key}");

    // Browsers can set no other field on a WebSocket.
    let sources = [Source::authorization(), Source::websocket_protocol("key.")];
    let app = Router::new()
        .route("/ticks", get(open))
        .layer(AuthLayer::new(keys.clone()).sources(sources))
        // For the demonstration only: who may revoke keys is for you to say.
        .route(
            "/key",
            delete(revoke).with_state((keys.clone(), issued.record.id)),
        );

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    println!("ws = new WebSocket('ws://{address}/ticks', ['ticks.v1', 'key.{key}']);");
    println!("ws.onmessage = ws.onclose = (event) => console.log(event.data ?? event.code);");
    println!("curl -X DELETE http://{address}/key");
    println!("listening on http://{address}");
    axum::serve(listener, app).await?;
    Ok(())
}
