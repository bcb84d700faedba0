//! Parameters of the query that look like credentials.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use tollgate::auth::Source;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::testing::TestIssuer;
use tollgate::{ApiKeys, AuthLayer, Jwt, auth::Or};
use tower::Layer;

use crate::support::{clock, issue, keys_over, send, who};

struct World {
    key: String,
    token: String,
    layer: AuthLayer<Or<ApiKeys, Jwt>>,
}

async fn world() -> World {
    let authority = TestIssuer::new("https://id.example.com/").clock(clock());
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys());
    World {
        key,
        token: authority.token("ann").audience("api").sign(),
        layer: AuthLayer::new(keys.or(jwt.build().unwrap())).clock(clock()),
    }
}

/// A token that the application has signed itself, as in a link to verify an email address.
fn own_token() -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = URL_SAFE_NO_PAD.encode(r#"{"email":"ann@example.com"}"#);
    format!("{header}.{claims}.c2lnbmF0dXJl")
}

fn request(uri: &str, key: Option<&str>) -> Request<()> {
    let mut request = Request::get(uri);
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    request.body(()).unwrap()
}

#[tokio::test]
async fn optional_layer_leaves_the_query_to_the_application() {
    let World { key, token, layer } = world().await;
    let service = layer.optional().layer(who());
    for uri in [
        format!("/verify?token={}", own_token()),
        format!("/verify?token={token}"),
        format!("/verify?token={key}"),
        "/verify?access_token=x".into(),
    ] {
        let answer = send(&service, request(&uri, None)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"nobody"[..]),
            "{uri}"
        );
        let answer = send(&service, request(&uri, Some(&key))).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"alice"[..]),
            "{uri}"
        );
    }
}

#[tokio::test]
async fn optional_requests_pass_and_the_others_are_checked() {
    let World { key, token, layer } = world().await;
    let layer = layer.optional_for(|request| request.uri.path() == "/verify");
    let service = layer.layer(who());
    let own = own_token();
    for (uri, key, status) in [
        (format!("/verify?token={own}"), None, 200),
        ("/verify".into(), None, 200),
        ("/verify".into(), Some("acme_live_wrong"), 401),
        ("/orders".into(), None, 401),
        (format!("/orders?token={token}"), None, 400),
        (format!("/orders?token={own}"), Some(&*key), 400),
    ] {
        assert_eq!(
            send(&service, request(&uri, key)).await.status,
            status,
            "{uri} {key:?}"
        );
    }
}

#[tokio::test]
async fn panic_of_optional_for_is_a_500() {
    let World { key, layer, .. } = world().await;
    let service = layer
        .optional_for(|_| panic!("a predicate that panics"))
        .layer(who());
    assert_eq!(send(&service, request("/", Some(&key))).await.status, 500);
}

#[tokio::test]
async fn parameters_of_the_application_are_exempt_by_name() {
    let World { key, token, layer } = world().await;
    let service = layer.ignore_query_params(["token", "state"]).layer(who());
    let own = own_token();
    for (uri, status) in [
        (format!("/?token={own}"), 200),
        (format!("/?token={token}&state={key}"), 200),
        (format!("/?Token={own}"), 400),
        (format!("/?tok%65n={own}"), 400),
        (format!("/?other={own}"), 400),
        (format!("/?token={own}&other={key}"), 400),
        ("/?access_token=x".into(), 400),
    ] {
        assert_eq!(
            send(&service, request(&uri, Some(&key))).await.status,
            status,
            "{uri}"
        );
    }
}

#[tokio::test]
async fn exempt_parameter_is_no_source_of_credentials() {
    let World { token, layer, .. } = world().await;
    let service = layer.ignore_query_params(["token"]).layer(who());
    let uri = format!("/?token={token}");
    let answer = send(&service, request(&uri, None)).await;
    assert_eq!(answer.code(), "credentials_missing");
}

#[tokio::test]
async fn only_a_jose_header_makes_a_jwt() {
    let World { key, layer, .. } = world().await;
    let service = layer.sources([Source::header(http::HeaderName::from_static("x-api-key"))]);
    let service = service.layer(who());
    let encode = |header: &str| URL_SAFE_NO_PAD.encode(header);
    for (header, status) in [
        (encode(r#"{"alg":"ES256"}"#), 400),
        (encode(r#"{"alg":"none"}"#), 400),
        (encode(r#"{"typ":"JWT","alg":"XYZ","crit":["x"]}"#), 400),
        // An object, and no JOSE header: `alg` is required (RFC 7515 §4.1.1).
        (encode(r#"{"typ":"JWT"}"#), 200),
        (encode(r#"{"alg":256}"#), 200),
        (encode(r#"{"a":1,"a":2,"alg":"ES256"}"#), 200),
        (encode(r#"{"alg":"ES256""#), 200),
        (encode(r#"{"alg":"ES256"} x"#), 200),
        ("eyJhbGciOiJFUzI1NiJ9=".into(), 200),
        ("eyJ".into(), 200),
    ] {
        let uri = format!("/?file={header}.e30.c2ln");
        assert_eq!(
            send(&service, request(&uri, Some(&key))).await.status,
            status,
            "{uri}"
        );
    }
}
