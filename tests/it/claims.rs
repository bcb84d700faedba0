//! Claims whose names are configured, conditions on them, and the part of a token that is at
//! fault.

use serde_json::{Value, json};
use tollgate::auth::jwt::{Issuer, RolesClaim};
use tollgate::authorize::{Requirement, attribute, authenticated, kind, tenant};
use tollgate::identity::{IdentityField, Kind};
use tollgate::jwks::RemoteKeys;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::Cause;
use tollgate::testing::{TestIssuer, TokenBuilder};
use tollgate::{AuthLayer, Identity, Jwt, RequireLayer, role, scope};
use tower::Layer;

use super::ServiceBuilder;
use crate::support::{Answer, clock, identities, issue, keys_over, send, who, with};

pub(crate) const ISSUER: &str = "https://id.example.com/";
pub(crate) const AUDIENCE: &str = "https://api.example.com";

/// An issuer and the API that accepts its tokens.
pub(crate) struct World(TestIssuer);

impl World {
    pub(crate) fn new() -> Self {
        Self(TestIssuer::new(ISSUER).clock(clock()))
    }

    pub(crate) fn issuer(&self) -> Issuer {
        Jwt::issuer(ISSUER).audience(AUDIENCE).keys(self.0.keys())
    }

    pub(crate) fn token(&self) -> TokenBuilder {
        self.0.token("ann").audience(AUDIENCE)
    }

    /// Sends a token through the layers, twice: a cached token must get the same answer.
    pub(crate) async fn ask(
        &self,
        issuer: Issuer,
        needed: impl Into<Requirement>,
        token: TokenBuilder,
    ) -> Answer {
        let jwt = issuer.build().unwrap();
        Self::ask_with(jwt, needed.into(), token).await
    }

    /// Sends a token of up to `max_len` bytes.
    pub(crate) async fn ask_up_to(
        &self,
        max_len: usize,
        needed: Requirement,
        token: TokenBuilder,
    ) -> Answer {
        let jwt = self.issuer().build().unwrap().max_len(max_len);
        Self::ask_with(jwt, needed, token).await
    }

    async fn ask_with(jwt: Jwt, needed: Requirement, token: TokenBuilder) -> Answer {
        let service = ServiceBuilder::new()
            .layer(AuthLayer::new(jwt).clock(clock()))
            .layer(RequireLayer::new(needed))
            .service(who());
        let request = with("authorization", format!("Bearer {}", token.sign()));
        let first = send(&service, request.clone()).await;
        let second = send(&service, request).await;
        assert_eq!(first.wire(), second.wire());
        first
    }

    async fn identity(&self, issuer: Issuer, token: TokenBuilder) -> Identity {
        let (seen, service) = identities();
        let layer = AuthLayer::new(issuer.build().unwrap()).clock(clock());
        let request = with("authorization", format!("Bearer {}", token.sign()));
        assert_eq!(send(&layer.layer(service), request).await.status, 200);
        seen.lock().unwrap().pop().unwrap()
    }

    /// The roles that a claim grants, or `None` if the token is rejected for it.
    async fn roles(&self, claim: &RolesClaim, value: &Value) -> Option<Vec<String>> {
        let issuer = || self.issuer().roles_from(claim.clone());
        let token = || self.token().claim("roles", value.clone());
        let answer = self.ask(issuer(), authenticated(), token()).await;
        if answer.status == 200 {
            let identity = self.identity(issuer(), token()).await;
            return Some(identity.roles().map(Into::into).collect());
        }
        assert_eq!(answer.code(), "token_invalid", "{value}");
        let rejection = answer.rejection.unwrap();
        assert_eq!(rejection.cause(), Cause::TokenClaims, "{value}");
        assert_eq!(rejection.fault(), Some("roles"), "{value}");
        None
    }
}

fn plain() -> RolesClaim {
    RolesClaim::new(["roles"])
}

