//! Keys that are fetched, as the callers of an API get to know it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::auth::jwt::Issuer;
use tollgate::clock::{Clock, ManualClock};
use tollgate::jwks::{KeySet, RemoteKeys};
use tollgate::rejection::Cause;
use tollgate::testing::TestIssuer;
use tollgate::{AuthLayer, Jwt};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Answer, clock, send, who, with};

pub(crate) const AUDIENCE: &str = "https://api.example.com";

/// An issuer that is asked for its keys, and how often it was.
pub(crate) struct Remote {
    pub(crate) authority: TestIssuer,
    pub(crate) asked: Arc<AtomicUsize>,
    pub(crate) clock: ManualClock,
}

impl Remote {
    pub(crate) fn new(url: &str) -> Self {
        let clock = clock();
        let authority = TestIssuer::new(url).clock(clock.clone());
        Self {
            authority,
            asked: Arc::default(),
            clock,
        }
    }

    pub(crate) fn client(
        &self,
    ) -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<String>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + use<> {
        let (authority, asked) = (self.authority.clone(), Arc::clone(&self.asked));
        service_fn(move |request: Request<Full<Bytes>>| {
            asked.fetch_add(1, Ordering::Relaxed);
            authority.clone().oneshot(request)
        })
    }

    pub(crate) fn keys(&self) -> RemoteKeys {
        let url = format!("{}jwks.json", self.authority.url());
        RemoteKeys::at(url)
            .client(self.client())
            .clock(self.clock.clone())
    }

    pub(crate) fn issuer(&self) -> Issuer {
        Jwt::issuer(self.authority.url())
            .audience(AUDIENCE)
            .keys(self.keys())
    }

    pub(crate) fn token(&self) -> String {
        let token = self.authority.token("ann").audience(AUDIENCE);
        token.expires_in(Duration::from_secs(400_000)).sign()
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

pub(crate) async fn show(jwt: &Jwt, clock: &ManualClock, token: &str) -> Answer {
    let service = AuthLayer::new(jwt.clone())
        .clock(clock.clone())
        .layer(who());
    let answer = send(&service, with("authorization", format!("Bearer {token}"))).await;
    // What was started in the background has its turn.
    tokio::time::sleep(Duration::from_millis(5)).await;
    answer
}

#[tokio::test(start_paused = true)]
async fn the_first_token_fetches_the_keys_and_the_next_ones_do_not() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = remote.issuer().build().unwrap();
    assert_eq!(remote.asked(), 0, "nothing is fetched when it is built");
    for _ in 0..5 {
        assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    }
    assert_eq!(remote.asked(), 1);
    let status = jwt.status(remote.clock.now());
    assert!(status[0].is_ready());
    assert_eq!(status[0].kids().collect::<Vec<_>>(), [Some("key-1")]);
}

#[tokio::test(start_paused = true)]
async fn by_discovery_the_issuer_says_where_its_keys_are() {
    let remote = Remote::new("https://id.example.com/tenant");
    let keys = RemoteKeys::discover()
        .client(remote.client())
        .clock(remote.clock.clone());
    let jwt = remote.issuer().keys(keys).build().unwrap();
    assert!(jwt.warm_up().await.is_ok());
    assert_eq!(remote.asked(), 2, "the metadata, and the keys");
    assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    // Metadata of another issuer is none.
    let keys = RemoteKeys::discover().client(remote.client());
    let other = Jwt::issuer("https://id.example.com/other")
        .audience(AUDIENCE)
        .keys(keys);
    assert!(other.build().unwrap().warm_up().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_new_key_signs_at_once_and_a_withdrawn_one_no_more() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = remote.issuer().build().unwrap();
    let old = remote.token();
    assert_eq!(show(&jwt, &remote.clock, &old).await.status, 200);
    remote.authority.rotate();
    assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    assert_eq!(remote.asked(), 2);
    assert_eq!(
        show(&jwt, &remote.clock, &old).await.status,
        200,
        "both are in the set"
    );
    assert_eq!(jwt.remembered(), 2);

    remote.authority.withdraw_old();
    assert_eq!(
        show(&jwt, &remote.clock, &old).await.status,
        200,
        "nobody knows yet"
    );
    remote.clock.advance(Duration::from_secs(600));
    show(&jwt, &remote.clock, &remote.token()).await;
    assert_eq!(remote.asked(), 3, "it was time to ask");
    let answer = show(&jwt, &remote.clock, &old).await;
    assert_eq!(answer.code(), "token_invalid");
    assert_eq!(answer.rejection.unwrap().cause(), Cause::TokenKeyUnknown);
}

/// A set whose only key has no id is asked for again, when a token names one.
#[tokio::test(start_paused = true)]
async fn a_key_that_comes_with_an_id_is_found_where_none_had_one() {
    let remote = Remote::new("https://id.example.com/");
    let (inner, is_old) = (
        remote.client(),
        Arc::new(std::sync::atomic::AtomicBool::new(true)),
    );
    let old = Arc::clone(&is_old);
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        let (answer, is_old) = (inner.clone().oneshot(request), old.load(Ordering::Relaxed));
        async move {
            let response = answer.await?;
            Ok::<_, Infallible>(response.map(|text| {
                if is_old {
                    text.replace(r#""kid":"key-1","#, "")
                } else {
                    text
                }
            }))
        }
    });
    let keys = remote.keys().client(client);
    let jwt = remote.issuer().keys(keys).build().unwrap();
    assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    remote.authority.rotate();
    remote.authority.withdraw_old();
    is_old.store(false, Ordering::Relaxed);
    assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    assert_eq!(remote.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_keys_it_is_503_and_with_old_ones_it_is_not() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = remote.issuer().build().unwrap();
    let token = remote.token();
    remote.authority.set_down(true);
    let answer = show(&jwt, &remote.clock, &token).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "verifier_unavailable")
    );
    assert!(answer.header("retry-after").is_some());
    assert!(!jwt.status(remote.clock.now())[0].is_ready());
    assert!(jwt.status(remote.clock.now())[0].last_error().is_some());

