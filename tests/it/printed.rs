//! Every public type, by name: what it prints has no secret in it. Row K2.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use http::HeaderName;
use tollgate::audit::Audit;
use tollgate::auth::{AuthFailureLimitLayer, HttpsOnlyLayer, ProtectedResource, Source};
use tollgate::authorize::{Policy, Rules, authenticated};
use tollgate::credential::Credential;
use tollgate::jwks::{Algorithm, KeySet, Keys, RemoteKeys};
use tollgate::keys::{
    Cached, KeyError, KeyFilter, MemoryKeys, NewKey, Peppers, Rotation, StoreError,
};
use tollgate::respond::Restyled;
use tollgate::testing::{TestIssuer, TestKeys};
use tollgate::usage::{ChannelSink, Usage};
use tollgate::{ApiKeys, AuthLayer, Identity, Jwt, Rejection, RequireLayer, UsageLayer};
use tower::{Layer, Service, ServiceExt};

use crate::support::{get, who, with};

/// Types that hold nothing but names, numbers and settings, checked to be printable.
macro_rules! plain {
    ($($name:ident: $type:ty,)*) => {
        fn plain() -> Vec<&'static str> {
            fn prints<T: Debug>() {}
            $(prints::<$type>();)*
            vec![$(stringify!($name)),*]
        }
    };
}

plain! {
    AbandonReason: tollgate::drain::AbandonReason,
    Drain: tollgate::drain::Drain<()>,
    DrainBody: tollgate::drain::DrainBody<&'static str>,
    DrainCounters: tollgate::drain::DrainCounters,
    DrainFuture: tollgate::drain::DrainFuture<(), (), ()>,
    DrainLayer: tollgate::drain::DrainLayer,
    Arrival: tollgate::usage::Arrival<'static>,
    Audit: tollgate::audit::Audit,
    AuditBuilder: tollgate::audit::AuditBuilder,
    EventKind: tollgate::audit::EventKind,
    Measured: tollgate::usage::metrics::Measured<MemoryKeys>,
    Metrics: tollgate::usage::metrics::Metrics,
    ConcurrencyLayer: tollgate::limit::ConcurrencyLayer,
    Control: tollgate::limit::Control,
    Cost: tollgate::limit::Cost,
    Fields: tollgate::limit::Fields,
    KeyBy: tollgate::limit::KeyBy,
    LayerNames: tollgate::limit::LayerNames,
    LimitKey: tollgate::limit::LimitKey<'static>,
    LimiterUnavailable: tollgate::limit::LimiterUnavailable,
    MemoryLimiter: tollgate::limit::MemoryLimiter,
    Plans: tollgate::limit::Plans,
    Quota: tollgate::limit::Quota,
    Quotas: tollgate::limit::Quotas,
    RateLimitLayer: tollgate::RateLimitLayer,
    Ticket: tollgate::limit::Ticket,
    Algorithm: tollgate::jwks::Algorithm,
    Answer: tollgate::auth::Answer,
    Backend: tollgate::jwks::Backend,
    Body: tollgate::body::Body<()>,
    CachedIdentity: tollgate::keys::CachedIdentity,
    Cause: tollgate::rejection::Cause,
    Claims: tollgate::Claims<()>,
    ClientCertificate: tollgate::auth::ClientCertificate,
    ClientIp: tollgate::network::ClientIp,
    Compromised: tollgate::keys::Compromised,
    ConfigError: tollgate::ConfigError,
    Decision: tollgate::authorize::Decision,
    ExposeRejection: tollgate::rejection::ExposeRejection,
    EndCause: tollgate::keys::EndCause,
    Ended: tollgate::keys::Ended,
    Fact: tollgate::authorize::Fact,
    FetchError: tollgate::jwks::FetchError,
    KeyFetchError: tollgate::jwks::KeyFetchError,
    GrpcCode: tollgate::rejection::GrpcCode,
    Hierarchy: tollgate::authorize::Hierarchy,
    IdentityField: tollgate::identity::IdentityField,
    InvalidClaims: tollgate::identity::InvalidClaims,
    InvalidKeyId: tollgate::keys::InvalidKeyId,
    InvalidScope: tollgate::scope::InvalidScope,
    KeyEvent: tollgate::keys::KeyEvent,
    KeyEventKind: tollgate::keys::KeyEventKind,
    EndOwnerError: tollgate::keys::EndOwnerError,
    KeyField: tollgate::keys::KeyField,
    KeyFields: tollgate::keys::KeyFields,
    KeyUpdate: tollgate::keys::KeyUpdate,
    KeyId: tollgate::keys::KeyId,
    KeyState: tollgate::keys::KeyState,
    KeyStatus: tollgate::jwks::KeyStatus,
    Kind: tollgate::identity::Kind,
    Lapse: tollgate::lapse::Lapse,
    LastUsed: tollgate::keys::LastUsed,
    LifecycleError: tollgate::keys::LifecycleError,
    MacAlgorithm: tollgate::keys::MacAlgorithm,
    ManualClock: tollgate::clock::ManualClock,
    Pending: tollgate::pending::Pending<()>,
    Principal: tollgate::identity::Principal,
    Reason: tollgate::rejection::Reason,
    Report: tollgate::authorize::Report<'static>,
    Required: tollgate::authorize::Required,
    Requirement: tollgate::authorize::Requirement,
    Resolved: tollgate::identity::Resolved,
    Restrictions: tollgate::restriction::Restrictions,
    RolesClaim: tollgate::auth::jwt::RolesClaim,
    Rotated: tollgate::keys::Rotated,
    Scheme: tollgate::credential::Scheme,
    ScopeSet: tollgate::scope::ScopeSet,
    SystemClock: tollgate::clock::SystemClock,
    Timestamp: tollgate::clock::Timestamp,
    Transport: tollgate::network::Transport,
    UnusableKey: tollgate::jwks::UnusableKey,
    Buffer: tollgate::usage::Buffer,
    Caller: tollgate::usage::Caller,
    ChannelSink: tollgate::usage::ChannelSink<tollgate::usage::Record>,
    Tollgate: tollgate::Tollgate<tollgate::UsageLayer>,
    End: tollgate::usage::End,
    JsonLinesSink: tollgate::usage::JsonLinesSink,
    RecordId: tollgate::usage::RecordId,
    SinkError: tollgate::usage::SinkError,
    SinkStatus: tollgate::usage::SinkStatus,
    Total: tollgate::usage::Total,
    TracingSink: tollgate::usage::TracingSink,
    UsageBuilder: tollgate::usage::UsageBuilder,
    UsageLayer: tollgate::UsageLayer,
    UsageSlot: tollgate::usage::UsageSlot,
}