#[tokio::test]
async fn roles_are_read_in_the_declared_forms() {
    let world = World::new();
    let long = "r".repeat(256);
    let too_long = "r".repeat(257);
    let keys = || plain().object_keys();
    let words = || plain().space_separated();
    let forms = json!({ "clerk": { "2194": "acme" }, "a": 0, "b": false, "c": null, "d": "" });
    let cases: [(RolesClaim, Value, Option<&[&str]>); 44] = [
        (plain(), json!("clerk"), Some(&["clerk"])),
        (plain(), json!("Domain Admins"), Some(&["Domain Admins"])),
        (
            plain(),
            json!(["clerk", "owner"]),
            Some(&["clerk", "owner"]),
        ),
        (plain(), json!(["clerk", "clerk"]), Some(&["clerk"])),
        (plain(), json!([]), Some(&[])),
        (plain(), json!(null), Some(&[])),
        (plain(), json!(7), Some(&["7"])),
        (plain(), json!(-7), Some(&["-7"])),
        (plain(), json!(u64::MAX), Some(&["18446744073709551615"])),
        (plain(), json!(long), Some(&[&long])),
        (plain(), json!("Zoë"), Some(&["Zoë"])),
        // Not read.
        (plain(), json!(true), None),
        (plain(), json!(false), None),
        (plain(), json!(7.5), None),
        (plain(), json!(7.0), None),
        (plain(), json!(1e30), None),
        (plain(), json!({}), None),
        (plain(), forms.clone(), None),
        (plain(), json!([["clerk"]]), None),
        (plain(), json!(["clerk", 7]), None),
        (plain(), json!(["clerk", null]), None),
        (plain(), json!(["clerk", true]), None),
        (plain(), json!(["clerk", {}]), None),
        (plain(), json!(["clerk", ""]), None),
        (plain(), json!(""), None),
        (plain(), json!(" clerk"), None),
        (plain(), json!("clerk\n"), None),
        (plain(), json!("a\u{0}b"), None),
        (plain(), json!("a\u{85}b"), None),
        (plain(), json!(too_long), None),
        // Declared in addition.
        (keys(), forms.clone(), Some(&["a", "clerk", "d"])),
        (keys(), json!({}), Some(&[])),
        (keys(), json!(["clerk"]), Some(&["clerk"])),
        (keys(), json!("clerk owner"), Some(&["clerk owner"])),
        (keys(), json!({ "": true }), None),
        (keys(), json!({ "a\tb": true }), None),
        (keys(), json!([{ "clerk": true }]), None),
        (keys(), json!(true), None),
        (words(), json!("clerk  owner"), Some(&["clerk", "owner"])),
        (words(), json!(""), Some(&[])),
        (words(), json!(["two words"]), Some(&["two words"])),
        (words(), json!("a\tb"), None),
        (words(), forms.clone(), None),
        (keys().space_separated(), json!("a b"), Some(&["a", "b"])),
    ];
    for (claim, value, expected) in cases {
        let roles = world.roles(&claim, &value).await;
        let roles: Option<Vec<&str>> = roles.as_ref().map(|it| it.iter().map(|it| &**it).collect());
        assert_eq!(roles.as_deref(), expected, "{value} as {claim:?}");
    }
}

