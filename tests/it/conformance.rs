//! The contract of stores: those of this crate keep it, and those that do not are found out.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tollgate::clock::Timestamp;
use tollgate::keys::{
    Cached, KeyFilter, KeyId, KeyPage, KeyRecord, KeyStore, MemoryKeys, StoreError,
};
use tollgate::testing::key_store_conforms;

use crate::support::{Script, Scripted};

#[tokio::test]
async fn every_store_keeps_the_contract() {
    key_store_conforms(async || MemoryKeys::new()).await;
    key_store_conforms(async || Scripted::new(Script::Later)).await;
    key_store_conforms(async || Cached::new(MemoryKeys::new())).await;
    key_store_conforms(async || {
        Cached::new(Scripted::new(Script::Later)).stale_on_error(Duration::from_secs(60))
    })
    .await;
    key_store_conforms(async || Cached::new(MemoryKeys::new()).strict()).await;
}

/// What a store in memory does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    /// What it knows at once is what was inserted.
    NowIsOld,
    /// What it knows at once, it knows of removed keys too.
    NowIsForever,
    /// It looks whether an id is free, and inserts a moment later.
    LooksThenInserts,
    /// It compares revisions, and writes a moment later.
    LooksThenUpdates,
    /// What it finds is old, not so what is asked for changes.
    FindsOld,
    KeepsNoRoles,
    /// `update` writes the plan and the revision only.
    UpdatesPlanOnly,
    /// `update` writes no restrictions.
    UpdatesNoRestrictions,
    /// `update` cannot clear the end of a key.
    UpdatesNoNull,
    /// The first record of a page is the last one of the page before.
    AfterIsInclusive,
    /// `next` is the first id of the page.
    NextIsTheFirst,
    /// `next` is set on the last page too, and a little later each time.
    NextHasNoEnd,
    /// `next` is never set.
    NoNext,
    /// Every page is the first one.
    AfterIsIgnored,
    LimitIsIgnored,
    OwnerIsIgnored,
    TenantIsIgnored,
    /// Records are listed in descending order.
    ListsBackwards,
    /// Records are sorted without case.
    SortsWithoutCase,
    ListsNoRoles,
    /// `find` and `find_latest` compare ids without case.
    FindsWithoutCase,
    /// `insert` compares ids without case.
    InsertsWithoutCase,
    /// `update` compares ids without case.
    UpdatesWithoutCase,
    /// `remove` compares ids without case.
    RemovesWithoutCase,
    /// `list` compares owners without case.
    OwnersWithoutCase,
    /// `list` compares tenants without case.
    TenantsWithoutCase,
    /// `list` ignores trailing spaces of owners, as `CHAR` columns do.
    OwnersWithoutPadding,
}

struct Faulty {
    fault: Fault,
    memory: MemoryKeys,
    known: Mutex<HashMap<KeyId, Arc<KeyRecord>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            memory: MemoryKeys::new(),
            known: Mutex::default(),
        }
    }

    fn known(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.known.lock().unwrap().get(&id).cloned()
    }

    /// The id of a stored record that is equal without case, if the fault is this one.
    async fn without_case(&self, id: KeyId, fault: Fault) -> KeyId {
        if self.fault != fault {
            return id;
        }
        let all = self.memory.list(KeyFilter::all()).await.unwrap().records;
        let equal = |held: &KeyId| held.as_str().eq_ignore_ascii_case(id.as_str());
        let found = all.iter().map(|record| record.id).find(equal);
        found.unwrap_or(id)
    }

    /// A page of records that are sorted and filtered by closures.
    async fn page(
        &self,
        filter: &KeyFilter,
        sort: impl Fn(&KeyRecord) -> String,
        admits: impl Fn(&KeyRecord) -> bool,
    ) -> KeyPage {
        let all = KeyFilter::all().limit(1000);
        let mut records = self.memory.list(all).await.unwrap().records;
        records.sort_by_key(|record| sort(record));
        let from = filter.after.map_or(0, |after| {
            let last = records.iter().position(|record| record.id == after);
            last.map_or(0, |last| last + 1)
        });
        let mut records = records.split_off(from);
        records.retain(|record| admits(record));
        let more = records.len() > filter.limit;
        records.truncate(filter.limit);
        KeyPage::new(records, more)
    }

    /// Replaces whatever is there.
    async fn put(&self, record: KeyRecord) {
        self.memory.remove(record.id).await.unwrap();
        self.memory.insert(record).await.unwrap();
    }
}

