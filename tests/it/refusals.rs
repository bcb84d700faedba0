//! How refusals look: the problem document, the fields, and what a hook can change.

use http::{Method, StatusCode};
use tollgate::authorize::authenticated;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::{Cause, GrpcCode, Reason};
use tollgate::respond::{EXPOSED_HEADERS, Restyled};
use tollgate::{AuthLayer, Rejection, RequireLayer, role, scope};
use tower::Layer;

use super::ServiceBuilder;
use crate::support::{Foreign, get, issue, keys_over, send, who, with};

#[tokio::test]
async fn a_refusal_is_a_problem_document_that_nobody_stores() {
    let service = AuthLayer::new(keys_over(MemoryKeys::new())).layer(who());
    let answer = send(&service, get()).await;
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.header("content-length"),
        Some(&*answer.body.len().to_string())
    );
    let expected = serde_json::json!({
        "type": "https://docs.rs/tollgate/latest/tollgate/problem/#credentials_missing",
        "title": "Unauthorized",
        "status": 401,
        "detail": "This resource needs a credential. Send one as `Authorization: Bearer \
                   <credential>` or `X-API-Key: <credential>`.",
        "code": "credentials_missing",
    });
    assert_eq!(answer.json(), expected);
}

/// Row by row: status, code, error of the challenge, gRPC status and reason.
#[test]
fn every_reason_is_what_the_contract_says() {
    use GrpcCode::{Internal, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable};
    use Reason as R;
    let rows = [
        (
            R::CredentialsMissing,
            401,
            "credentials_missing",
            None,
            Unauthenticated,
            "CREDENTIALS_MISSING",
        ),
        (
            R::CredentialsAmbiguous,
            400,
            "credentials_ambiguous",
            Some("invalid_request"),
            Unauthenticated,
            "OVERLOADED_CREDENTIALS",
        ),
        (
            R::RequestMalformed,
            400,
            "request_malformed",
            Some("invalid_request"),
            Unauthenticated,
            "CREDENTIALS_MALFORMED",
        ),
        (
            R::CredentialInUri,
            400,
            "credential_in_uri",
            Some("invalid_request"),
            Unauthenticated,
            "CREDENTIALS_MALFORMED",
        ),
        (
            R::CredentialInvalid,
            401,
            "credential_invalid",
            Some("invalid_token"),
            Unauthenticated,
            "API_KEY_INVALID",
        ),
        (
            R::CredentialExpired,
            401,
            "credential_expired",
            Some("invalid_token"),
            Unauthenticated,
            "API_KEY_EXPIRED",
        ),
        (
            R::CredentialNotYetValid,
            401,
            "credential_not_yet_valid",
            Some("invalid_token"),
            Unauthenticated,
            "API_KEY_EXPIRED",
        ),
        (
            R::CredentialRevoked,
            401,
            "credential_revoked",
            Some("invalid_token"),
            Unauthenticated,
            "API_KEY_REVOKED",
        ),
        (
            R::CredentialExposed,
            401,
            "credential_exposed",
            Some("invalid_token"),
            Unauthenticated,
            "API_KEY_REVOKED",
        ),
        (
            R::TokenInvalid,
            401,
            "token_invalid",
            Some("invalid_token"),
            Unauthenticated,
            "JWT_TOKEN_INVALID",
        ),
        (
            R::TokenExpired,
            401,
            "token_expired",
            Some("invalid_token"),
            Unauthenticated,
            "ACCESS_TOKEN_EXPIRED",
        ),
        (
            R::TokenBindingFailed,
            401,
            "token_binding_failed",
            Some("invalid_token"),
            Unauthenticated,
            "TOKEN_BINDING_FAILED",
        ),
        (
            R::TooManyFailures,
            429,
            "too_many_failures",
            None,
            ResourceExhausted,
            "ABNORMAL_USAGE_DETECTED",
        ),
        (
            R::InsecureTransport,
            403,
            "insecure_transport",
            None,
            PermissionDenied,
            "INSECURE_TRANSPORT",
        ),
        (
            R::SourceNotAllowed,
            403,
            "source_not_allowed",
            None,
            PermissionDenied,
            "API_KEY_IP_ADDRESS_BLOCKED",
        ),
        (
            R::InsufficientScope,
            403,
            "insufficient_scope",
            Some("insufficient_scope"),
            PermissionDenied,
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        ),
        (
            R::Forbidden,
            403,
            "forbidden",
            None,
            PermissionDenied,
            "SECURITY_POLICY_VIOLATED",
        ),
        (
            R::RateLimited,
            429,
            "rate_limited",
            None,
            ResourceExhausted,
            "RATE_LIMIT_EXCEEDED",
        ),
        (
            R::LimiterUnavailable,
            503,
            "limiter_unavailable",
            None,
            Unavailable,
            "SERVICE_NOT_AVAILABLE",
        ),
        (
            R::VerifierUnavailable,
            503,
            "verifier_unavailable",
            None,
            Unavailable,
            "SERVICE_NOT_AVAILABLE",
        ),
        (R::Internal, 500, "internal", None, Internal, "INTERNAL"),
    ];
    assert_eq!(rows.map(|row| row.0), Reason::ALL, "a row for each");
    for (reason, status, code, error, grpc, grpc_reason) in rows {
        assert_eq!(reason.status().as_u16(), status);
        assert_eq!(reason.code(), code);
        assert_eq!(reason.challenge_error(), error);
        assert_eq!(
            (reason.grpc_code(), reason.grpc_reason()),
            (grpc, grpc_reason)
        );
    }
}