#[tokio::test]
async fn tenant_and_plan_are_one_string_or_integer() {
    let world = World::new();
    let long = "t".repeat(257);
    let cases = [
        (json!("acme"), Some(Some("acme"))),
        (json!("acme emea"), Some(Some("acme emea"))),
        (json!(7), Some(Some("7"))),
        (json!(0), Some(Some("0"))),
        (json!(["acme"]), Some(Some("acme"))),
        (json!(null), Some(None)),
        (json!(["acme", "emea"]), None),
        (json!([]), None),
        (json!([7]), None),
        (json!([["acme"]]), None),
        (json!([null]), None),
        (json!({}), None),
        (json!({ "acme": true }), None),
        (json!(true), None),
        (json!(false), None),
        (json!(1.5), None),
        (json!(1e30), None),
        (json!(""), None),
        (json!([""]), None),
        (json!("acme "), None),
        (json!("a\r\nb"), None),
        (json!(long), None),
    ];
    for (value, expected) in cases {
        let token = || world.token().claim("org", value.clone());
        for (issuer, field) in [
            (world.issuer().tenant_from(["org"]), IdentityField::Tenant),
            (world.issuer().plan_from(["org"]), IdentityField::Plan),
        ] {
            let (seen, service) = identities();
            let layer = AuthLayer::new(issuer.build().unwrap()).clock(clock());
            let request = with("authorization", format!("Bearer {}", token().sign()));
            let answer = send(&layer.layer(service), request).await;
            let Some(expected) = expected else {
                assert_eq!(answer.code(), "token_invalid", "{value}");
                assert_eq!(answer.rejection.unwrap().fault(), Some("org"), "{value}");
                continue;
            };
            assert_eq!(answer.status, 200, "{value}");
            let identity = seen.lock().unwrap().pop().unwrap();
            let read = match field {
                IdentityField::Tenant => identity.tenant(),
                _ => identity.plan(),
            };
            assert_eq!(read, expected, "{value}");
            assert_eq!(identity.is_known(field), expected.is_some(), "{value}");
        }
    }
}

#[tokio::test]
async fn members_on_the_path_must_be_objects() {
    let world = World::new();
    let path = ["realm_access", "roles"];
    for (outer, status) in [
        (json!({ "roles": ["clerk"] }), 200),
        (json!({ "roles": null }), 200),
        (json!({}), 200),
        (json!(null), 200),
        (json!("roles"), 401),
        (json!(["roles"]), 401),
        (json!([{ "roles": ["clerk"] }]), 401),
        (json!(7), 401),
        (json!(false), 401),
    ] {
        let token = || world.token().claim("realm_access", outer.clone());
        for issuer in [
            world.issuer().roles_from(path),
            world.issuer().tenant_from(["realm_access", "tenant"]),
            world
                .issuer()
                .plan_from(vec!["realm_access".to_owned(), "plan".into()]),
        ] {
            let answer = world.ask(issuer, authenticated(), token()).await;
            assert_eq!(answer.status, status, "{outer}");
            if let Some(rejection) = answer.rejection {
                let fault = rejection.fault().unwrap();
                assert!(fault.starts_with("realm_access."), "{fault}");
            }
        }
    }
}

#[tokio::test]
async fn negated_role_is_met_only_if_no_reading_has_it() {
    let world = World::new();
    let keys = plain().object_keys();
    for (claim, value, status) in [
        (plain(), json!("clerk"), 200),
        (plain(), json!([]), 200),
        (plain(), json!(["clerk", "SUSPENDED"]), 200),
        (plain(), json!("unsuspended"), 200),
        (plain(), json!(7), 200),
        (plain(), json!(null), 403),
        (plain(), json!("suspended"), 403),
        (plain(), json!(["clerk", "suspended"]), 403),
        (plain(), json!("clerk suspended"), 403),
        (plain(), json!("clerk,suspended"), 403),
        (plain(), json!(["clerk suspended"]), 403),
        (plain(), json!({ "suspended": { "1": "x" } }), 401),
        (plain(), json!([["suspended"]]), 401),
        (plain(), json!(["suspended", 1]), 401),
        (keys.clone(), json!({ "clerk": { "1": "x" } }), 200),
        (keys.clone(), json!({ "suspended": { "1": "x" } }), 403),
        (keys.clone(), json!({ "suspended": false }), 403),
        (keys.clone(), json!({ "suspended": null }), 403),
        (keys.clone(), json!({ "1": { "suspended": true } }), 403),
        (keys.clone(), json!({ "1": ["clerk", "suspended"] }), 403),
        (keys.clone(), json!("clerk suspended"), 403),
        (plain().space_separated(), json!("clerk suspended"), 403),
        (plain().space_separated(), json!(""), 200),
    ] {
        let issuer = world.issuer().roles_from(claim);
        let token = world.token().claim("roles", value.clone());
        let answer = world.ask(issuer, !role("suspended"), token).await;
        assert_eq!(answer.status, status, "{value}");
    }
}

