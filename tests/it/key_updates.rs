//! Changes of issued keys through `ApiKeys::update`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tollgate::audit::{Audit, Event, EventKind};
use tollgate::clock::{Clock, Timestamp};
use tollgate::keys::{
    Cached, EndCause, KeyError, KeyEvent, KeyEventKind, KeyField, KeyFields, KeyFilter, KeyId,
    KeyPage, KeyRecord, KeyState, KeyStore, KeyUpdate, LifecycleError, MemoryKeys, NewKey,
    Rotation, StoreError,
};
use tollgate::usage::ChannelSink;
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{
    NOW, Script, Scripted, clock, identities, issue, keys_over, node, peppers, send, who, with,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn at(count: u64) -> Timestamp {
    NOW.saturating_add(seconds(count))
}

fn fields<const N: usize>(fields: [KeyField; N]) -> KeyFields {
    fields.into_iter().collect()
}

/// An update of every field.
fn everything() -> KeyUpdate {
    KeyUpdate::new()
        .set_name("nightly export")
        .set_plan("pro")
        .set_roles(["clerk"])
        .set_scopes(["b", "c"])
        .clear_metadata()
        .set_metadata("team", "billing")
        .set_networks(["10.0.0.0/8"])
        .set_methods(["get", "head"])
        .set_referrers(["https://App.Example.com:443/"])
        .set_expires_at(at(500))
}

#[tokio::test]
async fn update_changes_every_field_and_no_other() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("alice")
        .tenant("emea")
        .created_by("console")
        .scopes(["a"])
        .metadata("ticket", "4711");
    let old = keys.issue(new).await.unwrap().record;
    let new = keys.update(old.id, everything()).await.unwrap();
    let mut expected = serde_json::to_value(&old).unwrap();
    for (name, value) in [
        ("name", serde_json::json!("nightly export")),
        ("plan", "pro".into()),
        ("roles", ["clerk"].into()),
        ("scopes", "b c".into()),
        ("metadata", serde_json::json!({"team": "billing"})),
        (
            "restrictions",
            serde_json::json!({
                "networks": ["10.0.0.0/8"],
                "methods": ["GET", "HEAD"],
                "referrers": ["https://app.example.com"],
            }),
        ),
        ("expires_at", at(500).unix_seconds().into()),
        ("revision", 1.into()),
    ] {
        expected[name] = value;
    }
    assert_eq!(serde_json::to_value(&*new).unwrap(), expected);
    let held = keys.get(old.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_value(&*held).unwrap(), expected);
}

#[tokio::test]
async fn optional_fields_can_be_cleared() {
    let keys = keys_over(MemoryKeys::new());
    let id = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    let plain = keys.get(id).await.unwrap().unwrap();
    keys.update(id, everything()).await.unwrap();
    let clear = KeyUpdate::new()
        .set_name("")
        .clear_plan()
        .set_roles([""; 0])
        .set_scopes([""; 0])
        .remove_metadata("team")
        .clear_networks()
        .clear_methods()
        .clear_referrers()
        .clear_expires_at();
    let cleared = keys.update(id, clear).await.unwrap();
    let mut expected = serde_json::to_value(&*plain).unwrap();
    expected["revision"] = 2.into();
    assert_eq!(serde_json::to_value(&*cleared).unwrap(), expected);
}

#[tokio::test]
async fn metadata_entries_change_one_by_one() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("a").metadata("a", "1").metadata("b", "2");
    let id = keys.issue(new).await.unwrap().record.id;
    let update = KeyUpdate::new()
        .set_metadata("b", "3")
        .set_metadata("c", "4")
        .remove_metadata("a")
        .remove_metadata("unknown");
    let record = keys.update(id, update).await.unwrap();
    let entries: Vec<_> = record.metadata.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(entries, [("b", "3"), ("c", "4")]);
}

