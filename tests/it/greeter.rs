//! A gRPC service as generated code would be, and a client for it.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::{FutureExt, future::BoxFuture, stream};
use http::uri::PathAndQuery;
use tollgate::tonic::RequestExt;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// What is sent, and what comes back.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) const HELLO: &str = "/greet.Greeter/Hello";
pub(crate) const COUNT: &str = "/greet.Greeter/Count";

/// `Hello` says whom it greets; `Count` does so as often as the text says, and then fails
/// with `ABORTED`.
#[derive(Clone)]
pub(crate) struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "greet.Greeter";
}

type Texts = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

async fn hello(request: Request<Text>) -> Result<Response<Text>, Status> {
    let name = request.identity()?.subject();
    let text = format!("hello {name}: {}", request.get_ref().text);
    Ok(Response::new(Text { text }))
}

async fn count(request: Request<Text>) -> Result<Response<Texts>, Status> {
    let name = request.identity()?.subject().to_owned();
    let times: usize = request.get_ref().text.parse().unwrap_or(0);
    let texts = (1..=times).map(move |n| {
        Ok(Text {
            text: format!("{n} {name}"),
        })
    });
    let texts = texts.chain([Err(Status::aborted("enough"))]);
    Ok(Response::new(Box::pin(stream::iter(texts))))
}

impl<B> Service<http::Request<B>> for Greeter
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>> + Send>
        + Send
        + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Text, Text>::default());
        match request.uri().path() {
            HELLO => async move { Ok(grpc.unary(service_fn(hello), request).await) }.boxed(),
            COUNT => {
                async move { Ok(grpc.server_streaming(service_fn(count), request).await) }.boxed()
            }
            _ => async { Ok(Status::unimplemented("no such method").into_http()) }.boxed(),
        }
    }
}

/// Calls a method with a key.
pub(crate) async fn call(
    channel: tonic::transport::Channel,
    path: &'static str,
    text: &str,
    key: Option<&str>,
) -> Result<Response<tonic::Streaming<Text>>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = Request::new(Text { text: text.into() });
    if let Some(key) = key {
        request
            .metadata_mut()
            .insert("x-api-key", key.parse().unwrap());
    }
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Text, Text>::default();
    client.server_streaming(request, path, codec).await
}
