//! The cases of this crate in the referee's run, beside its peers and the floor. Only
//! the public API is used, as the README tells users to, with the defaults on.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use axum_prometheus::metrics_exporter_prometheus::PrometheusBuilder;
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use tollgate::clock::{Clock, SystemClock, Timestamp};
use tollgate::jwks::{Algorithm, KeySet};
use tollgate::keys::{
    Cached, KeyFilter, KeyRecord, KeyStore, MemoryKeys, NewKey, Peppers,
};
use tollgate::limit::{Fields, KeyBy, LimitKey, Limiter, MemoryLimiter, Quota, Quotas, RateLimitLayer};
use tollgate::pending::Pending;
use tollgate::testing::TestIssuer;
use tollgate::audit::Audit;
use tollgate::auth::Authenticate;
use tollgate::usage::Usage;
use tollgate::usage::metrics::{Metrics, TIME_BUCKETS};
use tollgate::{
    ApiKeys, AuthLayer, Identity, Jwt, RequireLayer, Tollgate, UsageLayer, scope,
};
use tower::{Layer, ServiceExt};

use crate::bench::Suite;
use crate::drive::{self, Inner, Template};
use crate::e_stack;
use crate::fixtures::{self, AUD, Fixture, ISS, Walk};
use crate::mem;

/// Called for every section before it runs.
pub fn add(section: char, suite: &mut Suite, all: &[Fixture]) {
    match section {
        'A' => tokens_alone(suite, all),
        'B' => api_key_alone(suite),
        'C' => limits(suite),
        'D' => usage(suite),
        'E' => {
            stacks(suite);
            token_stacks(suite, all);
        }
        'M' => suite.memory("tollgate", "tollgate MemoryLimiter, a quota", || Box::new(a_million_keys())),
        _ => {}
    }
}

pub enum Sends {
    ApiKey,
    Es256,
    /// `x-api-key` with this key.
    Key(String),
}

/// Servers for the end-to-end section.
pub fn servers(all: &[Fixture]) -> Vec<(String, Sends, Router)> {
    let keys = Keys::issue();
    let router = keys.protect(e_stack::bare());
    let tokens = protect_by_tokens(fixtures::of(all, "ES256"));
    vec![
        ("tollgate API key: whole stack".into(), Sends::Key(keys.good), router),
        ("tollgate ES256: whole stack, token seen before".into(), Sends::Es256, tokens),
    ]
}

/// The layers of a whole stack. A tuple of layers is itself a layer: `whole(..)` alone is the nested
/// form, `Tollgate::new(whole(..))` the stack.
type Whole<A> = (UsageLayer, AuthLayer<A>, RequireLayer, RateLimitLayer);

fn whole<A: Authenticate>(auth: AuthLayer<A>, quota: Quota) -> Whole<A> {
    let usage = UsageLayer::new(Usage::new());
    (usage, auth, RequireLayer::new(scope("read:items")), RateLimitLayer::new(quota))
}

fn nested<A: Authenticate>(auth: AuthLayer<A>, quota: Quota) -> Whole<A> {
    whole(auth, quota)
}

/// As many keys as the peers hold, and one of each kind.
struct Keys {
    keys: ApiKeys,
    peppers: Peppers,
    good: String,
    other: String,
    unknown: String,
    mistyped: String,
}

const HELD: usize = 10_000;

impl Keys {
    fn issue() -> Self {
        let peppers = Peppers::random();
        let keys = ApiKeys::in_memory(peppers.clone()).prefix("acme");
        let new = |i: usize| {
            NewKey::for_owner(format!("acct_{i:010}")).scopes(["read:items", "write:items"])
        };
        let (mut good, mut other) = (String::new(), String::new());
        for i in 0..HELD {
            let issued = drive::block_on(keys.issue(new(i))).unwrap();
            match i {
                4242 => good = issued.key.expose().into(),
                4243 => other = issued.key.expose().into(),
                _ => {}
            }
        }
        let others = ApiKeys::in_memory(Peppers::random()).prefix("acme");
        let unknown = drive::block_on(others.issue(new(0))).unwrap().key.expose().into();
        let last = if good.ends_with('0') { "1" } else { "0" };
        let mistyped = format!("{}{last}", &good[..good.len() - 1]);
        Self { keys, peppers, good, other, unknown, mistyped }
    }