/// Types that no path leads to from outside.
const HIDDEN: [&str; 12] = [
    "Tell",
    "Call",
    "DoorVisit",
    "LimitVisit",
    "Order",
    "Taken",
    "Permit",
    "Role",
    "Shown",
    "UsageVisit",
    "Visit",
    "Voice",
];

/// Those that are there with the feature `redis`.
const REDIS: [&str; 6] = [
    "Fallbacks",
    "RedisFault",
    "RedisLimiter",
    "RedisStatus",
    "WarmUpError",
    "WhenDown",
];

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_limiter_in_redis_does_not_print_its_password() {
    use tollgate::limit::{RedisLimiter, WhenDown};
    let limiter = RedisLimiter::new("redis://ann:pa55w0rd@127.0.0.1:1/").unwrap();
    let text = format!("{limiter:?} {:?} {:?}", limiter.status(), WhenDown::Open);
    assert!(!text.contains("pa55w0rd"), "{text}");
    let error = limiter.warm_up().await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains("pa55w0rd"), "{text}");
    let text = format!(
        "{:?}",
        RedisLimiter::new("redis://:pa55w0rd@[").unwrap_err()
    );
    assert!(!text.contains("pa55w0rd"), "{text}");
}

/// The names of all types that are written down as public.
fn declared(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            declared(&path, names);
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line = line.trim_start();
            let kinds = ["pub struct ", "pub enum ", "pub union "];
            if let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) {
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                let name = rest.split(|c| !is_name(c)).next().unwrap();
                names.insert(name.to_owned());
            }
        }
    }
}

