//! Credentials in cookies, and requests that other sites make.

use std::net::SocketAddr;

use http::Request;
use tollgate::auth::Source;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::network::{ClientIp, Transport};
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{issue, keys_over, send, who};

async fn layer() -> (AuthLayer<ApiKeys>, String) {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    (AuthLayer::new(keys).sources([Source::cookie("key")]), key)
}

/// A request to `api.example.com` with the key in its cookie.
fn request(method: &str, key: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .method(method)
        .header("cookie", format!("key={key}"));
    if !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "api.example.com");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

type Fields<'a> = &'a [(&'a str, &'a str)];

const WEBSOCKET: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "websocket")];
const OWN: (&str, &str) = ("origin", "https://api.example.com");
const EVIL: (&str, &str) = ("origin", "https://evil.example");

#[tokio::test]
async fn unsafe_request_of_another_site_is_rejected() {
    let (layer, key) = layer().await;
    let service = layer.layer(who());
    let cases: [(Fields<'_>, u16); 16] = [
        (&[], 200), // not a browser
        (&[OWN], 200),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (
            &[("sec-fetch-site", "same-origin"), ("origin", "null")],
            200,
        ),
        (&[("sec-fetch-site", "same-origin"), EVIL], 200),
        (&[EVIL], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "api.example.com")], 403),
        (&[("origin", "")], 403),
        (&[OWN, EVIL], 403),
        (&[("origin", "https://api.example.com.evil.example")], 403),
        (&[("sec-fetch-site", "cross-site"), OWN], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (
            &[
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-site", "cross-site"),
            ],
            403,
        ),
        (&[("sec-fetch-site", "")], 403),
    ];
    for (fields, status) in cases {
        for method in ["POST", "PUT", "DELETE", "PATCH", "CONNECT", "QUERY"] {
            let answer = send(&service, request(method, &key, fields)).await;
            assert_eq!(answer.status, status, "{method} {fields:?}");
        }
        // A WebSocket handshake is a GET that opens a connection (RFC 6455 §10.2).
        let handshake = [&WEBSOCKET[..], fields].concat();
        let answer = send(&service, request("GET", &key, &handshake)).await;
        assert_eq!(answer.status, status, "handshake {fields:?}");
        for method in ["GET", "HEAD", "OPTIONS"] {
            let answer = send(&service, request(method, &key, fields)).await;
            assert_eq!(answer.status, 200, "{method} {fields:?} is safe");
        }
    }
}

