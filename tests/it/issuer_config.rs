//! Mistakes in the configuration of issuers, and the errors and warnings that name them.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::jwks::{Algorithm, FetchError, KeySet, RemoteKeys};
use tollgate::rejection::Cause;
use tollgate::testing::TestIssuer;
use tollgate::{ApiKeys, AuthLayer, Jwt};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Answer, Events, clock, peppers, send, who, with};

const AUDIENCE: &str = "https://api.example.com";

/// Runs a test and returns the warnings that were logged.
async fn warnings(test: impl Future<Output = ()>) -> Vec<String> {
    let (events, _guard) = Events::listen();
    test.await;
    events.of("WARN")
}

async fn show(jwt: &Jwt, token: &str) -> Answer {
    let service = AuthLayer::new(jwt.clone()).clock(clock()).layer(who());
    send(&service, with("authorization", format!("Bearer {token}"))).await
}

fn fixed(issuer: &str) -> tollgate::auth::jwt::Issuer {
    let keys = TestIssuer::new(issuer).keys();
    Jwt::issuer(issuer).audience(AUDIENCE).keys(keys)
}

fn token_of(issuer: &str) -> String {
    let issuer = TestIssuer::new(issuer).clock(clock());
    issuer.token("ann").audience(AUDIENCE).sign()
}

#[tokio::test]
async fn misspelled_issuer_is_logged_once_with_both_values() {
    let configured = "https://id.example.com/realms/a";
    for shown in [
        "https://id.example.com/realms/a/",
        "http://id.example.com/realms/a",
        "https://ID.example.com/realms/a",
        "HTTPS://id.example.com/realms/a/",
    ] {
        for jwt in [
            fixed(configured).build().unwrap(),
            Jwt::issuers([fixed("https://other.example.com"), fixed(configured)]).unwrap(),
        ] {
            let logged = warnings(async {
                for _ in 0..50 {
                    let answer = show(&jwt, &token_of(shown)).await;
                    assert_eq!(answer.code(), "token_invalid");
                    let cause = answer.rejection.unwrap().cause();
                    assert_eq!(cause, Cause::TokenIssuer, "{shown}");
                }
            });
            let logged = logged.await;
            assert_eq!(logged.len(), 1, "{shown}: {logged:?}");
            for part in [configured, shown, "Jwt::issuer"] {
                assert!(logged[0].contains(part), "{logged:?}");
            }
        }
    }
}

#[tokio::test]
async fn issuer_of_a_stranger_is_not_logged() {
    let jwt = fixed("https://id.example.com").build().unwrap();
    let long = format!("https://id.example.com/{}", "x".repeat(2_000));
    let logged = warnings(async {
        for shown in [
            "https://evil.example.com",
            "https://id.example.com/\nWARN forged line",
            "https://id.example.com//",
            &long,
            "",
        ] {
            assert_eq!(show(&jwt, &token_of(shown)).await.status, 401, "{shown}");
        }
    });
    assert_eq!(logged.await, Vec::<String>::new());
}

#[tokio::test]
async fn misspelled_audience_is_logged_once_with_both_values() {
    let issuer = "https://id.example.com/";
    let authority = TestIssuer::new(issuer).clock(clock());
    for (shown, is_logged) in [
        ("https://api.example.com/", true),
        ("http://api.example.com", true),
        ("https://API.example.com", true),
        ("https://other.example.com", false),
        ("https://api.example.com/v1", false),
        ("https://api.example.com\nWARN forged line", false),
    ] {
        let jwt = Jwt::issuer(issuer)
            .audience("https://unrelated.example.com")
            .audience(AUDIENCE)
            .keys(authority.keys())
            .build()
            .unwrap();
        let token = authority.token("ann").audience("account").audience(shown);
        let token = token.sign();
        let logged = warnings(async {
            for _ in 0..50 {
                let cause = show(&jwt, &token).await.rejection.unwrap();
                assert_eq!(cause.cause(), Cause::TokenAudience, "{shown}");
            }
        });
        let logged = logged.await;
        assert_eq!(logged.len(), usize::from(is_logged), "{shown}: {logged:?}");
        for part in [issuer, AUDIENCE, shown, "Issuer::audience"] {
            assert!(logged.iter().all(|text| text.contains(part)), "{logged:?}");
        }
        // Anybody can send a token that another key has signed.
        let forged = TestIssuer::new(issuer).clock(clock());
        let forged = forged.token("ann").audience(shown).sign();
        let fixed = fixed(issuer).build().unwrap();
        let logged = warnings(async { assert_eq!(show(&fixed, &forged).await.status, 401) });
        assert_eq!(logged.await, Vec::<String>::new(), "{shown}");
    }
}

