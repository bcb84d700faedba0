//! The client that feature `jwks` brings.

use std::error::Error;
use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use reqwest::redirect::Policy;

use crate::jwks::remote::fetch::{Client, Failure, read};
use crate::jwks::remote::status::FetchError;

/// reqwest over rustls with the roots of the system, and its proxies. Made when it is
/// first used, since that is on a runtime.
#[derive(Default)]
pub(crate) struct Reqwest {
    client: OnceLock<Result<reqwest::Client, String>>,
}

impl Client for Reqwest {
    fn send(
        &self,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> BoxFuture<'static, Result<Response<Bytes>, Failure>> {
        let client = self.client.get_or_init(|| build().map_err(root_cause));
        let client = client.clone();
        let answer = async move {
            let request = request.map(|_| reqwest::Body::default());
            let request = request
                .try_into()
                .map_err(root_cause)
                .map_err(unreachable)?;
            let client = client.map_err(unreachable)?;
            let response = client.execute(request).await;
            let response = response.map_err(root_cause).map_err(unreachable)?;
            read(Response::<reqwest::Body>::from(response), most).await
        };
        answer.boxed()
    }
}

fn build() -> reqwest::Result<reqwest::Client> {
    // Redirects are followed where it is known which are allowed. A connection is not
    // kept for the minutes to the next fetch, nor for another runtime.
    reqwest::Client::builder()
        .redirect(Policy::none())
        .referer(false)
        .pool_max_idle_per_host(0)
        .build()
}

/// What is at the bottom of it, which is what helps; reqwest puts the URL on top.
fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn unreachable(cause: String) -> Failure {
    Failure {
        cause: Some(cause),
        ..FetchError::Unreachable.into()
    }
}