#[tokio::test]
async fn negated_condition_is_not_met_if_nothing_is_known() {
    let world = World::new();
    let bare = || world.token();
    let roles = || world.issuer().roles_from(["roles"]);
    let both = || roles().roles_from(["resource_access", "api"]);
    let lenient = || world.issuer().roles_from(plain().absent_is_empty());
    let cases: [(Issuer, Requirement, TokenBuilder, u16); 18] = [
        (world.issuer(), (!role("x")).into(), bare(), 403),
        (
            world.issuer(),
            (!role("x")).into(),
            bare().claim("roles", "y"),
            403,
        ),
        (roles(), (!role("x")).into(), bare(), 403),
        (
            roles(),
            (!role("x")).into(),
            bare().claim("roles", "y"),
            200,
        ),
        (lenient(), (!role("x")).into(), bare(), 200),
        (
            lenient(),
            (!role("x")).into(),
            bare().claim("roles", "x"),
            403,
        ),
        // The role could stand in the claim that is missing.
        (both(), (!role("x")).into(), bare().claim("roles", "y"), 403),
        (
            both(),
            (!role("x")).into(),
            bare()
                .claim("roles", "y")
                .claim("resource_access", json!({ "api": [] })),
            200,
        ),
        (world.issuer(), (!tenant("x")).into(), bare(), 403),
        (
            world.issuer().tenant_from(["org"]),
            (!tenant("x")).into(),
            bare(),
            403,
        ),
        (
            world.issuer().tenant_from(["org"]),
            (!tenant("7")).into(),
            bare().claim("org", 7),
            403,
        ),
        (
            world.issuer().tenant_from(["org"]),
            (!tenant("7")).into(),
            bare().claim("org", "8"),
            200,
        ),
        (world.issuer(), (!attribute("a", "b")).into(), bare(), 403),
        (
            world.issuer(),
            (!kind(Kind::Application)).into(),
            bare(),
            403,
        ),
        (
            world.issuer(),
            (!kind(Kind::Application)).into(),
            bare().claim("client_id", "web"),
            200,
        ),
        (
            world.issuer(),
            (!kind(Kind::Application)).into(),
            bare().claim("azp", "ann"),
            403,
        ),
        (
            world.issuer().application_if(|_| false),
            (!kind(Kind::Application)).into(),
            bare(),
            200,
        ),
        (
            world.issuer(),
            (!kind(Kind::User)).into(),
            bare().claim("client_id", "ann"),
            200,
        ),
    ];
    for (at, (issuer, needed, token, status)) in cases.into_iter().enumerate() {
        let text = needed.to_string();
        let answer = world.ask(issuer, needed, token).await;
        assert_eq!(answer.status, status, "case {at}: {text}");
    }
}

#[tokio::test]
async fn everything_is_known_about_a_key() {
    let keys = keys_over(MemoryKeys::new());
    let bare = issue(&keys, NewKey::for_owner("ann")).await;
    let full = NewKey::for_owner("ann")
        .role("suspended")
        .tenant("acme")
        .metadata("region", "us");
    let full = issue(&keys, full).await;
    let layer = AuthLayer::new(keys).clock(clock());
    for negated in [
        Requirement::from(!role("suspended")),
        (!tenant("acme")).into(),
        (!attribute("region", "us")).into(),
    ] {
        let service = layer
            .clone()
            .layer(RequireLayer::new(negated.clone()).layer(who()));
        for (key, status) in [(&bare, 200), (&full, 403)] {
            let answer = send(&service, with("x-api-key", key)).await;
            assert_eq!(answer.status, status, "{negated}");
        }
    }
}

