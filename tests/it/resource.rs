//! What a client finds out without a credential, and what a handler finds out of a token.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use serde::Deserialize;
use serde_json::json;
use tollgate::auth::ProtectedResource;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::testing::TestIssuer;
use tollgate::{AuthLayer, Claims, Identity, Jwt};
use tower::ServiceExt;

use crate::support::{Answer, issue, keys_over};

async fn ask(router: &Router, request: http::request::Builder) -> Answer {
    let request = request.body(Body::empty()).unwrap();
    Answer::of(router.clone().oneshot(request).await.unwrap()).await
}

#[derive(Deserialize)]
struct Profile {
    email: String,
}

struct World {
    authority: TestIssuer,
    router: Router,
    key: String,
}

const AUDIENCE: &str = "https://api.example.com/v1";

impl World {
    async fn new() -> Self {
        let authority = TestIssuer::new("https://id.example.com/");
        let keys = keys_over(MemoryKeys::new());
        let key = issue(&keys, NewKey::for_owner("acct_1")).await;
        let jwt = Jwt::issuer(authority.url())
            .audience(AUDIENCE)
            .keys(authority.keys());
        let resource = ProtectedResource::new(AUDIENCE)
            .authorization_server(authority.url())
            .scopes(["orders:read"])
            .name("Orders")
            .documentation("https://docs.example.com/")
            .certificate_bound_tokens();
        let router = Router::new()
            .route(
                "/email",
                get(async |Claims(profile): Claims<Profile>| profile.email),
            )
            .route("/maybe", get(maybe))
            .layer(AuthLayer::new(keys.or(jwt.build().unwrap())).protected_resource(&resource))
            .route_service(resource.path(), resource.clone())
            .route("/open", get(async |_: Claims<Profile>| ()));
        Self {
            authority,
            router,
            key,
        }
    }

    fn token(&self) -> String {
        let token = self.authority.token("ann").audience(AUDIENCE);
        token.claim("email", "ann@example.com").sign()
    }
}

async fn maybe(identity: Identity, claims: Option<Claims<Profile>>) -> String {
    claims.map_or_else(
        || identity.subject().into(),
        |Claims(profile)| profile.email,
    )
}

#[tokio::test]
async fn a_client_that_knows_the_url_finds_where_to_log_in() {
    let world = World::new().await;
    let refused = ask(&world.router, Request::get("/email")).await;
    let url = "https://api.example.com/.well-known/oauth-protected-resource/v1";
    assert_eq!(
        refused.challenges()[0],
        format!(r#"Bearer realm="api", resource_metadata="{url}""#)
    );
    let path = url.strip_prefix("https://api.example.com").unwrap();
    let document = ask(&world.router, Request::get(path)).await;
    assert_eq!(document.status, 200);
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(
        document.json(),
        json!({
            "resource": AUDIENCE,
            "authorization_servers": ["https://id.example.com/"],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["orders:read"],
            "resource_name": "Orders",
            "resource_documentation": "https://docs.example.com/",
            "tls_client_certificate_bound_access_tokens": true,
        })
    );
    let head = ask(&world.router, Request::head(path)).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let post = ask(&world.router, Request::post(path)).await;
    assert_eq!(
        (post.status.as_u16(), post.header("allow")),
        (405, Some("GET, HEAD, OPTIONS"))
    );
}

#[tokio::test]
async fn a_handler_gets_the_claims_of_a_token_as_its_own_type() {
    let world = World::new().await;
    let bearer = |uri: &str, token: &str| {
        Request::get(uri).header("authorization", format!("Bearer {token}"))
    };
    let answer = ask(&world.router, bearer("/email", &world.token())).await;
    assert_eq!(answer.body, "ann@example.com");
    let answer = ask(&world.router, bearer("/maybe", &world.token())).await;
    assert_eq!(answer.body, "ann@example.com");
    // Neither a key nor a token without them has such claims.
    let without = world.authority.token("ann").audience(AUDIENCE).sign();
    for (credential, subject) in [(&without, "ann"), (&world.key, "acct_1")] {
        let answer = ask(&world.router, bearer("/email", credential)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (403, "forbidden")
        );
        assert_eq!(
            ask(&world.router, bearer("/maybe", credential)).await.body,
            subject
        );
    }
    assert_eq!(
        ask(&world.router, Request::get("/open")).await.status,
        500,
        "nobody covers it"
    );
}

#[tokio::test]
async fn metadata_is_readable_from_any_origin() {
    let world = World::new().await;
    let path = "/.well-known/oauth-protected-resource/v1";
    let preflight = [
        ("access-control-allow-methods", "GET, HEAD"),
        (
            "access-control-allow-headers",
            "*, Authorization, MCP-Protocol-Version",
        ),
        ("access-control-max-age", "7200"),
    ];
    for origin in [
        None,
        Some("https://inspector.example"),
        Some("http://localhost:6274"),
        Some("null"),
    ] {
        for (method, status, is_document) in [
            ("GET", 200, true),
            ("HEAD", 200, false),
            ("OPTIONS", 204, false),
            ("POST", 405, false),
            ("PUT", 405, false),
            ("DELETE", 405, false),
            ("PATCH", 405, false),
            ("PROPFIND", 405, false),
        ] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(origin) = origin {
                request = request
                    .header("origin", origin)
                    .header("access-control-request-method", "GET")
                    .header("access-control-request-headers", "mcp-protocol-version");
            }
            let answer = ask(&world.router, request).await;
            let case = format!("{method} from {origin:?}");
            assert_eq!(answer.status, status, "{case}");
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some("*"),
                "{case}"
            );
            // Credentials are not for it, and `*` would not allow them.
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert_eq!(answer.body.is_empty(), !is_document, "{case}");
            let allow = (status != 200).then_some("GET, HEAD, OPTIONS");
            assert_eq!(answer.header("allow"), allow, "{case}");
            for (name, value) in preflight {
                let expected = (method == "OPTIONS").then_some(value);
                assert_eq!(answer.header(name), expected, "{case}: {name}");
            }
        }
    }
}