    /// The same records in another memory, with a cache in front of it.
    fn behind_a_cache(&self) -> ApiKeys<Cached<MemoryKeys>> {
        let store = MemoryKeys::new();
        let mut filter = KeyFilter::all();
        loop {
            let page = drive::block_on(self.keys.store().list(filter.clone())).unwrap();
            for record in page.records {
                let record = KeyRecord::clone(&record);
                assert!(drive::block_on(store.insert(record)).unwrap());
            }
            let Some(next) = page.next else { break };
            filter = filter.after(next);
        }
        ApiKeys::new(Cached::new(store), self.peppers.clone()).prefix("acme")
    }

    fn protect(&self, router: Router) -> Router {
        router.layer(Tollgate::new(whole(AuthLayer::new(self.keys.clone()), generous())))
    }

    fn protect_nested(&self, router: Router) -> Router {
        router.layer(nested(AuthLayer::new(self.keys.clone()), generous()))
    }
}

fn api_key_alone(suite: &mut Suite) {
    let keys = Keys::issue();
    let service = AuthLayer::new(keys.keys.clone()).layer(Inner::<Body>::new());
    let bare = Some("bare service");
    for (name, key, status) in [
        ("tollgate API key: auth alone", &keys.good, 200),
        ("tollgate API key: auth alone, unknown key, 401", &keys.unknown, 401),
        ("tollgate API key: auth alone, bad checksum, 401", &keys.mistyped, 401),
    ] {
        suite.case(name, bare, drive::tower(service.clone(), Template::key(key), status));
    }
    let cached = keys.behind_a_cache();
    let service = AuthLayer::new(cached).layer(Inner::<Body>::new());
    let name = "tollgate API key: auth alone, cached";
    suite.case(name, bare, drive::tower(service, Template::key(&keys.good), 200));
}

fn stacks(suite: &mut Suite) {
    let keys = Keys::issue();
    let router = keys.protect(e_stack::bare());
    let bare = Some("bare Router (API-key request)");
    for (name, key, status) in [
        ("tollgate API key: whole stack, on the Router", &keys.good, 200),
        ("tollgate API key: unknown key, 401, on the Router", &keys.unknown, 401),
        ("tollgate API key: bad checksum, 401, on the Router", &keys.mistyped, 401),
    ] {
        suite.case(name, bare, drive::tower(router.clone(), Template::key(key), status));
    }
    let nested_router = keys.protect_nested(e_stack::bare());
    for (name, key, status) in [
        ("tollgate API key: whole stack, nested, on the Router", &keys.good, 200),
        ("tollgate API key: unknown key, 401, nested, on the Router", &keys.unknown, 401),
    ] {
        suite.case(name, bare, drive::tower(nested_router.clone(), Template::key(key), status));
    }
    let auth = || AuthLayer::new(keys.keys.clone());
    let good = Template::key(&keys.good);
    for (what, quota, status) in [("", generous(), 200), (", over the limit, 429", tight(), 429)] {
        let service = Tollgate::new(whole(auth(), quota.clone())).layer(Inner::<Body>::new());
        drive::status_of(&service, &good);
        let on = "on the bare service";
        suite.case(
            &format!("tollgate API key: whole stack{what}, {on}"),
            Some("bare service (API-key request)"),
            drive::tower(service, good.clone(), status),
        );
        let service = nested(auth(), quota).layer(Inner::<Body>::new());
        drive::status_of(&service, &good);
        suite.case(
            &format!("tollgate API key: whole stack{what}, nested, {on}"),
            Some("bare service (API-key request)"),
            drive::tower(service, good.clone(), status),
        );
    }
    let router = e_stack::bare().layer(Tollgate::new(whole(auth(), tight())));
    drive::status_of(&router, &good);
    let name = "tollgate API key: whole stack, over the limit, 429, on the Router";
    suite.case(name, bare, drive::tower(router, good.clone(), 429));

    let bare = Some("2 threads: bare Router");
    let router = keys.protect(e_stack::bare());
    for (who, other) in [("the same key", &keys.good), ("a key each", &keys.other)] {
        let (a, b) = (good.clone(), Template::key(other));
        let name = format!("2 threads: tollgate API key: whole stack, {who}");
        let one = drive::tower_polled(router.clone(), a);
        suite.duo(&name, bare, one, drive::tower_polled(router.clone(), b));
    }
}

