//! [`Fetcher`]: a document by HTTP from a server that may be hostile.

use std::future::poll_fn;
use std::pin::pin;

use bytes::{Buf, BufMut, Bytes};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, HeaderValue, IF_NONE_MATCH, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;

use crate::jwks::remote::address::Address;
use crate::jwks::remote::status::FetchError;

/// What sends a request, and reads the answer if its status is 200. No more than `most`
/// bytes of it.
pub(crate) trait Client: Send + Sync + 'static {
    fn send(
        &self,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> BoxFuture<'static, Result<Response<Bytes>, Failure>>;
}

/// A fetch that brought nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: FetchError,
    pub(crate) retry_after: Option<HeaderValue>,
    /// For the log: of our own client, which puts no URL into it.
    pub(crate) cause: Option<String>,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self {
            error,
            retry_after: None,
            cause: None,
        }
    }
}

/// A service of whoever uses this crate.
pub(crate) struct Erased<S>(pub(crate) S);

impl<S, B> Client for Erased<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
{
    fn send(
        &self,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> BoxFuture<'static, Result<Response<Bytes>, Failure>> {
        let mut service = self.0.clone();
        let answer = async move {
            let ready = poll_fn(|cx| service.poll_ready(cx)).await;
            ready.map_err(|_| FetchError::Unreachable)?;
            let response = service.call(request).await;
            read(response.map_err(|_| FetchError::Unreachable)?, most).await
        };
        answer.boxed()
    }
}

/// Gets documents with a client.
pub(crate) struct Fetcher<'a> {
    pub(crate) client: &'a dyn Client,
    pub(crate) most: usize,
}

impl Fetcher<'_> {
    /// The document at that address: 200, or 304 if it is the one with that tag still.
    /// The content type is not looked at: key servers err in it, and a document that is
    /// another thing does not read as one of ours.
    pub(crate) async fn get(
        &self,
        address: &Address,
        tag: Option<&HeaderValue>,
    ) -> Result<Response<Bytes>, Failure> {
        let mut address = address.clone();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.client.send(request(&address, tag), self.most).await?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::NOT_MODIFIED if tag.is_some() => return Ok(response),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location = response.headers().get(LOCATION);
                    let next = location
                        .and_then(|location| location.to_str().ok())
                        .and_then(|location| address.redirected(location));
                    address = next.ok_or(FetchError::Redirected)?;
                }
                status => {
                    return Err(Failure {
                        error: FetchError::Status(status),
                        retry_after: response.headers().get(RETRY_AFTER).cloned(),
                        cause: None,
                    });
                }
            }
        }
        Err(FetchError::Redirected.into())
    }
}

/// Asks for no compression: what is counted is what is read.
fn request(address: &Address, tag: Option<&HeaderValue>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = address.uri().clone();
    let headers = request.headers_mut();
    let types = "application/json, application/jwk-set+json";
    headers.insert(ACCEPT, HeaderValue::from_static(types));
    headers.insert(USER_AGENT, HeaderValue::from_static("tollgate"));
    if let Some(tag) = tag {
        headers.insert(IF_NONE_MATCH, tag.clone());
    }
    request
}

/// Reads an answer. Of one that is not 200, the body is left where it is.
pub(crate) async fn read<B: Body>(
    response: Response<B>,
    most: usize,
) -> Result<Response<Bytes>, Failure> {
    let (parts, body) = response.into_parts();
    let mut text = Vec::new();
    if parts.status != StatusCode::OK {
        return Ok(Response::from_parts(parts, Bytes::new()));
    }
    if body.size_hint().lower() > most as u64 {
        return Err(FetchError::TooLarge.into());
    }
    let mut body = pin!(body);
    // Frames are counted too: empty ones cost time.
    for _ in 0..MOST_FRAMES {
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            return Ok(Response::from_parts(parts, text.into()));
        };
        let frame = frame.map_err(|_| FetchError::BrokenOff)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.remaining() > most - text.len() {
            return Err(FetchError::TooLarge.into());
        }
        text.put(data);
    }
    Err(FetchError::TooLarge.into())
}

const MOST_REDIRECTS: usize = 5;
const MOST_FRAMES: usize = 65_536;
