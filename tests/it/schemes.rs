//! Schemes and carriers beyond `Bearer`, `ApiKey` and `X-API-Key`, and the response to a client
//! that sent no credential.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, Request};
use tollgate::auth::Source;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::testing::TestIssuer;
use tollgate::{ApiKeys, AuthLayer, Jwt};
use tower::{Layer, service_fn};

use crate::support::{clock, get, issue, keys_over, send, who, with};

async fn layer() -> (AuthLayer<ApiKeys>, String) {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    (AuthLayer::new(keys), key)
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[tokio::test]
async fn extra_schemes_carry_a_credential() {
    let (layer, key) = layer().await;
    let service = layer
        .clone()
        .accept_schemes(["Token", "Api-Key"])
        .layer(who());
    for scheme in [
        "Token", "TOKEN", "token", "Api-Key", "api-key", "Bearer", "ApiKey",
    ] {
        let answer = send(&service, with("authorization", format!("{scheme} {key}"))).await;
        assert_eq!(answer.status, 200, "{scheme}");
    }
    for (line, status) in [
        ("Token".into(), 400),
        ("Token  ".into(), 400),
        (format!("Token {key} x"), 400),
        (format!("Tokens {key}"), 401),
        ("Token acme_live_wrong".into(), 401),
        (format!("Token {key}, Bearer {key}"), 400),
        (format!("Digest x, Token {key}"), 400),
    ] {
        assert_eq!(
            send(&service, with("authorization", &line)).await.status,
            status,
            "{line}"
        );
    }
    let plain = layer.layer(who());
    let answer = send(&plain, with("authorization", format!("Token {key}"))).await;
    assert_eq!(
        answer.code(),
        "credentials_missing",
        "not accepted by default"
    );
}

#[tokio::test]
async fn list_behind_an_ignored_scheme_is_ambiguous() {
    let (layer, key) = layer().await;
    let layer = layer
        .accept_schemes(["Token"])
        .ignore_schemes(["Basic"])
        .optional();
    let service = layer.layer(who());
    for scheme in ["Token", "Bearer", "ApiKey", "tOKEN"] {
        let line = format!("Basic YTpi, {scheme} {key}");
        assert_eq!(
            send(&service, with("authorization", &line)).await.status,
            400,
            "{line}"
        );
    }
    assert_eq!(
        send(&service, with("authorization", "Basic YTpi"))
            .await
            .body,
        "nobody"
    );
}

#[tokio::test]
async fn token_may_be_sent_as_an_api_key() {
    let authority = TestIssuer::new("https://id.example.com/").clock(clock());
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys());
    let layer = AuthLayer::new(jwt.build().unwrap()).clock(clock());
    let token = authority.token("ann").audience("api").sign();
    let request = || with("authorization", format!("ApiKey {token}"));
    assert_eq!(
        send(&layer.clone().layer(who()), request()).await.status,
        401
    );
    let accepting = layer.accept_schemes(["ApiKey"]).layer(who());
    assert_eq!(send(&accepting, request()).await.body, "ann");
}

#[tokio::test]
async fn challenge_for_an_extra_scheme_names_the_standard_one() {
    let (layer, _) = layer().await;
    let layer = layer.accept_schemes(["Token"]).accept_basic();
    let service = layer.layer(who());
    for line in [
        "Token acme_live_wrong".to_owned(),
        basic("acme_live_wrong:"),
    ] {
        let answer = send(&service, with("authorization", &line)).await;
        assert_eq!(
            answer.challenges(),
            [
                r#"ApiKey realm="api", error="invalid_token""#,
                r#"Bearer realm="api""#
            ],
            "{line}"
        );
    }
}