    remote.authority.set_down(false);
    remote.clock.advance(Duration::from_secs(120));
    assert_eq!(
        show(&jwt, &remote.clock, &token).await.status,
        200,
        "no restart is needed"
    );
    remote.authority.set_down(true);
    remote.clock.advance(Duration::from_secs(23 * 3600));
    assert_eq!(show(&jwt, &remote.clock, &token).await.status, 200);
    remote.clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(show(&jwt, &remote.clock, &token).await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn one_issuer_that_is_down_does_not_hinder_another() {
    let (up, down) = (
        Remote::new("https://up.example.com/"),
        Remote::new("https://down.example.com/"),
    );
    let hangs = service_fn(|_: Request<Full<Bytes>>| {
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    let keys = RemoteKeys::at("https://down.example.com/jwks.json").client(hangs);
    let jwt = Jwt::issuers([
        up.issuer(),
        down.issuer().keys(keys.clock(down.clock.clone())),
    ])
    .unwrap();
    let started = tokio::time::Instant::now();
    assert_eq!(show(&jwt, &down.clock, &down.token()).await.status, 503);
    assert!(
        started.elapsed() <= Duration::from_millis(1_100),
        "{:?}",
        started.elapsed()
    );
    let started = tokio::time::Instant::now();
    assert_eq!(show(&jwt, &up.clock, &up.token()).await.status, 200);
    assert!(started.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_is_malformed_has_nothing_fetched() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = remote.issuer().build().unwrap();
    assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    let token = || remote.authority.token("ann").audience(AUDIENCE);
    let far = "https://evil.example.com/jwks.json";
    for (token, fetches) in [
        (
            token()
                .header("kid", "x")
                .claim("iss", "https://evil.example.com/")
                .sign(),
            0,
        ),
        (token().header("kid", "x").header("alg", "HS256").sign(), 0),
        (
            token().header("kid", "x").header("typ", "dpop+jwt").sign(),
            0,
        ),
        (token().header("kid", "x").header("crit", "x").sign(), 0),
        (
            token()
                .header("jku", far)
                .header("x5u", far)
                .header("jwk", far)
                .sign(),
            0,
        ),
        (token().header("kid", "x").sign(), 1),
    ] {
        let before = remote.asked();
        show(&jwt, &remote.clock, &token).await;
        assert_eq!(remote.asked() - before, fetches, "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_costs_a_few_fetches_and_no_good_token() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = remote.issuer().build().unwrap();
    let good = remote.token();
    assert_eq!(show(&jwt, &remote.clock, &good).await.status, 200);
    for at in 0..300 {
        let kid = format!("random-{at}");
        let token = remote
            .authority
            .token("ann")
            .audience(AUDIENCE)
            .header("kid", kid)
            .sign();
        // A key that was looked up is known not to be there, any other is not.
        let status = show(&jwt, &remote.clock, &token).await.status;
        assert_eq!(status, if at < 4 { 401 } else { 503 }, "{at}");
        assert_eq!(show(&jwt, &remote.clock, &good).await.status, 200);
        remote.clock.advance(Duration::from_millis(99));
    }
    // The four of the budget, and the first of all.
    assert_eq!(remote.asked(), 5);
}

#[test]
fn keys_that_could_not_be_fetched_are_refused_when_it_is_built() {
    let issuer = |keys| {
        Jwt::issuer("https://id.example.com/")
            .audience(AUDIENCE)
            .keys(keys)
    };
    let client = || {
        service_fn(|_: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
        })
    };
    for url in [
        "http://id.example.com/jwks.json",
        "file:///etc/passwd",
        "/jwks.json",
        "",
        "https://",
    ] {
        assert!(
            issuer(RemoteKeys::at(url).client(client()))
                .build()
                .is_err(),
            "{url}"
        );
    }
    let hmac = issuer(RemoteKeys::at("https://id.example.com/").client(client()));
    let hmac = hmac.algorithms([tollgate::jwks::Algorithm::Hs256]);
    assert!(
        hmac.build().is_err(),
        "what everybody can fetch is no secret"
    );
    assert!(KeySet::from_jwks(r#"{"keys":[]}"#).is_err());
}

/// Returns a verifier whose clock is put forward by two days in each of the first fetches.
fn with_clock_steps(remote: &Remote, steps: usize) -> Jwt {
    let (clock, client) = (remote.clock.clone(), remote.client());
    let left = Arc::new(AtomicUsize::new(steps));
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        let step = |left: usize| left.checked_sub(1);
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .is_ok()
        {
            clock.advance(Duration::from_secs(2 * 86_400));
        }
        client.clone().oneshot(request)
    });
    let issuer = remote.issuer().keys(remote.keys().client(client));
    issuer.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn clock_step_during_a_fetch_causes_another_fetch() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = with_clock_steps(&remote, 1);
    for _ in 0..3 {
        assert_eq!(show(&jwt, &remote.clock, &remote.token()).await.status, 200);
    }
    assert_eq!(remote.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn set_that_is_too_old_when_it_arrives_is_503() {
    let remote = Remote::new("https://id.example.com/");
    let jwt = with_clock_steps(&remote, usize::MAX);
    let token = remote.authority.token("ann").audience(AUDIENCE);
    let token = token.expires_in(Duration::from_secs(4_000_000)).sign();
    let answer = show(&jwt, &remote.clock, &token).await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
}
