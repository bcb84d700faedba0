//! The audit trail: what happened to credentials, and what was done with them. Rows J, K1.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use tollgate::audit::{Audit, Event, EventKind};
use tollgate::auth::HttpsOnlyLayer;
use tollgate::clock::ManualClock;
use tollgate::keys::{EndCause, KeyEventKind, KeyField, KeyUpdate, MemoryKeys, NewKey, Rotation};
use tollgate::network::{ClientIp, Transport};
use tollgate::rejection::{Cause, Reason};
use tollgate::testing::TestIssuer;
use tollgate::usage::{ChannelSink, JsonLinesSink, Usage};
use tollgate::{ApiKeys, AuthLayer, Jwt, Quota, RateLimitLayer, RequireLayer, UsageLayer, scope};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::ServiceBuilder;
use crate::support::{NOW, clock, peppers};

/// A trail, and the events that it is told.
pub(crate) fn trail() -> (Audit, Receiver<Vec<Event>>) {
    let (sink, events) = ChannelSink::new(1_000);
    (Audit::builder().sink(sink).build(), events)
}

/// All events, once nobody has more to tell.
pub(crate) async fn told(audit: &Audit, mut events: Receiver<Vec<Event>>) -> Vec<Event> {
    let status = audit.shutdown(Duration::from_secs(5)).await[0];
    assert_eq!((status.lost, status.waiting), (0, 0));
    let mut all = Vec::new();
    while let Ok(batch) = events.try_recv() {
        all.extend(batch);
    }
    assert_eq!(status.delivered, all.len() as u64);
    all
}

pub(crate) fn keys(audit: &Audit, clock: &ManualClock) -> ApiKeys<MemoryKeys> {
    ApiKeys::in_memory(peppers())
        .prefix("acme")
        .clock(clock.clone())
        .audit(audit.clone())
}

pub(crate) fn usage(audit: &Audit, clock: &ManualClock) -> UsageLayer {
    let usage = Usage::builder().audit(audit.clone()).clock(clock.clone());
    UsageLayer::new(usage.build()).route(|request| Some(request.uri.path().into()))
}

