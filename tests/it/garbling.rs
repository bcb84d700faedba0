//! Values that are garbled: an unreadable claim or header never turns a rejection into an
//! admission. What is removed altogether is in a table, with the reason where it admits.

use std::net::SocketAddr;

use http::header::HeaderValue;
use http::{Method, Request};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tollgate::auth::jwt::{Issuer, RolesClaim};
use tollgate::auth::{HttpsOnlyLayer, Source};
use tollgate::authorize::{Requirement, authenticated, kind, tenant};
use tollgate::identity::Kind;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::network::ClientIp;
use tollgate::{ApiKeys, AuthLayer, role, scope};
use tower::Layer;

use crate::nested::claims::World;
use crate::support::{clock, issue, keys_over, send, who};

const NOW: u64 = 1_800_000_000;

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(test)
}

/// An issuer, what is needed, and a member of the token with a value for which it is rejected.
struct Rejected {
    issuer: fn(&World) -> Issuer,
    needed: fn() -> Requirement,
    member: &'static str,
    value: Value,
}

fn claims() -> Vec<Rejected> {
    let mut all = Vec::new();
    let mut add = |issuer, needed, member, value| {
        all.push(Rejected {
            issuer,
            needed,
            member,
            value,
        });
    };
    let plain: fn(&World) -> Issuer = |world| world.issuer();
    let roles: fn(&World) -> Issuer = |world| world.issuer().roles_from(["claim"]);
    let keys: fn(&World) -> Issuer = |world| {
        let claim = RolesClaim::new(["claim"]).object_keys();
        world.issuer().roles_from(claim)
    };
    let words: fn(&World) -> Issuer = |world| {
        let claim = RolesClaim::new(["claim"]).space_separated();
        world.issuer().roles_from(claim.absent_is_empty())
    };
    let nested: fn(&World) -> Issuer = |world| world.issuer().roles_from(["claim", "roles"]);
    let tenants: fn(&World) -> Issuer = |world| world.issuer().tenant_from(["claim"]);
    let plans: fn(&World) -> Issuer = |world| world.issuer().plan_from(["claim"]);
    let any: fn() -> Requirement = authenticated;
    let not_suspended: fn() -> Requirement = || (!role("suspended")).into();
    let admin: fn() -> Requirement = || role("admin").into();
    for issuer in [roles, keys] {
        add(issuer, not_suspended, "claim", json!("suspended"));
        add(issuer, not_suspended, "claim", json!(["suspended"]));
        add(
            issuer,
            not_suspended,
            "claim",
            json!(["clerk", "suspended"]),
        );
        add(issuer, not_suspended, "claim", json!("clerk suspended"));
        add(
            issuer,
            not_suspended,
            "claim",
            json!({ "suspended": { "1": "x" } }),
        );
        add(issuer, || (!role("7")).into(), "claim", json!(7));
        add(issuer, admin, "claim", json!(["clerk"]));
        add(issuer, admin, "claim", json!("clerk"));
        add(issuer, admin, "claim", json!({ "clerk": 1 }));
    }
    add(roles, any, "claim", json!(true));
    add(words, admin, "claim", json!("clerk owner"));
    add(
        nested,
        not_suspended,
        "claim",
        json!({ "roles": ["suspended"] }),
    );
    add(nested, admin, "claim", json!({ "roles": ["clerk"] }));
    add(tenants, || (!tenant("acme")).into(), "claim", json!("acme"));
    add(
        tenants,
        || (!tenant("acme")).into(),
        "claim",
        json!(["acme"]),
    );
    add(tenants, || (!tenant("7")).into(), "claim", json!(7));
    add(tenants, || tenant("emea").into(), "claim", json!("acme"));
    add(tenants, any, "claim", json!(["acme", "emea"]));
    add(plans, any, "claim", json!({ "pro": true }));
    let read: fn() -> Requirement = || scope("orders:read");
    for member in ["scope", "scp", "permissions"] {
        add(plain, read, member, json!("orders:write"));
        add(
            plain,
            read,
            member,
            json!(["orders:write", "orders:reader"]),
        );
        add(plain, read, member, json!({ "orders:write": true }));
    }
    let not_app: fn() -> Requirement = || (!kind(Kind::Application)).into();
    let app: fn() -> Requirement = || kind(Kind::Application).into();
    add(plain, not_app, "client_id", json!("ann"));
    add(plain, not_app, "azp", json!("ann"));
    add(plain, || kind(Kind::User).into(), "client_id", json!("ann"));
    add(plain, app, "client_id", json!("web"));
    add(plain, any, "iss", json!("https://other.example.com/"));
    add(plain, any, "aud", json!("https://other.example.com"));
    add(plain, any, "aud", json!(["https://other.example.com"]));
    add(plain, any, "sub", json!("ann\u{7f}"));
    add(plain, any, "exp", json!(NOW - 3600));
    add(plain, any, "nbf", json!(NOW + 3600));
    add(plain, any, "iat", json!(NOW + 3600));
    add(plain, any, "cnf", json!({ "jkt": "x" }));
    add(plain, any, "at_hash", json!("x"));
    add(plain, any, "events", json!({}));
    all
}