/// What accepts the tokens of the referee.
fn jwt(fixture: &Fixture) -> Jwt {
    let keys = if fixture.alg == "HS256" {
        KeySet::from_secret(Algorithm::Hs256, fixtures::SECRET).unwrap()
    } else {
        KeySet::from_jwk(fixture.jwk.to_string()).unwrap()
    };
    Jwt::issuer(ISS).audience(AUD).keys(keys).build().unwrap()
}

/// How many tokens go round, and how many of them are remembered: each is forgotten
/// before it is shown again.
const GOING_ROUND: usize = 4;
const REMEMBERED: usize = 1;

fn tokens_alone(suite: &mut Suite, all: &[Fixture]) {
    for fixture in all {
        let alg = fixture.alg;
        let bare = format!("{alg} bare service");
        let seen = drive::tower(
            AuthLayer::new(jwt(fixture)).layer(Inner::<Body>::new()),
            Template::bearer(&fixture.token),
            200,
        );
        suite.case(&format!("tollgate {alg}: layer alone, token seen before"), Some(&bare), seen);
        tokens_going_round(suite, alg, &bare);
    }
    let fixture = fixtures::of(all, "ES256");
    let service = AuthLayer::new(jwt(fixture)).layer(Inner::<Body>::new());
    let mut forged = fixture.token.clone();
    forged.replace_range(forged.len() - 8..forged.len() - 6, "AA");
    for (name, token) in [("garbage", "not-a-token"), ("bad signature", forged.as_str())] {
        suite.case(
            &format!("tollgate ES256: layer alone, {name}, 401"),
            Some("ES256 bare service"),
            drive::tower(service.clone(), Template::bearer(token), 401),
        );
    }
}

/// Tokens that were not seen before, and their signatures alone: a signature that is
/// checked again and again is checked faster, so both go round.
fn tokens_going_round(suite: &mut Suite, alg: &str, bare: &str) {
    let algorithm = match alg {
        "HS256" => Algorithm::Hs256,
        "ES256" => Algorithm::Es256,
        "EdDSA" => Algorithm::Ed25519,
        _ => Algorithm::Rs256,
    };
    let authority = TestIssuer::with_algorithm(ISS, algorithm);
    let tokens: Vec<_> = (0..GOING_ROUND)
        .map(|i| {
            let token = authority.token(&format!("auth0|5f7c8ec7c33c6c004bb{i:05}"));
            let token = token.audience(AUD).expires_in(Duration::from_secs(86_400));
            token.scopes(["read:items", "write:items", "read:profile"]).sign()
        })
        .collect();
    let templates: Vec<_> = tokens.iter().map(|token| Template::bearer(token)).collect();
    // The first copy of a header value costs more than the next.
    templates.iter().for_each(|template| drop(template.request()));
    let issuer = Jwt::issuer(ISS).audience(AUD).keys(authority.keys());
    let jwt = issuer.build().unwrap().cache_capacity(REMEMBERED);
    let service = AuthLayer::new(jwt).layer(Inner::<Body>::new());
    assert_eq!(drive::status_of(&service, &templates[0]), 200);
    let mut at = 0;
    let unseen = drive::tower_with(service, move || {
        at = (at + 1) % templates.len();
        templates[at].request()
    });
    suite.case(&format!("tollgate {alg}: layer alone, token not seen before"), Some(bare), unseen);

    let Some(key) = parsed(&authority, alg) else { return };
    let signed: Vec<_> = tokens
        .iter()
        .map(|token| {
            let (message, signature) = token.rsplit_once('.').unwrap();
            (message.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
        })
        .collect();
    let mut at = 0;
    suite.case(&format!("tollgate {alg}: raw verification, tokens going round"), None, move |n| {
        for _ in 0..n {
            at = (at + 1) % signed.len();
            let (message, signature) = &signed[at];
            assert!(key.verify_sig(message.as_bytes(), signature).is_ok());
        }
    });
}

/// The key of the authority, as the backend takes it.
fn parsed(authority: &TestIssuer, alg: &str) -> Option<ParsedPublicKey> {
    let set: Value = serde_json::from_str(&authority.jwks()).unwrap();
    let jwk = set["keys"].get(0)?;
    let bytes = |member: &str| URL_SAFE_NO_PAD.decode(jwk[member].as_str().unwrap()).unwrap();
    Some(match alg {
        "ES256" => {
            let point = [vec![4], bytes("x"), bytes("y")].concat();
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap()
        }
        "EdDSA" => ParsedPublicKey::new(&ED25519, bytes("x")).unwrap(),
        _ => {
            let components = RsaPublicKeyComponents { n: bytes("n"), e: bytes("e") };
            components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).unwrap()
        }
    })
}

