//! Keys that a token names and the last set does not have, or no longer has.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tollgate::clock::{ManualClock, Timestamp};
use tollgate::jwks::{Algorithm, KeySet, RemoteKeys};
use tollgate::rejection::{Cause, Reason};
use tollgate::testing::TestIssuer;
use tollgate::{AuthLayer, Jwt};
use tower::{Layer, Service, service_fn};

use crate::remote_keys::{AUDIENCE, Remote, show};
use crate::support::{Answer, Events, send, who, with};

const ISSUER: &str = "https://id.example.com/";

/// Behaviour of a key server.
#[derive(Clone, Default)]
enum Does {
    /// Answers with the keys of the issuer.
    #[default]
    Serves,
    /// Answers with this document.
    Says(String),
    /// Answers with this status and `Retry-After`.
    Refuses(u16, Option<&'static str>),
    /// Never answers.
    Hangs,
}

/// A key server that can be told what to do.
#[derive(Clone)]
struct Server {
    does: Arc<Mutex<Does>>,
    authority: Arc<Mutex<TestIssuer>>,
    asked: Arc<Mutex<usize>>,
    clock: ManualClock,
}

impl Server {
    fn new() -> Self {
        Self::with_algorithm(Algorithm::Es256)
    }

    fn with_algorithm(algorithm: Algorithm) -> Self {
        let clock = crate::support::clock();
        let authority = TestIssuer::with_algorithm(ISSUER, algorithm).clock(clock.clone());
        Self {
            does: Arc::default(),
            authority: Arc::new(Mutex::new(authority)),
            asked: Arc::default(),
            clock,
        }
    }