#[tokio::test]
async fn scheme_that_cannot_be_accepted_is_a_configuration_error() {
    let (layer, _) = layer().await;
    for bad in [
        "Basic",
        "basic",
        "DPoP",
        "Digest",
        "Negotiate",
        "",
        "a b",
        "a:b",
        "é",
    ] {
        let error = layer
            .clone()
            .try_accept_schemes([bad])
            .unwrap_err()
            .to_string();
        let start = format!("AuthLayer::accept_schemes: {bad:?} cannot be accepted; ");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[tokio::test]
async fn key_may_be_the_user_name_of_basic() {
    let (layer, key) = layer().await;
    let basic_layer = layer.clone().accept_basic();
    let service = basic_layer.clone().layer(who());
    for (line, status) in [
        (basic(&format!("{key}:")), 200),
        (basic(&format!("{key}:")).replace("Basic", "bAsIc"), 200),
        (basic(&format!("{key}:x")), 400),
        (basic(&format!("{key}:{key}")), 400),
        (basic(&format!("{key}::")), 400),
        (basic(&format!(":{key}")), 400),
        (basic(&key), 400),
        (basic(":"), 400),
        (basic(""), 400),
        ("Basic".into(), 400),
        ("Basic !!!".into(), 400),
        (format!("Basic {key}"), 400),
        (basic(&format!("{}:", &key[..key.len() - 1])), 401),
        (basic("ünïcode:"), 400),
        (basic(&format!("{}:", "a".repeat(9_000))), 400),
        (format!("Basic {}", "A".repeat(60_000)), 400),
    ] {
        assert_eq!(
            send(&service, with("authorization", &line)).await.status,
            status,
            "{line}"
        );
    }
    // The header is gone behind the layer.
    let seen = service_fn(|request: Request<()>| async move {
        let is_there = request.headers().contains_key("authorization");
        Ok::<_, std::convert::Infallible>(http::Response::new(is_there.to_string()))
    });
    let answer = send(
        &basic_layer.layer(seen),
        with("authorization", basic(&format!("{key}:"))),
    )
    .await;
    assert_eq!(answer.body, "false");
    let answer = send(
        &layer.layer(who()),
        with("authorization", basic(&format!("{key}:"))),
    )
    .await;
    assert_eq!(
        answer.code(),
        "credentials_missing",
        "not accepted by default"
    );
}

#[tokio::test]
async fn websocket_protocol_pair_carries_a_credential() {
    let (layer, key) = layer().await;
    let layer = layer.sources([Source::websocket_protocol_after("bearer")]);
    let seen = service_fn(|request: Request<()>| async move {
        let lines = request.headers().get_all("sec-websocket-protocol").iter();
        let lines: Vec<_> = lines
            .map(|line| line.to_str().unwrap().to_owned())
            .collect();
        Ok::<_, std::convert::Infallible>(http::Response::new(lines.join("|")))
    });
    let service = layer.layer(seen);
    for (lines, status, left) in [
        (vec![format!("bearer, {key}")], 200, "bearer"),
        (
            vec![format!("v1, bearer,{key} , v2")],
            200,
            "v1, bearer, v2",
        ),
        (vec!["bearer".into(), key.clone()], 200, "bearer"),
        (vec![format!("{key}, bearer")], 401, ""),
        (vec!["bearer".into()], 401, ""),
        (vec![format!("Bearer, {key}")], 401, ""),
        (vec![format!("bearer, {key}, bearer, {key}")], 400, ""),
        (vec!["bearer, bearer".into()], 401, ""),
        (vec!["bearer, a b".into()], 400, ""),
    ] {
        let mut request = Request::get("/").header("upgrade", "websocket");
        for line in &lines {
            request = request.header("sec-websocket-protocol", line);
        }
        let answer = send(&service, request.body(()).unwrap()).await;
        assert_eq!(answer.status, status, "{lines:?}");
        if status == 200 {
            assert_eq!(answer.body, left, "{lines:?}");
        }
    }
    for bad in ["", "a b", "a,b", "é"] {
        assert!(
            Source::try_websocket_protocol_after(bad).is_err(),
            "{bad:?}"
        );
    }
}

/// The commonest mistake of clients: a key in `Authorization` without a scheme.
#[tokio::test]
async fn client_without_a_credential_learns_how_to_send_one() {
    let (layer, key) = layer().await;
    let service = layer.clone().layer(who());
    let missing = send(&service, get()).await;
    for line in [key.clone(), format!("Key {key}"), basic("a:b")] {
        let answer = send(&service, with("authorization", &line)).await;
        assert_eq!(answer.wire(), missing.wire(), "{line}");
    }
    let detail =
        |answer: &crate::support::Answer| answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(
        detail(&missing),
        "This resource needs a credential. Send one as `Authorization: Bearer <credential>` or \
         `X-API-Key: <credential>`."
    );
    let everywhere = layer.sources([
        Source::header(HeaderName::from_static("acme-key")),
        Source::query("key"),
        Source::cookie("session"),
        Source::websocket_protocol("key."),
        Source::websocket_protocol_after("bearer"),
    ]);
    assert_eq!(
        detail(&send(&everywhere.layer(who()), get()).await),
        "This resource needs a credential. Send one as `Acme-Key: <credential>` or query parameter \
         `key` or cookie `session` or `Sec-WebSocket-Protocol` entry `key.<credential>` or \
         `Sec-WebSocket-Protocol` entry `bearer, <credential>`."
    );
    let authority = TestIssuer::new("https://id.example.com/");
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys());
    let tokens = AuthLayer::new(jwt.build().unwrap()).layer(who());
    assert_eq!(
        detail(&send(&tokens, get()).await),
        "This resource needs a credential. Send one as `Authorization: Bearer <credential>`."
    );
}

/// Clients ask for a new token from the challenge, also when the one they had has ended.
#[tokio::test]
async fn every_401_names_the_scopes_to_ask_for() {
    let authority = TestIssuer::new("https://id.example.com/").clock(clock());
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    keys.revoke(issued.record.id).await.unwrap();
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys());
    let layer = AuthLayer::new(keys.or(jwt.build().unwrap()))
        .challenge_scopes(["mcp:read", "mcp:write"])
        .clock(clock());
    let service = layer.layer(who());
    let hour = std::time::Duration::from_secs(3_600);
    let token = || authority.token("ann").audience("api");
    for (line, code) in [
        (None, "credentials_missing"),
        (Some("Basic YTpi".to_owned()), "credentials_missing"),
        (Some("Bearer a.b.c".into()), "token_invalid"),
        (
            Some(format!("Bearer {}", token().expired(hour).sign())),
            "token_expired",
        ),
        (
            Some(format!("Bearer {}", token().unsigned())),
            "token_invalid",
        ),
        (Some("Bearer acme_live_wrong".into()), "credential_invalid"),
        (Some("ApiKey acme_live_wrong".into()), "credential_invalid"),
        (
            Some(format!("Bearer {}", issued.key.expose())),
            "credential_revoked",
        ),
    ] {
        let request = line
            .as_ref()
            .map_or_else(get, |line| with("authorization", line));
        let answer = send(&service, request).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (401, code));
        let challenges = answer.challenges();
        let bearer = challenges
            .iter()
            .find(|line| line.starts_with("Bearer "))
            .unwrap();
        assert!(
            bearer.contains(r#", scope="mcp:read mcp:write""#),
            "{code}: {bearer}"
        );
        let keys = challenges
            .iter()
            .find(|line| line.starts_with("ApiKey "))
            .unwrap();
        assert!(!keys.contains("scope="), "{code}: {keys}");
    }
    // A 400 is no invitation to ask for a token.
    let answer = send(&service, with("authorization", "Bearer {")).await;
    assert!(
        answer
            .challenges()
            .iter()
            .all(|line| !line.contains("scope="))
    );
}
