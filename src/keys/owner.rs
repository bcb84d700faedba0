//! Ending all keys of an owner.

use std::fmt;

use http::StatusCode;

use crate::keys::api_keys::ApiKeys;
use crate::keys::error::KeyError;
use crate::keys::format::KeyId;
use crate::keys::lifecycle::{EndCause, KeyState};
use crate::keys::manage::next_page;
use crate::keys::store::{KeyFilter, KeyStore};

/// The maximum number of times that the keys of an owner are listed.
const MAX_PASSES: usize = 8;

impl<S: KeyStore> ApiKeys<S> {
    /// Ends all keys of an owner, in all tenants, with the cause
    /// [`OwnerRemoved`](EndCause::OwnerRemoved). Returns the number of keys that it ended.
    ///
    /// Keys that have ended already are left as they are. A key that cannot be ended does not stop
    /// the others from being ended. The keys are listed again until a listing has nothing to end, at
    /// most 8 times, so that successors of keys that are rotated meanwhile are found. Keys that are
    /// issued after the last listing are not: stop issuing keys to the owner first.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use tollgate::ApiKeys;
    /// use tollgate::keys::{NewKey, Peppers};
    ///
    /// let keys = ApiKeys::in_memory(Peppers::random());
    /// keys.issue(NewKey::for_owner("acct_1")).await?;
    /// keys.issue(NewKey::for_owner("acct_1").tenant("emea")).await?;
    /// keys.issue(NewKey::for_owner("acct_2")).await?;
    ///
    /// assert_eq!(keys.end_owner("acct_1").await?, 2);
    /// assert_eq!(keys.end_owner("acct_1").await?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`EndOwnerError`] if a key could not be ended, the keys could not be listed, or new keys
    /// were found in each listing. The keys
    /// that were ended stay ended. Call it again to end the others.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of the keys ended.
    pub async fn end_owner(&self, owner: &str) -> Result<usize, EndOwnerError> {
        self.end_all(KeyFilter::of_owner(owner)).await
    }

    /// Like [`ApiKeys::end_owner`], for the keys of the owner in one tenant.
    ///
    /// # Errors
    /// As [`ApiKeys::end_owner`].
    pub async fn end_owner_in_tenant(
        &self,
        owner: &str,
        tenant: &str,
    ) -> Result<usize, EndOwnerError> {
        self.end_all(KeyFilter::of_owner(owner).tenant(tenant))
            .await
    }

    async fn end_all(&self, filter: KeyFilter) -> Result<usize, EndOwnerError> {
        let mut ended = 0;
        for _ in 0..MAX_PASSES {
            let mut failed = Vec::new();
            let before = ended;
            let listed = self.end_listed(&filter, &mut ended, &mut failed).await;
            if listed.is_err() || !failed.is_empty() {
                return Err(EndOwnerError {
                    ended,
                    failed,
                    listing: listed.err(),
                });
            }
            if ended == before {
                return Ok(ended);
            }
        }
        Err(EndOwnerError {
            ended,
            failed: Vec::new(),
            listing: Some(KeyError::Conflict),
        })
    }

    /// Lists the keys once and ends them.
    async fn end_listed(
        &self,
        filter: &KeyFilter,
        ended: &mut usize,
        failed: &mut Vec<(KeyId, KeyError)>,
    ) -> Result<(), KeyError> {
        let mut page_filter = filter.clone();
        loop {
            let page = self.list(page_filter.clone()).await?;
            for record in &page.records {
                let now = self.shared.look.clock.now();
                // A store that ignores the filter must not cause the end of other keys.
                let is_owned = filter.admits(record);
                if !is_owned || matches!(record.state(now), KeyState::Ended(_)) {
                    continue;
                }
                match self.ends(record.id, EndCause::OwnerRemoved).await {
                    // The listing may come from a replica that lags.
                    Ok(is_changed) => *ended += usize::from(is_changed),
                    // Removed meanwhile.
                    Err(KeyError::NotFound) => {}
                    Err(error) => failed.push((record.id, error)),
                }
            }
            match page.next {
                Some(next) => page_filter = next_page(page_filter, next)?,
                None => return Ok(()),
            }
        }
    }
}

/// An error of [`ApiKeys::end_owner`]: some keys of the owner may still be valid.
#[derive(Debug)]
#[non_exhaustive]
pub struct EndOwnerError {
    /// The number of keys that were ended.
    pub ended: usize,
    /// The keys that could not be ended, each with the reason.
    pub failed: Vec<(KeyId, KeyError)>,
    /// The reason why the keys could not be listed to the end, or `None` if they were.
    pub listing: Option<KeyError>,
}

impl EndOwnerError {
    /// Returns the HTTP status for a response that reports this error to an operator: the
    /// [status](KeyError::status) of the listing, or that of the first key that failed.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.first()
            .map_or(StatusCode::INTERNAL_SERVER_ERROR, KeyError::status)
    }

    fn first(&self) -> Option<&KeyError> {
        let failed = self.failed.first().map(|(_, error)| error);
        self.listing.as_ref().or(failed)
    }
}

impl fmt::Display for EndOwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ended, failed) = (self.ended, self.failed.len());
        write!(f, "{ended} keys of the owner were ended; {failed} failed")?;
        if self.listing.is_some() {
            f.write_str(" and others may not have been found")?;
        }
        f.write_str("; repeat the call")
    }
}

impl std::error::Error for EndOwnerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.first().map(|error| error as _)
    }
}
