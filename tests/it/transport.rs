//! Plain HTTP: rows 22 and 23.

use std::net::SocketAddr;

use http::Request;
use tollgate::auth::HttpsOnlyLayer;
use tollgate::keys::{EndCause, KeyState, MemoryKeys, NewKey};
use tollgate::network::{ClientIp, Transport};
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use super::ServiceBuilder;
use crate::support::{NOW, clock, get, issue, keys_over, send, who, with};

fn with_peer(mut request: Request<()>, peer: &str) -> Request<()> {
    request
        .extensions_mut()
        .insert(SocketAddr::new(peer.parse().unwrap(), 4711));
    request
}

#[tokio::test]
async fn what_is_not_known_to_be_tls_is_refused_alike_whatever_it_shows() {
    let keys = keys_over(MemoryKeys::new());
    let good = issue(&keys, NewKey::for_owner("alice")).await;
    let service = ServiceBuilder::new()
        .layer(HttpsOnlyLayer::new())
        .layer(AuthLayer::new(keys))
        .service(who());
    let mut answers = Vec::new();
    for request in [
        get(),
        with("x-api-key", &good),
        with("x-api-key", "nonsense"),
        with("authorization", format!("Bearer {good}")),
        with("authorization", "Bearer {"),
        with("x-forwarded-proto", "https"),
        with("forwarded", "proto=https"),
    ] {
        let answer = send(&service, request).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (403, "insecure_transport")
        );
        assert_eq!(answer.header("location"), None, "no redirect");
        assert!(answer.challenges().is_empty());
        answers.push(answer.wire());
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn the_transport_is_known_from_the_server_from_trusted_proxies_or_is_fixed() {
    let trusting = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let proxied = |proto: &str| with_peer(with("x-forwarded-proto", proto), "10.0.0.1");
    let tagged = |mut request: Request<()>, transport| {
        request.extensions_mut().insert(transport);
        request
    };
    let layer = HttpsOnlyLayer::new().client_ip(trusting);
    for (request, status) in [
        (tagged(get(), Transport::Tls), 200),
        (tagged(get(), Transport::Plain), 403),
        (proxied("https"), 200),
        (proxied("http"), 403),
        (
            with_peer(with("x-forwarded-proto", "https"), "9.9.9.9"),
            403,
        ),
        // The proxy speaks TLS to us, and plain HTTP to the client.
        (tagged(proxied("http"), Transport::Tls), 403),
        (tagged(proxied("https"), Transport::Plain), 200),
        (with_peer(get(), "127.0.0.1"), 403),
    ] {
        let asked = format!("{:?} {:?}", request.headers(), request.extensions());
        assert_eq!(
            send(&layer.layer(who()), request).await.status,
            status,
            "{asked}"
        );
    }
    let local = layer.clone().allow_loopback();
    assert_eq!(
        send(&local.layer(who()), with_peer(get(), "127.0.0.1"))
            .await
            .status,
        200
    );
    assert_eq!(
        send(&local.layer(who()), with_peer(get(), "::1"))
            .await
            .status,
        200
    );
    assert_eq!(
        send(&local.layer(who()), with_peer(get(), "9.9.9.9"))
            .await
            .status,
        403
    );
    let fixed = HttpsOnlyLayer::new().assume(Transport::Tls);
    assert_eq!(send(&fixed.layer(who()), get()).await.status, 200);
}

#[tokio::test]
async fn a_client_cannot_talk_its_proxy_into_tls() {
    let trusting = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let layer = HttpsOnlyLayer::new().client_ip(trusting.clone());
    let forwarded = HttpsOnlyLayer::new().client_ip(trusting.forwarded());
    for (layer, field, value) in [
        (&layer, "x-forwarded-proto", &b"\xff, http"[..]),
        (&layer, "x-forwarded-proto", b"https, http"),
        (
            &forwarded,
            "forwarded",
            br#"proto=https;x="\"", for=1.2.3.4;proto=http"#,
        ),
        (
            &forwarded,
            "forwarded",
            br#"proto=https;x=", for=1.2.3.4;proto=http"#,
        ),
        (&forwarded, "forwarded", b"proto=\xff, proto=http"),
    ] {
        // The proxy speaks TLS to us.
        let mut request = with_peer(with(field, value), "10.0.0.1");
        request.extensions_mut().insert(Transport::Tls);
        let answer = send(&layer.layer(who()), request).await;
        assert_eq!(answer.status, 403, "{}", value.escape_ascii());
    }
}

#[tokio::test]
async fn a_client_behind_a_local_proxy_is_not_local_whatever_it_writes() {
    let local = ClientIp::new().trusted_proxies(["127.0.0.1"]);
    for (network, field, value) in [
        (local.clone(), "x-forwarded-for", &b"\xff, 1.2.3.4"[..]),
        (local.clone(), "x-forwarded-for", b"1.2.3.4, garbage"),
        (
            local.forwarded(),
            "forwarded",
            br#"x=", for=1.2.3.4;proto=http"#,
        ),
    ] {
        let layer = HttpsOnlyLayer::new().client_ip(network);
        let request = with_peer(with(field, value), "127.0.0.1");
        let answer = send(&layer.allow_loopback().layer(who()), request).await;
        assert_eq!(answer.status, 403, "{}", value.escape_ascii());
    }
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_key_that_was_sent_in_clear_is_ended_and_says_so_later() {
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let key = issued.key.expose();
    let https = HttpsOnlyLayer::new().burn(keys.clone(), 5).clock(clock());
    let stack = ServiceBuilder::new()
        .layer(https)
        .layer(AuthLayer::new(keys.clone()).clock(clock()))
        .service(who());
    let mut plain = with_peer(with("authorization", format!("Bearer {key}")), "192.0.2.7");
    plain.extensions_mut().insert(Transport::Plain);
    assert_eq!(send(&stack, plain).await.code(), "insecure_transport");
    settle().await;
    let mut secure = with("x-api-key", key);
    secure.extensions_mut().insert(Transport::Tls);
    let answer = send(&stack, secure).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (401, "credential_exposed")
    );
    assert!(answer.challenges()[0].contains("invalid_token"));
}

async fn burnt(keys: &ApiKeys, id: tollgate::keys::KeyId) -> bool {
    settle().await;
    let state = keys.get(id).await.unwrap().unwrap().state(NOW);
    state == KeyState::Ended(EndCause::CleartextExposure)
}

#[tokio::test]
async fn guessing_in_clear_ends_nobodys_key_and_is_budgeted_by_network() {
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let stranger = issue(&keys_over(MemoryKeys::new()), NewKey::for_owner("eve")).await;
    let service = HttpsOnlyLayer::new()
        .burn(keys.clone(), 3)
        .clock(clock())
        .layer(who());
    let in_clear = |key: &str, peer: &str| {
        let mut request = with_peer(with("x-api-key", key), peer);
        request.extensions_mut().insert(Transport::Plain);
        request
    };
    // The right id with another secret.
    let mut wrong = issued.key.expose()[..22].to_owned();
    wrong.push_str(&stranger[22..]);
    for key in [&wrong, &stranger, &stranger] {
        send(&service, in_clear(key, "192.0.2.7")).await;
    }
    assert!(!burnt(&keys, issued.record.id).await);
    // The budget of that network is spent; another has its own.
    let key = issued.key.expose();
    send(&service, in_clear(key, "192.0.2.7")).await;
    assert!(!burnt(&keys, issued.record.id).await);
    send(&service, in_clear(key, "192.0.2.8")).await;
    assert!(burnt(&keys, issued.record.id).await);
}

/// A proxy that writes `X-Forwarded-Proto` only speaks of the connection that it accepted.
#[tokio::test]
async fn proxy_that_names_no_client_says_how_it_was_reached() {
    for (proto, status, revoked) in [("wss", 200, false), ("ws", 403, true), ("http", 403, true)] {
        let keys = keys_over(MemoryKeys::new());
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let layer = HttpsOnlyLayer::new().burn(keys.clone(), 5).clock(clock());
        let proxies = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
        let service = layer.client_ip(proxies).layer(who());
        let mut request = with_peer(with("x-api-key", issued.key.expose()), "10.0.0.1");
        let headers = request.headers_mut();
        headers.insert("x-forwarded-proto", proto.parse().unwrap());
        assert_eq!(send(&service, request).await.status, status, "{proto}");
        assert_eq!(burnt(&keys, issued.record.id).await, revoked, "{proto}");
    }
}

/// The proxy next to the server may be reached in cleartext by another proxy.
#[tokio::test]
async fn cleartext_between_two_proxies_revokes_nothing() {
    let trusting = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    for (proto, status, revoked) in [
        ("https, http", 200, false),
        ("https", 200, false),
        ("http", 403, false),
        ("http, http", 403, true),
        ("http, https", 403, true),
    ] {
        let keys = keys_over(MemoryKeys::new());
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let layer = HttpsOnlyLayer::new().burn(keys.clone(), 5).clock(clock());
        let service = layer.client_ip(trusting.clone()).layer(who());
        let mut request = with_peer(with("x-api-key", issued.key.expose()), "10.0.0.1");
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.7, 10.0.0.2"),
            ("x-forwarded-proto", proto),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(send(&service, request).await.status, status, "{proto}");
        assert_eq!(burnt(&keys, issued.record.id).await, revoked, "{proto}");
    }
}

/// A key is ended for ever only if a trusted party itself said that it came in cleartext.
#[tokio::test]
async fn exposed_key_is_revoked_only_on_explicit_cleartext() {
    let trusting = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let cases = [
        ("10.0.0.1", Some("wss"), None, 200, false),
        ("10.0.0.1", Some("WSS"), None, 200, false),
        (
            "10.0.0.1",
            Some("https"),
            Some(Transport::Plain),
            200,
            false,
        ),
        ("10.0.0.1", Some("ws"), None, 403, true),
        ("10.0.0.1", Some("http"), None, 403, true),
        ("10.0.0.1", Some("https, http"), None, 403, true),
        ("10.0.0.1", Some("http, https"), None, 403, false),
        ("10.0.0.1", Some("h2c"), None, 403, false),
        ("10.0.0.1", Some(","), None, 403, false),
        ("10.0.0.1", Some("http;"), None, 403, false),
        ("10.0.0.1", None, None, 403, false),
        // About the connection between the proxy and the server.
        ("10.0.0.1", None, Some(Transport::Plain), 403, false),
        ("192.0.2.1", Some("http"), None, 403, false),
        ("192.0.2.1", None, None, 403, false),
        ("192.0.2.1", None, Some(Transport::Plain), 403, true),
        // Perhaps a proxy that is not configured.
        (
            "192.0.2.1",
            Some("https"),
            Some(Transport::Plain),
            403,
            false,
        ),
        ("192.0.2.1", Some("http"), Some(Transport::Tls), 200, false),
    ];
    for (peer, proto, inserted, status, revoked) in cases {
        let keys = keys_over(MemoryKeys::new());
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let layer = HttpsOnlyLayer::new().burn(keys.clone(), 5).clock(clock());
        let service = layer.client_ip(trusting.clone()).layer(who());
        let mut request = with_peer(with("x-api-key", issued.key.expose()), peer);
        if let Some(proto) = proto {
            let headers = request.headers_mut();
            headers.insert("x-forwarded-proto", proto.parse().unwrap());
            headers.insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
        }
        if let Some(inserted) = inserted {
            request.extensions_mut().insert(inserted);
        }
        let case = format!("{peer} {proto:?} {inserted:?}");
        assert_eq!(send(&service, request).await.status, status, "{case}");
        assert_eq!(burnt(&keys, issued.record.id).await, revoked, "{case}");
    }
}