pub(crate) fn from(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Asks from an address, and reads the answer to its end.
pub(crate) async fn ask<S, B>(
    service: &S,
    field: (&str, &str),
    path: &str,
    client: &str,
) -> StatusCode
where
    S: Service<Request<()>, Response = http::Response<B>> + Clone,
    S::Error: std::fmt::Debug,
{
    let request = Request::get(path)
        .header(field.0, field.1)
        .extension(SocketAddr::new(from(client), 4711));
    let response = service.clone().oneshot(request.body(()).unwrap()).await;
    response.unwrap().status()
}

pub(crate) async fn hello(
    _: Request<()>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    Ok(http::Response::new(Full::from("hello")))
}

#[tokio::test]
async fn the_life_of_a_key_is_written_down() {
    let (audit, events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let new = || NewKey::for_owner("ann").tenant("acme");
    let first = keys.issue(new()).await.unwrap().record.id;
    keys.disable(first).await.unwrap();
    keys.enable(first).await.unwrap();
    keys.update(first, KeyUpdate::new().set_scopes(["orders:read"]))
        .await
        .unwrap();
    let rotation = Rotation::with_grace(Duration::from_secs(60));
    let second = keys.rotate(first, rotation).await.unwrap().record.id;
    keys.revoke(second).await.unwrap();
    keys.revoke(second).await.unwrap(); // changes nothing, and says nothing
    keys.report_compromised(second).await.unwrap();

    let all = told(&audit, events).await;
    let seen: Vec<_> = all
        .iter()
        .map(|event| (event.credential_id().unwrap(), event.kind()))
        .collect();
    let (one, two) = (first.as_str(), second.as_str());
    assert_eq!(
        seen,
        [
            (one, EventKind::Key(KeyEventKind::Issued)),
            (one, EventKind::Key(KeyEventKind::Disabled)),
            (one, EventKind::Key(KeyEventKind::Enabled)),
            (
                one,
                EventKind::Key(KeyEventKind::Updated(
                    [KeyField::Scopes].into_iter().collect()
                ))
            ),
            (two, EventKind::Key(KeyEventKind::Issued)),
            (one, EventKind::Key(KeyEventKind::RotatedTo(second))),
            (two, EventKind::Key(KeyEventKind::Ended(EndCause::Revoked))),
            (
                two,
                EventKind::Key(KeyEventKind::Ended(EndCause::Compromised))
            ),
        ]
    );
    for event in &all {
        let principal = event.principal().unwrap();
        assert_eq!(
            (principal.subject(), principal.tenant()),
            ("ann", Some("acme"))
        );
        assert_eq!((event.at(), event.client(), event.times()), (NOW, None, 1));
    }
    let json = serde_json::to_value(&all[5]).unwrap();
    assert_eq!(json["event"], "key_rotated");
    assert_eq!(json["successor"], two);
}

#[tokio::test]
async fn each_refusal_is_written_down_with_who_from_where_and_why() {
    let (audit, events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let key = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    let authority = TestIssuer::new("https://id.example/").clock(clock.clone());
    let jwt = Jwt::issuer(authority.url())
        .audience("api")
        .keys(authority.keys())
        .build()
        .unwrap();
    let limit = RateLimitLayer::new(Quota::per_hour(1)).clock(clock.clone());
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(AuthLayer::new(keys.clone().or(jwt)).clock(clock.clone()))
        .layer(limit)
        .service(service_fn(hello));
    let asked = async |field, value: &str| ask(&service, (field, value), "/r", "192.0.2.7").await;
    assert_eq!(asked("x-api-key", key.key.expose()).await, 200);
    assert_eq!(asked("x-api-key", key.key.expose()).await, 429);
    let expired = authority
        .token("bob")
        .audience("api")
        .expired(Duration::from_secs(600))
        .sign();
    assert_eq!(
        asked("authorization", &format!("Bearer {expired}")).await,
        401
    );
    let unsigned = authority.token("bob").audience("api").unsigned();
    assert_eq!(
        asked("authorization", &format!("Bearer {unsigned}")).await,
        401
    );
    let unknown = ApiKeys::in_memory(peppers()).prefix("acme");
    let unknown = unknown.issue(NewKey::for_owner("eve")).await.unwrap();
    assert_eq!(asked("x-api-key", unknown.key.expose()).await, 401);
    assert_eq!(asked("x-api-key", "").await, 400);
    assert_eq!(asked("x-other", "").await, 401); // shows nothing, which is no event
    keys.revoke(key.record.id).await.unwrap();
    assert_eq!(asked("x-api-key", key.key.expose()).await, 401);

    let needy = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .layer(RequireLayer::new(scope("orders:read")))
        .service(service_fn(hello));
    let poor = keys.issue(NewKey::for_owner("poor")).await.unwrap();
    assert_eq!(
        ask(&needy, ("x-api-key", poor.key.expose()), "/n", "192.0.2.8").await,
        403
    );

    let layer = HttpsOnlyLayer::new().client_ip(ClientIp::new());
    let tls = ServiceBuilder::new()
        .map_request(|mut request: Request<()>| {
            request.extensions_mut().insert(Transport::Plain);
            request
        })
        .layer(usage(&audit, &clock))
        .layer(layer.burn(keys.clone(), 10))
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .service(service_fn(hello));
    assert_eq!(
        ask(&tls, ("x-api-key", poor.key.expose()), "/t", "192.0.2.9").await,
        403
    );
    while keys
        .get(poor.record.id)
        .await
        .unwrap()
        .unwrap()
        .ended
        .is_none()
    {
        tokio::task::yield_now().await;
    }

    let all = told(&audit, events).await;
    let seen: Vec<_> = all
        .iter()
        .filter(|event| event.kind() != EventKind::Key(KeyEventKind::Issued))
        .map(|event| {
            let subject = event.principal().map(|principal| principal.subject());
            let why = event.rejection().map(|why| (why.reason(), why.cause()));
            (event.kind().as_str(), subject, event.client(), why)
        })
        .collect();
    let here = Some(from("192.0.2.7"));
    let why = |reason, cause| Some((reason, cause));
    assert_eq!(
        seen,
        [
            (
                "limit_hit",
                Some("ann"),
                here,
                why(Reason::RateLimited, Cause::QuotaExceeded)
            ),
            (
                "token_refused",
                Some("bob"),
                here,
                why(Reason::TokenExpired, Cause::TokenExpired)
            ),
            (
                "token_refused",
                None,
                here,
                why(Reason::TokenInvalid, Cause::TokenStructure)
            ),
            (
                "key_refused",
                None,
                here,
                why(Reason::CredentialInvalid, Cause::KeyUnknown)
            ),
            (
                "not_understood",
                None,
                here,
                why(Reason::RequestMalformed, Cause::EmptyCarrier)
            ),
            ("key_revoked", Some("ann"), None, None),
            (
                "key_used_after_end",
                Some("ann"),
                here,
                why(Reason::CredentialRevoked, Cause::KeyRevoked)
            ),
            (
                "scope_denied",
                Some("poor"),
                Some(from("192.0.2.8")),
                why(Reason::InsufficientScope, Cause::ScopeMissing)
            ),
            (
                "cleartext_exposure",
                None,
                Some(from("192.0.2.9")),
                why(Reason::InsecureTransport, Cause::PlainTransport)
            ),
            ("key_exposed", Some("poor"), Some(from("192.0.2.9")), None),
        ]
    );
    let denied = all
        .iter()
        .find(|event| event.kind() == EventKind::ScopeDenied)
        .unwrap();
    let required = denied.rejection().unwrap().required_scopes().unwrap();
    assert_eq!(
        required.as_str(),
        "orders:read",
        "what the response was made from"
    );
    assert_eq!(
        (denied.route(), denied.credential_id()),
        (Some("/n"), Some(poor.record.id.as_str()))
    );
    for event in &all {
        let texts = [format!("{event:?}"), serde_json::to_string(event).unwrap()];
        for (key, text) in [&key, &poor, &unknown]
            .iter()
            .flat_map(|key| texts.iter().map(move |text| (key, text)))
        {
            assert!(!text.contains(&key.key.expose()[25..33]), "{text}");
        }
    }
}

#[tokio::test]
async fn a_key_in_its_grace_is_told_of_once_a_minute() {
    let (audit, events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let old = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .service(service_fn(hello));
    let shown = ("x-api-key", old.key.expose());
    assert_eq!(ask(&service, shown, "/", "192.0.2.1").await, 200);
    let grace = Rotation::with_grace(Duration::from_secs(3_600));
    keys.rotate(old.record.id, grace).await.unwrap();
    for _ in 0..2 {
        for _ in 0..3 {
            assert_eq!(ask(&service, shown, "/", "192.0.2.2").await, 200);
        }
        clock.advance(Duration::from_secs(60));
    }
    let all = told(&audit, events).await;
    let until = NOW.saturating_add(Duration::from_secs(3_600));
    let kind = EventKind::Key(KeyEventKind::UsedInGrace { until });
    let graces: Vec<_> = all.iter().filter(|event| event.kind() == kind).collect();
    assert_eq!(graces.len(), 2, "{all:#?}");
    assert_eq!(graces[0].client(), Some(from("192.0.2.2")));
}

#[tokio::test]
async fn events_go_to_a_file_as_lines_of_json() {
    let path = std::env::temp_dir().join(format!("tollgate-audit-{}.jsonl", std::process::id()));
    let audit = Audit::builder()
        .sink(JsonLinesSink::append(&path).unwrap())
        .build();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let id = keys
        .issue(NewKey::for_owner("ann"))
        .await
        .unwrap()
        .record
        .id;
    keys.end(id, EndCause::OwnerRemoved).await.unwrap();
    audit.shutdown(Duration::from_secs(5)).await;
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["key_issued", "key_owner_removed"]);
    assert_eq!(events[1]["subject"], "ann");
    assert_eq!(events[1]["at"], 1_800_000_000.0);
}

#[tokio::test]
async fn what_a_gate_has_refused_is_written_down_whatever_is_answered_in_its_place() {
    let (audit, events) = trail();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let revoked = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let to_login = |mut response: http::Response<_>| {
        *response.status_mut() = StatusCode::SEE_OTHER;
        response
    };
    let service = ServiceBuilder::new()
        .layer(usage(&audit, &clock))
        .map_response(to_login)
        .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
        .service(service_fn(hello));
    let shown = ("x-api-key", revoked.key.expose());
    assert_eq!(ask(&service, shown, "/r", "192.0.2.1").await, 303);

    let activity = keys.activity(revoked.record.id).unwrap();
    let act = &activity.acts()[0];
    assert_eq!(
        (act.status(), act.refusal()),
        (Some(StatusCode::SEE_OTHER), Some(Reason::CredentialRevoked))
    );
    let all = told(&audit, events).await;
    let misuse = all.last().unwrap();
    let kind = EventKind::Key(KeyEventKind::UsedAfterEnd(EndCause::Revoked));
    assert_eq!(
        (misuse.kind(), misuse.client()),
        (kind, Some(from("192.0.2.1")))
    );
    assert_eq!(misuse.rejection().unwrap().cause(), Cause::KeyRevoked);
}

/// A second door that is asked where the first one has refused.
#[tokio::test]
async fn who_is_let_in_after_all_was_not_refused() {
    let (audit, events) = trail();
    let clock = clock();
    let (first, second) = (keys(&audit, &clock), keys(&audit, &clock));
    let key = second.issue(NewKey::for_owner("ann")).await.unwrap();
    let door = |keys: ApiKeys<MemoryKeys>| {
        let layer = AuthLayer::new(keys).clock(clock.clone());
        layer.layer(service_fn(hello))
    };
    let doors = [door(first), door(second.clone())];
    let either = service_fn(move |request: Request<()>| {
        let [first, second] = doors.clone();
        async move {
            let response = first.oneshot(request.clone()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            second.oneshot(request).await
        }
    });
    let service = usage(&audit, &clock).layer(either);
    let shown = ("x-api-key", key.key.expose());
    assert_eq!(ask(&service, shown, "/r", "192.0.2.1").await, 200);
    let activity = second.activity(key.record.id).unwrap();
    assert_eq!(activity.acts()[0].refusal(), None);
    let all = told(&audit, events).await;
    assert_eq!(all.len(), 1, "that it was issued: {all:#?}");
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn how_the_sinks_of_a_trail_stand_can_be_watched_and_nothing_is_held() {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tollgate::usage::metrics::Metrics;

    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let metrics = Metrics::to_recorder(recorder);
    let (audit, mut events) = trail();
    metrics.watch("trail", &audit);
    let keys = keys(&audit, &clock());
    keys.issue(NewKey::for_owner("ann")).await.unwrap();
    audit.shutdown(Duration::from_secs(5)).await;
    metrics.refresh();
    let line =
        "tollgate_sink_delivered_total{tollgate_name=\"trail\",tollgate_sink_number=\"0\"} 1";
    assert!(page.render().contains(line), "{}", page.render());

    assert_eq!(events.recv().await.unwrap().len(), 1);
    drop((audit, keys));
    metrics.refresh();
    assert!(events.recv().await.is_none(), "the sink has gone with it");
}
