//! [`Lapse`]: when a credential stops being good while its request goes on.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::select;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::keys::KeyId;
use crate::pending::Pending;
use crate::timeout::Timer;

/// Why a credential is not good any more: see
/// [`Identity::lapsed`](crate::Identity::lapsed).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Lapse {
    /// Its time is over.
    Expired,
    /// It was revoked, disabled or removed.
    Revoked,
}

/// How often it is asked whether a key is still good.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(5);

/// What knows how a credential stands.
pub(crate) trait Watch: Send + Sync {
    fn now(&self) -> Timestamp;

    /// How the credential stands now; nothing if that cannot be found out.
    fn standing(self: Arc<Self>, credential: &str) -> Pending<Option<Standing>>;

    /// Names credentials that were changed on this node.
    fn changes(&self) -> Receiver<KeyId>;
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    Good { until: Option<Timestamp> },
    Lapsed(Lapse),
}

pub(crate) async fn lapsed(
    credential: Option<Box<str>>,
    expires_at: Option<Timestamp>,
    watch: Option<Weak<dyn Watch>>,
) -> Lapse {
    let timer = Timer::default();
    let mut until = expires_at;
    // What watches is held for as long as it is asked, and no longer.
    let watched = || watch.as_ref().and_then(Weak::upgrade);
    let mut changes = watched().map(|watch| watch.changes());
    loop {
        if let (Some(watch), Some(credential)) = (watched(), &credential) {
            match watch.standing(credential).wait().await {
                Some(Standing::Lapsed(lapse)) => return lapse,
                Some(Standing::Good { until: end }) => until = end,
                None => {}
            }
        }
        let now = watched().map_or_else(|| SystemClock.now(), |watch| watch.now());
        if until.is_some_and(|end| end <= now) {
            return Lapse::Expired;
        }
        let wait = until.map_or(ASK_EVERY, |end| end.since(now).min(ASK_EVERY));
        let next = async {
            match timer.sleep(wait) {
                Some(sleep) => sleep.await,
                None => pending().await,
            }
        };
        let changed = next_change(&mut changes, credential.as_deref());
        select(pin!(next), pin!(changed)).await;
    }
}

/// Waits until that credential was changed here, or may have been.
async fn next_change(changes: &mut Option<Receiver<KeyId>>, credential: Option<&str>) {
    let Some(receiver) = changes else {
        return pending().await;
    };
    loop {
        match receiver.recv().await {
            Ok(id) if Some(id.as_str()) == credential => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return pending().await,
        }
    }
}
