//! Tokens at the door: who they stand for, how long, and how they are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tollgate::auth::ClientCertificate;
use tollgate::auth::jwt::{Issuer, Jwt, Resolved};
use tollgate::clock::{ManualClock, Timestamp};
use tollgate::identity::Kind;
use tollgate::jwks::{Algorithm, KeySet};
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::{Cause, Reason};
use tollgate::testing::{TestIssuer, TokenBuilder};
use tollgate::{AuthLayer, Identity, RequireLayer, role, scope};
use tower::{Layer, service_fn};

use crate::support::{Answer, NOW, clock, get, issue, keys_over, send, who, with};

const ISSUER: &str = "https://id.example.com/";
const AUDIENCE: &str = "https://api.example.com";

/// An authority, what accepts its tokens, and the time for both.
struct World {
    authority: TestIssuer,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let clock = clock();
        let authority = TestIssuer::new(ISSUER).clock(clock.clone());
        Self { authority, clock }
    }

    fn issuer(&self) -> Issuer {
        Jwt::issuer(ISSUER)
            .audience(AUDIENCE)
            .keys(self.authority.keys())
    }

    fn layer(&self, jwt: Jwt) -> AuthLayer<Jwt> {
        AuthLayer::new(jwt).clock(self.clock.clone())
    }

    fn token(&self) -> TokenBuilder {
        self.authority.token("ann").audience(AUDIENCE)
    }

    /// What the door of `issuer` says to a token, and to the same again.
    async fn show(&self, issuer: Issuer, token: &str) -> Answer {
        let service = self.layer(issuer.build().unwrap()).layer(who());
        let first = send(&service, bearer(token)).await;
        let second = send(&service, bearer(token)).await;
        assert_eq!(
            first.wire(),
            second.wire(),
            "what is remembered is answered alike"
        );
        first
    }

    /// Who a token stands for.
    async fn identity(&self, issuer: Issuer, token: TokenBuilder) -> Identity {
        let (seen, service) = crate::support::identities();
        let service = self.layer(issuer.build().unwrap()).layer(service);
        assert_eq!(send(&service, bearer(&token.sign())).await.status, 200);
        let mut seen = seen.lock().unwrap();
        seen.pop().unwrap()
    }

    async fn cause(&self, token: &str) -> Cause {
        let answer = self.show(self.issuer(), token).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (401, "token_invalid")
        );
        answer.rejection.unwrap().cause()
    }
}