impl KeyStore for Faulty {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        if self.fault == Fault::FindsOld {
            return Ok(self.known(id));
        }
        self.find_latest(id).await
    }

    async fn find_latest(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        let id = self.without_case(id, Fault::FindsWithoutCase).await;
        self.memory.find(id).await
    }

    fn find_now(
        &self,
        id: KeyId,
        _: Timestamp,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        let is_asked = matches!(self.fault, Fault::NowIsOld | Fault::NowIsForever);
        let known = self.known(id).filter(|_| is_asked)?;
        Some(Ok(Some(known)))
    }

    async fn insert(&self, mut record: KeyRecord) -> Result<bool, StoreError> {
        let known = Arc::new(record.clone());
        if self.fault == Fault::KeepsNoRoles {
            record.roles.clear();
        }
        if self.fault == Fault::LooksThenInserts {
            let is_taken = self.memory.find(record.id).await?.is_some();
            tokio::task::yield_now().await;
            if !is_taken {
                self.put(record).await;
            }
            return Ok(!is_taken);
        }
        let id = self
            .without_case(record.id, Fault::InsertsWithoutCase)
            .await;
        if id != record.id {
            return Ok(false);
        }
        let inserted = self.memory.insert(record).await?;
        if inserted {
            self.known.lock().unwrap().insert(known.id, known);
        }
        Ok(inserted)
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        let known = Arc::new(record.clone());
        if self.fault == Fault::LooksThenUpdates {
            let held = self.memory.find(record.id).await?;
            tokio::task::yield_now().await;
            let fits = held.is_some_and(|held| held.revision + 1 == record.revision);
            if fits {
                self.put(record).await;
            }
            return Ok(fits);
        }
        let mut record = record;
        record.id = self
            .without_case(record.id, Fault::UpdatesWithoutCase)
            .await;
        if let Some(held) = self.memory.find(record.id).await? {
            let held = KeyRecord::clone(&held);
            record = match self.fault {
                Fault::UpdatesPlanOnly => KeyRecord {
                    plan: record.plan,
                    revision: record.revision,
                    ..held
                },
                Fault::UpdatesNoRestrictions => KeyRecord {
                    restrictions: held.restrictions,
                    ..record
                },
                Fault::UpdatesNoNull => KeyRecord {
                    ended: record.ended.or(held.ended),
                    ..record
                },
                _ => record,
            };
        }
        let updated = self.memory.update(record).await?;
        if updated && self.fault == Fault::NowIsForever {
            self.known.lock().unwrap().insert(known.id, known);
        }
        Ok(updated)
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        if self.fault != Fault::NowIsForever {
            self.known.lock().unwrap().remove(&id);
        }
        let id = self.without_case(id, Fault::RemovesWithoutCase).await;
        self.memory.remove(id).await
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        let by_id = |record: &KeyRecord| record.id.to_string();
        let of_owner =
            |record: &KeyRecord| filter.owner.as_ref().is_none_or(|o| *o == record.owner);
        let of_tenant =
            |record: &KeyRecord| filter.tenant.is_none() || filter.tenant == record.tenant;
        let after = filter.after;
        let is_equal = |wanted: &Option<String>, held: Option<&str>| {
            let wanted = wanted.as_deref();
            wanted.is_none_or(|wanted| held.is_some_and(|held| held.eq_ignore_ascii_case(wanted)))
        };
        let memory = async |filter: KeyFilter| self.memory.list(filter).await.unwrap();
        let last_of = |page: &KeyPage| page.records.last().map(|record| record.id);
        let admitted = |record: &KeyRecord| of_owner(record) && of_tenant(record);
        Ok(match self.fault {
            Fault::AfterIsInclusive => {
                let mut page = memory(filter.clone()).await;
                if let Some(after) = after {
                    page.records
                        .insert(0, self.memory.find(after).await?.unwrap());
                    page.records.truncate(filter.limit);
                    page.next = page.next.and_then(|_| last_of(&page));
                }
                page
            }
            Fault::NextIsTheFirst => {
                let mut page = memory(filter).await;
                page.next = page
                    .next
                    .and_then(|_| page.records.first().map(|record| record.id));
                page
            }
            Fault::NextHasNoEnd => {
                let mut page = memory(filter).await;
                let last = last_of(&page).or(after).map_or(0, |id| {
                    let digits = id.as_str()[1..].parse::<u64>().unwrap_or(0);
                    digits + 1
                });
                page.next = Some(format!("z{last:011}").parse().unwrap());
                page
            }
            Fault::NoNext => KeyPage::new(memory(filter).await.records, false),
            Fault::AfterIsIgnored => {
                let mut first = filter;
                first.after = None;
                memory(first).await
            }
            Fault::LimitIsIgnored => memory(filter.limit(1000)).await,
            Fault::OwnerIsIgnored => self.page(&filter, by_id, of_tenant).await,
            Fault::TenantIsIgnored => self.page(&filter, by_id, of_owner).await,
            Fault::ListsBackwards => {
                let mut page = memory(filter).await;
                page.records.reverse();
                page
            }
            Fault::SortsWithoutCase => {
                let sort = |record: &KeyRecord| record.id.as_str().to_lowercase();
                self.page(&filter, sort, admitted).await
            }
            Fault::ListsNoRoles => {
                let mut page = memory(filter).await;
                for record in &mut page.records {
                    let mut bare = KeyRecord::clone(record);
                    bare.created_by = Some("nobody".into());
                    *record = Arc::new(bare);
                }
                page
            }
            Fault::OwnersWithoutCase => {
                let admits = |record: &KeyRecord| {
                    is_equal(&filter.owner, Some(&record.owner)) && of_tenant(record)
                };
                self.page(&filter, by_id, admits).await
            }
            Fault::TenantsWithoutCase => {
                let admits = |record: &KeyRecord| {
                    is_equal(&filter.tenant, record.tenant.as_deref()) && of_owner(record)
                };
                self.page(&filter, by_id, admits).await
            }
            Fault::OwnersWithoutPadding => {
                let trimmed = filter.owner.as_deref().map(|owner| owner.trim_end());
                let admits = |record: &KeyRecord| {
                    trimmed.is_none_or(|owner| owner == record.owner) && of_tenant(record)
                };
                self.page(&filter, by_id, admits).await
            }
            _ => memory(filter).await,
        })
    }
}