fn headers() -> Vec<(&'static str, Value)> {
    vec![
        ("typ", json!("dpop+jwt")),
        ("alg", json!("HS256")),
        ("alg", json!("none")),
        ("kid", json!("other")),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ]
}

/// Ways to write a value so that readers may differ about it. All but the last two keep its texts.
const GARBLINGS: [fn(Value) -> Value; 16] = [
    |value| json!([value]),
    |value| json!([[value]]),
    |value| json!({ "x": value }),
    |value| json!({ "roles": value }),
    |value| json!([value, 1]),
    |value| json!([null, value]),
    |value| json!([{}, value, true]),
    |value| json!(["x", value]),
    |value| with_text(value, |text| format!("x {text}")),
    |value| with_text(value, |text| format!("{text},x")),
    |value| with_text(value, |text| format!("{text}\u{0}")),
    |value| with_text(value, |text| format!(" {text}\t")),
    |value| match value {
        Value::String(text) => json!({ text: false }),
        other => json!({ "x": other, "y": false }),
    },
    |value| match value {
        Value::Number(number) => json!(number.to_string()),
        other => json!([other.clone(), other]),
    },
    |value| match value {
        Value::Number(number) => json!(number.as_f64().unwrap_or_default() + 0.5),
        _ => Value::Null,
    },
    |_| json!(true),
];

fn with_text(value: Value, change: impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => json!(change(&text)),
        Value::Array(all) => {
            let change = |value| match value {
                Value::String(text) => json!(change(&text)),
                other => other,
            };
            all.into_iter().map(change).collect()
        }
        other => other,
    }
}

/// The last two lose the texts, so that nothing comes after them.
fn ways() -> impl Strategy<Value = Vec<usize>> {
    let keeping = prop::collection::vec(0..GARBLINGS.len() - 2, 0..3);
    (keeping, 0..GARBLINGS.len()).prop_map(|(mut ways, last)| {
        ways.push(last);
        ways
    })
}

fn garbled(value: &Value, ways: &[usize]) -> Value {
    let ways = ways.iter().map(|way| GARBLINGS[*way]);
    ways.fold(value.clone(), |value, garble| garble(value))
}

async fn status(world: &World, case: &Rejected, value: Value) -> u16 {
    let token = world.token().claim(case.member, value);
    let answer = world
        .ask((case.issuer)(world), (case.needed)(), token)
        .await;
    answer.status.as_u16()
}

#[test]
fn cases_are_rejected_before_they_are_garbled() {
    block_on(async {
        let world = World::new();
        for case in claims() {
            let status = status(&world, &case, case.value.clone()).await;
            assert_ne!(status, 200, "{}: {}", case.member, case.value);
        }
        for (member, value) in headers() {
            let token = world.token().header(member, value.clone());
            let answer = world.ask(world.issuer(), authenticated(), token).await;
            assert_ne!(answer.status, 200, "{member}: {value}");
        }
    });
}

