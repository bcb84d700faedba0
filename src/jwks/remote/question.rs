//! [`Question`]: which keys an issuer has, put to its key server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, HeaderValue};
use http::{Response, StatusCode};

use crate::clock::Timestamp;
use crate::jwks::algorithm::Algorithm;
use crate::jwks::keyring::Ticket;
use crate::jwks::remote::address::{Address, PlainHttp};
use crate::jwks::remote::discovery::keys_of;
use crate::jwks::remote::fetch::{Client, Failure, Fetcher};
use crate::jwks::remote::schedule::Life;
use crate::jwks::remote::status::FetchError;
use crate::jwks::ring::Ring;
use crate::jwks::set::KeySet;
use crate::jwks::verifier::Backend;
use crate::timeout::Timer;

/// Where the keys are.
pub(crate) enum Source {
    At(Address),
    /// Where the metadata is that says so, in the order in which it is looked for.
    Metadata([Address; 2]),
}

/// A question, and what was known when it was asked.
pub(crate) struct Question {
    /// Questions are counted.
    pub(crate) number: u64,
    pub(crate) ticket: Ticket,
    pub(crate) asked_at: Timestamp,
    pub(crate) last: Option<Arc<Ring>>,
    /// The tag of the document that `last` is from.
    pub(crate) tag: Option<HeaderValue>,
    /// Where the metadata said that the keys are, not long ago.
    pub(crate) keys_at: Option<Address>,
}

pub(crate) struct Answer {
    /// None if it is the last one still.
    pub(crate) ring: Option<Ring>,
    pub(crate) tag: Option<HeaderValue>,
    pub(crate) life: Duration,
    /// Where the metadata says that the keys are, if it was asked.
    pub(crate) keys_at: Option<Address>,
}

/// What it takes to ask.
pub(crate) struct Asker {
    pub(crate) issuer: Arc<str>,
    pub(crate) source: Source,
    pub(crate) client: Arc<dyn Client>,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) backend: Backend,
    pub(crate) life: Life,
    pub(crate) timeout: Duration,
    pub(crate) max_document_len: usize,
    pub(crate) plain_http: PlainHttp,
    pub(crate) timer: Timer,
}

impl Asker {
    /// The answer, within the time that it may take in all.
    pub(crate) async fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        let answer = self.timer.within(self.timeout, self.ask(question)).await;
        answer.unwrap_or_else(|| Err(FetchError::TimedOut.into()))
    }

    async fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let found = match (&self.source, &question.keys_at) {
            (Source::Metadata(places), None) => Some(self.discover(places).await?),
            _ => None,
        };
        let address = match &self.source {
            Source::At(address) => Some(address),
            Source::Metadata(_) => found.as_ref().or(question.keys_at.as_ref()),
        };
        let address = address.ok_or(FetchError::NotMetadata)?;
        // A tag is of the document at one address.
        let tag = question.tag.as_ref().filter(|_| found.is_none());
        let response = self.fetcher().get(address, tag).await?;
        let life = self.life.of(response.headers());
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Answer {
                ring: None,
                tag: question.tag.clone(),
                life,
                keys_at: found,
            });
        }
        let set = KeySet::parse(response.body()).map_err(|_| FetchError::NotAKeySet)?;
        let last = question.last.as_deref();
        let ring = Ring::prepare(set, &self.algorithms, self.backend, last);
        if ring.is_empty() {
            return Err(FetchError::NoUsableKey.into());
        }
        Ok(Answer {
            ring: Some(ring),
            tag: tag_of(&response),
            life,
            keys_at: found,
        })
    }

    /// Where the keys are. The second place is for issuers that have nothing at the first.
    async fn discover(&self, [first, second]: &[Address; 2]) -> Result<Address, Failure> {
        let failure = match self.metadata(first).await {
            Err(failure) if has_nothing(failure.error) => failure,
            known => return known,
        };
        match self.metadata(second).await {
            Err(other) if failure.error == FetchError::Status(StatusCode::NOT_FOUND) => Err(other),
            Err(_) => Err(failure),
            found => found,
        }
    }

    async fn metadata(&self, place: &Address) -> Result<Address, Failure> {
        let response = self.fetcher().get(place, None).await?;
        let url = keys_of(response.body(), &self.issuer)?;
        let found = place.lead_to(&url, &self.plain_http);
        Ok(found.map_err(|_| FetchError::ForbiddenAddress)?)
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher {
            client: &*self.client,
            most: self.max_document_len,
        }
    }
}

/// Whether that says: there is no metadata here. A server that has trouble says nothing.
fn has_nothing(error: FetchError) -> bool {
    match error {
        FetchError::NotMetadata | FetchError::Redirected => true,
        FetchError::Status(status) => {
            status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
        }
        _ => false,
    }
}

fn tag_of(response: &Response<Bytes>) -> Option<HeaderValue> {
    let tag = response.headers().get(ETAG)?;
    (tag.len() <= MOST_TAG).then(|| tag.clone())
}

/// A tag is kept as long as the keys are.
const MOST_TAG: usize = 256;