const PEPPER: &str = "pepper-pepper-pepper-pepper-1234";
const HMAC_SECRET: &str = "an-hmac-secret-of-at-least-32-bytes";
const TOKEN_OF_ROTATION: &str = "rotation-token-f0c1e0de";
const NOTE: &str = "what-was-noted-down";

#[tokio::test]
async fn every_public_type_is_listed_and_prints_no_secret() {
    let peppers = Peppers::new(1, PEPPER).unwrap();
    let store = MemoryKeys::new();
    let (sink, mut events) = ChannelSink::new(10);
    let audit = Audit::builder().sink(sink).build();
    let keys = ApiKeys::new(store.clone(), peppers.clone())
        .prefix("acme")
        .audit(audit.clone());
    let new = NewKey::for_owner("ann").metadata("note", NOTE);
    let issued = keys.issue(new).await.unwrap();
    let key = issued.key.expose().to_owned();
    let mac = *issued.record.mac.as_bytes();
    let kit = TestKeys::new("acme");
    let minted = kit.mint(NewKey::for_owner("bob"));

    let authority = TestIssuer::new("https://id.example.com/");
    let good = || authority.token("ann").audience("api").claim("note", NOTE);
    let token = good().sign();
    let issuer = || {
        Jwt::issuer(authority.url())
            .audience("api")
            .keys(authority.keys())
    };
    let jwt = issuer().build().unwrap();
    let secret = KeySet::from_secret(Algorithm::Hs256, HMAC_SECRET).unwrap();

    let door = AuthLayer::new(keys.clone().or(jwt.clone()));
    let builder = Usage::builder().audit(audit.clone());
    let (usage, recorded) = crate::nested::usage::watched(builder);
    let mut service = UsageLayer::new(usage.clone()).layer(door.layer(who()));
    let bearer = || with("authorization", format!("Bearer {token}"));
    let call = service.ready().await.unwrap().call(with("x-api-key", &key));
    let in_flight = format!("{call:?}");
    assert_eq!(call.await.unwrap().status(), 200);
    let (seen, noting) = crate::support::identities();
    let noting = door.layer(noting);
    for request in [with("x-api-key", &key), bearer()] {
        assert_eq!(noting.clone().oneshot(request).await.unwrap().status(), 200);
    }
    let identities = seen.lock().unwrap().clone();
    let builders: Vec<_> = identities.iter().map(Identity::to_builder).collect();
    let refused = service.oneshot(get()).await.unwrap();
    let rejection = refused.extensions().get::<Rejection>().unwrap().clone();
    let failure = StoreError::unavailable("gone");
    let remote = RemoteKeys::discover();

    audit.shutdown(Duration::from_secs(5)).await;
    let events = events.try_recv().unwrap();
    let events = format!("{events:?} {}", serde_json::to_string(&events).unwrap());
    let id = issued.record.id.as_str();
    let activity = audit
        .activity(identities[0].principal().source(), id)
        .unwrap();
    let activities = format!("{activity:?} {}", serde_json::to_string(&activity).unwrap());
    let records = recorded.all();
    let lines = serde_json::to_string(&records).unwrap();

    let printed: Vec<(&str, String)> = vec![
        ("Act", format!("{:?}", activity.acts())),
        ("Activity", activities),
        ("Event", events),
        ("Record", format!("{records:?} {lines}")),
        ("Snapshot", format!("{:?}", usage.snapshot())),
        ("Usage", format!("{usage:?} {}", usage.snapshot())),
        ("ApiKey", format!("{:?}", issued.key)),
        ("ApiKeys", format!("{keys:?}")),
        ("AuthLayer", format!("{door:?}")),
        ("Cached", format!("{:?}", Cached::new(store.clone()))),
        (
            "Credential",
            format!("{:?}", Credential::new(key.as_bytes())),
        ),
        ("Gate", format!("{noting:?}", noting = door.layer(()))),
        (
            "HttpsOnlyLayer",
            format!("{:?}", HttpsOnlyLayer::new().burn(keys.clone(), 1)),
        ),
        ("Identity", format!("{identities:?}")),
        ("IdentityBuilder", format!("{builders:?}")),
        ("IssuedKey", format!("{issued:?}")),
        ("Issuer", format!("{:?}", issuer().keys(secret.clone()))),
        ("Jwt", format!("{jwt:?}")),
        ("KeyError", format!("{:?}", KeyError::from(failure.clone()))),
        ("KeyFilter", format!("{:?}", KeyFilter::of_owner("ann"))),
        ("KeyMac", format!("{:?}", issued.record.mac)),
        (
            "KeyPage",
            format!("{:?}", keys.list(KeyFilter::all()).await.unwrap()),
        ),
        ("KeyRecord", format!("{:?}", issued.record)),
        ("KeySet", format!("{secret:?}")),
        ("Keys", format!("{:?}", Keys::from(secret.clone()))),
        ("MemoryKeys", format!("{store:?}")),
        ("NewKey", format!("{:?}", NewKey::for_owner("ann"))),
        ("Or", format!("{:?}", keys.clone().or(jwt.clone()))),
        ("Peppers", format!("{peppers:?}")),
        ("Policy", format!("{:?}", Policy::new("p", |_, _| true))),
        (
            "ProtectedResource",
            format!("{:?}", ProtectedResource::new("https://api.example.com/")),
        ),
        ("Rejection", format!("{rejection:?}")),
        ("RemoteKeys", format!("{remote:?}")),
        (
            "RequireLayer",
            format!("{:?}", RequireLayer::new(authenticated())),
        ),
        ("ResponseFuture", in_flight),
        (
            "Restyled",
            format!("{:?}", Restyled::new("a/b".parse().unwrap(), "body")),
        ),
        (
            "Rotation",
            format!(
                "{:?}",
                Rotation::with_grace(Duration::ZERO).token(TOKEN_OF_ROTATION)
            ),
        ),
        ("Rules", format!("{:?}", Rules::new().public("/"))),
        (
            "Source",
            format!("{:?}", Source::header(HeaderName::from_static("x-api-key"))),
        ),
        ("StoreError", format!("{failure:?}")),
        (
            "Strict",
            format!("{:?}", Cached::new(store.clone()).strict()),
        ),
        ("TestIssuer", format!("{authority:?}")),
        ("TestKeys", format!("{kit:?}")),
        (
            "AuthFailureLimitLayer",
            format!("{:?}", AuthFailureLimitLayer::failures_per_minute(1)),
        ),
        ("TokenBuilder", format!("{:?}", good())),
    ];

    let signature = token.rsplit_once('.').unwrap().1;
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let secrets = [
        &key[23..],
        &minted[23..],
        signature,
        PEPPER,
        HMAC_SECRET,
        TOKEN_OF_ROTATION,
        &hex,
        &format!("{mac:?}"),
    ];
    for (name, text) in &printed {
        for secret in secrets {
            for canary in [secret, &secret[..8], &secret[secret.len() - 8..]] {
                assert!(!text.contains(canary), "{name} prints {canary}: {text}");
            }
        }
    }
    for name in ["Identity", "IdentityBuilder"] {
        let (_, text) = printed.iter().find(|(listed, _)| *listed == name).unwrap();
        assert!(
            !text.contains(NOTE),
            "what was noted down is the handler's: {text}"
        );
    }

    let mut names = BTreeSet::new();
    declared(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut names,
    );
    let listed = plain().into_iter().chain(HIDDEN).chain(REDIS);
    let listed = listed.chain(printed.iter().map(|(name, _)| *name));
    let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
    let missing: Vec<_> = names.difference(&listed).collect();
    assert!(missing.is_empty(), "not listed here: {missing:?}");
    let gone: Vec<_> = listed.difference(&names).collect();
    assert!(gone.is_empty(), "listed and not there: {gone:?}");
}
