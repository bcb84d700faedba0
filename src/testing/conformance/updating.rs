//! Tests of [`KeyStore::update`]: each field of the record is replaced.

use serde_json::{Map, Value};

use super::{find, full_record, record};
use crate::keys::{KeyFilter, KeyMac, KeyRecord, KeyStore};

/// Sets all fields and clears them again, since a statement that leaves a column out may do one of
/// the two.
pub(super) async fn replaces_all_fields<S: KeyStore>(store: &S) {
    let plain = record(1, "alice");
    let full = KeyRecord {
        mac: KeyMac::from_bytes([9; 32]),
        pepper_version: 2,
        // `note_uses` writes this field, and an update may leave it alone.
        last_used: Default::default(),
        revision: plain.revision + 1,
        ..full_record(1)
    };
    let cleared = KeyRecord {
        revision: full.revision + 1,
        ..plain.clone()
    };
    store.insert(plain.clone()).await.expect("insert");
    for next in [full, cleared] {
        assert!(
            store.update(next.clone()).await.expect("update"),
            "`update` returns `false` for revision {} of a record with revision {}",
            next.revision,
            next.revision - 1
        );
        let held = find(store, next.id).await.expect("it is there");
        check("find", &held, &next);
        let listed = store.list(KeyFilter::all()).await.expect("list").records;
        assert_eq!(listed.len(), 1, "`list` returns each record once");
        check("list", &listed[0], &next);
    }
}

/// Checks that all fields are as they were given to `update`.
fn check(method: &str, held: &KeyRecord, given: &KeyRecord) {
    let (held, given) = (fields(held), fields(given));
    let names: std::collections::BTreeSet<_> = held.keys().chain(given.keys()).collect();
    for name in names {
        let (held, given) = (held.get(name), given.get(name));
        assert_eq!(
            held, given,
            "`update` does not replace `{name}`, as `{method}` shows: write all fields of the record"
        );
    }
}

fn fields(record: &KeyRecord) -> Map<String, Value> {
    match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => fields,
        other => panic!("a record is a JSON object: {other:?}"),
    }
}
