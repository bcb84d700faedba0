//! The cases of this crate in the referee's run, beside its peers and the floor. Only
//! the public API is used, as the README tells users to, with the defaults on.

use axum::Router;
use axum::body::Body;
use tollgate::keys::{Cached, MemoryKeys, NewKey, Peppers};
use tollgate::{ApiKeys, AuthLayer, RequireLayer, scope};
use tower::{Layer, ServiceBuilder};

use crate::bench::Suite;
use crate::drive::{self, Inner, Template};
use crate::e_stack;
use crate::fixtures::Fixture;

/// Called for every section before it runs.
pub fn add(section: char, suite: &mut Suite, _: &[Fixture]) {
    match section {
        'B' => api_key_alone(suite),
        'E' => stacks(suite),
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
pub fn servers(_: &[Fixture]) -> Vec<(String, Sends, Router)> {
    let keys = Keys::issue();
    let router = keys.protect(e_stack::bare());
    vec![("tollgate API key: whole stack".into(), Sends::Key(keys.good), router)]
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
