//! What a refusal is in the audit trail: by what has failed, and not by what the client is told.
//! Row J.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use tollgate::audit::{Audit, EventKind};
use tollgate::auth::HttpsOnlyLayer;
use tollgate::keys::{KeyEventKind, NewKey, Rotation};
use tollgate::network::Transport;
use tollgate::usage::{ChannelSink, TracingSink, Usage};
use tollgate::{AuthLayer, Quota, RateLimitLayer, RequireLayer, UsageLayer, scope};
use tower::{ServiceExt, service_fn};

use super::audit::{ask, from, hello, keys, told, trail, usage};
use super::ServiceBuilder;
use crate::support::{Events, NOW, clock, with};

#[tokio::test]
async fn a_key_whose_secret_is_right_is_none_that_is_unknown() {
    let (audit, events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let disabled = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    keys.disable(disabled.record.id).await.unwrap();
    let later = NOW.saturating_add(Duration::from_secs(60));
    let new = NewKey::for_owner("bob").not_before(later);
    let early = keys.issue(new).await.unwrap();
    let new = NewKey::for_owner("eve").networks(["10.0.0.0/8"]);
    let tied = keys.issue(new).await.unwrap();
    let door = AuthLayer::new(keys.clone()).clock(clock.clone());
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(door.hide_restrictions())
        .service(service_fn(hello));
    for key in [&disabled, &early, &tied] {
        let shown = ("x-api-key", key.key.expose());
        assert_eq!(ask(&service, shown, "/", "192.0.2.1").await, 401);
    }
    let in_uri = format!("/?k={}", tied.key.expose());
    assert_eq!(
        ask(&service, ("x-other", ""), &in_uri, "192.0.2.1").await,
        400
    );
    let all = told(&audit, events).await;
    let refused = all.iter().filter(|event| event.rejection().is_some());
    let subject = |principal: &tollgate::identity::Principal| principal.subject().to_owned();
    let seen: Vec<_> = refused
        .map(|event| (event.kind(), event.principal().map(subject)))
        .collect();
    assert_eq!(
        seen,
        [
            (EventKind::KeyInactive, Some("ann".into())),
            (EventKind::KeyInactive, Some("bob".into())),
            (EventKind::AccessDenied, Some("eve".into())),
            (EventKind::CredentialInUri, None),
        ]
    );
    assert_eq!(seen[0].0.as_str(), "key_inactive");
    assert_eq!(seen[3].0.as_str(), "credential_in_uri");
}

#[tokio::test]
async fn only_what_was_shown_in_clear_is_exposed() {
    for burns in [false, true] {
        let (audit, events) = trail();
        let clock = clock();
        let keys = keys(&Audit::new(), &clock);
        let mut layer = HttpsOnlyLayer::new();
        if burns {
            layer = layer.burn(keys, 10);
        }
        let usage = Usage::builder().audit(audit.clone()).build();
        let service = ServiceBuilder::new()
            .layer(UsageLayer::new(usage))
            .layer(layer)
            .service(service_fn(hello));
        let ask = async |request: Request<()>| {
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 403);
        };
        ask(with("x-other", "1")).await;
        assert_eq!(audit.sinks()[0].recorded, 0);
        let exposed = [
            with("x-api-key", "acme_live_1"),
            with("x-api-key", ""),
            with("authorization", "Bearer abc"),
            with("authorization", "Basic dXNlcjpwYXNz"),
            with("authorization", "Digest a=\"b\""),
        ];
        let count = exposed.len();
        for request in exposed {
            ask(request).await;
        }
        let all = told(&audit, events).await;
        assert_eq!(all.len(), count);
        let is_exposure =
            |event: &tollgate::audit::Event| event.kind() == EventKind::CleartextExposure;
        assert!(all.iter().all(is_exposure), "{all:#?}");
    }
}

