//! How a key stands, for those who wait until it is not good any more.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;

use crate::clock::Timestamp;
use crate::keys::api_keys::Shared;
use crate::keys::format::KeyId;
use crate::keys::lifecycle::{EndCause, KeyState};
use crate::keys::record::KeyRecord;
use crate::keys::store::{KeyStore, StoreError};
use crate::lapse::{Lapse, Standing, Watch};
use crate::pending::Pending;

impl<S: KeyStore> Watch for Shared<S> {
    fn now(&self) -> Timestamp {
        self.look.clock.now()
    }

    fn standing(self: Arc<Self>, credential: &str) -> Pending<Option<Standing>> {
        let Ok(id) = credential.parse::<KeyId>() else {
            return None.into();
        };
        let now = self.now();
        if let Some(found) = self.store.find_now(id, now) {
            return standing(id, found, now).into();
        }
        Pending::later(async move {
            let found = self.find(id).await?;
            standing(id, found, self.now())
        })
    }

    fn changes(&self) -> Receiver<KeyId> {
        self.look.changes()
    }
}

fn standing(
    id: KeyId,
    found: Result<Option<Arc<KeyRecord>>, StoreError>,
    now: Timestamp,
) -> Option<Standing> {
    let Some(record) = found.ok()? else {
        return Some(Standing::Lapsed(Lapse::Revoked));
    };
    if record.id != id {
        return None;
    }
    Some(match record.state(now) {
        KeyState::Active | KeyState::Retiring { .. } => Standing::Good {
            until: record.good_until(),
        },
        KeyState::Ended(EndCause::Expired | EndCause::RotatedOut) => {
            Standing::Lapsed(Lapse::Expired)
        }
        KeyState::Ended(_) | KeyState::Disabled | KeyState::Scheduled => {
            Standing::Lapsed(Lapse::Revoked)
        }
    })
}
