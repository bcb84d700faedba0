//! A gRPC greeter behind keys, and its client in the same program.
//!
//! ```text
//! cargo run --example tonic --features tonic               # the server: prints keys
//! cargo run --example tonic --features tonic -- --client <key>
//! ```
//!
//! What `greeter` has is what tonic's code generator makes of a `.proto` file; it is
//! written out here so that no `protoc` is needed.

use std::env;
use std::error::Error;

use greeter::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tollgate::authorize::Rules;
use tollgate::keys::{NewKey, Peppers};
use tollgate::tonic::RequestExt;
use tollgate::{ApiKeys, AuthLayer, RequireLayer, scope};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

struct Friendly;

impl Greeter for Friendly {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let caller = request.identity()?.subject().to_owned();
        let name = request.into_inner().name;
        Ok(Response::new(HelloReply {
            message: format!("hello {name}, says {caller}"),
        }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let port = env::var("PORT").unwrap_or_else(|_| "50051".into());
    match arguments.get(1).map(String::as_str) {
        Some("--client") => call(&port, arguments.get(2).map(String::as_str)).await,
        _ => serve(&port).await,
    }
}

async fn serve(port: &str) -> Result<(), Box<dyn Error>> {
    let keys = ApiKeys::in_memory(Peppers::random()).prefix("acme");
    for (name, new) in [
        ("greeter_key", NewKey::for_owner("ann").scopes(["greet"])),
        ("other_key", NewKey::for_owner("bob")),
    ] {
        println!("{name}={}", keys.issue(new).await?.key.expose());
    }
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    let rules = Rules::new()
        .route("/hello.Greeter/*", scope("greet"))
        .otherwise_deny();
    Server::builder()
        .layer(AuthLayer::new(keys).realm("hello.example.com"))
        .layer(RequireLayer::new(rules))
        .add_service(GreeterServer::new(Friendly))
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?;
    Ok(())
}

async fn call(port: &str, key: Option<&str>) -> Result<(), Box<dyn Error>> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
    let mut client = GreeterClient::new(endpoint.connect().await?);
    let mut request = Request::new(HelloRequest {
        name: "world".into(),
    });
    if let Some(key) = key {
        let value = format!("Bearer {key}").parse()?;
        request.metadata_mut().insert("authorization", value);
    }
    match client.say_hello(request).await {
        Ok(reply) => println!("{}", reply.into_inner().message),
        Err(status) => {
            let reason = status.get_details_error_info().map(|info| info.reason);
            println!(
                "{:?} {}: {}",
                status.code(),
                reason.unwrap_or_default(),
                status.message()
            );
        }
    }
    Ok(())
}

/// `service Greeter { rpc SayHello (HelloRequest) returns (HelloReply); }`
#[expect(unreachable_pub, reason = "generated code is public")]
mod greeter {
    use std::convert::Infallible;
    use std::error::Error;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use http::uri::PathAndQuery;
    use tonic::body::Body;
    use tonic::server::NamedService;
    use tonic::transport::Channel;
    use tonic::{Request, Response, Status};
    use tonic_prost::ProstCodec;
    use tower::{Service, service_fn};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HelloRequest {
        #[prost(string, tag = "1")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HelloReply {
        #[prost(string, tag = "1")]
        pub message: String,
    }

    const SAY_HELLO: &str = "/hello.Greeter/SayHello";

    pub trait Greeter: Send + Sync + 'static {
        fn say_hello(
            &self,
            request: Request<HelloRequest>,
        ) -> impl Future<Output = Result<Response<HelloReply>, Status>> + Send;
    }

    pub struct GreeterServer<T>(Arc<T>);

    impl<T> GreeterServer<T> {
        pub fn new(greeter: T) -> Self {
            Self(Arc::new(greeter))
        }
    }

    impl<T> Clone for GreeterServer<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> NamedService for GreeterServer<T> {
        const NAME: &'static str = "hello.Greeter";
    }

    impl<T, B> Service<http::Request<B>> for GreeterServer<T>
    where
        T: Greeter,
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
            if request.uri().path() != SAY_HELLO {
                return async { Ok(Status::unimplemented("").into_http()) }.boxed();
            }
            let greeter = Arc::clone(&self.0);
            let method = service_fn(move |request| {
                let greeter = Arc::clone(&greeter);
                async move { greeter.say_hello(request).await }
            });
            let mut grpc =
                tonic::server::Grpc::new(ProstCodec::<HelloReply, HelloRequest>::default());
            async move { Ok(grpc.unary(method, request).await) }.boxed()
        }
    }

    pub struct GreeterClient(tonic::client::Grpc<Channel>);

    impl GreeterClient {
        pub fn new(channel: Channel) -> Self {
            Self(tonic::client::Grpc::new(channel))
        }

        pub async fn say_hello(
            &mut self,
            request: Request<HelloRequest>,
        ) -> Result<Response<HelloReply>, Status> {
            self.0
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<HelloRequest, HelloReply>::default();
            let path = PathAndQuery::from_static(SAY_HELLO);
            self.0.unary(request, path, codec).await
        }
    }
}
