//! Refusals as gRPC clients want them, on a bare service.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body::Body as _;
use tollgate::authorize::{Policy, authenticated, scope};
use tollgate::keys::NewKey;
use tollgate::rejection::{Cause, ExposeRejection, Reason};
use tollgate::{AuthLayer, Rejection, RequireLayer};
use tonic::Code;
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::ServiceBuilder;
use crate::support::{Answer, Script, Scripted, clock, issue, keys_over, send, who};

fn call(content_type: &str) -> http::request::Builder {
    Request::post("/shop.Orders/Get").header("content-type", content_type)
}

/// The status, as tonic's client reads it.
fn status(answer: &Answer) -> tonic::Status {
    tonic::Status::from_header_map(&answer.headers).expect("a grpc-status")
}

#[tokio::test]
async fn a_call_without_a_credential_is_answered_in_trailers_only() {
    let door = AuthLayer::new(keys_over(Scripted::new(Script::Now))).realm("shop");
    let service = tower::Layer::layer(&door, who());
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
    ] {
        let request = call(content_type).extension(ExposeRejection);
        let request = request.body(()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.body().is_end_stream(), "no data frame follows");
        let answer = Answer::of(response).await;
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("grpc-status"), Some("16"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.challenges().is_empty());
        assert!(answer.body.is_empty());
        let status = status(&answer);
        assert_eq!(status.code(), Code::Unauthenticated);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("CREDENTIALS_MISSING", "shop")
        );
        assert!(status.get_details_retry_info().is_none());
        let rejection = answer.rejection.expect("for the layers outside");
        assert_eq!(rejection.reason(), Reason::CredentialsMissing);
    }
    for other in ["application/json", "application/grpc-webby", "text/plain"] {
        let answer = send(&service, call(other).body(()).unwrap()).await;
        assert_eq!(answer.status, 401, "{other}");
        assert_eq!(answer.code(), "credentials_missing");
    }
}

#[tokio::test]
async fn gates_inside_a_door_speak_its_domain_and_name_the_scopes() {
    let keys = keys_over(Scripted::new(Script::Now));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let stack = ServiceBuilder::new()
        .layer(
            AuthLayer::new(keys)
                .clock(clock())
                .realm("shop")
                .request_id(|_| Some("r-1".into())),
        )
        .layer(
            RequireLayer::new(authenticated()).policy(
                Policy::new("open-hours", |_, parts| {
                    !parts.headers.contains_key("x-night")
                })
                .public(),
            ),
        )
        .layer(RequireLayer::new(
            scope("orders:read") & scope("orders:call"),
        ))
        .service(who());
    let ask = |name: &'static str| {
        let request = call("application/grpc")
            .header("x-api-key", &key)
            .header(name, "1");
        send(&stack, request.body(()).unwrap())
    };
    let status_of_scope = status(&ask("x-day").await);
    assert_eq!(status_of_scope.code(), Code::PermissionDenied);
    let info = status_of_scope.get_details_error_info().unwrap();
    assert_eq!(info.reason, "ACCESS_TOKEN_SCOPE_INSUFFICIENT");
    assert_eq!(info.domain, "shop");
    assert_eq!(info.metadata["required_scopes"], "orders:read orders:call");
    assert_eq!(info.metadata["request_id"], "r-1");
    let info = status(&ask("x-night").await)
        .get_details_error_info()
        .unwrap();
    assert_eq!(info.reason, "SECURITY_POLICY_VIOLATED");
    assert_eq!(info.metadata["policy"], "open-hours");
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_and_says_when_to_come_back() {
    let keys = keys_over(Scripted::new(Script::Fails));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let service = tower::Layer::layer(&AuthLayer::new(keys).clock(clock()), who());
    let request = call("application/grpc")
        .header("x-api-key", key)
        .body(())
        .unwrap();
    let answer = send(&service, request).await;
    let status = status(&answer);
    assert_eq!(status.code(), Code::Unavailable);
    let delay = status
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!((1..=3).contains(&delay.as_secs()), "{delay:?}");
    let pushback: u64 = answer
        .header("grpc-retry-pushback-ms")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(Duration::from_millis(pushback), delay);
    assert_eq!(answer.header("retry-after"), None);
}

#[tokio::test]
async fn a_layer_between_that_answers_a_call_otherwise_has_its_way() {
    let keys = keys_over(Scripted::new(Script::Now));
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let hide = |mut response: http::Response<_>| {
        let headers = response.headers_mut();
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "no such order".parse().unwrap());
        headers.remove("grpc-status-details-bin");
        response
    };
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).clock(clock()).realm("shop"))
        .map_response(hide)
        .layer(RequireLayer::new(scope("orders:read")))
        .service(who());
    let request = call("application/grpc").header("x-api-key", key);
    let answer = send(&stack, request.body(()).unwrap()).await;
    let status = status(&answer);
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "no such order");
    assert!(status.get_details_error_info().is_none());
}

/// Every reason there is, as tonic's own status and as an answer: they agree.
#[tokio::test]
async fn every_reason_has_a_code_a_message_and_a_name() {
    for reason in Reason::ALL {
        let rejection =
            Rejection::new(*reason, Cause::Other).with_retry_after(Duration::from_millis(1_500));
        let status = tonic::Status::from(rejection);
        assert_eq!(status.code() as i32, reason.grpc_code() as i32);
        assert_eq!(status.message(), reason.detail());
        assert_eq!(
            status.get_details_error_info().unwrap().reason,
            reason.grpc_reason()
        );
        let delay = status.get_details_retry_info().unwrap().retry_delay;
        assert_eq!(delay, Some(Duration::from_millis(1_500)));
    }
}

#[tokio::test]
async fn a_method_reads_who_calls_in_one_call() {
    use tollgate::tonic::RequestExt;
    let mut request = tonic::Request::new(());
    assert_eq!(request.identity().unwrap_err().code(), Code::Internal);
    assert_eq!(
        request.optional_identity().unwrap_err().code(),
        Code::Internal
    );
    let identity = tollgate::Identity::for_test().subject("ann").build();
    request.extensions_mut().insert(identity);
    assert_eq!(request.identity().unwrap().subject(), "ann");
    assert_eq!(
        request.optional_identity().unwrap().unwrap().subject(),
        "ann"
    );
}

#[tokio::test]
async fn a_method_that_must_know_who_calls_refuses_as_the_door_would() {
    use tollgate::tonic::RequestExt;
    let method = tower::service_fn(async |request: Request<()>| {
        let (parts, ()) = request.into_parts();
        let request = tonic::Request::from_parts(Default::default(), parts.extensions, ());
        let status = request.identity().unwrap_err();
        assert!(request.optional_identity().unwrap().is_none());
        Ok::<_, std::convert::Infallible>(status.into_http::<tonic::body::Body>())
    });
    let door = AuthLayer::new(keys_over(Scripted::new(Script::Now)))
        .optional()
        .realm("shop")
        .request_id(|_| Some("r-1".into()));
    let service = tower::Layer::layer(&door, method);
    let request = call("application/grpc").body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("CREDENTIALS_MISSING", "shop")
    );
    assert_eq!(info.metadata["request_id"], "r-1");
}
