//! How an API key is judged: format and checksum, then the record, then the secret,
//! and only then where the key stands in its life. What is true of a key is said to
//! nobody but a holder of its secret.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::auth::authenticate::{Answer, Authenticate, Or};
use crate::clock::Timestamp;
use crate::credential::Credential;
use crate::identity::{Identity, Resolved};
use crate::keys::{
    ApiKeys, EndCause, KeyEvent, KeyEventKind, KeyId, KeyMac, KeyRecord, KeyState, KeyStore, Look,
    MacAlgorithm, SHORTEST, Shared, StoreError, has_shape, is_head, parse,
};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

type Found = Result<Option<Arc<KeyRecord>>, StoreError>;
type Verdict = Result<Identity, Rejection>;

impl<S: KeyStore> Authenticate for ApiKeys<S> {
    fn authenticate(&self, credential: &Credential, now: Timestamp) -> Answer {
        let key = credential.expose();
        if !self.begins_like_ours(key) {
            return Answer::NotMine;
        }
        let look = &self.shared.look;
        let id = match look.read(key) {
            Ok(id) => id,
            Err(cause) => return Answer::Mine(Err(invalid(cause)).into()),
        };
        let Some(found) = self.shared.store.find_now(id, now) else {
            let (shared, key) = (Arc::clone(&self.shared), Zeroizing::new(Box::from(key)));
            return Answer::Mine(Pending::later(look_up(shared, id, key, now)));
        };
        Answer::Mine(match judge(&self.shared, key, found, now) {
            Ok(record) if look.is_outdated(&record) => {
                let (shared, key) = (Arc::clone(&self.shared), Zeroizing::new(Box::from(key)));
                Pending::later(renew(shared, record, key, now))
            }
            Ok(record) => self.shared.conclude(&record, now),
            Err(rejection) => Err(rejection).into(),
        })
    }

    fn claims(&self, text: &[u8]) -> bool {
        self.begins_like_ours(text) && has_shape(text)
    }

    fn shortest(&self) -> usize {
        SHORTEST
    }

    /// Keys are made of letters, digits and `_`.
    fn refuses_malformed(&self) -> bool {
        true
    }
}

impl<S: KeyStore> ApiKeys<S> {
    /// Accepts keys or, where a credential is none by its shape, what `other` accepts:
    /// see [`Authenticate::or`].
    pub fn or<O: Authenticate>(self, other: O) -> Or<Self, O> {
        Authenticate::or(self, other)
    }

    fn begins_like_ours(&self, text: &[u8]) -> bool {
        text.starts_with(self.shared.look.prefix.as_bytes())
    }

    /// Ends a key that was sent in clear, if its secret is right.
    pub(crate) async fn burn(&self, key: &[u8], client: IpAddr, now: Timestamp) {
        let look = &self.shared.look;
        let Ok(id) = look.read(key) else { return };
        let found = self
            .shared
            .timer
            .within(look.store_timeout, self.shared.store.find_latest(id))
            .await;
        let Some(Ok(Some(record))) = found else {
            return;
        };
        if look
            .mac_under_pepper_of(&record, key)
            .is_none_or(|mac| mac != record.mac)
        {
            return;
        }
        if matches!(record.state(now), KeyState::Ended(_)) {
            return;
        }
        if let Err(error) = self.end_exposed(id, client).await {
            tracing::error!(target: "tollgate::keys", %id, %error, "a key that was sent in clear goes on");
        }
    }
}

impl Look {
    /// The id of a key of ours, if it is one by format and checksum.
    fn read(&self, key: &[u8]) -> Result<KeyId, Cause> {
        let parsed = parse(key)?;
        if self.heads.iter().any(|head| head.as_bytes() == parsed.head) {
            return Ok(parsed.id);
        }
        Err(if is_head(parsed.head) {
            Cause::KeyOfAnotherSpace
        } else {
            Cause::KeyFormat
        })
    }

