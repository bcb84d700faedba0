//! The log events of keys.

use tollgate::AuthLayer;
use tollgate::keys::{KeyUpdate, MemoryKeys, NewKey, Rotation};
use tower::Layer;

use crate::support::{Events, clock, keys_over, send, who, with};

#[tokio::test]
async fn key_events_have_a_message_and_the_owner() {
    let (events, _guard) = Events::listen();
    let keys = keys_over(MemoryKeys::new());
    let service = AuthLayer::new(keys.clone()).clock(clock()).layer(who());
    let new = NewKey::for_owner("acct_1").tenant("emea").name("CANARY");
    let issued = keys.issue(new).await.unwrap();
    let (id, key) = (issued.record.id, issued.key.expose().to_owned());
    let update = KeyUpdate::new()
        .set_plan("CANARY")
        .set_metadata("a", "CANARY");
    keys.update(id, update).await.unwrap();
    keys.disable(id).await.unwrap();
    keys.enable(id).await.unwrap();
    let rotation = Rotation::with_grace(std::time::Duration::from_secs(100));
    let successor = keys.rotate(id, rotation).await.unwrap().record.id;
    send(&service, with("x-api-key", &key)).await;
    keys.revoke(id).await.unwrap();
    send(&service, with("x-api-key", &key)).await;

    let logged: Vec<_> = [events.of("INFO"), events.of("WARN")].concat();
    let logged: Vec<_> = logged
        .into_iter()
        .filter(|text| text.contains(" event="))
        .collect();
    let rotated = format!("message=key rotated id={id} event=\"rotated\"");
    for (text, more) in [
        ("message=key issued ", ""),
        ("message=key updated id", "fields=metadata,plan"),
        ("message=key disabled id", ""),
        ("message=key enabled id", ""),
        (rotated.as_str(), &format!("successor={successor}")),
        ("message=key used in its grace period id", ""),
        ("message=key ended id", "cause=\"revoked\""),
        ("message=key used after its end id", "cause=\"revoked\""),
    ] {
        let of_kind = logged.iter().find(|event| event.contains(text));
        let event = of_kind.unwrap_or_else(|| panic!("{text}: {logged:?}"));
        for part in ["owner=\"acct_1\"", "tenant=\"emea\"", more] {
            assert!(event.contains(part), "{event}");
        }
    }
    let (_, secret) = key.rsplit_once('_').unwrap();
    for event in logged {
        assert!(
            !event.contains("CANARY") && !event.contains(secret),
            "{event}"
        );
    }
}