#[tokio::test]
async fn a_key_that_is_ended_for_being_shown_in_clear_says_from_where() {
    let (audit, events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let shown = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    // No UsageLayer: the keys tell it themselves.
    let service = ServiceBuilder::new()
        .layer(HttpsOnlyLayer::new().burn(keys.clone(), 10))
        .service(service_fn(hello));
    let mut request = with("x-api-key", shown.key.expose());
    let client = SocketAddr::new(from("192.0.2.9"), 4711);
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(Transport::Plain);
    drop(service.oneshot(request).await.unwrap());
    let mut lapsed = keys.get(shown.record.id).await.unwrap().unwrap();
    while lapsed.ended.is_none() {
        tokio::task::yield_now().await;
        lapsed = keys.get(shown.record.id).await.unwrap().unwrap();
    }
    let all = told(&audit, events).await;
    let last = all.last().unwrap();
    assert!(matches!(
        last.kind(),
        EventKind::Key(KeyEventKind::Ended(_))
    ));
    assert_eq!(last.client(), Some(client.ip()));
}

#[test]
fn what_sets_an_event_apart_is_written_out() {
    let (seen, _guard) = Events::listen();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    runtime.block_on(async {
        let (sink, events) = ChannelSink::new(100);
        let audit = Audit::builder().sink(sink).sink(TracingSink::new()).build();
        let clock = clock();
        let keys = keys(&audit, &clock);
        let old = keys.issue(NewKey::for_owner("ann")).await.unwrap();
        let grace = Rotation::with_grace(Duration::from_secs(60));
        let successor = keys.rotate(old.record.id, grace).await.unwrap().record.id;
        let door = || {
            ServiceBuilder::new()
                .layer(usage(&audit, &clock))
                .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        };
        let quota = Quota::per_hour(1).named("hourly");
        let limited = door()
            .layer(RateLimitLayer::new(quota).clock(clock.clone()))
            .service(service_fn(hello));
        let scopes = scope("orders:read") & scope("orders:write");
        let scoped = door()
            .layer(RequireLayer::new(scopes))
            .service(service_fn(hello));
        let shown = ("x-api-key", old.key.expose());
        assert_eq!(ask(&limited, shown, "/", "192.0.2.1").await, 200);
        assert_eq!(ask(&limited, shown, "/", "192.0.2.1").await, 429);
        assert_eq!(ask(&scoped, shown, "/", "192.0.2.1").await, 403);

        let all = told(&audit, events).await;
        let find = |name: &str| {
            let event = all.iter().find(|event| event.kind().as_str() == name);
            let log = seen.of("INFO");
            let line = log
                .iter()
                .find(|line| line.contains(&format!("event=\"{name}\"")));
            let line = line.unwrap_or_else(|| panic!("{name} in {log:#?}")).clone();
            (serde_json::to_value(event.unwrap()).unwrap(), line)
        };
        let fields = ["required_scopes", "violated_quotas", "successor", "until"];
        for (name, field, json, text) in [
            (
                "key_rotated",
                "successor",
                serde_json::json!(successor.as_str()),
                format!("successor={successor}"),
            ),
            (
                "key_used_in_grace",
                "until",
                serde_json::json!(1_800_000_060.0),
                "until=1800000060.0".to_owned(),
            ),
            (
                "limit_hit",
                "violated_quotas",
                serde_json::json!(["hourly"]),
                "violated_quotas=\"hourly\"".to_owned(),
            ),
            (
                "scope_denied",
                "required_scopes",
                serde_json::json!(["orders:read", "orders:write"]),
                "required_scopes=\"orders:read orders:write\"".to_owned(),
            ),
        ] {
            let (event, line) = find(name);
            assert!(line.contains(&text), "{line}");
            for other in fields {
                if other == field {
                    assert_eq!(event[other], json, "{name}");
                } else {
                    assert!(event[other].is_null(), "{name}: {event}");
                    assert!(!line.contains(&format!(" {other}=")), "{line}");
                }
            }
        }
    });
}