    fn is_outdated(&self, record: &KeyRecord) -> bool {
        record.pepper_version != self.peppers.current_version()
    }
}

impl<S: KeyStore> Shared<S> {
    fn identity(self: &Arc<Self>, record: &KeyRecord) -> Identity {
        record.identity(&self.look.source, self)
    }

    /// Asks the hook about a valid key, if there is one.
    fn conclude(self: &Arc<Self>, record: &KeyRecord, now: Timestamp) -> Pending<Verdict> {
        let identity = self.identity(record);
        let Some(resolve) = &self.look.resolve else {
            return Ok(identity).into();
        };
        let resolved = resolve(identity.clone());
        Pending::later(async move {
            let rejection = match resolved.wait().await {
                Resolved::Known(resolved) => return Ok(resolved.of_key(&identity)),
                Resolved::Revoked => {
                    Rejection::new(Reason::CredentialRevoked, Cause::KeyRevokedByHook)
                }
                Resolved::Denied => Rejection::new(Reason::Forbidden, Cause::SubjectDenied),
                Resolved::Unavailable => Rejection::unavailable(Cause::SubjectUnavailable, now),
            };
            Err(rejection.with_holder(identity))
        })
    }
}

/// The verdict on a key, given what the store had under its id.
fn judge<S: KeyStore>(
    shared: &Arc<Shared<S>>,
    key: &[u8],
    found: Found,
    now: Timestamp,
) -> Result<Arc<KeyRecord>, Rejection> {
    let look = &shared.look;
    let found = found.map_err(|error| {
        tracing::warn!(target: "tollgate::keys", error = error.reason(), "the key store failed");
        Rejection::unavailable(Cause::StoreUnavailable, now)
    })?;
    // One path for known and unknown ids: the same MAC, the same comparison. Where a
    // record names a pepper that is not there, the current one stands in.
    let (computed, expected) = match &found {
        Some(record) => (look.mac_under_pepper_of(record, key), record.mac),
        None => (Some(look.peppers.mac(key)), KeyMac::DUMMY),
    };
    let is_held = computed.is_some();
    let matches = black_box(computed.unwrap_or_else(|| look.peppers.mac(key)) == expected);
    let Some(record) = found else {
        return Err(invalid(Cause::KeyUnknown));
    };
    if !is_held {
        return Err(Rejection::new(Reason::Internal, Cause::PepperUnknown));
    }
    if !matches {
        return Err(invalid(Cause::KeySecret));
    }
    let state = record.state(now);
    if state.is_good() {
        let news = shared.note_use(&record, now);
        if let KeyState::Retiring { until } = state
            && news
        {
            look.tell(
                &record,
                event(&record, KeyEventKind::UsedInGrace { until }, now),
            );
        }
        return Ok(record);
    }
    if let KeyState::Ended(cause) = state {
        look.tell(
            &record,
            event(&record, KeyEventKind::UsedAfterEnd(cause), now),
        );
    }
    Err(refusal_of(state).with_holder(shared.identity(&record)))
}

fn event(record: &KeyRecord, kind: KeyEventKind, at: Timestamp) -> KeyEvent {
    let id = record.id;
    KeyEvent { id, kind, at }
}

/// What a holder of the secret is told of a key that is not good.
fn refusal_of(state: KeyState) -> Rejection {
    let (reason, cause) = match state {
        KeyState::Ended(EndCause::CleartextExposure) => {
            (Reason::CredentialExposed, Cause::KeyExposed)
        }
        KeyState::Ended(EndCause::Expired) => (Reason::CredentialExpired, Cause::KeyExpired),
        KeyState::Ended(cause) => {
            let cause = match cause {
                EndCause::Compromised => Cause::KeyCompromised,
                EndCause::OwnerRemoved => Cause::KeyOwnerRemoved,
                EndCause::RotatedOut => Cause::KeyRotatedOut,
                EndCause::CleartextExposure => Cause::KeyExposed,
                EndCause::Expired => Cause::KeyExpired,
                EndCause::Revoked => Cause::KeyRevoked,
            };
            (Reason::CredentialRevoked, cause)
        }
        KeyState::Disabled => (Reason::CredentialRevoked, Cause::KeyDisabled),
        KeyState::Scheduled => (Reason::CredentialNotYetValid, Cause::KeyNotYetValid),
        KeyState::Active | KeyState::Retiring { .. } => (Reason::Internal, Cause::Other),
    };
    Rejection::new(reason, cause)
}