#[test]
fn builder_knows_what_was_set() {
    let builder = || Identity::builder("directory", "ann");
    let fields = [
        IdentityField::Kind,
        IdentityField::Roles,
        IdentityField::Tenant,
        IdentityField::Plan,
        IdentityField::Scopes,
        IdentityField::Metadata,
    ];
    for field in fields {
        assert!(!builder().build().is_known(field), "{field:?}");
        assert!(builder().known(field).build().is_known(field), "{field:?}");
        assert!(Identity::for_test().build().is_known(field), "{field:?}");
        let unknown = Identity::for_test().unknown(field).build();
        for other in fields {
            assert_eq!(
                unknown.is_known(other),
                other != field,
                "{field:?}, {other:?}"
            );
        }
    }
    let set = builder().kind(Kind::User).role("a").tenant("t").plan("p");
    let set = set.scopes("s".parse().unwrap()).metadata("m", "v").build();
    for field in fields {
        assert_eq!(
            set.is_known(field),
            field != IdentityField::Metadata,
            "{field:?}"
        );
        assert_eq!(
            set.to_builder().build().is_known(field),
            set.is_known(field)
        );
    }
    assert!(Requirement::from(!attribute("m", "w")).is_met_by(&set));
    assert!(!Requirement::from(!attribute("n", "w")).is_met_by(&set));
}

#[tokio::test]
async fn unreadable_scope_claim_grants_nothing() {
    let world = World::new();
    for (scope_claim, scp, granted) in [
        (json!(["a", "b"]), json!(null), "a b"),
        (json!("a"), json!(["b"]), "a b"),
        (json!(["a", 1]), json!(null), ""),
        (json!(["a", null]), json!(null), ""),
        (json!(["a", ["b"]]), json!(null), ""),
        (json!([["a"]]), json!(null), ""),
        (json!({ "a": true }), json!(null), ""),
        (json!(1), json!(null), ""),
        (json!(true), json!(null), ""),
        // Other claims still count.
        (json!(["a", 1]), json!("b"), "b"),
        (json!({ "a": true }), json!(["b"]), "b"),
        (json!(""), json!([]), ""),
    ] {
        let token = || {
            let token = world.token().claim("scope", scope_claim.clone());
            token.claim("scp", scp.clone())
        };
        let identity = world.identity(world.issuer(), token()).await;
        assert_eq!(identity.scopes().as_str(), granted, "{scope_claim} {scp}");
        let answer = world.ask(world.issuer(), scope("z"), token()).await;
        assert_eq!(answer.code(), "insufficient_scope");
        let is_unreadable = !identity.is_known(IdentityField::Scopes);
        let fault = answer.rejection.unwrap().fault().map(str::to_owned);
        assert_eq!(fault.is_some(), is_unreadable, "{scope_claim} {scp}");
        assert!(fault.is_none_or(|fault| fault == "scope"));
    }
}