#[tokio::test]
async fn metadata_of_a_misspelled_issuer_is_logged() {
    let authority = TestIssuer::new("https://id.example.com/");
    let client =
        service_fn(move |request: Request<Full<Bytes>>| authority.clone().oneshot(request));
    let jwt = Jwt::issuer("https://id.example.com")
        .audience(AUDIENCE)
        .keys(RemoteKeys::discover().client(client))
        .build()
        .unwrap();
    let logged = warnings(async {
        let error = jwt.warm_up().await.unwrap_err();
        assert_eq!(error.kind(), FetchError::OtherIssuer);
        assert_eq!(error.issuer(), "https://id.example.com");
        assert_eq!(
            error.to_string(),
            "the keys of \"https://id.example.com\" could not be fetched: the metadata is of another \
             issuer; the metadata says \"https://id.example.com/\"; call `Jwt::issuer` with that text"
        );
    });
    let logged = logged.await;
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains(r"https://id.example.com/"), "{logged:?}");
    assert!(logged[0].contains("Jwt::issuer"), "{logged:?}");
}

fn client() -> impl tower::Service<
    Request<Full<Bytes>>,
    Response = Response<String>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<String>, Infallible>>,
> + Clone
+ Send
+ Sync {
    service_fn(|_| std::future::ready(Ok(Response::new(String::new()))))
}

#[test]
fn issuer_without_https_is_refused_with_the_settings() {
    let discover = || RemoteKeys::discover().client(client());
    let build = |issuer: &str, keys: RemoteKeys| {
        let issuer = Jwt::issuer(issuer).audience(AUDIENCE).keys(keys);
        issuer.build().map(drop).map_err(|error| error.to_string())
    };
    let issuer = "http://keycloak:8080/realms/a";
    for keys in [discover(), discover().allow_loopback_http()] {
        let error = build(issuer, keys).unwrap_err();
        for part in [
            r#"Jwt::issuer("http://keycloak:8080/realms/a")"#,
            r#"`.keys(RemoteKeys::discover().dangerous_allow_http_hosts(["keycloak"]))`"#,
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("loopback"), "{error}");
    }
    for host in ["localhost", "127.0.0.1", "[::1]", "id.localhost"] {
        let url = format!("http://{host}:8080");
        for (error, call) in [
            (
                build(&url, discover()).unwrap_err(),
                "`.keys(RemoteKeys::discover().allow_loopback_http())`",
            ),
            (
                build("x", RemoteKeys::at(&url).client(client())).unwrap_err(),
                "`.keys(RemoteKeys::at(..).allow_loopback_http())`",
            ),
        ] {
            assert!(error.contains(call), "{error}");
            assert!(!error.contains("dangerous"), "{error}");
        }
    }
    let at = "http://user:CANARY@localhost:1/keys?token=CANARY";
    for url in [at, "http://localhost:1/keys?token=CANARY", "CANARY@?CANARY"] {
        let error = build("x", RemoteKeys::at(url).client(client())).unwrap_err();
        assert!(error.contains("RemoteKeys::at("), "{error}");
        assert!(!error.contains("CANARY"), "{error}");
    }
    let error = build("http://localhost:1", discover()).unwrap_err();
    assert!(error.contains("allow_loopback_http"), "{error}");
    assert_eq!(
        build("http://localhost:1", discover().allow_loopback_http()),
        Ok(())
    );
    let listed = || discover().dangerous_allow_http_hosts(["keycloak", "10.0.0.5"]);
    assert_eq!(build(issuer, listed()), Ok(()));
    assert_eq!(build("http://10.0.0.5/", listed()), Ok(()));
    let list: Vec<String> = vec!["keycloak".into()];
    assert_eq!(
        build(issuer, discover().dangerous_allow_http_hosts(&list)),
        Ok(())
    );
    assert!(build("http://keycloak.example.com", listed()).is_err());
    assert!(build("http://localhost:1", listed()).is_err());
    let error = build(
        issuer,
        discover().dangerous_allow_http_hosts(["http://keycloak:8080"]),
    );
    assert!(error.unwrap_err().contains("\"http://keycloak:8080\""));
}

#[tokio::test]
async fn keys_come_from_a_listed_host_without_tls() {
    let url = "http://keycloak:8080/realms/a";
    let authority = TestIssuer::new(url).clock(clock());
    let server = authority.clone();
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        assert_eq!(request.uri().host(), Some("keycloak"));
        server.clone().oneshot(request)
    });
    let keys = RemoteKeys::discover().client(client).clock(clock());
    let issuer = Jwt::issuer(url).audience(AUDIENCE);
    let jwt = issuer
        .keys(keys.dangerous_allow_http_hosts(["keycloak"]))
        .build()
        .unwrap();
    let token = authority.token("ann").audience(AUDIENCE).sign();
    assert_eq!(show(&jwt, &token).await.body, "ann");
}