#[tokio::test]
async fn update_holds_for_the_next_request_in_spite_of_caches() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let keys = node(&store, &clock);
    let new = NewKey::for_owner("alice").plan("free").scopes(["a"]);
    let issued = keys.issue(new).await.unwrap();
    let (seen, service) = identities();
    let service = AuthLayer::new(keys.clone())
        .clock(clock.clone())
        .layer(service);
    let use_it = async || send(&service, with("x-api-key", issued.key.expose())).await;
    assert_eq!(use_it().await.status, 200);
    assert_eq!(use_it().await.status, 200);
    let update = KeyUpdate::new()
        .set_plan("pro")
        .set_scopes(["b"])
        .set_roles(["clerk"])
        .set_expires_in(seconds(100));
    keys.update(issued.record.id, update).await.unwrap();
    assert_eq!(use_it().await.status, 200);
    let plans: Vec<_> = {
        let seen = seen.lock().unwrap();
        assert!(seen[2].has_role("clerk") && seen[2].scopes().contains("b"));
        assert_eq!(seen[2].expires_at(), Some(at(100)));
        let plan = |identity: &tollgate::Identity| identity.plan().map(str::to_owned);
        seen.iter().map(plan).collect()
    };
    let expected = ["free", "free", "pro"].map(|plan| Some(plan.to_owned()));
    assert_eq!(plans, expected);
    keys.update(
        issued.record.id,
        KeyUpdate::new().set_networks(["10.0.0.0/8"]),
    )
    .await
    .unwrap();
    assert_eq!(use_it().await.code(), "source_not_allowed");
}

#[tokio::test]
async fn stale_revision_is_an_error_and_changes_nothing() {
    let keys = keys_over(Cached::new(MemoryKeys::new()));
    let id = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    let read = keys.get(id).await.unwrap().unwrap().revision;
    let to = |plan: &str| KeyUpdate::new().set_plan(plan).if_revision(read);
    keys.update(id, to("mine")).await.unwrap();
    for update in [to("theirs"), to("mine"), KeyUpdate::new().if_revision(read)] {
        let error = keys.update(id, update).await.unwrap_err();
        let (expected, current) = match &error {
            KeyError::StaleRevision { expected, current } => (*expected, *current),
            other => panic!("{other}"),
        };
        assert_eq!((expected, current), (0, 1));
        assert_eq!(error.status(), StatusCode::PRECONDITION_FAILED);
        assert!(error.to_string().contains("revision 1 instead of 0"));
    }
    let held = keys.get(id).await.unwrap().unwrap();
    assert_eq!((held.plan.as_deref(), held.revision), (Some("mine"), 1));
    keys.update(id, KeyUpdate::new().set_plan("next").if_revision(1))
        .await
        .unwrap();
}

/// A store in which another writer changes the record before each of the first updates.
#[derive(Clone, Default)]
struct Contended {
    memory: MemoryKeys,
    rivals: Arc<AtomicUsize>,
}

impl KeyStore for Contended {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.memory.find(id).await
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.memory.insert(record).await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        let rivals = self.rivals.load(Ordering::SeqCst);
        if rivals > 0 {
            self.rivals.store(rivals - 1, Ordering::SeqCst);
            let mut rival = KeyRecord::clone(&*self.memory.find(record.id).await?.unwrap());
            rival.name = format!("rival {rivals}");
            rival.revision += 1;
            assert!(self.memory.update(rival).await?);
        }
        self.memory.update(record).await
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.memory.remove(id).await
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.memory.list(filter).await
    }
}

