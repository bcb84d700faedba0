//! Tests of [`KeyStore::list`]: filters, order and pages.

use std::sync::Arc;

use super::{record, text};
use crate::keys::{KeyFilter, KeyId, KeyRecord, KeyStore};

pub(super) async fn lists_a_page_at_a_time<S: KeyStore>(store: &S) {
    let mut all = Vec::new();
    for n in 0..12 {
        let owner = if n % 3 == 0 { "bob" } else { "alice" };
        let tenant = (n % 2 == 0).then(|| "emea".to_owned());
        // Upper case comes before lower case, as in ASCII.
        let letter = if n < 6 { 'B' } else { 'a' };
        let new = KeyRecord {
            id: format!("{letter}{n:011}").parse().expect("an id"),
            tenant,
            ..record(n, owner)
        };
        all.push(new.clone());
        store.insert(new).await.expect("insert");
    }
    for filter in [
        KeyFilter::all(),
        KeyFilter::of_owner("alice"),
        KeyFilter::of_owner("bob").tenant("emea"),
        KeyFilter::all().tenant("emea"),
        KeyFilter::of_owner("carol"),
    ] {
        let expected: Vec<_> = all.iter().filter(|record| filter.admits(record)).collect();
        for limit in [1, 3, 100] {
            lists(store, filter.clone().limit(limit), &expected).await;
        }
    }
}

/// Checks each page of a listing against the contract, then the whole against `expected`.
async fn lists<S: KeyStore>(store: &S, mut filter: KeyFilter, expected: &[&KeyRecord]) {
    // Enough for a page for each record of the store, and some that are empty.
    const MAX_PAGES: usize = 32;
    let limit = filter.limit;
    let mut listed: Vec<Arc<KeyRecord>> = Vec::new();
    for _ in 0..MAX_PAGES {
        let page = store.list(filter.clone()).await.expect("list");
        assert!(
            page.records.len() <= limit,
            "`list` returns {} records: a page is no longer than the `limit` of {limit}",
            page.records.len()
        );
        for record in page.records {
            check_listed(&record, &filter, listed.last().map(|last| last.id));
            listed.push(record);
        }
        let Some(next) = page.next else {
            let ids = listed.iter().map(|record| record.id).collect::<Vec<_>>();
            let wanted = expected.iter().map(|record| record.id).collect::<Vec<_>>();
            assert_eq!(
                ids, wanted,
                "`list` with limit {limit} leaves records out: `next` is set as long as there are \
                 more, and the next page starts right after it"
            );
            for (listed, expected) in listed.iter().zip(expected) {
                assert_eq!(
                    text(listed),
                    text(expected),
                    "`list` returns a record as it was given"
                );
            }
            return;
        };
        assert!(
            filter.after.is_none_or(|after| next > after),
            "`list` after {:?} returns `next` {next}: it must be a later id, or the listing never \
             ends",
            filter.after
        );
        filter = filter.after(next);
    }
    panic!(
        "`list` with limit {limit} does not end within {MAX_PAGES} pages of {} records: `next` is \
         `None` on the last page",
        expected.len()
    );
}

/// Checks a record of a page, where `last` is the record before it.
fn check_listed(record: &KeyRecord, filter: &KeyFilter, last: Option<KeyId>) {
    let id = record.id;
    assert!(
        filter.after != Some(id),
        "`list` returns key {id}, which the page before ended with: `after` is exclusive"
    );
    assert!(
        filter.after.is_none_or(|after| id > after) && last.is_none_or(|last| id > last),
        "`list` returns key {id} after {last:?} with `after` {:?}: records are in the ascending order \
         of their ids, each once, with ids compared byte by byte (`B` comes before `a`)",
        filter.after
    );
    if let Some(owner) = &filter.owner {
        assert_eq!(
            record.owner, *owner,
            "`list` ignores the owner of the filter"
        );
    }
    if filter.tenant.is_some() {
        assert_eq!(
            record.tenant, filter.tenant,
            "`list` ignores the tenant of the filter"
        );
    }
}