#[test]
fn secrets_beside_public_keys_are_refused_with_the_fix() {
    let secret = || KeySet::from_secret(Algorithm::Hs256, [7; 32]).unwrap();
    let public = || TestIssuer::new("https://id.example.com").keys();
    let issuer = || Jwt::issuer("https://id.example.com").audience(AUDIENCE);
    let fetched = || RemoteKeys::at("https://id.example.com/keys").client(client());
    let mixed = [Algorithm::Hs256, Algorithm::Es256];
    for (issuer, parts) in [
        (
            issuer().keys(secret().and(public())),
            ["KeySet::from_jwks", "KeySet::from_secret"],
        ),
        (
            issuer().keys(public()).algorithms(mixed),
            [".algorithms([HS256, ES256])", "one kind"],
        ),
        (
            issuer().keys(fetched()).algorithms([Algorithm::Hs256]),
            ["keys that are fetched are public", "KeySet::from_secret"],
        ),
        (
            issuer().keys(public()).algorithms([Algorithm::Hs256]),
            ["\"key-1\"", "Issuer::algorithms"],
        ),
    ] {
        let error = issuer.build().unwrap_err().to_string();
        assert!(
            error.starts_with(r#"Jwt::issuer("https://id.example.com"): "#),
            "{error}"
        );
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[tokio::test]
async fn layer_accepts_tokens_as_long_as_its_verifier_does() {
    let authority = TestIssuer::new("https://id.example.com").clock(clock());
    let jwt = |max_len| {
        let issuer = Jwt::issuer("https://id.example.com").audience(AUDIENCE);
        let jwt = issuer.keys(authority.keys()).build().unwrap();
        jwt.max_len(max_len)
    };
    let token = |len: usize| {
        let token = authority.token("ann").audience(AUDIENCE);
        token.claim("x", "x".repeat(len)).sign()
    };
    let keys = || ApiKeys::in_memory(peppers());
    let (long, short) = (token(20_000), token(1));
    assert_eq!(show(&jwt(64 * 1024), &long).await.body, "ann");
    let answer = show(&jwt(1024), &token(2_000)).await;
    assert_eq!(answer.code(), "request_malformed");
    let both = AuthLayer::new(keys().or(jwt(64 * 1024)))
        .clock(clock())
        .layer(who());
    let bearer = |token: &str| with("authorization", format!("Bearer {token}"));
    assert_eq!(send(&both, bearer(&long)).await.body, "ann");
    // What is set on the layer holds.
    let narrow = AuthLayer::new(jwt(64 * 1024)).max_credential_len(8 * 1024);
    let narrow = narrow.clock(clock()).layer(who());
    assert_eq!(
        send(&narrow, bearer(&long)).await.code(),
        "request_malformed"
    );
    assert_eq!(send(&narrow, bearer(&short)).await.body, "ann");
}

#[tokio::test]
async fn cap_that_only_the_layer_raises_is_a_warning() {
    let jwt = fixed("https://id.example.com").build().unwrap();
    let logged = warnings(async {
        let layer = AuthLayer::new(jwt.clone());
        drop(layer.max_credential_len(8 * 1024).max_credential_len(1024));
        drop(AuthLayer::new(jwt.max_len(32 * 1024)).max_credential_len(32 * 1024));
    });
    assert_eq!(logged.await, Vec::<String>::new());
    let jwt = fixed("https://id.example.com").build().unwrap();
    let logged = warnings(async { drop(AuthLayer::new(jwt).max_credential_len(16 * 1024)) }).await;
    assert_eq!(logged.len(), 1, "{logged:?}");
    for part in [
        "AuthLayer::max_credential_len",
        "Jwt::max_len",
        "16384",
        "8192",
    ] {
        assert!(logged[0].contains(part), "{logged:?}");
    }
}

#[tokio::test]
async fn too_long_token_is_logged_once_with_its_length() {
    let jwt = fixed("https://id.example.com").build().unwrap().max_len(64);
    let service = AuthLayer::new(jwt).clock(clock()).layer(who());
    let token = format!("Bearer {}", "a".repeat(65));
    let logged = warnings(async {
        for _ in 0..3 {
            let answer = send(&service, with("authorization", token.clone())).await;
            assert_eq!(answer.rejection.unwrap().cause(), Cause::TooLong);
        }
    });
    let logged = logged.await;
    assert_eq!(logged.len(), 1, "{logged:?}");
    for part in [
        "len=65",
        "max_len=64",
        "Jwt::max_len",
        "AuthLayer::max_credential_len",
    ] {
        assert!(logged[0].contains(part), "{logged:?}");
    }
}

#[test]
fn url_of_metadata_is_refused_as_an_issuer() {
    for (url, issuer) in [
        (
            "https://id.example.com/.well-known/openid-configuration",
            "https://id.example.com",
        ),
        (
            "https://id.example.com/realms/a/.well-known/openid-configuration/",
            "https://id.example.com/realms/a/",
        ),
        (
            "https://id.example.com/.well-known/oauth-authorization-server/a",
            "https://id.example.com/a",
        ),
    ] {
        let error = Jwt::issuer(url).audience(AUDIENCE).build().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "Jwt::issuer({url:?}): this is the URL of the metadata; call it with the `issuer` \
                 that stands in this document, probably {issuer:?}"
            )
        );
    }
}