#[tokio::test]
async fn update_without_revision_is_retried_within_bounds() {
    let store = Contended::default();
    let keys = keys_over(store.clone());
    let id = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    store.rivals.store(7, Ordering::SeqCst);
    let record = keys
        .update(id, KeyUpdate::new().set_plan("pro"))
        .await
        .unwrap();
    // The change of the rival is kept.
    let seen = (record.plan.as_deref(), &*record.name, record.revision);
    assert_eq!(seen, (Some("pro"), "rival 1", 8));

    store.rivals.store(usize::MAX, Ordering::SeqCst);
    let error = keys.update(id, KeyUpdate::new().set_plan("free")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, KeyError::Conflict));
    assert_eq!(error.status(), StatusCode::CONFLICT);
    assert_eq!(store.rivals.load(Ordering::SeqCst), usize::MAX - 8);

    // With a revision, a rival is an error at once.
    let revision = keys.get(id).await.unwrap().unwrap().revision;
    let update = KeyUpdate::new().set_plan("free").if_revision(revision);
    let error = keys.update(id, update).await.unwrap_err();
    assert!(matches!(error, KeyError::StaleRevision { .. }), "{error}");
    assert_eq!(store.rivals.load(Ordering::SeqCst), usize::MAX - 9);
}

#[tokio::test]
async fn ended_keys_cannot_be_updated() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new()).clock(clock.clone());
    let new = |life: u64| NewKey::for_owner("a").expires_in(seconds(life));
    let revoked = keys.issue(new(1000)).await.unwrap().record.id;
    keys.revoke(revoked).await.unwrap();
    let expired = keys.issue(new(10)).await.unwrap().record.id;
    let rotated = keys.issue(new(1000)).await.unwrap().record.id;
    keys.rotate(rotated, Rotation::with_grace(seconds(10)))
        .await
        .unwrap();
    clock.advance(seconds(10));
    for (id, cause) in [
        (revoked, EndCause::Revoked),
        (expired, EndCause::Expired),
        (rotated, EndCause::RotatedOut),
    ] {
        for update in [
            KeyUpdate::new(),
            KeyUpdate::new().set_plan("pro"),
            KeyUpdate::new().set_expires_in(seconds(500)),
            KeyUpdate::new().clear_expires_at(),
        ] {
            let before = keys.get(id).await.unwrap().unwrap().revision;
            let error = keys.update(id, update).await.unwrap_err();
            let KeyError::Lifecycle(LifecycleError::Ended(found)) = error else {
                panic!("{error}");
            };
            assert_eq!(found, cause);
            assert_eq!(error.status(), StatusCode::CONFLICT);
            assert!(error.to_string().contains(cause.as_str()), "{error}");
            assert_eq!(keys.get(id).await.unwrap().unwrap().revision, before);
        }
    }
    let unknown = "000000000000".parse().unwrap();
    let error = keys.update(unknown, KeyUpdate::new()).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn new_expiry_must_be_in_the_future_and_after_the_start() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("a").not_before(at(100));
    let scheduled = keys.issue(new.expires_at(at(200))).await.unwrap().record.id;
    let active = keys.issue(NewKey::for_owner("a").expires_at(at(200)));
    let active = active.await.unwrap().record.id;
    let disabled = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    keys.disable(disabled).await.unwrap();
    let revoke = "is not in the future; call `ApiKeys::revoke`";
    for (id, end, problem) in [
        (active, Timestamp::EPOCH, Some(revoke)),
        (active, NOW, Some(revoke)),
        (active, at(1), None),
        (active, at(5000), None),
        (disabled, NOW, Some(revoke)),
        (disabled, at(50), None),
        (scheduled, NOW, Some(revoke)),
        (scheduled, at(50), Some("not after its start")),
        (scheduled, at(100), Some("not after its start")),
        (scheduled, at(101), None),
        (scheduled, Timestamp::MAX, None),
    ] {
        let updated = keys.update(id, KeyUpdate::new().set_expires_at(end)).await;
        match problem {
            None => assert_eq!(updated.unwrap().expires_at, Some(end)),
            Some(problem) => {
                let error = updated.unwrap_err();
                assert!(matches!(error, KeyError::InvalidTimes(_)), "{error}");
                let text = error.to_string();
                assert!(text.starts_with("KeyUpdate::set_expires_at: "), "{text}");
                assert!(text.contains(problem), "{text}");
                let held = keys.get(id).await.unwrap().unwrap();
                assert_ne!(held.expires_at, Some(end));
            }
        }
    }
    let zero = KeyUpdate::new().set_expires_in(Duration::ZERO);
    let error = keys.update(active, zero).await.unwrap_err();
    assert!(matches!(error, KeyError::InvalidTimes(_)));
    let text = error.to_string();
    assert!(text.starts_with("KeyUpdate::set_expires_in: "), "{text}");
    let early = KeyUpdate::new().set_expires_in(seconds(50));
    let text = keys.update(scheduled, early).await.unwrap_err().to_string();
    assert!(text.starts_with("KeyUpdate::set_expires_in: "), "{text}");
    let spaced = KeyUpdate::new().set_scopes(["a b"]);
    let text = keys.update(active, spaced).await.unwrap_err().to_string();
    assert!(text.starts_with("KeyUpdate::set_scopes: \"a b\""), "{text}");
    // A start cannot be moved beyond a new expiry either.
    let late = keys.schedule(scheduled, Timestamp::MAX).await.unwrap_err();
    assert!(matches!(late, KeyError::InvalidTimes(_)), "{late}");
}