/// Judges a key whose record must be waited for.
async fn look_up<S: KeyStore>(
    shared: Arc<Shared<S>>,
    id: KeyId,
    key: Zeroizing<Box<[u8]>>,
    now: Timestamp,
) -> Verdict {
    let found = shared
        .find(id)
        .await
        .ok_or_else(|| Rejection::unavailable(Cause::StoreTimeout, now))?;
    let record = judge(&shared, &key, found, now)?;
    if shared.look.is_outdated(&record) {
        return renew(shared, record, key, now).await;
    }
    shared.conclude(&record, now).wait().await
}

/// Makes the MAC of a good key anew under the current pepper. The key is good
/// whether that succeeds or not; if it does not, its next use tries again.
async fn renew<S: KeyStore>(
    shared: Arc<Shared<S>>,
    record: Arc<KeyRecord>,
    key: Zeroizing<Box<[u8]>>,
    now: Timestamp,
) -> Verdict {
    let look = &shared.look;
    let mut renewed = KeyRecord::clone(&record);
    renewed.mac = look.peppers.mac(&key);
    renewed.mac_alg = MacAlgorithm::HmacSha256;
    renewed.pepper_version = look.peppers.current_version();
    renewed.revision = record.revision.saturating_add(1);
    drop(key);
    if !matches!(
        shared
            .timer
            .within(look.store_timeout, shared.store.update(renewed))
            .await,
        Some(Ok(_))
    ) {
        tracing::warn!(target: "tollgate", id = %record.id, "a key stays under an old pepper");
    }
    shared.conclude(&record, now).wait().await
}

fn invalid(cause: Cause) -> Rejection {
    Rejection::new(Reason::CredentialInvalid, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{MACS, NewKey, Peppers};

    /// How many MACs it takes to say no, and why it is said.
    fn refusal(keys: &ApiKeys, key: &str) -> (u32, Cause) {
        let before = MACS.get();
        let credential = Credential::new(key.as_bytes());
        let Answer::Mine(Pending::Ready(Err(rejection))) =
            keys.authenticate(&credential, Timestamp::EPOCH)
        else {
            panic!("it is refused at once");
        };
        (MACS.get() - before, rejection.cause())
    }

    #[tokio::test]
    async fn an_id_that_nobody_has_costs_the_same_mac_as_a_secret_that_is_wrong() {
        let head = "tg_live";
        let keys = ApiKeys::in_memory(Peppers::random());
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let key = issued.key.expose();
        let (other, _) = crate::keys::ApiKey::generate(head).unwrap();
        // The id of one under the secret of the other, with the checksum that fits.
        let id_end = head.len() + 1 + 12;
        let text = format!(
            "{}{}",
            &key[..id_end],
            &other.expose()[id_end..key.len() - 6]
        );
        let wrong = with_checksum(text);
        assert_eq!(refusal(&keys, other.expose()), (1, Cause::KeyUnknown));
        assert_eq!(refusal(&keys, &wrong), (1, Cause::KeySecret));
        // What cannot be a key costs none.
        let mistyped = format!("{}{}", &key[..key.len() - 1], '!');
        assert_eq!(refusal(&keys, &mistyped).0, 0);
    }

    fn with_checksum(text: String) -> String {
        const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut checksum = crc32fast::hash(text.as_bytes());
        let mut digits = [b'0'; 6];
        for digit in digits.iter_mut().rev() {
            *digit = DIGITS[checksum as usize % 62];
            checksum /= 62;
        }
        text + str::from_utf8(&digits).unwrap()
    }
}