#[test]
fn every_code_is_explained_where_its_type_points_to() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/problem.rs");
    let page = std::fs::read_to_string(path).unwrap();
    for reason in Reason::ALL {
        let heading = format!(
            "//! ## {}\n//! Status {}: ",
            reason.code(),
            reason.status().as_u16()
        );
        assert!(page.contains(&heading), "{heading}");
    }
}

#[tokio::test]
async fn a_head_request_gets_the_fields_and_no_content() {
    let service = AuthLayer::new(keys_over(MemoryKeys::new())).layer(who());
    let full = send(&service, get()).await;
    let mut request = get();
    *request.method_mut() = Method::HEAD;
    let head = send(&service, request).await;
    assert_eq!((head.status, &head.headers), (full.status, &full.headers));
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn what_is_configured_stands_in_the_challenge() {
    let door = AuthLayer::new(keys_over(MemoryKeys::new()))
        .realm("the shop")
        .challenge_scopes(["orders:read", "orders:write"])
        .resource_metadata("https://api.example.com/.well-known/oauth-protected-resource");
    let answer = send(&door.clone().layer(who()), get()).await;
    let bearer = "Bearer realm=\"the shop\", scope=\"orders:read orders:write\", \
                  resource_metadata=\"https://api.example.com/.well-known/oauth-protected-resource\"";
    assert_eq!(answer.challenges(), [bearer, "ApiKey realm=\"the shop\""]);
    // Only those who showed nothing are told what to ask for.
    let answer = send(&door.layer(who()), with("x-api-key", "nonsense")).await;
    assert_eq!(
        answer.challenges()[0],
        "ApiKey realm=\"the shop\", error=\"invalid_token\""
    );

    let door = || AuthLayer::new(keys_over(MemoryKeys::new()));
    for bad in ["a\"b", "a\\b", "a\r\nb", "é"] {
        assert!(door().try_realm(bad).is_err(), "{bad:?}");
        assert!(
            door()
                .try_resource_metadata(&format!("https://h/{bad}"))
                .is_err(),
            "{bad:?}"
        );
        assert!(door().try_challenge_scopes([bad]).is_err(), "{bad:?}");
    }
    assert!(door().try_resource_metadata("/relative").is_err());
}

#[tokio::test]
async fn a_hook_restyles_the_body_and_nothing_else() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let plain = AuthLayer::new(keys);
    let styled = plain.clone().respond_with(|rejection: &Rejection| {
        Restyled::new(
            http::HeaderValue::from_static("text/plain"),
            format!("no: {}", rejection.reason().code()),
        )
    });
    let stack = |door: &AuthLayer<_>| {
        let inner = RequireLayer::new(scope("a") & !role("x"));
        ServiceBuilder::new()
            .layer(door.clone())
            .layer(inner)
            .service(who())
    };
    // The door's own refusals, and those of a gate inside of it.
    for (request, code) in [
        (with("x-api-key", "nonsense"), "credential_invalid"),
        (with("x-api-key", &key), "insufficient_scope"),
    ] {
        let before = send(&stack(&plain), request.clone()).await;
        let after = send(&stack(&styled), request).await;
        assert_eq!(after.body, format!("no: {code}"));
        assert_eq!(after.header("content-type"), Some("text/plain"));
        assert_eq!(
            after.header("content-length"),
            Some(&*after.body.len().to_string())
        );
        assert_eq!(after.status, before.status);
        assert_eq!(after.challenges(), before.challenges());
        assert_eq!(after.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn a_hook_that_panics_costs_its_style_only() {
    let door = AuthLayer::new(keys_over(MemoryKeys::new()))
        .respond_with(|_: &Rejection| -> Restyled { panic!("a hook that panics") });
    let answer = send(&door.layer(who()), get()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.code(), "credentials_missing");
}

#[tokio::test]
async fn the_id_of_a_request_is_shown_only_if_the_server_gave_one() {
    #[derive(Clone)]
    struct Id(&'static str);
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let door = AuthLayer::new(keys)
        .request_id(|parts| parts.extensions.get::<Id>().map(|id| id.0.to_owned()));
    let stack = ServiceBuilder::new()
        .layer(door)
        .layer(RequireLayer::new(role("admin")));
    let service = stack.service(who());
    for mut request in [
        get(),
        with("x-api-key", "nonsense"),
        with("x-api-key", &key),
    ] {
        request
            .headers_mut()
            .insert("x-request-id", "from-the-client".parse().unwrap());
        let without = send(&service, request.clone()).await;
        assert_eq!(without.json().get("request_id"), None);
        request.extensions_mut().insert(Id("r-1"));
        let with = send(&service, request).await;
        assert_eq!(with.json()["request_id"], "r-1");
        assert_eq!(
            with.header("content-length"),
            Some(&*with.body.len().to_string())
        );
    }
}

#[tokio::test]
async fn the_base_of_problem_types_can_be_ones_own() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let door = AuthLayer::new(keys).problem_base("https://api.example.com/problems/");
    let stack = ServiceBuilder::new()
        .layer(door)
        .layer(RequireLayer::new(role("admin")));
    let answer = send(&stack.service(who()), with("x-api-key", &key)).await;
    assert_eq!(
        answer.json()["type"],
        "https://api.example.com/problems/forbidden"
    );
}

#[tokio::test]
async fn what_layers_between_gate_and_door_have_added_stays() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let between = tower::util::MapResponseLayer::new(|mut response: http::Response<_>| {
        response
            .headers_mut()
            .insert("x-between", "1".parse().unwrap());
        // As a layer does that has compressed the body which the door replaces.
        response
            .headers_mut()
            .insert("content-encoding", "gzip".parse().unwrap());
        response
    });
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .foreign(between)
        .layer(RequireLayer::new(role("admin")));
    let answer = send(&stack.service(who()), with("x-api-key", &key)).await;
    assert_eq!(answer.header("x-between"), Some("1"));
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.code(), "forbidden");
}

#[tokio::test]
async fn a_handlers_own_403_is_not_touched() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let handler = tower::service_fn(|_: http::Request<()>| async {
        let mut response = http::Response::new(http_body_util::Full::<bytes::Bytes>::from("mine"));
        *response.status_mut() = StatusCode::FORBIDDEN;
        Ok::<_, std::convert::Infallible>(response)
    });
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .layer(RequireLayer::new(authenticated()));
    let answer = send(&stack.service(handler), with("x-api-key", &key)).await;
    assert_eq!(answer.body, "mine");
    assert!(answer.challenges().is_empty() && answer.rejection.is_none());
}

#[tokio::test]
async fn a_door_inside_a_door_is_an_error_that_names_the_fix() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let door = AuthLayer::new(keys);
    let twice = |outer: AuthLayer<_>, inner: AuthLayer<_>| {
        ServiceBuilder::new()
            .layer(outer)
            .layer(inner)
            .service(who())
    };
    for inner in [door.clone(), door.clone().optional()] {
        let answer = send(&twice(door.clone(), inner), with("x-api-key", &key)).await;
        assert_eq!(answer.rejection.unwrap().cause(), Cause::Misconfigured);
    }
    let kept = twice(door.clone().keep_credential(), door.clone());
    assert_eq!(send(&kept, with("x-api-key", &key)).await.body, "alice");
    // Who is anonymous outside may be known inside.
    let answer = send(&twice(door.clone().optional(), door), get()).await;
    assert_eq!(answer.code(), "credentials_missing");
}

#[test]
fn scripts_of_other_origins_may_read_what_they_need() {
    assert_eq!(
        EXPOSED_HEADERS.map(|name| name.to_string()),
        [
            "www-authenticate",
            "retry-after",
            "credential-expiration",
            "ratelimit",
            "ratelimit-policy",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
        ]
    );
}