#[tokio::test]
async fn expiry_of_a_rotated_key_stays_within_its_grace() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new()).clock(clock.clone());
    let new = NewKey::for_owner("a").plan("free").expires_at(at(1000));
    let old = keys.issue(new).await.unwrap().record.id;
    let rotation = Rotation::with_grace(seconds(100));
    let successor = keys.rotate(old, rotation).await.unwrap().record;
    for update in [
        KeyUpdate::new().set_expires_at(at(101)),
        KeyUpdate::new().clear_expires_at(),
    ] {
        let error = keys.update(old, update).await.unwrap_err();
        assert!(matches!(error, KeyError::InvalidTimes(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(successor.id.as_str()), "{text}");
    }
    // Other fields change; the successor is a key of its own.
    keys.update(old, KeyUpdate::new().set_plan("pro"))
        .await
        .unwrap();
    let record = keys.update(old, KeyUpdate::new().set_expires_at(at(40)));
    let record = record.await.unwrap();
    assert_eq!(record.good_until(), Some(at(40)));
    let unchanged = keys.get(successor.id).await.unwrap().unwrap();
    assert_eq!(unchanged.plan.as_deref(), Some("free"));
    assert_eq!(unchanged.expires_at, Some(at(1000)));
    assert_eq!(unchanged.revision, successor.revision);
    clock.advance(seconds(39));
    assert!(record.state(clock.now()).is_good());
    clock.advance(seconds(1));
    let state = record.state(clock.now());
    assert_eq!(state, KeyState::Ended(EndCause::RotatedOut));
}

#[tokio::test]
async fn successor_inherits_updated_values() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new()).clock(clock.clone());
    let new = NewKey::for_owner("alice").expires_in(seconds(1000));
    let id = keys.issue(new).await.unwrap().record.id;
    let old = keys.update(id, everything()).await.unwrap();
    clock.advance(seconds(100));
    let rotation = Rotation::with_grace(seconds(60));
    let successor = keys.rotate(id, rotation).await.unwrap().record;
    assert_eq!(successor.name, old.name);
    assert_eq!(successor.plan, old.plan);
    assert_eq!(successor.roles, old.roles);
    assert_eq!(successor.scopes, old.scopes);
    assert_eq!(successor.metadata, old.metadata);
    assert_eq!(successor.restrictions, old.restrictions);
    assert_eq!(successor.expires_at, Some(at(600)), "500 s from then on");
}

#[tokio::test]
async fn resumed_rotation_uses_the_expiry_of_now() {
    let store = Scripted::new(Script::Now);
    let keys = ApiKeys::new(store.clone(), peppers()).clock(clock());
    let new = NewKey::for_owner("alice").expires_in(seconds(1000));
    let id = keys.issue(new).await.unwrap().record.id;
    let rotation = || Rotation::with_grace(seconds(60)).token("b7f5a1d0-9");
    store.fail_updates(true);
    keys.rotate(id, rotation()).await.unwrap_err();
    store.fail_updates(false);
    keys.update(id, KeyUpdate::new().set_expires_in(seconds(50)))
        .await
        .unwrap();
    let successor = keys.rotate(id, rotation()).await.unwrap().record;
    assert_eq!(successor.expires_at, Some(at(50)));
}