#[tokio::test]
async fn rejection_names_the_claim_at_fault() {
    let world = World::new();
    let issuer = || {
        let issuer = world.issuer().roles_from(["realm_access", "roles"]);
        issuer.tenant_from(["org"]).plan_from(["plan"])
    };
    let token = || world.token();
    let soon = 1_800_000_000_u64 + 3600;
    let past = 1_800_000_000_u64 - 3600;
    let mut told = None;
    for (token, fault) in [
        (token().without("exp"), "exp"),
        (token().claim("exp", "soon"), "exp"),
        (token().claim("exp", past), "exp"),
        (token().without("sub"), "sub"),
        (token().claim("sub", ""), "sub"),
        (token().claim("sub", 5), "sub"),
        (token().without("aud"), "aud"),
        (token().claim("aud", json!([1])), "aud"),
        (token().claim("aud", "https://other.example.com"), "aud"),
        (token().claim("nbf", soon), "nbf"),
        (token().claim("nbf", "x"), "nbf"),
        (token().claim("iat", soon), "iat"),
        (token().claim("jti", 1), "jti"),
        (token().claim("client_id", json!([])), "client_id"),
        (token().claim("client_id", "a\nb"), "client_id"),
        (token().claim("azp", json!({})), "azp"),
        (token().claim("azp", "a\u{0}"), "azp"),
        (token().claim("cnf", "x"), "cnf"),
        (token().claim("cnf", json!({ "jkt": "x" })), "cnf"),
        (token().claim("events", json!({})), "events"),
        (token().claim("at_hash", "x"), "at_hash"),
        (
            token().claim("realm_access", json!({ "roles": 1.5 })),
            "realm_access.roles",
        ),
        (token().claim("org", json!([])), "org"),
        (token().claim("plan", true), "plan"),
        (token().header("typ", "dpop+jwt"), "typ"),
        (token().header("alg", "HS256"), "alg"),
        (token().header("kid", "other"), "kid"),
    ] {
        let answer = world.ask(issuer(), authenticated(), token).await;
        assert_eq!(answer.status, 401, "{fault}");
        let rejection = answer.rejection.clone().unwrap();
        assert_eq!(rejection.fault(), Some(fault));
        // Claims that cannot be parsed do not say whose token it is.
        let is_parsed = rejection.issuer().is_some();
        assert!(
            is_parsed || rejection.cause() == Cause::TokenClaims,
            "{fault}"
        );
        assert!(rejection.issuer().is_none_or(|issuer| issuer == ISSUER));
        // The client does not learn any of it.
        let code = answer.code();
        if code == "token_invalid" {
            let told = told.get_or_insert_with(|| answer.wire());
            assert_eq!(*told, answer.wire(), "{fault}");
        } else {
            assert!(
                ["token_expired", "token_binding_failed"].contains(&&*code),
                "{code}"
            );
        }
    }
}

#[tokio::test]
async fn rejection_names_the_segment_at_fault() {
    let world = World::new();
    let service = AuthLayer::new(world.issuer().build().unwrap());
    let service = service.clock(clock()).layer(who());
    let good = world.token().sign();
    let parts: Vec<&str> = good.split('.').collect();
    let other = TestIssuer::new("https://other.example.com/").clock(clock());
    let other = other.token("ann").audience(AUDIENCE).sign();
    for (token, fault, issuer) in [
        ("a.b".to_owned(), "token", None),
        (format!("{good}.x"), "token", None),
        (
            format!("{}A.{}.{}", parts[0], parts[1], parts[2]),
            "header",
            None,
        ),
        (format!("e30A.{}.{}", parts[1], parts[2]), "header", None),
        (
            format!("e30.{}.{}", parts[1], parts[2]),
            "alg",
            Some(ISSUER),
        ),
        (format!("{}.AAAAA.{}", parts[0], parts[2]), "payload", None),
        (format!("{}.W10.{}", parts[0], parts[2]), "payload", None),
        (
            format!("{}.{}.AAAAA", parts[0], parts[1]),
            "signature",
            Some(ISSUER),
        ),
        (format!("{good}AAAA"), "signature", Some(ISSUER)),
        (
            world.token().header("crit", json!(["exp"])).sign(),
            "crit",
            None,
        ),
        (world.token().header("b64", false).sign(), "b64", None),
        (world.token().header("kid", 5).sign(), "kid", None),
        (world.token().header("alg", 5).sign(), "alg", None),
        (other, "iss", None),
        (world.token().without("iss").sign(), "iss", None),
    ] {
        let answer = send(&service, with("authorization", format!("Bearer {token}"))).await;
        let rejection = answer.rejection.unwrap();
        assert_eq!(
            (rejection.fault(), rejection.issuer()),
            (Some(fault), issuer),
            "{token}"
        );
    }
}

