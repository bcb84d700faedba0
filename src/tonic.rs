//! For tonic: who calls, out of a [`tonic::Request`]; a [`Rejection`] as a
//! [`tonic::Status`]; and the routes of a file descriptor set.
//!
//! The layers themselves need none of this: they wrap a tonic server as they wrap any
//! other service, and refuse gRPC clients in their own language. With this feature they
//! also read the peer of a connection from where tonic's server notes it down, and with
//! `tonic-tls` whether it is encrypted.
//!
//! ```
//! use tollgate::tonic::RequestExt;
//! use tonic::{Request, Response, Status};
//!
//! async fn say_hello(request: Request<String>) -> Result<Response<String>, Status> {
//!     let identity = request.identity()?;
//!     Ok(Response::new(format!("hello {}", identity.subject())))
//! }
//! # use tollgate::Identity;
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let mut request = Request::new(String::new());
//! # request.extensions_mut().insert(Identity::for_test().subject("ann").build());
//! # assert_eq!(say_hello(request).await?.into_inner(), "hello ann");
//! # let lost = say_hello(Request::new(String::new())).await.unwrap_err();
//! # assert_eq!(lost.code(), tonic::Code::Internal);
//! # Ok::<(), Status>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::server::NamedService;
use tonic::{Code, Request, Status};

use crate::config::ConfigError;
use crate::context::{Anonymous, caller};
use crate::gate::Gate;
use crate::grpc;
use crate::identity::Identity;
use crate::rejection::Rejection;
use crate::rejection_log;
use crate::render::Voice;

/// Who calls.
pub trait RequestExt: sealed::Sealed {
    /// Who calls, for methods that need to know.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if an optional door let the caller in without a credential,
    /// `INTERNAL` if no `AuthLayer` covers the service: the log names the fix.
    fn identity(&self) -> Result<&Identity, Status>;

    /// Who calls, for methods behind an optional door: `None` if they are anonymous.
    ///
    /// # Errors
    /// `INTERNAL` if no `AuthLayer` covers the service.
    fn optional_identity(&self) -> Result<Option<&Identity>, Status>;
}

impl<T> RequestExt for Request<T> {
    fn identity(&self) -> Result<&Identity, Status> {
        caller(self.extensions(), "a method").map_err(|mistake| refuse(self, mistake))
    }

    fn optional_identity(&self) -> Result<Option<&Identity>, Status> {
        match caller(self.extensions(), "a method") {
            Ok(identity) => Ok(Some(identity)),
            Err(_) if self.extensions().get::<Anonymous>().is_some() => Ok(None),
            Err(rejection) => Err(refuse(self, rejection)),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for tonic::Request<T> {}
}

/// As the door would have refused, if it has let the caller in without a credential.
fn refuse<T>(request: &Request<T>, rejection: Rejection) -> Status {
    let Some(door) = request.extensions().get::<Anonymous>() else {
        let domain = Voice::standard().realm();
        return status(rejection, domain, request.extensions());
    };
    let rejection = rejection.with_request_id(door.request_id.clone());
    status(rejection, &door.realm, request.extensions())
}

/// As a gate without a door would have refused: the domain of the details is `api`.
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        status(rejection, Voice::standard().realm(), &Extensions::new())
    }
}

fn status(rejection: Rejection, domain: &str, extensions: &Extensions) -> Status {
    rejection_log::log(&rejection, extensions);
    let reason = rejection.reason();
    let details = grpc::details(&rejection, reason.detail(), domain);
    let code = Code::from_i32(reason.grpc_code() as i32);
    let mut status = Status::with_details(code, reason.detail(), Bytes::from(details));
    status.set_source(Arc::new(rejection));
    status
}

/// Why a handler has refused: tonic leaves its status in the extensions of the response.
pub(crate) fn rejection(extensions: &Extensions) -> Option<&Rejection> {
    extensions.get::<Status>()?.source()?.downcast_ref()
}

impl<S: NamedService, C> NamedService for Gate<S, C> {
    const NAME: &'static str = S::NAME;
}

/// The routes of all methods in an encoded file descriptor set, as in
/// `POST /shop.Orders/Get`: for [`testing::assert_covered`](crate::testing::assert_covered).
///
/// # Errors
/// If it is none.
pub fn routes(file_descriptor_set: &[u8]) -> Result<Vec<String>, ConfigError> {
    let set = FileDescriptorSet::decode(file_descriptor_set)
        .map_err(|error| ConfigError::new(format!("no file descriptor set: {error}")))?;
    let mut routes = Vec::new();
    for file in &set.file {
        let package = file.package();
        let dot = if package.is_empty() { "" } else { "." };
        for service in &file.service {
            let name = service.name();
            let methods = service
                .method
                .iter()
                .map(prost_types::MethodDescriptorProto::name);
            routes.extend(methods.map(|method| format!("POST /{package}{dot}{name}/{method}")));
        }
    }
    Ok(routes)
}
