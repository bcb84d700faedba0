//! Who may: rows F1 to F6, policies, anonymous callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use http::{Request, StatusCode};
use tollgate::authorize::{
    Decision, Hierarchy, Policy, Requirement, all, any, attribute, authenticated, kind, tenant,
    try_scope,
};
use tollgate::identity::Kind;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::Cause;
use tollgate::scope::ScopeSet;
use tollgate::{AuthLayer, Identity, RequireLayer, role, scope};
use tower::Layer;

use super::claims::World;
use super::ServiceBuilder;
use crate::support::{Answer, get, issue, keys_over, send, vectors, who, with};

async fn ask(layer: &RequireLayer, identity: Identity) -> Answer {
    let mut request = get();
    request.extensions_mut().insert(identity);
    send(&layer.layer(who()), request).await
}

fn caller(scopes: &str) -> Identity {
    Identity::for_test().scopes(scopes.parse().unwrap()).build()
}

/// Each case is a token that is sent through the layers.
#[tokio::test]
async fn scope_vectors_hold_for_tokens() {
    let world = World::new();
    let cases = vectors("scopes");
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 17);
    for case in cases {
        let id = &case["id"];
        let required: Vec<_> = case["required_all"].as_array().unwrap().iter().collect();
        let required = required
            .iter()
            .map(|scope| try_scope(scope.as_str().unwrap()));
        let Ok(required) = required.collect::<Result<Vec<_>, _>>() else {
            // A requirement that is not a scope cannot be built, let alone be met.
            assert_eq!(case["granted"], false, "{id}");
            continue;
        };
        let claims = case["claims"].as_object().unwrap().clone();
        let token = claims
            .into_iter()
            .fold(world.token(), |token, (name, value)| {
                token.claim(&name, value)
            });
        let answer = world.ask_up_to(64 * 1024, all(required), token).await;
        let expected = match case["granted"].as_bool().unwrap() {
            true => StatusCode::OK,
            false => StatusCode::FORBIDDEN,
        };
        assert_eq!(answer.status, expected, "{id}");
    }
}