#[tokio::test]
async fn rejection_of_a_key_names_no_claim() {
    let layer = AuthLayer::new(keys_over(MemoryKeys::new()));
    let answer = send(&layer.layer(who()), with("x-api-key", "acme_live_x")).await;
    let rejection = answer.rejection.unwrap();
    assert_eq!((rejection.fault(), rejection.issuer()), (None, None));
}

#[tokio::test]
async fn rejection_without_keys_names_the_issuer_only() {
    let world = World::new();
    world.0.set_down(true);
    let keys = RemoteKeys::at("https://id.example.com/jwks.json");
    let client = {
        let issuer = world.0.clone();
        tower::service_fn(
            move |request: http::Request<http_body_util::Full<bytes::Bytes>>| {
                tower::ServiceExt::oneshot(issuer.clone(), request)
            },
        )
    };
    let issuer = world.issuer().keys(keys.client(client));
    let service = AuthLayer::new(issuer.build().unwrap()).clock(clock());
    let request = with("authorization", format!("Bearer {}", world.token().sign()));
    let answer = send(&service.layer(who()), request).await;
    assert_eq!(answer.status, 503);
    let rejection = answer.rejection.unwrap();
    assert_eq!(
        (rejection.fault(), rejection.issuer()),
        (None, Some(ISSUER))
    );
}

#[tokio::test]
async fn rejection_by_a_hook_names_the_issuer() {
    let world = World::new();
    let issuer = world.issuer();
    let issuer = issuer.resolve_with(async |_| tollgate::auth::jwt::Resolved::Revoked);
    let answer = world.ask(issuer, authenticated(), world.token()).await;
    assert_eq!(answer.rejection.unwrap().issuer(), Some(ISSUER));
}

#[test]
fn configuration_errors_name_the_issuer_and_the_fix() {
    let world = World::new();
    let keys = || world.0.keys();
    let bare = || Jwt::issuer(ISSUER).keys(keys());
    let hour = std::time::Duration::from_secs(3600);
    for (issuer, parts) in [
        (
            bare(),
            ["no audience was set", ".dangerous_accept_any_audience()"],
        ),
        (
            world.issuer().dangerous_accept_any_audience(),
            [AUDIENCE, "remove one of them"],
        ),
        (bare().audience(""), ["is empty", "`aud` of the tokens"]),
        (world.issuer().leeway(hour), ["3600s", "at most 300 s"]),
        (
            world.issuer().max_age(std::time::Duration::ZERO),
            ["max_age", "leave it out"],
        ),
        (
            world.issuer().max_lifetime(std::time::Duration::ZERO),
            ["max_lifetime", "leave it out"],
        ),
        (world.issuer().types([]), ["types([])", "at+jwt"]),
        (
            world.issuer().algorithms([]),
            ["algorithms([])", "leave it out"],
        ),
        (world.issuer().scopes_from(["s"; 23]), ["23", "at most 22"]),
        (world.issuer().scopes_from(["sub"]), ["\"sub\"", "`scope`"]),
        (
            world.issuer().roles_from([] as [&str; 0]),
            ["roles_from", "realm_access"],
        ),
        (
            world.issuer().tenant_from(["a", ""]),
            ["tenant_from", "realm_access"],
        ),
        (
            world.issuer().plan_from([] as [&str; 0]),
            ["plan_from", "realm_access"],
        ),
    ] {
        let error = issuer.build().unwrap_err().to_string();
        assert!(
            error.starts_with("Jwt::issuer(\"https://id.example.com/\"): "),
            "{error}"
        );
        assert!(
            error.contains("; call ")
                || error.contains("; remove ")
                || error.contains("; synchronize"),
            "{error}"
        );
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = Jwt::issuer("")
        .audience(AUDIENCE)
        .keys(keys())
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("must not be empty"), "{error}");
    let error = Jwt::issuers([]).unwrap_err().to_string();
    assert!(error.contains("no issuer was given"), "{error}");
    let error = Jwt::issuers([world.issuer(), world.issuer()]).unwrap_err();
    assert!(error.to_string().contains(ISSUER), "{error}");
}