#[tokio::test]
async fn origin_is_compared_with_the_host_as_rfc_6454_says() {
    let (layer, key) = layer().await;
    let proxies = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let service = layer.client_ip(proxies).layer(who());
    let own = "https://api.example.com";
    let cases: [(&str, Fields<'_>, u16); 12] = [
        (own, &[("host", "api.example.com:443")], 200),
        (own, &[("host", "API.Example.com")], 200),
        ("HTTPS://API.example.com:443", &[], 200),
        (
            "http://api.example.com",
            &[("host", "api.example.com:80")],
            200,
        ),
        (
            "https://api.example.com:8443",
            &[("host", "api.example.com:8443")],
            200,
        ),
        ("https://api.example.com:8443", &[], 403),
        (own, &[("host", "api.example.com:8443")], 403),
        (own, &[("host", "api.example.com:80")], 403),
        (
            "http://api.example.com",
            &[("host", "api.example.com:443")],
            403,
        ),
        // Only a trusted proxy can say that the client asked for another host.
        (
            own,
            &[
                ("host", "10.1.2.3:8080"),
                ("x-forwarded-host", "api.example.com"),
            ],
            200,
        ),
        (
            own,
            &[
                ("host", "10.1.2.3:8080"),
                ("x-forwarded-host", "evil.example, API.example.com:443"),
            ],
            200,
        ),
        (
            own,
            &[
                ("host", "10.1.2.3:8080"),
                ("x-forwarded-host", "evil.example"),
            ],
            403,
        ),
    ];
    for (origin, fields, status) in cases {
        let fields = [&[("origin", origin)], fields].concat();
        let mut behind_proxy = request("POST", &key, &fields);
        let proxy: SocketAddr = "10.0.0.1:4711".parse().unwrap();
        behind_proxy.extensions_mut().insert(proxy);
        let answer = send(&service, behind_proxy).await;
        assert_eq!(answer.status, status, "{fields:?}");

        let mut direct = request("POST", &key, &fields);
        let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
        direct.extensions_mut().insert(peer);
        let is_forwarded = fields.iter().any(|(name, _)| *name == "x-forwarded-host");
        let status = if is_forwarded { 403 } else { status };
        assert_eq!(
            send(&service, direct).await.status,
            status,
            "direct {fields:?}"
        );
    }
}

/// The first proxy was asked for the host that the client knows, the second one for an inner one.
#[tokio::test]
async fn host_behind_two_proxies_is_that_of_the_outer_one() {
    let (layer, key) = layer().await;
    let proxies = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let x_forwarded = layer.clone().client_ip(proxies.clone()).layer(who());
    let forwarded = layer.client_ip(proxies.forwarded()).layer(who());
    let origin = ("origin", "https://api.example.com");
    let proxy: SocketAddr = "10.0.0.1:4711".parse().unwrap();
    for host in ["api.example.com, inner.internal", "api.example.com"] {
        let fields = [
            origin,
            ("host", "inner.internal"),
            ("x-forwarded-for", "203.0.113.7, 10.0.0.2"),
            ("x-forwarded-host", host),
        ];
        let mut request = request("POST", &key, &fields);
        request.extensions_mut().insert(proxy);
        assert_eq!(send(&x_forwarded, request).await.status, 200, "{host}");
    }
    for line in [
        "for=203.0.113.7;host=api.example.com, for=10.0.0.2;host=inner.internal",
        "for=203.0.113.7;host=api.example.com, for=10.0.0.2",
    ] {
        let fields = [origin, ("host", "inner.internal"), ("forwarded", line)];
        let mut request = request("POST", &key, &fields);
        request.extensions_mut().insert(proxy);
        assert_eq!(send(&forwarded, request).await.status, 200, "{line}");
    }
}

#[tokio::test]
async fn application_with_a_scheme_of_its_own_is_another_origin() {
    let (layer, key) = layer().await;
    for (origin, host) in [
        ("capacitor://localhost", "localhost"),
        ("ionic://localhost", "localhost"),
        ("ftp://api.example.com", "api.example.com"),
        ("chrome-extension://abcdef", "abcdef"),
    ] {
        let fields = [("origin", origin), ("host", host)];
        let answer = send(&layer.clone().layer(who()), request("POST", &key, &fields)).await;
        assert_eq!(answer.status, 403, "{origin}");
    }
    let trusting = layer
        .trusted_origins(["capacitor://localhost"])
        .layer(who());
    let fields = [("origin", "capacitor://localhost"), ("host", "localhost")];
    assert_eq!(
        send(&trusting, request("POST", &key, &fields)).await.status,
        200
    );
}

#[tokio::test]
async fn page_in_cleartext_is_not_the_origin_of_an_api_over_tls() {
    let (layer, key) = layer().await;
    let service = layer.layer(who());
    for (transport, origin, status) in [
        (Transport::Tls, "http://api.example.com", 403),
        (Transport::Tls, "https://api.example.com", 200),
        // A load balancer that is not configured may have ended TLS.
        (Transport::Plain, "https://api.example.com", 200),
        (Transport::Plain, "http://api.example.com", 200),
    ] {
        let mut request = request("POST", &key, &[("origin", origin)]);
        request.extensions_mut().insert(transport);
        assert_eq!(
            send(&service, request).await.status,
            status,
            "{transport:?} {origin}"
        );
    }
}

#[tokio::test]
async fn trusted_origins_may_use_the_cookie() {
    let (layer, key) = layer().await;
    let layer = layer.trusted_origins(["https://App.example.com:443", "https://*.example.org"]);
    let service = layer.layer(who());
    for (origin, site, status) in [
        ("https://app.example.com", "same-site", 200),
        ("https://app.example.com", "cross-site", 200),
        ("https://a.example.org", "cross-site", 200),
        ("https://example.org", "cross-site", 403),
        ("http://app.example.com", "cross-site", 403),
        ("https://app.example.com:8443", "same-site", 403),
        ("https://app.example.com.evil.example", "cross-site", 403),
        ("null", "cross-site", 403),
    ] {
        let fields = [("origin", origin), ("sec-fetch-site", site)];
        for fields in [&fields[..], &[&WEBSOCKET[..], &fields].concat()] {
            let method = if fields.len() == 2 { "POST" } else { "GET" };
            let answer = send(&service, request(method, &key, fields)).await;
            assert_eq!(answer.status, status, "{method} {fields:?}");
        }
        let only_origin = request("POST", &key, &fields[..1]);
        assert_eq!(send(&service, only_origin).await.status, status, "{origin}");
    }
}

#[tokio::test]
async fn trusted_origin_that_is_none_is_a_configuration_error() {
    let (layer, _) = layer().await;
    for bad in [
        "app.example.com",
        "https://app.example.com/path",
        "*",
        "null",
        "",
    ] {
        let error = layer
            .clone()
            .try_trusted_origins([bad])
            .unwrap_err()
            .to_string();
        let start = format!("AuthLayer::trusted_origins: {bad:?} is not an origin; ");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[tokio::test]
async fn credential_outside_of_cookies_is_not_checked() {
    let (layer, key) = layer().await;
    let sources = [
        Source::authorization(),
        Source::websocket_protocol("key."),
        Source::cookie("key"),
    ];
    let service = layer.sources(sources).layer(who());
    let shown = Request::post("/").header("authorization", format!("Bearer {key}"));
    let request = shown
        .header("origin", "https://evil.example")
        .body(())
        .unwrap();
    assert_eq!(send(&service, request).await.status, 200);
    let shown = Request::get("/").header("upgrade", "websocket");
    let shown = shown.header("sec-websocket-protocol", format!("v1, key.{key}"));
    let request = shown
        .header("origin", "https://evil.example")
        .body(())
        .unwrap();
    assert_eq!(send(&service, request).await.status, 200);
}
