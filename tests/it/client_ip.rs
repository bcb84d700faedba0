//! The client address: resolved once per stack, and mistakes that the log reports.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use tollgate::auth::{AuthFailureLimitLayer, HttpsOnlyLayer};
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::limit::{ConcurrencyLayer, KeyBy, Quota, RateLimitLayer};
use tollgate::network::ClientIp;
use tollgate::usage::Usage;
use tollgate::{AuthLayer, UsageLayer};
use tower::{Layer, Service};

use super::ServiceBuilder;
use crate::support::{Events, clock, issue, keys_over, send, who, with};

fn from(peer: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    if let Ok(peer) = peer.parse::<IpAddr>() {
        request.extensions_mut().insert(SocketAddr::new(peer, 4711));
    }
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

fn proxies() -> ClientIp {
    ClientIp::new().trusted_proxies(["10.0.0.0/8"])
}

/// One request a minute and network, without a client address of its own.
fn limit() -> RateLimitLayer {
    RateLimitLayer::new([Quota::per_minute(1)])
        .key(KeyBy::network())
        .clock(clock())
}

/// Sends three requests of two clients behind one proxy.
async fn statuses<S, B>(service: &S) -> Vec<u16>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut statuses = Vec::new();
    for client in ["203.0.113.7", "203.0.113.8", "203.0.113.7"] {
        let request = from("10.0.0.9", &[("x-forwarded-for", client)]);
        statuses.push(send(service, request).await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn layers_inside_use_what_the_outermost_has_resolved() {
    let keys = || keys_over(MemoryKeys::new());
    let optional = || AuthLayer::new(keys()).optional();
    let apart = vec![200, 200, 429];
    let auth = optional().client_ip(proxies()).layer(limit().layer(who()));
    assert_eq!(statuses(&auth).await, apart, "auth");
    let usage = UsageLayer::new(Usage::new()).client_ip(proxies());
    assert_eq!(
        statuses(&usage.layer(limit().layer(who()))).await,
        apart,
        "usage"
    );
    let failures = AuthFailureLimitLayer::failures_per_minute(10).client_ip(proxies());
    assert_eq!(
        statuses(&failures.layer(limit().layer(who()))).await,
        apart,
        "failures"
    );
    let https = HttpsOnlyLayer::new().assume(tollgate::network::Transport::Tls);
    let https = https.client_ip(proxies());
    assert_eq!(
        statuses(&https.layer(limit().layer(who()))).await,
        apart,
        "https"
    );
    let outer = RateLimitLayer::new([Quota::per_minute(100)]).key(KeyBy::network());
    let outer = outer.client_ip(proxies());
    assert_eq!(
        statuses(&outer.layer(limit().layer(who()))).await,
        apart,
        "limit"
    );
    let concurrency = ConcurrencyLayer::per_caller(9).key(KeyBy::network());
    let concurrency = concurrency.client_ip(proxies());
    assert_eq!(
        statuses(&concurrency.layer(limit().layer(who()))).await,
        apart,
        "concurrency"
    );
}

#[tokio::test]
async fn layer_with_its_own_setting_decides_for_itself_and_inside() {
    let coarse = proxies().group_by_prefix(24, 48);
    let outer = UsageLayer::new(Usage::new()).client_ip(proxies());
    let inner = AuthLayer::new(keys_over(MemoryKeys::new()))
        .optional()
        .client_ip(coarse);
    let service = outer.layer(inner.layer(limit().layer(who())));
    assert_eq!(statuses(&service).await, [200, 429, 429], "one /24");
}

#[tokio::test]
async fn key_restricted_to_a_network_follows_the_outer_setting() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("alice").networks(["203.0.113.0/24"]);
    let key = issue(&keys, new).await;
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(Usage::new()).client_ip(proxies()))
        .layer(AuthLayer::new(keys))
        .service(who());
    for (client, status) in [("203.0.113.7", 200), ("198.51.100.7", 403)] {
        let fields = [("x-api-key", &*key), ("x-forwarded-for", client)];
        assert_eq!(
            send(&service, from("10.0.0.9", &fields)).await.status,
            status,
            "{client}"
        );
    }
}

#[tokio::test]
async fn failures_behind_nat64_are_counted_by_the_ipv4_address() {
    let layer = AuthFailureLimitLayer::failures_per_minute(1).clock(clock());
    let guess = issue(&keys_over(MemoryKeys::new()), NewKey::for_owner("eve")).await;
    let service = layer.layer(AuthLayer::new(keys_over(MemoryKeys::new())).layer(who()));
    let mut statuses = Vec::new();
    for peer in [
        "64:ff9b::203.0.113.1",
        "64:ff9b::198.51.100.7",
        "64:ff9b::203.0.113.1",
    ] {
        let request = from(peer, &[("x-api-key", &guess)]);
        statuses.push(send(&service, request).await.status.as_u16());
    }
    assert_eq!(statuses, [401, 401, 429]);
}

/// Sends requests through a layer that counts by network, and returns the warnings.
async fn warnings(
    client_ip: Option<ClientIp>,
    requests: impl IntoIterator<Item = Request<()>>,
) -> Vec<String> {
    let (events, _guard) = Events::listen();
    let layer = match client_ip {
        Some(client_ip) => limit().client_ip(client_ip),
        None => limit(),
    };
    let service = layer.layer(who());
    for request in requests {
        send(&service, request).await;
    }
    events.of("WARN")
}

#[tokio::test]
async fn proxy_field_of_an_untrusted_peer_is_reported_once() {
    for field in ["x-forwarded-for", "forwarded"] {
        let request = || from("192.0.2.1", &[(field, "203.0.113.7")]);
        for client_ip in [None, Some(proxies())] {
            let warnings =
                warnings(client_ip, [request(), request(), from("192.0.2.2", &[])]).await;
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            let text = &warnings[0];
            assert!(
                text.contains("peer=192.0.2.1") && text.contains(field),
                "{text}"
            );
            assert!(text.contains("trusted_proxies"), "{text}");
        }
    }
}

#[tokio::test]
async fn trusted_proxy_that_writes_the_other_field_is_reported_once() {
    let request = || from("10.0.0.1", &[("forwarded", "for=203.0.113.7")]);
    let found = warnings(Some(proxies()), [request(), request()]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("ClientIp::forwarded"), "{found:?}");
    let both = [
        ("forwarded", "for=203.0.113.7"),
        ("x-forwarded-for", "203.0.113.7"),
    ];
    let found = warnings(Some(proxies()), [from("10.0.0.1", &both)]).await;
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn missing_peer_address_is_reported_once_with_the_fix() {
    let found = warnings(None, [from("", &[]), from("", &[])]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("into_make_service_with_connect_info"),
        "{found:?}"
    );
}

#[tokio::test]
async fn layer_that_needs_no_address_does_not_miss_it() {
    let (events, _guard) = Events::listen();
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(Usage::new()))
        .layer(AuthLayer::new(keys))
        .layer(RateLimitLayer::new([Quota::per_minute(9)]))
        .service(who());
    assert_eq!(send(&service, with("x-api-key", &key)).await.status, 200);
    assert!(events.of("WARN").is_empty(), "{:?}", events.of("WARN"));
}