#[tokio::test]
async fn a_missing_scope_is_403_and_the_challenge_lists_all_that_are_needed() {
    let layer = RequireLayer::new(scope("a") & scope("b"));
    let answer = ask(&layer, caller("a")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.code(), "insufficient_scope");
    assert_eq!(
        answer.json()["required_scopes"],
        serde_json::json!(["a", "b"])
    );
    let challenge = "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"a b\"";
    assert_eq!(answer.challenges(), [challenge]);
    assert_eq!(ask(&layer, caller("b a")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn where_scopes_would_not_help_none_are_asked_for() {
    for layer in [
        RequireLayer::new(role("admin")),
        RequireLayer::new(scope("a") & role("admin")),
        RequireLayer::new(any([
            Requirement::from(tenant("x")),
            kind(Kind::User).into(),
        ])),
        RequireLayer::new(attribute("region", "eu")),
    ] {
        let answer = ask(&layer, caller("a")).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (StatusCode::FORBIDDEN, "forbidden")
        );
        assert!(answer.challenges().is_empty());
    }
}

#[tokio::test]
async fn facts_are_met_and_negated() {
    let identity = || {
        Identity::for_test()
            .tenant("emea")
            .role("clerk")
            .kind(Kind::User)
            .metadata("region", "eu")
    };
    let yes = [
        Requirement::from(role("clerk")),
        tenant("emea").into(),
        kind(Kind::User).into(),
        attribute("region", "eu").into(),
        (!role("admin")).into(),
        !tenant("apac") & !kind(Kind::Application),
        role("admin") | !attribute("region", "us"),
        authenticated(),
    ];
    for requirement in yes {
        let text = requirement.to_string();
        let answer = ask(&RequireLayer::new(requirement), identity().build()).await;
        assert_eq!(answer.status, StatusCode::OK, "{text}");
    }
}

#[tokio::test]
async fn an_anonymous_caller_meets_nothing_not_even_a_negation() {
    let keys = keys_over(MemoryKeys::new());
    let door = AuthLayer::new(keys).optional();
    assert_eq!(send(&door.layer(who()), get()).await.body, "nobody");
    for requirement in [
        authenticated(),
        (!role("guest")).into(),
        scope("a"),
        all::<[Requirement; 0]>([]),
    ] {
        let stack = ServiceBuilder::new()
            .layer(door.clone())
            .layer(RequireLayer::new(requirement));
        let answer = send(&stack.service(who()), get()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.code(), "credentials_missing");
        assert_eq!(
            answer.challenges(),
            ["Bearer realm=\"api\"", "ApiKey realm=\"api\""]
        );
    }
}

#[tokio::test]
async fn without_a_door_outside_it_is_500_and_never_a_pass() {
    for requirement in [authenticated(), (!role("guest")).into(), scope("a")] {
        let answer = send(&RequireLayer::new(requirement).layer(who()), get()).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.rejection.unwrap().cause(), Cause::Misconfigured);
    }
}

#[tokio::test]
async fn the_door_says_it_in_the_scheme_that_was_used() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice").scopes(["a"])).await;
    let url = "https://api.example.com/.well-known/oauth-protected-resource";
    let door = AuthLayer::new(keys).realm("shop").resource_metadata(url);
    let stack = ServiceBuilder::new()
        .layer(door)
        .layer(RequireLayer::new(scope("b")));
    let service = stack.service(who());
    for (request, scheme) in [
        (with("x-api-key", &key), "ApiKey"),
        (with("authorization", format!("bearer {key}")), "Bearer"),
    ] {
        let answer = send(&service, request).await;
        let challenge = format!(
            "{scheme} realm=\"shop\", error=\"insufficient_scope\", scope=\"b\", \
             resource_metadata=\"{url}\""
        );
        assert_eq!(answer.challenges(), [challenge]);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.code(), "insufficient_scope");
        assert_eq!(
            answer.header("content-length"),
            Some(&*answer.body.len().to_string())
        );
    }
}

#[tokio::test]
async fn wider_scopes_grant_narrower_ones_where_that_is_declared() {
    let plain = RequireLayer::new(scope("orders:read"));
    assert_eq!(
        ask(&plain, caller("orders:*")).await.status,
        StatusCode::FORBIDDEN
    );
    let hierarchy = Hierarchy::new()
        .wildcards(':')
        .implies("orders:write", "orders:read");
    let wide = plain.hierarchy(&hierarchy);
    assert_eq!(ask(&wide, caller("orders:*")).await.status, StatusCode::OK);
    assert_eq!(
        ask(&wide, caller("orders:write")).await.status,
        StatusCode::OK
    );
    let answer = ask(&wide, caller("orders:delete")).await;
    assert!(answer.challenges()[0].contains("scope=\"orders:read\""));
}

#[test]
fn a_separator_that_parts_no_scopes_is_refused() {
    for bad in ['*', ' ', '"', '\\', '\n', 'é'] {
        assert!(Hierarchy::new().try_wildcards(bad).is_err(), "{bad:?}");
    }
    for good in [':', '.', '/'] {
        let hierarchy = Hierarchy::new().try_wildcards(good).unwrap();
        let layer = RequireLayer::new(scope("a*b")).hierarchy(&hierarchy);
        assert!(format!("{layer:?}").contains("a*b"));
    }
}