fn protect_by_tokens(fixture: &Fixture) -> Router {
    e_stack::bare().layer(Tollgate::new(whole(AuthLayer::new(jwt(fixture)), generous())))
}

fn token_stacks(suite: &mut Suite, all: &[Fixture]) {
    let known = e_stack::bare().layer(Tollgate::new((
        AuthLayer::new(jwt(fixtures::of(all, "ES256"))),
        RequireLayer::new(scope("read:items")),
    )));
    suite.case(
        "tollgate ES256: auth and scope, token seen before, on the Router",
        Some("bare Router (ES256 request)"),
        drive::tower(known, Template::bearer(&fixtures::of(all, "ES256").token), 200),
    );
    let token = Template::bearer(&fixtures::of(all, "ES256").token);
    for fixture in all {
        let alg = fixture.alg;
        suite.case(
            &format!("tollgate {alg}: whole stack, token seen before, on the Router"),
            Some(&format!("bare Router ({alg} request)")),
            drive::tower(protect_by_tokens(fixture), Template::bearer(&fixture.token), 200),
        );
    }
    let router = protect_by_tokens(fixtures::of(all, "ES256"));
    suite.duo(
        "2 threads: tollgate ES256: whole stack, token seen before, the same token",
        Some("2 threads: bare Router (ES256 request)"),
        drive::tower_polled(router.clone(), token.clone()),
        drive::tower_polled(router, token.clone()),
    );
    let auth = || AuthLayer::new(jwt(fixtures::of(all, "ES256")));
    let router = e_stack::bare().layer(nested(auth(), generous()));
    suite.case(
        "tollgate ES256: whole stack, nested, token seen before, on the Router",
        Some("bare Router (ES256 request)"),
        drive::tower(router, token.clone(), 200),
    );
    let inner = Tollgate::new(whole(auth(), generous())).layer(Inner::<Body>::new());
    suite.case(
        "tollgate ES256: whole stack, token seen before, on the bare service",
        Some("bare service (ES256 request)"),
        drive::tower(inner, token, 200),
    );
}

/// A quota that nothing here can use up, and one that everything does.
fn generous() -> Quota {
    Quota::per(1_000_000_000, Duration::from_secs(1))
}

fn tight() -> Quota {
    Quota::per_day(1)
}