#[tokio::test]
async fn values_are_validated_as_those_of_new_keys() {
    let keys = keys_over(MemoryKeys::new());
    let id = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    for (new, update, value) in [
        (
            NewKey::for_owner("a").scopes(["fine", "a b"]),
            KeyUpdate::new().set_scopes(["fine", "a b"]),
            "\"a b\"",
        ),
        (
            NewKey::for_owner("a").networks(["10.0.0.0/40"]),
            KeyUpdate::new().set_networks(["10.0.0.0/40"]),
            "\"10.0.0.0/40\"",
        ),
        (
            NewKey::for_owner("a").methods(["GET POST"]),
            KeyUpdate::new().set_methods(["GET POST"]),
            "\"GET POST\"",
        ),
        (
            NewKey::for_owner("a").referrers(["app.example.com"]),
            KeyUpdate::new().set_referrers(["app.example.com"]),
            "\"app.example.com\"",
        ),
    ] {
        let issue = keys.issue(new).await.unwrap_err();
        let update = keys.update(id, update).await.unwrap_err();
        for error in [issue, update] {
            let text = error.to_string();
            assert!(text.contains(value) && text.contains("; "), "{text}");
            assert!(std::error::Error::source(&error).is_some(), "{text}");
            assert_eq!(error.status(), StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        }
    }
    // An empty list would lift the restriction.
    for (update, call) in [
        (KeyUpdate::new().set_networks([""; 0]), ".clear_networks()"),
        (KeyUpdate::new().set_methods([""; 0]), ".clear_methods()"),
        (
            KeyUpdate::new().set_referrers([""; 0]),
            ".clear_referrers()",
        ),
    ] {
        let error = keys.update(id, update).await.unwrap_err().to_string();
        assert!(
            error.contains("is empty") && error.contains(call),
            "{error}"
        );
    }
    assert_eq!(keys.get(id).await.unwrap().unwrap().revision, 0);
}

#[tokio::test]
async fn updates_are_events_with_the_names_of_the_fields() {
    let (sink, mut received) = ChannelSink::<Event>::new(16);
    let audit = Audit::builder().sink(sink).build();
    let heard = Arc::new(Mutex::new(Vec::<KeyEvent>::new()));
    let ears = Arc::clone(&heard);
    let keys = keys_over(MemoryKeys::new())
        .audit(audit.clone())
        .on_event(move |event| ears.lock().unwrap().push(*event));
    let id = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    let update = || KeyUpdate::new().set_plan("secret plan").set_scopes(["b"]);
    keys.update(id, update()).await.unwrap();
    // The same values again are no change, whatever the revision.
    let same = keys.update(id, update().if_revision(1)).await.unwrap();
    assert_eq!(same.revision, 1);
    keys.update(id, KeyUpdate::new()).await.unwrap();
    keys.update(id, everything()).await.unwrap();

    let all = fields([
        KeyField::ExpiresAt,
        KeyField::Metadata,
        KeyField::Methods,
        KeyField::Name,
        KeyField::Networks,
        KeyField::Plan,
        KeyField::Referrers,
        KeyField::Roles,
        KeyField::Scopes,
    ]);
    let expected = [
        KeyEventKind::Issued,
        KeyEventKind::Updated(fields([KeyField::Plan, KeyField::Scopes])),
        KeyEventKind::Updated(all),
    ];
    let kinds: Vec<_> = heard
        .lock()
        .unwrap()
        .iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, expected);
    assert_eq!(expected[1].as_str(), "updated");

    audit.shutdown(seconds(5)).await;
    let mut events = Vec::new();
    while let Ok(batch) = received.try_recv() {
        events.extend(batch);
    }
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, expected.map(EventKind::Key));
    let json = serde_json::to_value(&events[1]).unwrap();
    assert_eq!(json["event"], "key_updated");
    assert_eq!(json["fields"], serde_json::json!(["plan", "scopes"]));
    assert!(!json.to_string().contains("secret plan"));
    let issued = serde_json::to_value(&events[0]).unwrap();
    assert!(issued["fields"].is_null());
}