    fn authority(&self) -> TestIssuer {
        self.authority.lock().unwrap().clone()
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    fn client(
        &self,
    ) -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<String>,
        Error = Infallible,
        Future = BoxFuture<'static, Result<Response<String>, Infallible>>,
    > + Clone
    + Send
    + Sync
    + use<> {
        let server = self.clone();
        service_fn(move |_| {
            *server.asked.lock().unwrap() += 1;
            let mut response = Response::new(String::new());
            match server.does.lock().unwrap().clone() {
                Does::Serves => *response.body_mut() = server.authority().jwks(),
                Does::Says(text) => *response.body_mut() = text,
                Does::Refuses(status, retry_after) => {
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    if let Some(wait) = retry_after {
                        let wait = wait.parse().unwrap();
                        response.headers_mut().insert("retry-after", wait);
                    }
                }
                Does::Hangs => {
                    let never = std::future::pending();
                    return Box::pin(never) as BoxFuture<'static, _>;
                }
            }
            Box::pin(async move {
                // A fetch takes a moment, so that requests meet in it.
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(response)
            })
        })
    }

    fn jwt(&self) -> Jwt {
        let keys = RemoteKeys::at("https://id.example.com/jwks.json")
            .client(self.client())
            .clock(self.clock.clone());
        let issuer = Jwt::issuer(ISSUER).audience(AUDIENCE).keys(keys);
        issuer.build().unwrap()
    }

    /// A verifier that has the keys.
    async fn warm_jwt(&self) -> Jwt {
        let jwt = self.jwt();
        jwt.warm_up().await.unwrap();
        jwt
    }

    fn token(&self) -> String {
        self.named(None)
    }

    /// A token that is signed by the current key, and names this one.
    fn named(&self, kid: Option<&str>) -> String {
        let token = self.authority().token("ann").audience(AUDIENCE);
        let token = token.expires_in(Duration::from_secs(100_000));
        match kid {
            Some(kid) => token.header("kid", kid).sign(),
            None => token.sign(),
        }
    }

    async fn show(&self, jwt: &Jwt, token: &str) -> Answer {
        show(jwt, &self.clock, token).await
    }
}

/// A token without its `kid`, signed by `authority`.
fn without_kid(authority: &TestIssuer) -> String {
    let token = authority.token("ann").audience(AUDIENCE);
    token.without_header("kid").sign()
}

fn is_unavailable(answer: &Answer) -> bool {
    let rejection = answer.rejection.as_ref().unwrap();
    let wait = answer.header("retry-after").map(str::parse::<u64>);
    answer.status == 503
        && rejection.reason() == Reason::VerifierUnavailable
        && wait.is_some_and(|wait| wait.is_ok_and(|wait| wait >= 1))
}

fn cause(answer: &Answer) -> Cause {
    answer.rejection.as_ref().unwrap().cause()
}

#[tokio::test(start_paused = true)]
async fn key_replaced_under_its_kid_is_fetched_once() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    let old = server.token();
    assert_eq!(server.show(&jwt, &old).await.status, 200);
    server.authority().replace_key();
    let tokens: Vec<_> = (0..50).map(|_| server.token()).collect();
    let answers = join_all(tokens.iter().map(|token| server.show(&jwt, token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(server.asked(), 2);
    // The key has left, and with it what it vouched for.
    let answer = server.show(&jwt, &old).await;
    assert_eq!(answer.code(), "token_invalid");
    assert_eq!(cause(&answer), Cause::TokenSignature);
}

#[tokio::test(start_paused = true)]
async fn one_of_several_keys_with_one_kid_is_replaced() {
    let server = Server::new();
    let other = TestIssuer::new(ISSUER).clock(server.clock.clone());
    let both = |first: &TestIssuer| {
        let keys = |issuer: &TestIssuer| -> serde_json::Value {
            serde_json::from_str(&issuer.jwks()).unwrap()
        };
        let all = [&keys(first)["keys"][0], &keys(&other)["keys"][0]];
        serde_json::json!({ "keys": all }).to_string()
    };
    server.does(Does::Says(both(&server.authority())));
    let jwt = server.warm_jwt().await;
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    let of_other = other.token("bob").audience(AUDIENCE).sign();
    assert_eq!(server.show(&jwt, &of_other).await.status, 200);
    server.authority().replace_key();
    server.does(Does::Says(both(&server.authority())));
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    assert_eq!(server.asked(), 2);
    assert_eq!(server.show(&jwt, &of_other).await.body, "bob");
}

#[tokio::test(start_paused = true)]
async fn key_replaced_by_one_of_another_algorithm_is_fetched() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    let next = TestIssuer::with_algorithm(ISSUER, Algorithm::Ed25519);
    *server.authority.lock().unwrap() = next.clock(server.clock.clone());
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn replaced_key_without_a_kid_is_fetched() {
    let server = Server::new();
    let nameless = |server: &Server| {
        let jwks = server.authority().jwks();
        Does::Says(jwks.replace(r#""kid":"key-1","#, ""))
    };
    server.does(nameless(&server));
    let jwt = server.warm_jwt().await;
    for rotation in 0..2 {
        // Whether the token names a key or not.
        for token in [without_kid(&server.authority()), server.token()] {
            assert_eq!(server.show(&jwt, &token).await.status, 200, "{rotation}");
        }
        server.authority().replace_key();
        server.does(nameless(&server));
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_spend_a_budget_of_their_own() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    let good = server.token();
    assert_eq!(server.show(&jwt, &good).await.status, 200);
    let forger = TestIssuer::new(ISSUER).clock(server.clock.clone());
    for at in 0..300 {
        let forged = forger.token(&format!("ann-{at}")).audience(AUDIENCE).sign();
        let answer = server.show(&jwt, &forged).await;
        assert_eq!(
            (answer.status.as_u16(), cause(&answer)),
            (401, Cause::TokenSignature)
        );
        let started = tokio::time::Instant::now();
        let service = AuthLayer::new(jwt.clone())
            .clock(server.clock.clone())
            .layer(who());
        let answer = send(&service, with("authorization", format!("Bearer {good}"))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            started.elapsed(),
            Duration::ZERO,
            "good tokens wait for nothing"
        );
        server.clock.advance(Duration::from_millis(200));
    }
    // The first fetch, a full bucket, and one after 30 seconds. The next is after 60.
    assert_eq!(server.asked(), 1 + 4 + 1);
    // The budget for new keys is not touched.
    server.authority().rotate();
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    assert_eq!(server.asked(), 7);
}

#[tokio::test(start_paused = true)]
async fn made_up_kids_leave_the_budget_of_signatures_alone() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    for at in 0..20 {
        server
            .show(&jwt, &server.named(Some(&format!("no-{at}"))))
            .await;
    }
    assert_eq!(server.asked(), 5);
    server.authority().replace_key();
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    assert_eq!(server.asked(), 6);
}

#[tokio::test(start_paused = true)]
async fn token_that_no_key_could_save_has_nothing_fetched() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    // Signed with a key that the verifier does not have yet.
    server.authority().replace_key();
    let stale = server.authority().token("ann").audience(AUDIENCE);
    let stale = stale.expired(Duration::from_secs(120)).sign();
    let token = || server.authority().token("ann").header("kid", "other");
    for token in [
        stale,
        token().audience("https://other.example.com").sign(),
        token().audience(AUDIENCE).without("sub").sign(),
        token().audience(AUDIENCE).without("exp").sign(),
    ] {
        assert_eq!(server.show(&jwt, &token).await.code(), "token_invalid");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn forged_token_is_401_while_the_key_server_is_down() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    server.does(Does::Refuses(503, None));
    let forger = TestIssuer::new(ISSUER).clock(server.clock.clone());
    let forged = forger.token("ann").audience(AUDIENCE).sign();
    for _ in 0..2 {
        let answer = server.show(&jwt, &forged).await;
        assert_eq!(
            (answer.status.as_u16(), cause(&answer)),
            (401, Cause::TokenSignature)
        );
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn new_key_that_cannot_be_fetched_is_503() {
    let private = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;
    for (does, least_wait) in [
        (Does::Refuses(503, None), 1),
        (Does::Refuses(404, None), 1),
        (Does::Refuses(304, None), 1),
        (Does::Refuses(302, None), 1),
        (Does::Refuses(429, Some("120")), 120),
        (Does::Hangs, 1),
        (Does::Says("<!doctype html>".into()), 1),
        (Does::Says(String::new()), 1),
        (Does::Says(r#"{"keys": []}"#.into()), 1),
        (Does::Says(private.into()), 1),
        (Does::Says("x".repeat(300_000)), 1),
    ] {
        let server = Server::new();
        let jwt = server.warm_jwt().await;
        let old = server.token();
        server.authority().rotate();
        let new = server.token();
        server.does(does);
        // The second one may not ask again so soon.
        for _ in 0..2 {
            let answer = server.show(&jwt, &new).await;
            assert!(is_unavailable(&answer), "{answer:?}");
            assert_eq!(cause(&answer), Cause::TokenKeyUnavailable);
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!(wait >= least_wait, "{wait}");
            assert_eq!(server.show(&jwt, &old).await.status, 200);
        }
        assert_eq!(server.asked(), 2);
        server.does(Does::Serves);
        // By then a fetch that hangs was given up.
        tokio::time::sleep(Duration::from_secs(6)).await;
        server.clock.advance(Duration::from_secs(200));
        assert_eq!(server.show(&jwt, &new).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn new_key_is_503_while_the_budget_is_spent() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    for at in 0..4 {
        let made_up = server.named(Some(&format!("no-{at}")));
        assert_eq!(server.show(&jwt, &made_up).await.status, 401, "{at}");
    }
    server.clock.advance(Duration::from_secs(10));
    server.authority().rotate();
    let answer = server.show(&jwt, &server.token()).await;
    assert!(is_unavailable(&answer), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("20"));
    assert_eq!(server.asked(), 5);
    // A client that waits for `Retry-After` is served.
    server.clock.advance(Duration::from_secs(20));
    assert_eq!(server.show(&jwt, &server.token()).await.status, 200);
    assert_eq!(server.asked(), 6);
}

#[tokio::test(start_paused = true)]
async fn flood_of_made_up_kids_is_one_warning() {
    let (events, _guard) = Events::listen();
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    for at in 0..50 {
        server
            .show(&jwt, &server.named(Some(&format!("CANARY-{at}"))))
            .await;
    }
    let warnings = events.of("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(ISSUER), "{warnings:?}");
    assert!(!warnings[0].contains("CANARY"), "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn key_that_a_current_set_lacks_is_401() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    let made_up = server.named(Some("made-up"));
    // Once it is known, an outage does not change it for 30 seconds.
    for (does, advance, status) in [
        (Does::Serves, 0, 401),
        (Does::Refuses(503, None), 29, 401),
        (Does::Refuses(503, None), 1, 503),
        (Does::Serves, 60, 401),
    ] {
        server.does(does);
        server.clock.advance(Duration::from_secs(advance));
        let answer = server.show(&jwt, &made_up).await;
        assert_eq!(answer.status, status, "{advance}");
    }
}

#[tokio::test(start_paused = true)]
async fn set_confirmed_by_304_is_current() {
    let remote = Remote::new(ISSUER);
    let jwks = remote.authority.jwks();
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        let mut response = Response::new(jwks.clone());
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert("etag", "\"1\"".parse().unwrap());
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let keys = remote.keys().client(client);
    let jwt = remote.issuer().keys(keys).build().unwrap();
    assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    remote.authority.rotate();
    let answer = show(&jwt, &remote.clock, &remote.token()).await;
    assert_eq!(
        (answer.status.as_u16(), cause(&answer)),
        (401, Cause::TokenKeyUnknown)
    );
}

#[tokio::test(start_paused = true)]
async fn token_without_a_kid_is_looked_up_too() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    let other = TestIssuer::with_algorithm(ISSUER, Algorithm::Ed25519).clock(server.clock.clone());
    let unfit = without_kid(&other);
    assert_eq!(server.show(&jwt, &unfit).await.status, 401);
    assert_eq!(server.asked(), 2);
    server.clock.advance(Duration::from_secs(31));
    server.does(Does::Refuses(503, None));
    assert!(is_unavailable(&server.show(&jwt, &unfit).await));
    // Several keys fit, until the old one is withdrawn.
    server.does(Does::Serves);
    server.authority().rotate();
    server.clock.advance(Duration::from_secs(60));
    let token = without_kid(&server.authority());
    assert_eq!(server.show(&jwt, &token).await.status, 401);
    server.authority().withdraw_old();
    server.clock.advance(Duration::from_secs(31));
    assert_eq!(server.show(&jwt, &token).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn unknown_kid_at_a_cold_start_is_401_or_503() {
    for (does, status) in [(Does::Serves, 401), (Does::Refuses(503, None), 503)] {
        let server = Server::new();
        let jwt = server.jwt();
        server.does(does);
        let made_up = server.named(Some("made-up"));
        assert_eq!(server.show(&jwt, &made_up).await.status, status);
        assert_eq!(server.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn stale_set_verifies_known_keys_and_not_new_ones() {
    let server = Server::new();
    let jwt = server.warm_jwt().await;
    let old = server.token();
    server.authority().rotate();
    server.does(Does::Refuses(503, None));
    for _ in 0..20 {
        server.clock.advance(Duration::from_secs(3600));
        assert_eq!(server.show(&jwt, &old).await.status, 200);
        assert!(is_unavailable(&server.show(&jwt, &server.token()).await));
    }
}

#[tokio::test]
async fn fixed_set_is_asked_nothing_and_never_expires() {
    let clock = ManualClock::new(Timestamp::MAX);
    let authority = TestIssuer::new(ISSUER).clock(clock.clone());
    let jwt = Jwt::issuer(ISSUER)
        .audience(AUDIENCE)
        .keys(KeySet::from_jwks(authority.jwks()).unwrap())
        .dangerous_accept_without_expiry()
        .build()
        .unwrap();
    let token = || authority.token("ann").audience(AUDIENCE);
    let never = 253_402_300_799_u64; // the last second of the year 9999
    for (token, status, cause) in [
        (token().without("exp").sign(), 200, None),
        (token().claim("exp", never).sign(), 200, None),
        (
            token().claim("exp", 1).sign(),
            401,
            Some(Cause::TokenExpired),
        ),
        (
            token().header("kid", "b").sign(),
            401,
            Some(Cause::TokenKeyUnknown),
        ),
    ] {
        let answer = show(&jwt, &clock, &token).await;
        let refused = answer.rejection.as_ref().map(|rejection| rejection.cause());
        assert_eq!((answer.status.as_u16(), refused), (status, cause));
    }
    assert!(jwt.status(Timestamp::MAX)[0].is_ready());
}
