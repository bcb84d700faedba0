//! The identity hook of API keys: `ApiKeys::resolve_with`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tollgate::identity::Resolved;
use tollgate::keys::{Cached, MemoryKeys, NewKey, Peppers};
use tollgate::rejection::Cause;
use tollgate::restriction::Restrictions;
use tollgate::{ApiKeys, AuthLayer, Identity, RequireLayer, role};
use tower::Layer;

use crate::keys::wrong_secret;
use crate::support::{NOW, Script, Scripted, clock, identities, issue, keys_over, send, who, with};

#[tokio::test]
async fn key_hook_decides_about_each_request() {
    for script in [Script::Now, Script::Later] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let keys = keys_over(Cached::new(Scripted::new(script)).clock(clock()));
        let keys = keys.resolve_with(move |identity: Identity| {
            let turn = count.fetch_add(1, Ordering::Relaxed);
            async move {
                match turn {
                    0 => Resolved::Known(identity.to_builder().role("admin").build()),
                    1 => Resolved::Denied,
                    2 => Resolved::Revoked,
                    3 => Resolved::Unavailable,
                    4 => panic!("a hook of a user"),
                    _ => Ok::<_, std::io::Error>(identity).into(),
                }
            }
        });
        let key = issue(&keys, NewKey::for_owner("alice")).await;
        let service = AuthLayer::new(keys)
            .clock(clock())
            .layer(RequireLayer::new(role("admin")).layer(who()));
        for (status, code, cause) in [
            (200, "", None),
            (403, "forbidden", Some(Cause::SubjectDenied)),
            (401, "credential_revoked", Some(Cause::KeyRevokedByHook)),
            (503, "verifier_unavailable", Some(Cause::SubjectUnavailable)),
            (500, "internal", Some(Cause::Panicked)),
            // The role came from the hook.
            (403, "forbidden", Some(Cause::FactMissing)),
        ] {
            let answer = send(&service, with("x-api-key", &key)).await;
            assert_eq!(answer.status, status);
            if status != 200 {
                assert_eq!(answer.code(), code);
            }
            assert_eq!(answer.header("retry-after").is_some(), status == 503);
            assert_eq!(answer.rejection.map(|it| it.cause()), cause);
        }
        // The hook is asked about valid keys only.
        let answer = send(&service, with("x-api-key", wrong_secret(&key))).await;
        assert_eq!(answer.code(), "credential_invalid");
        assert_eq!(asked.load(Ordering::Relaxed), 6);
    }
}

#[tokio::test]
async fn key_hook_cannot_lift_restrictions_or_extend_a_key() {
    let keys = keys_over(MemoryKeys::new()).resolve_with(async |identity: Identity| {
        let end = NOW.saturating_add(Duration::from_secs(9999));
        let other = Identity::builder("api-key", identity.subject()).plan("pro");
        Resolved::Known(other.expires_at(end).build())
    });
    let end = NOW.saturating_add(Duration::from_secs(100));
    let new = NewKey::for_owner("alice").networks(["10.0.0.0/8"]);
    let issued = keys.issue(new.expires_at(end)).await.unwrap();
    let (seen, service) = identities();
    let service = AuthLayer::new(keys).clock(clock()).layer(service);
    for (peer, status) in [("10.0.0.1", 200), ("11.0.0.1", 403)] {
        let mut request = with("x-api-key", issued.key.expose());
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        request.extensions_mut().insert(peer);
        assert_eq!(send(&service, request).await.status, status);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].plan(), Some("pro"));
    assert_eq!(seen[0].expires_at(), Some(end));
    assert_eq!(seen[0].credential_id(), Some(issued.record.id.as_str()));
}

#[tokio::test]
async fn key_hook_is_asked_after_a_pepper_is_renewed() {
    for script in [Script::Now, Script::Later] {
        let store = Scripted::new(script);
        let old = ApiKeys::new(store.clone(), Peppers::new(1, [1; 32]).unwrap()).prefix("acme");
        let key = issue(&old, NewKey::for_owner("alice")).await;
        let peppers = Peppers::new(2, [2; 32]).unwrap();
        let peppers = peppers.with_previous(1, [1; 32]).unwrap();
        let keys = ApiKeys::new(store, peppers)
            .prefix("acme")
            .resolve_with(|_| async { Resolved::Denied });
        let service = AuthLayer::new(keys).layer(who());
        for _ in 0..2 {
            let answer = send(&service, with("x-api-key", &key)).await;
            assert_eq!(answer.code(), "forbidden");
        }
    }
}

#[tokio::test]
async fn key_hook_tightens_restrictions() {
    for (networks, set, admitted) in [
        (&["10.0.0.0/8"][..], "10.1.0.0/16", &["10.1.0.1"][..]),
        (&["10.1.0.0/16"], "10.0.0.0/8", &["10.1.0.1"]),
        (&["10.0.0.0/8"], "11.0.0.0/8", &[]),
        (&[], "10.0.0.0/8", &["10.1.0.1", "10.2.0.1"]),
    ] {
        let keys = keys_over(MemoryKeys::new()).resolve_with(move |identity: Identity| {
            let restrictions = Restrictions {
                networks: vec![set.parse().unwrap()],
                ..Restrictions::default()
            };
            let identity = identity.to_builder().restrictions(restrictions).build();
            async { Resolved::Known(identity) }
        });
        let new = NewKey::for_owner("alice").networks(networks.iter().copied());
        let key = issue(&keys, new).await;
        let service = AuthLayer::new(keys).clock(clock()).layer(who());
        for peer in ["10.1.0.1", "10.2.0.1", "11.0.0.1"] {
            let mut request = with("x-api-key", &key);
            let address = SocketAddr::new(peer.parse().unwrap(), 4711);
            request.extensions_mut().insert(address);
            let status = send(&service, request).await.status;
            assert_eq!(
                status == 200,
                admitted.contains(&peer),
                "{networks:?} {set} {peer}"
            );
        }
    }
}