fn bearer(token: &str) -> http::Request<()> {
    with("authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn one_door_lets_in_applications_and_users() {
    let world = World::new();
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let (seen, service) = crate::support::identities();
    let jwt = world.issuer().build().unwrap();
    let service = AuthLayer::new(keys.or(jwt))
        .clock(world.clock.clone())
        .layer(service);

    for credential in [&key, &world.token().sign()] {
        assert_eq!(send(&service, bearer(credential)).await.status, 200);
    }
    let seen = seen.lock().unwrap();
    let [application, user] = &seen[..] else {
        panic!("two were let in")
    };
    assert_eq!((application.subject(), user.subject()), ("ann", "ann"));
    assert_ne!(application.principal(), user.principal());
    assert_eq!(
        (application.kind(), user.kind()),
        (Kind::Application, Kind::User)
    );
    assert_eq!(user.principal().source(), ISSUER);
}

#[tokio::test]
async fn challenges_name_the_kinds_that_are_accepted() {
    let world = World::new();
    let jwt = || world.issuer().build().unwrap();
    let only_tokens = world.layer(jwt()).layer(who());
    let answer = send(&only_tokens, get()).await;
    assert_eq!(answer.code(), "credentials_missing");
    assert_eq!(answer.challenges(), [r#"Bearer realm="api""#]);
    // The scheme of keys is not one that a door for tokens knows, nor is their field.
    let token = world.token().sign();
    for (name, value) in [
        ("authorization", format!("ApiKey {token}")),
        ("x-api-key", token),
    ] {
        let answer = send(&only_tokens, with(name, value)).await;
        assert_eq!(answer.code(), "credentials_missing", "{name}");
    }
    let keys = keys_over(MemoryKeys::new());
    let both = AuthLayer::new(keys.or(jwt())).layer(who());
    let answer = send(&both, get()).await;
    assert_eq!(
        answer.challenges(),
        [r#"Bearer realm="api""#, r#"ApiKey realm="api""#]
    );
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_in_the_words_of_the_rfc() {
    let world = World::new();
    let answer = world.show(world.issuer(), "not.a.token").await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.code(), "token_invalid");
    assert_eq!(
        answer.challenges(),
        [
            r#"Bearer realm="api", error="invalid_token", error_description="The access token is invalid""#
        ]
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let expired = world.token().expired(Duration::from_secs(60)).sign();
    let answer = world.show(world.issuer(), &expired).await;
    assert_eq!(answer.code(), "token_expired");
    assert_eq!(
        answer.challenges(),
        [
            r#"Bearer realm="api", error="invalid_token", error_description="The access token expired""#
        ]
    );
    let rejection = answer.rejection.unwrap();
    assert_eq!(rejection.reason().grpc_reason(), "ACCESS_TOKEN_EXPIRED");
}

#[tokio::test]
async fn that_a_token_expired_is_said_only_where_nothing_else_is_wrong() {
    let world = World::new();
    let expired = || world.token().expired(Duration::from_secs(60));
    let foreign = TestIssuer::new(ISSUER).clock(world.clock.clone());
    for token in [
        expired().audience("https://other.example.com").sign(),
        expired().claim("iss", "https://evil.example.com/").sign(),
        expired().header("typ", "dpop+jwt").sign(),
        foreign
            .token("ann")
            .audience(AUDIENCE)
            .expired(Duration::from_secs(60))
            .sign(),
    ] {
        assert_eq!(
            world.show(world.issuer(), &token).await.code(),
            "token_invalid"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_is_known_to_the_operator() {
    let world = World::new();
    let token = || world.token();
    let soon = world.clock_seconds() + 3600;
    for (token, cause) in [
        ("a.b".into(), Cause::TokenStructure),
        ("a.b.c.d.e".into(), Cause::TokenStructure),
        (token().unsigned(), Cause::TokenStructure),
        (format!("{}AAAA", token().unsigned()), Cause::TokenAlgorithm),
        (
            token().header("crit", json!(["exp"])).sign(),
            Cause::TokenHeader,
        ),
        (token().header("alg", "HS256").sign(), Cause::TokenAlgorithm),
        (
            token().header("alg", "RS256").sign(),
            Cause::TokenKeyUnknown,
        ),
        (token().header("typ", "logout+jwt").sign(), Cause::TokenType),
        (token().claim("at_hash", "x").sign(), Cause::TokenType),
        (
            token().header("kid", "other").sign(),
            Cause::TokenKeyUnknown,
        ),
        (format!("{}AAAA", token().sign()), Cause::TokenSignature),
        (
            token().claim("iss", "https://id.example.com").sign(),
            Cause::TokenIssuer,
        ),
        (
            token().audience("https://api.example.com/").sign(),
            Cause::TokenAudience,
        ),
        (token().without("sub").sign(), Cause::TokenClaims),
        (token().without("exp").sign(), Cause::TokenClaims),
        (token().claim("exp", "soon").sign(), Cause::TokenClaims),
        (token().claim("nbf", soon).sign(), Cause::TokenNotYetValid),
        (token().claim("iat", soon).sign(), Cause::TokenNotYetValid),
    ] {
        assert_eq!(world.cause(&token).await, cause, "{token}");
    }
}

#[tokio::test]
async fn a_subject_that_could_break_a_line_is_no_subject() {
    let world = World::new();
    let long = "u".repeat(1025);
    for subject in ["", "a\r\nb: c", "a\u{0}", "a\u{7f}", &long] {
        let token = world.token().claim("sub", subject).sign();
        assert_eq!(world.cause(&token).await, Cause::TokenClaims, "{subject:?}");
    }
    for subject in ["auth0|5f7c", "spiffe://a/b", "Zoë", &long[..1024]] {
        let identity = world
            .identity(world.issuer(), world.token().claim("sub", subject))
            .await;
        assert_eq!(identity.subject(), subject);
    }
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_expires() {
    let world = World::new();
    let jwt = world.issuer().build().unwrap();
    let service = world.layer(jwt.clone()).layer(who());
    let token = world.token().expires_in(Duration::from_secs(100)).sign();
    assert_eq!(send(&service, bearer(&token)).await.status, 200);
    assert_eq!(jwt.remembered(), 1);
    world.clock.advance(Duration::from_secs(129));
    assert_eq!(send(&service, bearer(&token)).await.status, 200);
    world.clock.advance(Duration::from_secs(1));
    let answer = send(&service, bearer(&token)).await;
    assert_eq!(answer.code(), "token_expired");
    // A clock that steps back does not bring it back to life.
    world.clock.set(NOW);
    assert_eq!(send(&service, bearer(&token)).await.code(), "token_expired");
}

#[tokio::test]
async fn a_clock_that_steps_is_believed_each_time() {
    let world = World::new();
    let service = world.layer(world.issuer().build().unwrap()).layer(who());
    let token = world.token().sign();
    let now = world.clock_seconds();
    for (at, status) in [
        (now, 200),
        (now - 3600, 401), // issued in the future
        (now, 200),
        (now + 3600, 401),
        (now - 10, 401), // expired stays expired
        (0, 401),
    ] {
        world.clock.set(Timestamp::from_unix_seconds(at));
        assert_eq!(
            send(&service, bearer(&token)).await.status,
            status,
            "at {at}"
        );
    }
}

#[tokio::test]
async fn only_good_tokens_are_remembered_and_only_so_many() {
    let world = World::new();
    let jwt = world.issuer().build().unwrap().cache_capacity(32);
    let service = world.layer(jwt.clone()).layer(who());
    for at in 0..200 {
        let token = world.token().claim("n", at).sign();
        assert_eq!(send(&service, bearer(&token)).await.status, 200);
        assert_eq!(
            send(&service, bearer(&format!("{token}AAAA"))).await.status,
            401
        );
    }
    assert!((1..=32).contains(&jwt.remembered()), "{}", jwt.remembered());
    let forgetful = world.issuer().build().unwrap().cache_capacity(0);
    let service = world.layer(forgetful.clone()).layer(who());
    assert_eq!(
        send(&service, bearer(&world.token().sign())).await.status,
        200
    );
    assert_eq!(forgetful.remembered(), 0);
}

#[tokio::test]
async fn claims_say_who_it_is_and_what_they_may() {
    let world = World::new();
    let issuer = world
        .issuer()
        .roles_from(["realm_access", "roles"])
        .roles_from(["https://example.com/role"])
        .tenant_from(["org", "id"])
        .plan_from(["plan"]);
    let token = world
        .token()
        .scopes(["orders:read", "orders:write", "orders:read"])
        .claim("scp", json!(["admin", "two words", "orders:read"]))
        .claim("permissions", json!(["extra"]))
        .claim("realm_access", json!({ "roles": ["editor", "viewer"] }))
        .claim("https://example.com/role", "owner")
        .claim("org", json!({ "id": "acme" }))
        .claim("plan", "pro")
        .claim("jti", "j-1")
        .claim("client_id", "web");
    let identity = world.identity(issuer, token).await;
    assert_eq!(
        identity.scopes().as_str(),
        "extra orders:read orders:write admin"
    );
    assert_eq!(
        identity.roles().collect::<Vec<_>>(),
        ["editor", "viewer", "owner"]
    );
    assert_eq!(identity.tenant(), Some("acme"));
    assert_eq!(identity.plan(), Some("pro"));
    assert_eq!(identity.credential_id(), Some("j-1"));
    assert_eq!(identity.client_id(), Some("web"));
    assert_eq!(identity.kind(), Kind::User);
    assert_eq!(
        identity.expires_at().map(Timestamp::unix_seconds),
        Some(world.clock_seconds() + 300)
    );

    #[derive(Deserialize)]
    struct Organisation {
        org: Value,
    }
    assert_eq!(identity.claims::<Organisation>().unwrap().org["id"], "acme");
    assert!(identity.claims::<Vec<u8>>().is_err());
    assert!(!format!("{identity:?}").contains("editor\\\""));
}

#[tokio::test]
async fn a_claim_of_another_shape_grants_nothing() {
    let world = World::new();
    for scope in [
        json!(null),
        json!(5),
        json!({ "orders:read": true }),
        json!([["orders:read"]]),
        json!("orders:readonly"),
        json!("ORDERS:READ"),
        json!("orders:read,x"),
        json!("orders:read\tx"),
        json!("orders:read\u{a0}x"),
        json!(true),
        json!(["a orders:read"]),
    ] {
        let identity = world
            .identity(world.issuer(), world.token().claim("scope", scope.clone()))
            .await;
        assert!(!identity.scopes().contains("orders:read"), "{scope}");
        let jwt = world.issuer().build().unwrap();
        let guarded = RequireLayer::new(needed()).layer(who());
        let token = world.token().claim("scope", scope.clone()).sign();
        let answer = send(&world.layer(jwt).layer(guarded), bearer(&token)).await;
        assert_eq!(answer.code(), "insufficient_scope", "{scope}");
        let told = answer.challenges().concat();
        assert!(
            told.contains(r#"error="insufficient_scope", scope="orders:read""#),
            "{told}"
        );
    }
}

fn needed() -> tollgate::authorize::Requirement {
    scope("orders:read")
}

#[tokio::test]
async fn a_subject_that_is_its_own_client_is_an_application() {
    let world = World::new();
    for (token, kind) in [
        (world.token().claim("client_id", "ann"), Kind::Application),
        (world.token().claim("azp", "ann"), Kind::User),
        (
            world.token().claim("azp", "ann").claim("client_id", "web"),
            Kind::User,
        ),
        (world.token(), Kind::User),
    ] {
        assert_eq!(world.identity(world.issuer(), token).await.kind(), kind);
    }
    let issuer = world
        .issuer()
        .application_if(|claims| claims.get("idtyp") == Some(&json!("app")));
    let token = world.token().claim("idtyp", "app");
    assert_eq!(
        world.identity(issuer, token).await.kind(),
        Kind::Application
    );
}

#[tokio::test]
async fn the_profile_of_rfc_9068_asks_for_all_of_it() {
    let world = World::new();
    let strict = || world.issuer().rfc9068();
    let full = || world.token().claim("client_id", "web").claim("jti", "j-1");
    assert_eq!(world.show(strict(), &full().sign()).await.status, 200);
    for typ in ["application/at+jwt", "AT+JWT"] {
        assert_eq!(
            world
                .show(strict(), &full().header("typ", typ).sign())
                .await
                .status,
            200
        );
    }
    assert_eq!(
        world
            .show(strict(), &full().header("typ", "JWT").sign())
            .await
            .status,
        401
    );
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        assert_eq!(
            world
                .show(strict(), &full().without(claim).sign())
                .await
                .status,
            401,
            "{claim}"
        );
    }
}

#[tokio::test]
async fn a_hook_has_the_last_word_each_time() {
    let world = World::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let issuer = world.issuer().resolve_with(move |identity: Identity| {
        let turn = count.fetch_add(1, Ordering::Relaxed);
        async move {
            match turn {
                0 => Resolved::Known(identity.to_builder().role("admin").build()),
                1 => Resolved::Denied,
                2 => Resolved::Revoked,
                3 => Resolved::Unavailable,
                4 => panic!("a hook of a user"),
                _ => Ok::<_, std::io::Error>(identity).into(),
            }
        }
    });
    let jwt = issuer.build().unwrap();
    let service = world
        .layer(jwt)
        .layer(RequireLayer::new(role("admin")).layer(who()));
    let token = world.token().sign();
    for (status, code) in [
        (200, ""),
        (403, "forbidden"),
        (401, "token_invalid"),
        (503, "verifier_unavailable"),
        (500, "internal"),
        (403, "forbidden"), // the role was the hook's
    ] {
        let answer = send(&service, bearer(&token)).await;
        assert_eq!(answer.status, status);
        if status != 200 {
            assert_eq!(answer.code(), code);
        }
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn a_hook_cannot_take_off_what_a_token_is_bound_to() {
    let world = World::new();
    let issuer = world.issuer().resolve_with(async |identity: Identity| {
        Resolved::Known(Identity::builder(ISSUER, identity.subject()).build())
    });
    let service = world.layer(issuer.build().unwrap()).layer(who());
    let thumbprint = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
    let token = world
        .token()
        .claim("cnf", json!({ "x5t#S256": thumbprint }))
        .sign();
    let answer = send(&service, bearer(&token)).await;
    assert_eq!(answer.code(), "token_binding_failed");
}

#[tokio::test]
async fn types_may_be_named_in_full() {
    let world = World::new();
    for accepted in ["application/at+jwt", "AT+JWT"] {
        let issuer = || world.issuer().types([accepted]);
        for (typ, status) in [("at+jwt", 200), ("application/at+jwt", 200), ("JWT", 401)] {
            let token = world.token().header("typ", typ).sign();
            assert_eq!(world.show(issuer(), &token).await.status, status, "{typ}");
        }
    }
}

#[tokio::test]
async fn a_date_that_never_comes_is_a_date_and_one_beyond_is_none() {
    let world = World::new();
    for (end, status) in [
        (json!(253_402_300_799_u64), 200),
        (json!(253_402_300_800_u64), 401),
        (json!(18_446_744_074.5), 200),
        (json!(1e300), 401),
        (json!(-0.0), 401),
    ] {
        let token = world.token().claim("exp", end.clone()).sign();
        assert_eq!(
            world.show(world.issuer(), &token).await.status,
            status,
            "{end}"
        );
    }
}

#[tokio::test]
async fn a_token_that_is_bound_needs_what_it_is_bound_to() {
    let world = World::new();
    let digest = [7; 32];
    let thumbprint = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
    let service = world.layer(world.issuer().build().unwrap()).layer(who());
    let bound = |cnf: Value| world.token().claim("cnf", cnf).sign();
    let shown = |token: &str, certificate: Option<[u8; 32]>| {
        let mut request = bearer(token);
        if let Some(digest) = certificate {
            request.extensions_mut().insert(ClientCertificate(digest));
        }
        request
    };
    let token = bound(json!({ "x5t#S256": thumbprint }));
    for (certificate, status) in [(Some(digest), 200), (Some([8; 32]), 401), (None, 401)] {
        for _ in 0..2 {
            let answer = send(&service, shown(&token, certificate)).await;
            assert_eq!(answer.status, status);
            if status == 401 {
                assert_eq!(answer.code(), "token_binding_failed");
                assert_eq!(
                    answer.challenges(),
                    [r#"Bearer realm="api", error="invalid_token""#]
                );
            }
        }
    }
    for unknown in [
        json!({ "jkt": "x" }),
        json!({}),
        json!({ "x5t#S256": "short" }),
        json!({ "x5t#S256": 5 }),
        json!({ "x5t#S256": thumbprint, "jkt": "x" }),
    ] {
        let answer = send(&service, shown(&bound(unknown.clone()), Some(digest))).await;
        assert_eq!(answer.code(), "token_binding_failed", "{unknown}");
    }
    assert_eq!(
        send(&service, bearer(&bound(json!("x")))).await.code(),
        "token_invalid"
    );
}

#[tokio::test]
async fn each_issuer_vouches_for_its_own() {
    let world = World::new();
    let other = TestIssuer::new("https://other.example.com/").clock(world.clock.clone());
    let theirs = Jwt::issuer(other.url())
        .audience(AUDIENCE)
        .keys(other.keys())
        .scopes_from(["rights"]);
    let jwt = Jwt::issuers([world.issuer(), theirs]).unwrap();
    let (seen, service) = crate::support::identities();
    let service = world.layer(jwt).layer(service);
    // Both name their keys alike, and both know an `ann`.
    let ours = world.token().scopes(["a"]).claim("rights", "b");
    let good = other
        .token("ann")
        .audience(AUDIENCE)
        .scopes(["a"])
        .claim("rights", "b");
    for token in [ours, good] {
        assert_eq!(send(&service, bearer(&token.sign())).await.status, 200);
    }
    let seen = seen.lock().unwrap().clone();
    assert_ne!(seen[0].principal(), seen[1].principal());
    assert_eq!(
        (seen[0].scopes().as_str(), seen[1].scopes().as_str()),
        ("a", "b")
    );
    for forged in [
        world.token().claim("iss", other.url()).sign(),
        other
            .token("ann")
            .audience(AUDIENCE)
            .claim("iss", ISSUER)
            .sign(),
        world
            .token()
            .claim("iss", "https://third.example.com/")
            .sign(),
        world.token().without("iss").sign(),
    ] {
        assert_eq!(
            send(&service, bearer(&forged)).await.code(),
            "token_invalid"
        );
    }
}

#[tokio::test]
async fn every_algorithm_of_the_kit_is_verified() {
    let mut algorithms = vec![Algorithm::Es256, Algorithm::Ed25519, Algorithm::Hs256];
    if cfg!(feature = "jwt") {
        algorithms.push(Algorithm::Rs256);
    }
    let world = World::new();
    for algorithm in algorithms {
        let authority = TestIssuer::with_algorithm(ISSUER, algorithm).clock(world.clock.clone());
        let issuer = || {
            Jwt::issuer(ISSUER)
                .audience(AUDIENCE)
                .keys(authority.keys())
        };
        let token = authority.token("ann").audience(AUDIENCE).sign();
        assert_eq!(
            world.show(issuer(), &token).await.status,
            200,
            "{algorithm}"
        );
        let (head, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{head}.{}", "A".repeat(86));
        assert_eq!(
            world.show(issuer(), &forged).await.status,
            401,
            "{algorithm}"
        );
        // RFC 9864 names the algorithm by its curve.
        if algorithm == Algorithm::Ed25519 {
            let token = authority
                .token("ann")
                .audience(AUDIENCE)
                .header("alg", "Ed25519")
                .sign();
            assert_eq!(world.show(issuer(), &token).await.status, 200);
        }
    }
}

#[tokio::test]
async fn the_twin_of_a_signature_is_the_same_caller() {
    let world = World::new();
    let token = world.token().claim("jti", "j-1").sign();
    let twin = crate::support::twin_of_es256(&token);
    assert_ne!(token, twin);
    let (seen, service) = crate::support::identities();
    let service = world.layer(world.issuer().build().unwrap()).layer(service);
    for token in [token, twin] {
        assert_eq!(send(&service, bearer(&token)).await.status, 200);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].principal(), seen[1].principal());
    assert_eq!(seen[0].credential_id(), seen[1].credential_id());
}

#[test]
fn settings_that_cannot_work_are_refused_when_they_are_made() {
    let world = World::new();
    let second = Duration::from_secs(1);
    let keys = || world.authority.keys();
    let mistakes = [
        ("no audience", Jwt::issuer(ISSUER).keys(keys())),
        (
            "an empty audience",
            Jwt::issuer(ISSUER).keys(keys()).audience(""),
        ),
        (
            "an audience and any",
            world.issuer().dangerous_accept_any_audience(),
        ),
        ("no issuer", Jwt::issuer("").audience(AUDIENCE).keys(keys())),
        (
            "a leeway of an hour",
            world.issuer().leeway(Duration::from_secs(3600)),
        ),
        ("a leeway for ever", world.issuer().leeway(Duration::MAX)),
        ("no age", world.issuer().max_age(Duration::ZERO)),
        ("no lifetime", world.issuer().max_lifetime(Duration::ZERO)),
        ("no algorithm", world.issuer().algorithms([])),
        ("no type", world.issuer().types([])),
        (
            "scopes everywhere",
            world.issuer().scopes_from(["scope"; 23]),
        ),
        (
            "no key for the algorithm",
            world.issuer().algorithms([Algorithm::Rs256]),
        ),
        (
            "both families",
            world
                .issuer()
                .algorithms([Algorithm::Es256, Algorithm::Hs256]),
        ),
        (
            "a public key as a secret",
            world.issuer().algorithms([Algorithm::Hs256]),
        ),
    ];
    for (mistake, issuer) in mistakes {
        assert!(issuer.build().is_err(), "{mistake}");
    }
    assert!(Jwt::issuers([]).is_err());
    assert!(Jwt::issuers([world.issuer(), world.issuer()]).is_err());
    assert!(
        world
            .issuer()
            .max_age(Duration::MAX)
            .leeway(second * 300)
            .build()
            .is_ok()
    );
    let secret = KeySet::from_secret(Algorithm::Hs256, [7; 32]).unwrap();
    let mixed = Jwt::issuer(ISSUER)
        .audience(AUDIENCE)
        .keys(secret.and(keys()));
    assert!(mixed.build().is_err(), "secrets beside public keys");
}

#[tokio::test]
async fn dangerous_settings_do_what_they_say_and_no_more() {
    let world = World::new();
    let any = || {
        let issuer = Jwt::issuer(ISSUER).keys(world.authority.keys());
        issuer
            .dangerous_accept_any_audience()
            .dangerous_accept_without_expiry()
    };
    assert_eq!(
        world
            .show(any(), &world.token().without("aud").without("exp").sign())
            .await
            .status,
        200
    );
    let expired = world.token().expired(Duration::from_secs(60)).sign();
    assert_eq!(world.show(any(), &expired).await.code(), "token_expired");
    let forged = TestIssuer::new(ISSUER)
        .clock(world.clock.clone())
        .token("ann")
        .sign();
    assert_eq!(world.show(any(), &forged).await.code(), "token_invalid");
}

#[tokio::test]
async fn a_token_over_the_cap_is_refused_unread() {
    let world = World::new();
    let long = world.token().claim("x", "x".repeat(9_000)).sign();
    let layer = || world.layer(world.issuer().build().unwrap());
    assert_eq!(
        send(&layer().layer(who()), bearer(&long)).await.code(),
        "request_malformed"
    );
    let wide = layer().max_credential_len(64 * 1024).layer(who());
    let answer = send(&wide, bearer(&long)).await;
    assert_eq!(answer.code(), "token_invalid");
    assert_eq!(answer.rejection.unwrap().cause(), Cause::TooLong);
}

#[tokio::test]
async fn a_door_for_tokens_can_be_optional() {
    let world = World::new();
    let service = world
        .layer(world.issuer().build().unwrap())
        .optional()
        .layer(who());
    assert_eq!(send(&service, get()).await.body, "nobody");
    assert_eq!(send(&service, bearer("a.b.c")).await.status, 401);
    assert_eq!(
        send(&service, bearer(&world.token().sign())).await.body,
        "ann"
    );
}

/// What a scanner of URIs takes for a token is refused, as a key is.
#[tokio::test]
async fn a_token_in_the_query_is_refused() {
    let world = World::new();
    let service = world.layer(world.issuer().build().unwrap()).layer(who());
    let token = world.token().sign();
    for uri in [
        format!("/?access_token={token}"),
        "/?access_token=x".into(),
        format!("/?t={token}"),
        format!("/?{token}"),
        format!("/?x=1&t=Bearer%20{token}&y"),
    ] {
        // Whether another one is shown where it belongs, or not.
        for mut request in [bearer(&token), http::Request::new(())] {
            *request.uri_mut() = uri.parse().unwrap();
            let answer = send(&service, request).await;
            let reason = answer.rejection.unwrap().reason();
            assert_eq!(reason, Reason::CredentialInUri, "{uri}");
        }
    }
    // What only looks a little like one is none.
    let mut request = bearer(&token);
    *request.uri_mut() = "/?v=1.2.3-eyJ&t=eyJ.x".parse().unwrap();
    assert_eq!(send(&service, request).await.status, 200);
}

#[tokio::test]
async fn a_service_behind_two_clones_of_a_door_remembers_once() {
    let world = World::new();
    let jwt = world.issuer().build().unwrap();
    let one = world.layer(jwt.clone()).layer(who());
    let two = world
        .layer(jwt.clone())
        .layer(service_fn(|_: http::Request<()>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        }));
    let token = world.token().sign();
    assert_eq!(send(&one, bearer(&token)).await.status, 200);
    assert_eq!(send(&two, bearer(&token)).await.status, 200);
    assert_eq!(jwt.remembered(), 1);
}

impl World {
    fn clock_seconds(&self) -> u64 {
        use tollgate::clock::Clock;
        self.clock.now().unix_seconds()
    }
}
