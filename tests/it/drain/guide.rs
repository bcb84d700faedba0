//! The nginx settings of the deployment guide, with a real nginx.

use std::collections::HashSet;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http::HeaderMap;
use tokio::net::TcpListener;

use super::nginx::{Nginx, is_installed};

/// Serves the address of the peer, and the `Connection` header that it sent.
async fn upstream() -> SocketAddr {
    let peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>, headers: HeaderMap| {
        let connection = headers
            .get("connection")
            .map(|value| value.to_str().unwrap());
        format!("{peer} {}", connection.unwrap_or("-"))
    };
    let router = Router::new().route("/", get(peer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

/// The blocks of nginx settings in the guide.
fn blocks() -> Vec<&'static str> {
    let guide = include_str!("../../../docs/deployment.md");
    let blocks = guide.split("```nginx\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

/// Replaces what is there exactly once.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replace(old, new)
}

#[tokio::test]
async fn nginx_settings_of_the_guide_keep_connections_open() {
    if !is_installed() {
        return;
    }
    let blocks = blocks();
    let [server, map, headers] = blocks[..] else {
        panic!("{blocks:?}");
    };
    let with_upgrades = replaced(server, "proxy_set_header Connection \"\";", headers);
    for (name, http, upgrades) in [
        ("plain", server.to_owned(), "-"),
        ("upgrades", format!("{map}{with_upgrades}"), "upgrade"),
    ] {
        let upstream = upstream().await;
        let http = replaced(&http, "server 10.0.1.5:3000", &format!("server {upstream}"));
        let http = replaced(&http, "server 10.0.1.6:3000;", "");
        let listening =
            |address: SocketAddr| replaced(&http, "listen 443 ssl", &format!("listen {address}"));
        let nginx = Nginx::start_with(&format!("guide-{name}"), listening).await;
        let mut peers = HashSet::new();
        for _ in 0..20 {
            let answer = nginx.exchange("GET / HTTP/1.1\r\n", &[]).await.unwrap();
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let (peer, connection) = body.split_once(' ').unwrap();
            assert_eq!(connection, "-", "{name}");
            peers.insert(peer.to_owned());
        }
        assert_eq!(peers.len(), 1, "{name}");
        let upgrade = "GET / HTTP/1.1\r\nupgrade: websocket\r\n";
        let answer = nginx.exchange(upgrade, &[]).await.unwrap();
        assert!(
            answer.ends_with(&format!(" {upgrades}")),
            "{name}: {answer}"
        );
    }
}
