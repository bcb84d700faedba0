//! Log events about rejections and mistakes.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use http::Request;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::testing::TestIssuer;
use tollgate::{AuthLayer, Identity, Jwt, Quota, RateLimitLayer, RequireLayer, scope};
use tower::Layer;

use super::ServiceBuilder;
use crate::support::{Events, clock, keys_over, send, who};

fn request(path: &str, credential: Option<&str>) -> Request<axum::body::Body> {
    let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let mut request = Request::get(path).extension(peer);
    if let Some(credential) = credential {
        request = request.header("authorization", format!("Bearer {credential}"));
    }
    request.body(axum::body::Body::empty()).unwrap()
}

/// The events about rejections.
fn rejections(events: &Events) -> Vec<String> {
    let all = ["ERROR", "WARN", "DEBUG"]
        .map(|level| events.of(level))
        .concat();
    all.into_iter()
        .filter(|event| event.contains("request rejected"))
        .collect()
}

#[tokio::test]
async fn rejection_is_logged_with_caller_route_and_client() {
    let keys = keys_over(MemoryKeys::new());
    let poor = keys.issue(NewKey::for_owner("bob")).await.unwrap();
    let revoked = keys.issue(NewKey::for_owner("eve")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let authority = TestIssuer::new("https://id.example.com/").clock(clock());
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys());
    let auth = AuthLayer::new(keys.or(jwt.build().unwrap())).clock(clock());
    let limit = RateLimitLayer::new([Quota::per_hour(1)]).clock(clock());
    let app = Router::new()
        .route("/orders/{id}", get(|| async { "orders" }))
        .route(
            "/whoami",
            get(|identity: Identity| async move { identity.subject().to_owned() }),
        )
        .layer(
            ServiceBuilder::new()
                .layer(auth)
                .layer(RequireLayer::new(scope("a")))
                .layer(limit),
        );
    let token = authority
        .token("ann")
        .audience("api")
        .claim("scope", "a")
        .sign();
    let first = send(&app, request("/orders/1", Some(&token))).await;
    assert_eq!(first.status, 200);
    let (poor_id, revoked_id) = (poor.record.id.to_string(), revoked.record.id.to_string());
    let expired = authority
        .token("ann")
        .audience("api")
        .expired(std::time::Duration::from_secs(600));
    let expired = expired.claim("jti", "token-7").sign();
    let without = |claim: &str| authority.token("ann").audience("api").without(claim).sign();
    let (no_exp, no_sub) = (without("exp"), without("sub"));
    let (events, _guard) = Events::listen();
    let of_keys = |id: &str| {
        vec![
            "issuer=\"api-key\"".to_owned(),
            format!("credential_id={id:?}"),
        ]
    };
    let of_tokens = vec!["issuer=\"https://id.example.com/\"".to_owned()];
    for (path, credential, kind, cause, more) in [
        (
            "/orders/1",
            None,
            "credentials_missing",
            "nothing_shown",
            vec![],
        ),
        (
            "/orders/1",
            Some("acme_live_wrong"),
            "credential_invalid",
            "key_format",
            vec![],
        ),
        (
            "/orders/1",
            Some(poor.key.expose()),
            "insufficient_scope",
            "scope_missing",
            of_keys(&poor_id),
        ),
        (
            "/orders/1",
            Some(revoked.key.expose()),
            "credential_revoked",
            "key_revoked",
            of_keys(&revoked_id),
        ),
        (
            "/orders/1",
            Some(&*token),
            "rate_limited",
            "quota_exceeded",
            of_tokens.clone(),
        ),
        (
            "/orders/1",
            Some(&*no_exp),
            "token_invalid",
            "token_claims",
            [of_tokens.clone(), vec!["fault=\"exp\"".into()]].concat(),
        ),
        (
            "/orders/1",
            Some(&*no_sub),
            "token_invalid",
            "token_claims",
            [of_tokens.clone(), vec!["fault=\"sub\"".into()]].concat(),
        ),
        (
            "/orders/1",
            Some(&*expired),
            "token_expired",
            "token_expired",
            {
                let mut more = of_tokens.clone();
                more.push("credential_id=\"token-7\"".into());
                more
            },
        ),
    ] {
        events.clear();
        send(&app, request(path, credential)).await;
        let logged = rejections(&events);
        assert_eq!(logged.len(), 1, "{kind}: {logged:?}");
        let event = &logged[0];
        let mut fields = vec![
            format!("kind={kind:?}"),
            format!("cause={cause:?}"),
            "route=\"/orders/{id}\"".into(),
            "client=192.0.2.7".into(),
        ];
        fields.extend(more.iter().cloned());
        for field in fields {
            assert!(event.contains(&field), "{field} in {event}");
        }
        if more.is_empty() {
            assert!(
                !event.contains("issuer=") && !event.contains("credential_id="),
                "{event}"
            );
        }
    }
}

#[tokio::test]
async fn rejected_preflight_is_a_hint_about_cors_once() {
    let auth = AuthLayer::new(keys_over(MemoryKeys::new()));
    let preflight = || {
        let request = Request::options("/").header("origin", "https://app.example.com");
        request
            .header("access-control-request-method", "GET")
            .body(())
            .unwrap()
    };
    let (events, _guard) = Events::listen();
    let service = auth.clone().layer(who());
    for _ in 0..2 {
        assert_eq!(send(&service, preflight()).await.status, 401);
        let again = auth.clone().layer(who());
        assert_eq!(send(&again, preflight()).await.status, 401);
    }
    let warnings = events.of("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("AuthLayer::allow_preflight"),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("CORS layer outside"), "{warnings:?}");

    events.clear();
    let allowed = AuthLayer::new(keys_over(MemoryKeys::new())).allow_preflight();
    assert_eq!(send(&allowed.layer(who()), preflight()).await.status, 200);
    let plain = Request::options("/").body(()).unwrap();
    let other = AuthLayer::new(keys_over(MemoryKeys::new())).layer(who());
    assert_eq!(send(&other, plain).await.status, 401);
    assert!(events.of("WARN").is_empty(), "{:?}", events.of("WARN"));
}

const CHILD: &str = "TOLLGATE_TEST_WITHOUT_SUBSCRIBER";

/// Does something only in the process that the test below starts.
#[tokio::test]
async fn process_without_a_subscriber() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let service = RequireLayer::new(scope("a")).layer(who());
    for _ in 0..3 {
        assert_eq!(send(&service, Request::new(())).await.status, 500);
    }
}

#[test]
fn missing_layer_is_printed_without_a_subscriber() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let child = format!("{module}::process_without_a_subscriber");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &child, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("tollgate is not set up"))
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains("put an AuthLayer outside"), "{text}");
}