#[tokio::test]
async fn update_through_one_node_is_seen_by_another_in_time() {
    let (store, clock) = (Scripted::new(Script::Later), clock());
    let (here, there) = (node(&store, &clock), node(&store, &clock));
    let key = issue(&here, NewKey::for_owner("alice")).await;
    let door = AuthLayer::new(here.clone()).clock(clock.clone());
    let use_it = async || send(&door.layer(who()), with("x-api-key", &key)).await;
    assert_eq!(use_it().await.status, 200);
    let id = here.recognize(&key).unwrap();
    // This node decides on the stored record, not on its cached copy.
    there
        .update(id, KeyUpdate::new().set_plan("pro"))
        .await
        .unwrap();
    let update = KeyUpdate::new().set_networks(["10.0.0.0/8"]).if_revision(1);
    let record = here.update(id, update).await.unwrap();
    assert_eq!(record.plan.as_deref(), Some("pro"));
    assert_eq!(use_it().await.code(), "source_not_allowed");
    there
        .update(id, KeyUpdate::new().clear_networks())
        .await
        .unwrap();
    clock.advance(here.revocation_bound());
    assert_eq!(use_it().await.status, 200);
}

#[tokio::test]
async fn names_with_invisible_differences_are_rejected() {
    let keys = keys_over(MemoryKeys::new());
    let new = || NewKey::for_owner("a");
    let id = keys.issue(new()).await.unwrap().record.id;
    for (text, problem) in [
        ("", "is empty"),
        (" ", "starts or ends with whitespace"),
        (" pro", "starts or ends with whitespace"),
        ("pro ", "starts or ends with whitespace"),
        ("pro\u{a0}", "starts or ends with whitespace"),
        ("pro\n", "has control characters"),
        ("p\0ro", "has control characters"),
        ("p\u{85}ro", "has control characters"),
    ] {
        let issue = async |new| keys.issue(new).await.unwrap_err();
        let update = async |update| keys.update(id, update).await.unwrap_err();
        let update_of = KeyUpdate::new;
        let mut errors = vec![
            ("NewKey::tenant", issue(new().tenant(text)).await),
            ("NewKey::plan", issue(new().plan(text)).await),
            ("NewKey::roles", issue(new().role(text)).await),
            ("NewKey::roles", issue(new().roles(["ok", text])).await),
            ("NewKey::created_by", issue(new().created_by(text)).await),
            (
                "KeyUpdate::set_plan",
                update(update_of().set_plan(text)).await,
            ),
            (
                "KeyUpdate::set_roles",
                update(update_of().set_roles(["ok", text])).await,
            ),
        ];
        if text.is_empty() {
            // A key needs no name.
            assert!(keys.issue(new().name(text)).await.is_ok());
            assert!(keys.update(id, update_of().set_name(text)).await.is_ok());
        } else {
            errors.extend([
                ("NewKey::for_owner", issue(NewKey::for_owner(text)).await),
                ("NewKey::name", issue(new().name(text)).await),
                (
                    "KeyUpdate::set_name",
                    update(update_of().set_name(text)).await,
                ),
            ]);
        }
        for (setting, error) in errors {
            assert!(matches!(error, KeyError::InvalidName(_)), "{error}");
            assert_eq!(error.status(), StatusCode::UNPROCESSABLE_ENTITY);
            let expected = format!("{setting}: {text:?} {problem}; ");
            let shown = error.to_string();
            assert!(shown.starts_with(&expected), "{shown}");
        }
    }
    let good = new().tenant("Gr\u{fc}n AG").role("order clerk").plan("pro");
    assert!(keys.issue(good).await.is_ok());
}