/// A role that appears anywhere, in a value of any shape.
fn shapes() -> impl Strategy<Value = Value> {
    const TEXTS: &[&str] = &["suspended", "clerk", "clerk suspended", "a,suspended", ""];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(select(TEXTS), inner, 0..4).prop_map(|members| {
                let members = members.into_iter();
                members
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect()
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn garbled_claim_is_never_admitted(
        case in any::<prop::sample::Index>(),
        ways in ways(),
    ) {
        let mut all = claims();
        let case = all.swap_remove(case.index(all.len()));
        let value = garbled(&case.value, &ways);
        let needed = (case.needed)().to_string();
        // Another client id, if it can be read, is another client.
        let is_other_client = case.member == "client_id" && value.is_string();
        prop_assume!(!is_other_client || needed.contains('!'));
        // The claim is removed: see the table below.
        prop_assume!(!value.is_null() || needed != authenticated().to_string());
        let status = block_on(status(&World::new(), &case, value.clone()));
        prop_assert!([401, 403].contains(&status), "{}: {} as {value}", case.member, case.value);
    }

    #[test]
    fn garbled_token_header_is_never_admitted(
        case in select(headers()),
        ways in ways(),
    ) {
        let (member, value) = case;
        let value = garbled(&value, &ways);
        let world = World::new();
        let token = world.token().header(member, value.clone());
        let answer = block_on(world.ask(world.issuer(), authenticated(), token));
        prop_assert_eq!(answer.status, 401, "{}: {}", member, value);
    }

    #[test]
    fn negated_role_is_never_met_if_the_claim_mentions_it(
        value in shapes(),
        object_keys in any::<bool>(),
        space_separated in any::<bool>(),
    ) {
        let mut claim = RolesClaim::new(["claim"]);
        if object_keys {
            claim = claim.object_keys();
        }
        if space_separated {
            claim = claim.space_separated();
        }
        let world = World::new();
        let token = world.token().claim("claim", value.clone());
        let issuer = world.issuer().roles_from(claim);
        let answer = block_on(world.ask(issuer, !role("suspended"), token));
        if value.is_null() || value.to_string().contains("suspended") {
            prop_assert_ne!(answer.status, 200, "{}", value);
        }
    }
}

/// A request that is rejected for the value of one header.
struct Refused {
    layer: fn(ApiKeys) -> AuthLayer<ApiKeys>,
    method: Method,
    fields: &'static [(&'static str, &'static str)],
    /// The one that is garbled.
    field: &'static str,
}

fn requests() -> Vec<Refused> {
    let mut all = Vec::new();
    let mut add = |layer, method, field, fields| {
        all.push(Refused {
            layer,
            method,
            fields,
            field,
        });
    };
    let plain: fn(ApiKeys) -> AuthLayer<ApiKeys> = AuthLayer::new;
    let proxied: fn(ApiKeys) -> AuthLayer<ApiKeys> =
        |keys| AuthLayer::new(keys).client_ip(ClientIp::new().trusted_proxies(["10.0.0.0/8"]));
    let forwarded: fn(ApiKeys) -> AuthLayer<ApiKeys> = |keys| {
        let proxies = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
        AuthLayer::new(keys).client_ip(proxies.forwarded())
    };
    let cookie: fn(ApiKeys) -> AuthLayer<ApiKeys> =
        |keys| AuthLayer::new(keys).sources([Source::cookie("key")]);
    add(
        plain,
        Method::GET,
        "authorization",
        &[("authorization", "Bearer acme_live_x")][..],
    );
    add(
        plain,
        Method::GET,
        "authorization",
        &[("authorization", "Basic dTpw")][..],
    );
    add(
        plain,
        Method::GET,
        "authorization",
        &[
            ("authorization", "Bearer acme_live_x"),
            ("x-api-key", "KEY"),
        ][..],
    );
    add(
        plain,
        Method::GET,
        "x-api-key",
        &[("x-api-key", "acme_live_x")][..],
    );
    add(
        plain,
        Method::GET,
        "x-api-key",
        &[
            ("authorization", "Bearer KEY"),
            ("x-api-key", "acme_live_x"),
        ][..],
    );
    for fields in [
        &[
            ("cookie", "key=KEY"),
            ("host", "a.example"),
            ("origin", "https://other-site.example.net"),
        ][..],
        &[
            ("cookie", "key=KEY"),
            ("host", "a.example"),
            ("origin", "https://a.example"),
            ("sec-fetch-site", "cross-site"),
        ][..],
    ] {
        for (field, _) in fields {
            add(cookie, Method::POST, field, fields);
        }
    }
    let restricted = &[
        ("x-api-key", "RESTRICTED"),
        ("x-forwarded-for", "203.0.113.9"),
    ][..];
    add(proxied, Method::GET, "x-forwarded-for", restricted);
    let restricted = &[
        ("x-api-key", "RESTRICTED"),
        ("forwarded", "for=203.0.113.9"),
    ][..];
    add(forwarded, Method::GET, "forwarded", restricted);
    let referrer = &[
        ("x-api-key", "REFERRER"),
        ("origin", "https://other-site.example.net"),
    ][..];
    add(plain, Method::GET, "origin", referrer);
    let referrer = &[
        ("x-api-key", "REFERRER"),
        ("referer", "https://other-site.example.net/"),
    ][..];
    add(plain, Method::GET, "referer", referrer);
    let both = &[
        ("x-api-key", "REFERRER"),
        ("origin", "https://other-site.example.net"),
        ("referer", "https://a.example/"),
    ][..];
    add(plain, Method::GET, "origin", both);
    all
}

/// Sends a request, with the field changed. Keys stand in for their names.
async fn ask(case: &Refused, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> u16 {
    let keys = keys_over(MemoryKeys::new());
    let plain = issue(&keys, NewKey::for_owner("ann")).await;
    let new = NewKey::for_owner("ann").networks(["10.0.0.0/8"]);
    let restricted = issue(&keys, new).await;
    let new = NewKey::for_owner("ann").referrers(["https://a.example"]);
    let referrer = issue(&keys, new).await;
    let mut request = Request::new(());
    *request.method_mut() = case.method.clone();
    request
        .extensions_mut()
        .insert(SocketAddr::from(([10, 0, 0, 1], 4711)));
    for (name, value) in case.fields {
        let value = value
            .replace("RESTRICTED", &restricted)
            .replace("REFERRER", &referrer)
            .replace("KEY", &plain);
        let value = match *name == case.field {
            true => change(value.as_bytes()),
            false => Some(value.into_bytes()),
        };
        if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
            request.headers_mut().append(*name, value);
        } else if *name == case.field {
            request.headers_mut().remove(*name);
        }
    }
    let service = (case.layer)(keys).clock(clock()).layer(who());
    send(&service, request).await.status.as_u16()
}

/// Bytes that are changed, put in or taken out of a header value.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, Option<u8>)>> {
    let byte = prop_oneof![select(&b" \t,;=:.\"\\[]()\x80\xff/-_x"[..]), 0x21..=0xff_u8];
    let edit = (
        any::<prop::sample::Index>(),
        0..3_u8,
        prop::option::of(byte),
    );
    prop::collection::vec(edit, 1..4)
}

fn edited(value: &[u8], edits: &[(prop::sample::Index, u8, Option<u8>)]) -> Vec<u8> {
    let mut value = value.to_vec();
    for (at, kind, byte) in edits {
        let at = at.index(value.len() + 1);
        match (kind, byte) {
            (0, Some(byte)) => value.insert(at, *byte),
            (1, Some(byte)) if at < value.len() => value[at] = *byte,
            _ if at < value.len() => drop(value.remove(at)),
            _ => {}
        }
    }
    value
}

#[test]
fn requests_are_rejected_before_they_are_garbled() {
    block_on(async {
        for case in requests() {
            let status = ask(&case, |value| Some(value.to_vec())).await;
            assert_ne!(status, 200, "{}: {:?}", case.field, case.fields);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn garbled_header_is_never_admitted(
        case in any::<prop::sample::Index>(),
        edits in edits(),
    ) {
        let mut all = requests();
        let case = all.swap_remove(case.index(all.len()));
        let is_readable = |value: &[u8]| HeaderValue::from_bytes(value).is_ok();
        let change = |value: &[u8]| Some(edited(value, &edits)).filter(|value| is_readable(value));
        // What no server lets in is not sent.
        let is_sent = std::cell::Cell::new(true);
        let status = block_on(ask(&case, |value| {
            let changed = change(value);
            is_sent.set(changed.is_some());
            changed.or_else(|| Some(value.to_vec()))
        }));
        prop_assert!(status != 200 || !is_sent.get(), "{}: {:?}", case.field, case.fields);
    }

    #[test]
    fn garbled_transport_is_never_admitted(proto in "[ -~\u{80}-\u{ff}]{0,8}") {
        let proxies = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
        let service = HttpsOnlyLayer::new().client_ip(proxies).layer(who());
        let mut request = Request::new(());
        let peer = SocketAddr::from(([10, 0, 0, 1], 4711));
        request.extensions_mut().insert(peer);
        let Ok(value) = HeaderValue::from_bytes(proto.as_bytes()) else {
            return Ok(());
        };
        request.headers_mut().insert("x-forwarded-proto", value);
        let answer = block_on(send(&service, request));
        let says_tls = ["https", "wss"].map(|tls| proto.to_ascii_lowercase().contains(tls));
        prop_assert!(answer.status == 403 || says_tls.contains(&true), "{proto:?}");
    }
}

/// Why a token is admitted without a claim for which it was rejected.
const ADMITTED_WITHOUT: [(&str, &str); 7] = [
    (
        "nbf",
        "optional (RFC 7519 section 4.1.5): without it a token is good at once",
    ),
    (
        "iat",
        "optional (RFC 7519 section 4.1.6), unless max_age or max_lifetime need it",
    ),
    (
        "cnf",
        "without it a token is a bearer token; the issuer has signed that it is one",
    ),
    (
        "at_hash",
        "only its presence marks an ID token; `rfc9068` requires the type `at+jwt`",
    ),
    (
        "events",
        "only its presence marks a security event, as above",
    ),
    (
        "client_id",
        "optional, unless `rfc9068` is set: without it a token stands for a user, so that \
         `kind(User)` is met, and `!kind(Application)` is not",
    ),
    (
        "claim",
        "an absent claim grants nothing, so that only requirements without a condition on it are \
         met",
    ),
];

/// Why a token is admitted without a header member for which it was rejected.
const ADMITTED_WITHOUT_MEMBER: [(&str, &str); 5] = [
    (
        "typ",
        "optional (RFC 7515 section 4.1.9), unless `rfc9068` is set",
    ),
    (
        "kid",
        "optional (RFC 7515 section 4.1.4), if exactly one key is for the algorithm",
    ),
    (
        "crit",
        "without it a token has no extension that must be understood",
    ),
    (
        "b64",
        "without it the payload is encoded (RFC 7797 section 3)",
    ),
    ("zip", "without it the payload is not compressed"),
];

/// Why a request is admitted without a header field for which it was rejected.
const ADMITTED_WITHOUT_FIELD: [(&str, &str); 6] = [
    (
        "authorization",
        "the other credential of the request is the only one then",
    ),
    (
        "x-api-key",
        "the other credential of the request is the only one then",
    ),
    (
        "origin",
        "a request without `Origin` and `Sec-Fetch-Site` is not from a browser",
    ),
    (
        "sec-fetch-site",
        "older browsers do not send it; `Origin` decides",
    ),
    (
        "x-forwarded-for",
        "the trusted proxy has not forwarded the request, but made it",
    ),
    ("forwarded", "as `x-forwarded-for`"),
];

#[test]
fn removed_claim_admits_only_if_listed() {
    let mut admitted = Vec::new();
    block_on(async {
        let world = World::new();
        for case in claims() {
            let token = world.token().without(case.member);
            let answer = world
                .ask((case.issuer)(&world), (case.needed)(), token)
                .await;
            if answer.status == 200 {
                let (needed, member) = ((case.needed)().to_string(), case.member);
                let is_negated = needed.contains('!');
                assert!(!is_negated, "{needed} without {member}");
                admitted.push(member);
            }
        }
    });
    admitted.sort_unstable();
    admitted.dedup();
    let mut listed: Vec<_> = ADMITTED_WITHOUT.iter().map(|(member, _)| *member).collect();
    listed.sort_unstable();
    assert_eq!(admitted, listed);
}

/// Where the issuer leaves the claim out for users without roles, that is what it says.
#[test]
fn removed_roles_admit_if_absent_is_declared_empty() {
    let world = World::new();
    let claim = || RolesClaim::new(["claim"]).absent_is_empty();
    let ask = |token| {
        let issuer = world.issuer().roles_from(claim());
        block_on(world.ask(issuer, !role("suspended"), token))
    };
    assert_eq!(ask(world.token().claim("claim", "suspended")).status, 403);
    assert_eq!(ask(world.token()).status, 200);
}

#[test]
fn removed_token_header_admits_only_if_listed() {
    let world = World::new();
    let mut admitted = Vec::new();
    for (member, value) in headers() {
        let token = world.token().header(member, value).without_header(member);
        let answer = block_on(world.ask(world.issuer(), authenticated(), token));
        if answer.status == 200 && !admitted.contains(&member) {
            admitted.push(member);
        }
    }
    assert_eq!(admitted, ADMITTED_WITHOUT_MEMBER.map(|(member, _)| member));
}

#[test]
fn removed_header_admits_only_if_listed() {
    let mut admitted = Vec::new();
    for case in requests() {
        if block_on(ask(&case, |_| None)) == 200 {
            admitted.push(case.field);
        }
    }
    admitted.sort_unstable();
    admitted.dedup();
    let mut listed = ADMITTED_WITHOUT_FIELD.map(|(field, _)| field);
    listed.sort_unstable();
    assert_eq!(admitted, listed);
}
