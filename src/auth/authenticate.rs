//! [`Authenticate`]: turns what was shown into who it is.

use std::fmt;

use crate::clock::Timestamp;
use crate::credential::{Credential, Scheme};
use crate::identity::Identity;
use crate::pending::Pending;
use crate::rejection::Rejection;

/// Turns a credential into an [`Identity`].
///
/// Whether a credential is *mine* is decided by its shape, at once. Once claimed, it
/// is not passed on: an authenticator that refuses is the last that was asked, so a
/// credential is never tried as something else.
pub trait Authenticate: Send + Sync + 'static {
    /// Judges a credential. It is well-formed, unless this
    /// [finds that out](Authenticate::refuses_malformed), and shorter than the cap of the layer.
    fn authenticate(&self, credential: &Credential, now: Timestamp) -> Answer;

    /// Whether a text that was found in a URI is one of mine, by its shape.
    fn claims(&self, text: &[u8]) -> bool;

    /// How long a text has to be for [`claims`](Authenticate::claims) to be asked about it: as
    /// long as the shortest of its credentials.
    fn shortest(&self) -> usize {
        1
    }

    /// Returns the length in bytes of the longest credential that is accepted, which is the
    /// default of [`AuthLayer::max_credential_len`](crate::AuthLayer::max_credential_len).
    ///
    /// Defaults to 8 KiB.
    fn max_credential_len(&self) -> usize {
        8 * 1024
    }

    /// Whether it accepts nothing that is no `token68` (RFC 9110 §11.2). Then the door looks at the
    /// form of what was refused only, to say so.
    fn refuses_malformed(&self) -> bool {
        false
    }

    /// The schemes that its credentials are shown in: challenges name those of the door's
    /// authenticators. All, unless said otherwise.
    fn schemes(&self) -> &[Scheme] {
        &Scheme::ALL
    }

    /// Asks this one first, and `other` about what this one does not claim.
    fn or<O: Authenticate>(self, other: O) -> Or<Self, O>
    where
        Self: Sized,
    {
        Or {
            first: self,
            second: other,
        }
    }
}

/// What an [`Authenticate`] has to say about a credential.
#[expect(clippy::exhaustive_enums, reason = "a credential is mine or it is not")]
pub enum Answer {
    /// By its shape it is somebody else's.
    NotMine,
    /// It is mine; this is, or will be, the verdict.
    Mine(Pending<Result<Identity, Rejection>>),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMine => f.write_str("NotMine"),
            Self::Mine(pending) => f.debug_tuple("Mine").field(pending).finish(),
        }
    }
}

/// Two authenticators behind one door: see [`Authenticate::or`].
#[derive(Clone, Debug)]
pub struct Or<A, B> {
    first: A,
    second: B,
}

impl<A: Authenticate, B: Authenticate> Authenticate for Or<A, B> {
    fn authenticate(&self, credential: &Credential, now: Timestamp) -> Answer {
        match self.first.authenticate(credential, now) {
            Answer::NotMine => self.second.authenticate(credential, now),
            mine @ Answer::Mine(_) => mine,
        }
    }

    fn claims(&self, text: &[u8]) -> bool {
        self.first.claims(text) || self.second.claims(text)
    }

    fn shortest(&self) -> usize {
        self.first.shortest().min(self.second.shortest())
    }

    fn max_credential_len(&self) -> usize {
        let (first, second) = (&self.first, &self.second);
        first.max_credential_len().max(second.max_credential_len())
    }

    fn refuses_malformed(&self) -> bool {
        self.first.refuses_malformed() && self.second.refuses_malformed()
    }

    fn schemes(&self) -> &[Scheme] {
        match (self.first.schemes(), self.second.schemes()) {
            (first, second) if first == second => first,
            // There are two.
            _ => &Scheme::ALL,
        }
    }
}
