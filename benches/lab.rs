//! The cases of this crate in the referee's run, beside its peers and the floor. Only
//! the public API is used, as the README tells users to, with the defaults on.

use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tollgate::jwks::{Algorithm, KeySet};
use tollgate::keys::{Cached, MemoryKeys, NewKey, Peppers};
use tollgate::testing::TestIssuer;
use tollgate::{ApiKeys, AuthLayer, Jwt, RequireLayer, scope};
use tower::{Layer, ServiceBuilder};

use crate::bench::Suite;
use crate::drive::{self, Inner, Template};
use crate::e_stack;
use crate::fixtures::{self, AUD, Fixture, ISS};

/// Called for every section before it runs.
pub fn add(section: char, suite: &mut Suite, all: &[Fixture]) {
    match section {
        'A' => tokens_alone(suite, all),
        'B' => api_key_alone(suite),
        'E' => {
            stacks(suite);
            token_stacks(suite, all);
        }
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
    let tokens = protect_by_tokens(all);
    vec![
        ("tollgate API key: whole stack".into(), Sends::Key(keys.good), router),
        ("tollgate ES256: whole stack, token seen before".into(), Sends::Es256, tokens),
    ]
}

/// As many keys as the peers hold, and one of each kind.
struct Keys {
    keys: ApiKeys,
    peppers: Peppers,
    good: String,
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
        let mut good = String::new();
        for i in 0..HELD {
            let issued = drive::block_on(keys.issue(new(i))).unwrap();
            if i == 4242 {
                good = issued.key.expose().into();
            }
        }
        let others = ApiKeys::in_memory(Peppers::random()).prefix("acme");
        let unknown = drive::block_on(others.issue(new(0))).unwrap().key.expose().into();
        let last = if good.ends_with('0') { "1" } else { "0" };
        let mistyped = format!("{}{last}", &good[..good.len() - 1]);
        Self { keys, peppers, good, unknown, mistyped }
    }

    /// The same records, with a cache in front of the memory that they are in.
    fn behind_a_cache(&self) -> ApiKeys<Cached<MemoryKeys>> {
        let cached = Cached::new(self.keys.store().clone());
        ApiKeys::new(cached, self.peppers.clone()).prefix("acme")
    }

    fn protect(&self, router: Router) -> Router {
        router.layer(
            ServiceBuilder::new()
                .layer(AuthLayer::new(self.keys.clone()))
                .layer(RequireLayer::new(scope("read:items"))),
        )
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
    let inner = ServiceBuilder::new()
        .layer(AuthLayer::new(keys.keys.clone()))
        .layer(RequireLayer::new(scope("read:items")))
        .service(Inner::<Body>::new());
    let bare = Some("bare service (API-key request)");
    suite.case(
        "tollgate API key: whole stack, on the bare service",
        bare,
        drive::tower(inner, Template::key(&keys.good), 200),
    );
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

fn protect_by_tokens(all: &[Fixture]) -> Router {
    e_stack::bare().layer(
        ServiceBuilder::new()
            .layer(AuthLayer::new(jwt(fixtures::of(all, "ES256"))))
            .layer(RequireLayer::new(scope("read:items"))),
    )
}

fn token_stacks(suite: &mut Suite, all: &[Fixture]) {
    let token = Template::bearer(&fixtures::of(all, "ES256").token);
    suite.case(
        "tollgate ES256: whole stack, token seen before, on the Router",
        Some("bare Router (ES256 request)"),
        drive::tower(protect_by_tokens(all), token.clone(), 200),
    );
    let inner = ServiceBuilder::new()
        .layer(AuthLayer::new(jwt(fixtures::of(all, "ES256"))))
        .layer(RequireLayer::new(scope("read:items")))
        .service(Inner::<Body>::new());
    suite.case(
        "tollgate ES256: whole stack, token seen before, on the bare service",
        Some("bare service (ES256 request)"),
        drive::tower(inner, token, 200),
    );
}