#[tokio::test]
async fn a_policy_sees_the_identity_and_the_request_and_can_change_its_mind() {
    let suspended = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&suspended);
    let layer =
        RequireLayer::new(authenticated()).policy(Policy::new("active", move |who, parts| {
            who.subject() == "test" && parts.uri.path() == "/" && !switch.load(Ordering::SeqCst)
        }));
    assert_eq!(ask(&layer, caller("")).await.status, StatusCode::OK);
    suspended.store(true, Ordering::SeqCst);
    let answer = ask(&layer, caller("")).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (StatusCode::FORBIDDEN, "forbidden")
    );
    assert_eq!(
        answer.json().get("policy"),
        None,
        "its name is nobody's business"
    );
    suspended.store(false, Ordering::SeqCst);
    assert_eq!(ask(&layer, caller("")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_first_policy_that_does_not_allow_answers() {
    let slow = |name: &'static str, decision: Decision| {
        Policy::asynchronous(name, move |_, _| async move {
            tokio::task::yield_now().await;
            decision
        })
    };
    let fast = |name: &'static str, decision: Decision| Policy::new(name, move |_, _| decision);
    let (allow, deny, unsure) = (Decision::Allow, Decision::Deny, Decision::Unavailable);
    for (policies, status, name) in [
        (
            vec![slow("a", allow), fast("b", allow), slow("c", allow)],
            200,
            None,
        ),
        (
            vec![slow("a", allow), fast("b", deny).public()],
            403,
            Some("b"),
        ),
        (
            vec![slow("a", deny).public(), fast("b", deny).public()],
            403,
            Some("a"),
        ),
        (vec![fast("a", deny), slow("b", deny).public()], 403, None),
        (vec![fast("a", allow), slow("b", unsure)], 503, None),
        (vec![fast("a", unsure), slow("b", deny)], 503, None),
    ] {
        let layer = RequireLayer::new(authenticated());
        let layer = policies.into_iter().fold(layer, RequireLayer::policy);
        let answer = ask(&layer, caller("")).await;
        assert_eq!(answer.status, status);
        if status != 200 {
            assert_eq!(answer.json()["policy"].as_str(), name);
        }
        if status == 503 {
            assert!(answer.header("retry-after").is_some());
        }
    }
}

#[tokio::test]
async fn a_policy_is_not_asked_about_callers_who_lack_what_is_required() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let policy = Policy::new("count", move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(true)
    });
    let layer = RequireLayer::new(scope("a")).policy(policy);
    ask(&layer, caller("b")).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    ask(&layer, caller("a")).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_policy_that_panics_spoils_that_request_only() {
    let panics = |when: &'static str| {
        let here = Policy::new("here", move |_, parts: &http::request::Parts| {
            assert!(!(when == "here" && parts.headers.contains_key("x-bad")));
            true
        });
        let there = Policy::asynchronous("there", move |_, parts| {
            let bad = when == "there" && parts.headers.contains_key("x-bad");
            async move {
                tokio::task::yield_now().await;
                assert!(!bad);
                true
            }
        });
        RequireLayer::new(authenticated())
            .policy(here)
            .policy(there)
    };
    for when in ["here", "there"] {
        let service = panics(when).layer(who());
        for _ in 0..2 {
            let mut request = with("x-bad", "1");
            request.extensions_mut().insert(caller(""));
            let answer = send(&service, request).await;
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(answer.code(), "internal");
            let request = Request::builder().extension(caller("")).body(()).unwrap();
            assert_eq!(send(&service, request).await.status, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn two_thousand_scopes_are_searched_in_linear_time() {
    let many: Vec<String> = (0..2_000).map(|i| format!("scope-{i}")).collect();
    let identity = Identity::for_test()
        .scopes(ScopeSet::try_new(&many).unwrap())
        .build();
    let needed = scope("scope-1999");
    let missing = scope("scope-2000");
    let best = (0..50)
        .map(|_| {
            let start = Instant::now();
            assert!(needed.is_met_by(&identity) && !missing.is_met_by(&identity));
            start.elapsed()
        })
        .min()
        .unwrap();
    // Two searches; 50 µs each is promised of optimized code, which this is not.
    assert!(best.as_micros() < 20 * 2 * 50, "{best:?}");
}

#[test]
fn a_literal_that_is_no_scope_panics_where_it_is_written() {
    let panic = std::panic::catch_unwind(|| scope("orders read")).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("orders read"), "{text}");
    assert!(try_scope("").is_err());
}