fn limits(suite: &mut Suite) {
    let identity = Identity::for_test().subject("acct_0000004242").build();
    let template = Template::new(&[]);
    let request = move || {
        let mut request = template.request();
        request.extensions_mut().insert(identity.clone());
        request
    };
    let bare = "bare service, identity in the request";
    suite.case(bare, None, drive::tower_with(Inner::<Body>::new(), request.clone()));
    for (name, layer, status) in [
        ("headers off", RateLimitLayer::new(generous()).fields(Fields::Off), 200),
        ("defaults", RateLimitLayer::new(generous()), 200),
        ("refused, 429", RateLimitLayer::new(tight()), 429),
    ] {
        let service = layer.layer(Inner::<Body>::new());
        drive::block_on(service.clone().oneshot(request())).unwrap();
        let second = drive::block_on(service.clone().oneshot(request())).unwrap();
        assert_eq!(second.status().as_u16(), status);
        let name = format!("tollgate limit: by principal, {name}");
        suite.case(&name, Some(bare), drive::tower_with(service, request.clone()));
    }

    // As the peers count: by the text of a field, many of them.
    let rotating = Some("bare service, 10k keys rotating");
    for (name, keys) in [("10k", 10_000), ("1M", 1_000_000)] {
        let layer = RateLimitLayer::new(generous())
            .limiter(MemoryLimiter::with_capacity(2_000_000))
            .key(KeyBy::header(HeaderName::from_static("x-api-key")))
            .fields(Fields::Off);
        let service = layer.layer(Inner::<Body>::new());
        let (template, mut walk) = (Template::new(&[]), Walk::new(keys, 3));
        let with_key = move |i: u64| {
            let mut request = template.request();
            let key = HeaderValue::from_str(&fixtures::key(i)).unwrap();
            request.headers_mut().insert("x-api-key", key);
            request
        };
        (0..keys).for_each(|i| drive::tower_once(&service, with_key(i)));
        let case = drive::tower_with(service, move || with_key(walk.step()));
        suite.case(&format!("tollgate limit: by header, headers off, {name} keys"), rotating, case);
        suite.warm(20_000);
    }

    // Alone, as governor is measured: by 64 bits.
    for (name, keys) in [("1", 1), ("10k", 10_000), ("1M", 1_000_000)] {
        let limiter = MemoryLimiter::with_capacity(2_000_000);
        let quotas = Quotas::from(generous());
        let mut walk = Walk::new(keys, 3);
        let take = move |i: u64, now: Timestamp| {
            let address = Ipv6Addr::from(u128::from(i));
            let key = LimitKey::network(IpAddr::from(address).into());
            match limiter.take(&key, &quotas, 1, now) {
                Pending::Ready(Ok(decision)) => assert!(decision.is_admitted()),
                _ => unreachable!("memory does not wait, and does not fail"),
            }
        };
        (0..keys).for_each(|i| take(i, SystemClock.now()));
        suite.case(&format!("tollgate limiter: take, {name} keys, with a clock"), None, move |n| {
            for _ in 0..n {
                take(walk.step(), SystemClock.now());
            }
        });
        suite.warm(20_000);
    }
}

/// The layer alone, over a caller who is known, as it is behind a door that has let them in.
fn usage(suite: &mut Suite) {
    let identity = Identity::for_test().subject("acct_0000004242").build();
    let template = Template::new(&[]);
    let request = move || {
        let mut request = template.request();
        request.extensions_mut().insert(identity.clone());
        request
    };
    let bare = "bare service, identity in the request";
    suite.case(bare, None, drive::tower_with(Inner::<Body>::new(), request.clone()));
    let recorder = PrometheusBuilder::new();
    let recorder = recorder.set_buckets(&TIME_BUCKETS).unwrap().build_recorder();
    let metrics = Metrics::to_recorder(recorder);
    for (name, usage) in [
        ("totals", Usage::new()),
        ("totals and metrics", Usage::builder().observer(metrics).build()),
        ("totals and audit", Usage::builder().audit(Audit::new()).build()),
    ] {
        let service = UsageLayer::new(usage).layer(Inner::<Body>::new());
        let case = drive::tower_with(service, request.clone());
        suite.case(&format!("tollgate usage: {name}"), Some(bare), case);
    }
    let service = UsageLayer::new(Usage::new()).layer(Inner::<Body>::new());
    let case = drive::tower(service, Template::key(&fixtures::key(0)), 200);
    suite.case("tollgate usage: totals, anonymous", Some("bare service"), case);
}

fn a_million_keys() -> MemoryLimiter {
    let limiter = MemoryLimiter::with_capacity(2_000_000);
    let (quotas, now) = (Quotas::from(Quota::per_day(100)), SystemClock.now());
    for i in 0..mem::N {
        let key = fixtures::key(i);
        let _ = limiter.take(&LimitKey::custom(&key), &quotas, 1, now);
    }
    limiter
}