/// The text that the suite fails with, or `None` if the store conforms.
async fn failure_of<S: KeyStore>(empty: impl AsyncFn() -> S) -> Option<String> {
    let run = key_store_conforms(empty);
    let panic = AssertUnwindSafe(run).catch_unwind().await.err()?;
    Some(match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().unwrap()).to_owned(),
    })
}

#[tokio::test]
async fn suite_names_the_fault_of_a_broken_store() {
    assert_eq!(failure_of(async || Faulty::new(Fault::None)).await, None);
    for (fault, expected) in [
        (Fault::NowIsOld, "known at once"),
        (Fault::NowIsForever, "known at once"),
        (Fault::LooksThenInserts, "one is inserted"),
        (Fault::LooksThenUpdates, "one is taken"),
        (Fault::FindsOld, "what is stored"),
        (Fault::KeepsNoRoles, "comes back as it was given"),
        (Fault::UpdatesPlanOnly, "`update` does not replace `"),
        (
            Fault::UpdatesNoRestrictions,
            "`update` does not replace `restrictions`",
        ),
        (Fault::UpdatesNoNull, "`update` does not replace `ended`"),
        (Fault::AfterIsInclusive, "`after` is exclusive"),
        (Fault::AfterIsIgnored, "`after`"),
        (Fault::NextIsTheFirst, "ascending order"),
        (Fault::NextHasNoEnd, "does not end within 32 pages"),
        (Fault::NoNext, "leaves records out: `next` is set"),
        (Fault::LimitIsIgnored, "no longer than the `limit` of 1"),
        (Fault::OwnerIsIgnored, "owners and tenants are compared"),
        (Fault::TenantIsIgnored, "owners and tenants are compared"),
        (Fault::ListsBackwards, "ascending order"),
        (
            Fault::SortsWithoutCase,
            "byte by byte (`B` comes before `a`)",
        ),
        (
            Fault::ListsNoRoles,
            "`list` returns a record as it was given",
        ),
        (Fault::FindsWithoutCase, "ids are compared without case"),
        (Fault::InsertsWithoutCase, "ids are compared without case"),
        (Fault::UpdatesWithoutCase, "ids are compared without case"),
        (Fault::RemovesWithoutCase, "ids are compared without case"),
        (Fault::OwnersWithoutCase, "owners and tenants are compared"),
        (Fault::TenantsWithoutCase, "owners and tenants are compared"),
        (Fault::OwnersWithoutPadding, "trailing spaces"),
    ] {
        let failure = failure_of(async || Faulty::new(fault)).await;
        let text = failure.unwrap_or_else(|| panic!("{fault:?} is not found"));
        assert!(text.contains(expected), "{fault:?}: {text}");
    }
}

#[tokio::test]
async fn a_cache_that_is_not_told_of_changes_is_found_out() {
    /// Reads through the cache, and writes behind its back.
    struct BehindItsBack(Cached<MemoryKeys>, MemoryKeys);

    impl KeyStore for BehindItsBack {
        async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
            self.0.find(id).await
        }

        fn find_now(
            &self,
            id: KeyId,
            now: Timestamp,
        ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
            self.0.find_now(id, now)
        }

        async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
            self.0.insert(record).await
        }

        async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
            self.1.update(record).await
        }

        async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
            self.0.remove(id).await
        }

        async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
            self.0.list(filter).await
        }
    }

    let run = key_store_conforms(async || {
        let memory = MemoryKeys::new();
        BehindItsBack(Cached::new(memory.clone()), memory)
    });
    assert!(AssertUnwindSafe(run).catch_unwind().await.is_err());
}
