//! Rules by route: which one holds, and that no spelling of a path slips past them.

use http::{Request, Version};
use proptest::prelude::*;
use tollgate::authorize::{Hierarchy, Policy, Rules, authenticated, role, scope};
use tollgate::keys::NewKey;
use tollgate::testing::assert_covered;
use tollgate::{AuthLayer, Identity, RequireLayer};
use tower::ServiceBuilder;

use crate::support::{Answer, clock, issue, keys_over, send, who};

fn rules() -> Rules {
    Rules::new()
        .route("GET /orders/{id}", scope("orders:read"))
        .route("POST /orders", scope("orders:write") | role("clerk"))
        .route("/orders/new", role("clerk"))
        .route("/admin/*", role("admin"))
        .route("/shop.Orders/*", scope("orders:call"))
        .route("DELETE /Users/{id}", scope("users:write"))
        .public("GET /health")
        .public("/")
        .otherwise_deny()
}

async fn ask(rules: Rules, identity: Option<&Identity>, method: &str, uri: &str) -> Answer {
    let layer = RequireLayer::new(rules);
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    match identity {
        Some(identity) => {
            request.extensions_mut().insert(identity.clone());
            send(&tower::Layer::layer(&layer, who()), request).await
        }
        None => {
            let door = AuthLayer::new(keys_over(tollgate::keys::MemoryKeys::new()));
            let stack = ServiceBuilder::new()
                .layer(door.optional().clock(clock()))
                .layer(layer);
            send(&stack.service(who()), request).await
        }
    }
}

fn caller(scopes: &str, roles: &[&str]) -> Identity {
    let identity = Identity::for_test().scopes(scopes.parse().unwrap());
    roles
        .iter()
        .fold(identity, |identity, role| identity.role(*role))
        .build()
}

#[tokio::test]
async fn the_most_specific_rule_holds() {
    let reader = caller("orders:read", &[]);
    let clerk = caller("", &["clerk"]);
    let admin = caller("", &["admin"]);
    for (identity, method, path, status) in [
        (&reader, "GET", "/orders/7", 200),
        (&reader, "HEAD", "/orders/7", 200),
        (&clerk, "GET", "/orders/7", 403),
        (&reader, "POST", "/orders/7", 403),
        (&clerk, "POST", "/orders", 200),
        (&reader, "POST", "/orders", 403),
        (&reader, "GET", "/orders", 403),
        (&clerk, "GET", "/orders/new", 200),
        (&reader, "GET", "/orders/new", 403),
        (&admin, "PATCH", "/admin/a/b/c", 200),
        (&reader, "PATCH", "/admin/a/b/c", 403),
        (&admin, "GET", "/admin", 200),
        (&admin, "GET", "/admin/", 200),
        (&reader, "GET", "/admin", 403),
        (&reader, "GET", "/admin/", 403),
        (&reader, "GET", "/health", 200),
        (&reader, "POST", "/health", 403),
        (&reader, "GET", "/", 200),
        (&admin, "GET", "/elsewhere", 403),
        (&reader, "GET", "/orders/7?x=/admin", 200),
        (&reader, "GET", "http://other.example/orders/7", 200),
        (&admin, "OPTIONS", "*", 403),
        (&admin, "CONNECT", "example.com:443", 403),
    ] {
        let answer = ask(rules(), Some(identity), method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn strangers_pass_where_it_is_public_and_learn_the_scopes_elsewhere() {
    assert_eq!(ask(rules(), None, "GET", "/health").await.status, 200);
    for (method, path, scopes) in [
        ("GET", "/orders/7", Some("orders:read")),
        ("POST", "/orders", Some("orders:write")),
        ("POST", "/shop.Orders/Get", Some("orders:call")),
        ("GET", "/admin/x", None),
        ("GET", "/elsewhere", None),
        ("GET", "/a//b", None),
        ("POST", "/health", None),
    ] {
        let answer = ask(rules(), None, method, path).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.code(), "credentials_missing");
        assert!(answer.json().get("required_scopes").is_none());
        let challenges = answer.challenges();
        assert_eq!(challenges.len(), 2);
        let wanted = scopes.map(|scopes| format!("Bearer realm=\"api\", scope=\"{scopes}\""));
        let wanted = wanted.unwrap_or_else(|| "Bearer realm=\"api\"".into());
        assert_eq!(challenges[0], wanted, "{method} {path}");
    }
}

#[tokio::test]
async fn without_a_door_only_what_is_public_passes() {
    let service = ServiceBuilder::new()
        .layer(RequireLayer::new(rules()))
        .service(who());
    let get = |path: &str| Request::get(path).body(()).unwrap();
    assert_eq!(send(&service, get("/health")).await.status, 200);
    assert_eq!(send(&service, get("/orders/7")).await.status, 500);
    assert_eq!(send(&service, get("/elsewhere")).await.status, 500);
}

#[tokio::test]
async fn hierarchies_and_policies_hold_for_all_rules() {
    let hierarchy = Hierarchy::new().wildcards(':');
    let layer = RequireLayer::new(rules())
        .hierarchy(&hierarchy)
        .policy(Policy::new("not-on-sunday", |_, parts| {
            parts.uri.query() != Some("sunday")
        }));
    let service = tower::Layer::layer(&layer, who());
    let ask = async |path: &str| {
        let request = Request::get(path).extension(caller("orders:*", &[]));
        send(&service, request.body(()).unwrap()).await.status
    };
    assert_eq!(ask("/orders/7").await, 200);
    assert_eq!(ask("/orders/7?sunday").await, 403);
    assert_eq!(ask("/health?sunday").await, 200, "public is public");
}

#[tokio::test]
async fn what_has_no_rule_may_need_something_too() {
    let rules = || rules().otherwise(authenticated());
    let anybody = caller("", &[]);
    assert_eq!(
        ask(rules(), Some(&anybody), "GET", "/else").await.status,
        200
    );
    assert_eq!(ask(rules(), None, "GET", "/else").await.status, 401);
    // A path that has a rule does not fall back to less.
    for (method, path) in [
        ("PUT", "/orders/7"),
        ("GET", "/orders"),
        ("GET", "/admin"),
        ("GET", "/admin/"),
        ("GET", "/Admin/x"),
        ("GET", "/Admin/"),
        ("GET", "/%61dmin/x"),
        ("GET", "/admin%2fx"),
        ("GET", "/else/../admin/x"),
        ("GET", "/else//x"),
        ("POST", "/health"),
        ("POST", "/orders/"),
    ] {
        let answer = ask(rules(), Some(&anybody), method, path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (403, "forbidden"),
            "{path}"
        );
    }
}

/// axum registers three paths for what is nested: `/admin`, `/admin/` and the rest.
#[tokio::test]
async fn a_rule_for_the_rest_holds_for_all_that_is_nested_there() {
    let nested = axum::Router::new()
        .nest_service("/admin", axum::routing::any(|| async { "nested" }))
        .layer(RequireLayer::new(
            Rules::new()
                .route("/admin/*", role("admin"))
                .otherwise(authenticated()),
        ));
    for (caller, status) in [(caller("", &[]), 403), (caller("", &["admin"]), 200)] {
        for path in ["/admin", "/admin/", "/admin/x", "/admin/x/y"] {
            let request = Request::get(path).extension(caller.clone());
            let request = request.body(axum::body::Body::empty()).unwrap();
            assert_eq!(send(&nested, request).await.status, status, "{path}");
        }
    }
}

/// What the router would take for the same, or for another path, the rules refuse.
#[tokio::test]
async fn no_spelling_reaches_a_handler_of_axum_past_its_rule() {
    let handler = axum::routing::any(|| async { "reached" });
    let router = axum::Router::new()
        .route("/orders/{id}", handler.clone())
        .route("/admin/{*rest}", handler.clone())
        .route("/Users/{id}", handler.clone())
        .fallback(handler)
        .layer(RequireLayer::new(rules().otherwise(authenticated())));
    let ask = async |path: &str| {
        let request = Request::get(path).extension(caller("orders:read", &[]));
        let request = request.body(axum::body::Body::empty()).unwrap();
        send(&router, request).await.status.as_u16()
    };
    assert_eq!(ask("/orders/7").await, 200);
    assert_eq!(ask("/orders/%37").await, 200, "the same parameter");
    assert_eq!(ask("/else").await, 200);
    for path in [
        "/%6Frders/7",
        "/Orders/7",
        "/orders/7/",
        "//orders/7",
        "/orders//7",
        "/orders/./7",
        "/orders/%2e/7",
        "/else/../admin/x",
        "/else/%2E%2e/admin/x",
        "/admin%2fx",
        "/admin%5Cx",
        "/%61dmin/x",
        "/%2561dmin/x",
        "/ADMIN/x",
        "/admin/",
        "/admin",
        "/users/1",
    ] {
        assert_eq!(ask(path).await, 403, "{path}");
    }
}

#[tokio::test]
async fn rules_that_are_added_before_a_router_is_nested_see_the_path_without_its_prefix() {
    let nested = |route: &str| {
        let rules = Rules::new().route(route, authenticated());
        let inner = axum::Router::new()
            .route("/orders/{id}", axum::routing::get(|| async { "reached" }))
            .layer(RequireLayer::new(rules));
        axum::Router::new().nest("/api", inner)
    };
    for (route, status) in [("/orders/{id}", 200), ("/api/orders/{id}", 403)] {
        let request = Request::get("/api/orders/7").extension(caller("", &[]));
        let request = request.body(axum::body::Body::empty()).unwrap();
        assert_eq!(
            send(&nested(route), request).await.status,
            status,
            "{route}"
        );
    }
}

#[tokio::test]
async fn the_beginning_of_the_rest_may_have_a_rule_of_its_own_wherever_it_is_declared() {
    let rest = |rules: Rules| rules.route("/admin/*", role("admin"));
    let own = |rules: Rules| rules.route("/admin", scope("read")).route("/*", role("x"));
    let own = |rules: Rules| own(rules).public("/");
    let (admin, reader) = (caller("", &["admin"]), caller("read", &[]));
    for rules in [own(rest(Rules::new())), rest(own(Rules::new()))] {
        for (identity, path, status) in [
            (&reader, "/admin", 200),
            (&admin, "/admin", 403),
            (&admin, "/admin/x", 200),
            (&reader, "/admin/x", 403),
            // With the slash it is the rest, without it another rule's.
            (&admin, "/admin/", 403),
            (&reader, "/admin/", 403),
            (&reader, "/", 200),
            (&reader, "/else", 403),
        ] {
            let answer = ask(rules.clone(), Some(identity), "GET", path).await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
    // More specific than a parameter, like every literal.
    let rules = rest(Rules::new().route("/{page}", authenticated()));
    assert_eq!(
        ask(rules.clone(), Some(&reader), "GET", "/admin")
            .await
            .status,
        403
    );
    assert_eq!(ask(rules, Some(&reader), "GET", "/other").await.status, 200);
}

/// Package names, as in `@scope%2Fname`.
#[tokio::test]
async fn encoded_slash_passes_where_the_rule_allows_it() {
    let rules = || {
        Rules::new()
            .route("GET /packages/{name}", scope("read"))
            .route("PUT /packages/{name}", scope("write"))
            .route("GET /packages/{name}/owners", role("owner"))
            .route("GET /files/*", scope("read"))
            .route("GET /plain/{name}", scope("read"))
            .otherwise(authenticated())
            .allow_encoded_slashes("GET /packages/{name}")
            .allow_encoded_slashes("GET /files/*")
    };
    let reader = caller("read write", &[]);
    for (method, path, status) in [
        ("GET", "/packages/@scope%2Fname", 200),
        ("GET", "/packages/@scope%2fname", 200),
        ("HEAD", "/packages/%40scope%2fname", 200),
        ("GET", "/packages/name", 200),
        ("GET", "/files/a%2Fb/c", 200),
        ("GET", "/files/a/b%2fc%2Fd", 200),
        // The rule for the method decides, and only where it is the rule of all spellings.
        ("PUT", "/packages/@scope%2Fname", 403),
        ("PUT", "/packages/name", 200),
        ("GET", "/plain/a%2Fb", 403),
        ("GET", "/elsewhere/a%2Fb", 403),
        ("GET", "/packages/a%2Fb/owners", 403),
        ("GET", "/Packages/a%2Fb", 403),
        ("GET", "/packages%2Fa", 403),
        ("GET", "/packages/..%2Fname", 403),
        ("GET", "/packages/a%2F..%2Fb", 403),
        ("GET", "/packages/a%2F%2E%2E", 403),
        ("GET", "/packages/%2Fname", 403),
        ("GET", "/packages/name%2F", 403),
        ("GET", "/packages/a%2F%2Fb", 403),
        ("GET", "/packages/a%252Fb", 403),
        ("GET", "/packages/a%2F%252e%252e", 403),
        ("GET", "/packages/a%5Cb", 403),
        ("GET", "/packages/a%2F%00", 403),
    ] {
        let answer = ask(rules(), Some(&reader), method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    for unknown in [
        "/packages/{name}",
        "DELETE /packages/{name}",
        "GET /nothing",
        "",
    ] {
        assert!(
            rules().try_allow_encoded_slashes(unknown).is_err(),
            "{unknown}"
        );
    }
    let renamed = rules().try_allow_encoded_slashes("PUT /packages/{other}");
    assert!(renamed.is_ok(), "the name of a parameter says nothing");
}

/// axum does not decode a path before it finds its route.
#[tokio::test]
async fn encoded_slash_reaches_the_parameter_of_axum() {
    let handler = async |axum::extract::Path(name): axum::extract::Path<String>| name;
    let rules = Rules::new()
        .route("GET /packages/{name}", scope("read"))
        .allow_encoded_slashes("GET /packages/{name}");
    let router = axum::Router::new()
        .route("/packages/{name}", axum::routing::get(handler))
        .layer(RequireLayer::new(rules));
    let request = Request::get("/packages/@scope%2Fname").extension(caller("read", &[]));
    let answer = send(&router, request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(answer.body, "@scope/name");
}

/// A WebSocket is opened by `GET` over HTTP/1.1 and by `CONNECT` over HTTP/2 (RFC 8441 §5).
#[tokio::test]
async fn extended_connect_is_a_get() {
    let rules = || {
        Rules::new()
            .route("GET /ws", scope("read"))
            .route("GET /own", scope("read"))
            .route("CONNECT /own", scope("connect"))
            .route("POST /post", scope("read"))
            .route("/all", scope("read"))
            .otherwise(authenticated())
    };
    let (reader, connector) = (caller("read", &[]), caller("connect", &[]));
    for (version, identity, path, status) in [
        (Version::HTTP_2, &reader, "https://api.example.com/ws", 200),
        (Version::HTTP_3, &reader, "https://api.example.com/ws", 200),
        (
            Version::HTTP_2,
            &connector,
            "https://api.example.com/ws",
            403,
        ),
        (Version::HTTP_2, &reader, "https://api.example.com/own", 403),
        (
            Version::HTTP_2,
            &connector,
            "https://api.example.com/own",
            200,
        ),
        (
            Version::HTTP_2,
            &reader,
            "https://api.example.com/post",
            403,
        ),
        (Version::HTTP_2, &reader, "https://api.example.com/all", 200),
        // Over HTTP/1.1 a CONNECT with a path is malformed (RFC 9110 §9.3.6).
        (Version::HTTP_11, &reader, "https://api.example.com/ws", 403),
        // A tunnel has no path.
        (Version::HTTP_2, &reader, "api.example.com:443", 403),
        (Version::HTTP_11, &reader, "api.example.com:443", 403),
    ] {
        let mut request = Request::builder()
            .method("CONNECT")
            .uri(path)
            .body(())
            .unwrap();
        *request.version_mut() = version;
        request.extensions_mut().insert(identity.clone());
        let service = tower::Layer::layer(&RequireLayer::new(rules()), who());
        let answer = send(&service, request).await;
        assert_eq!(answer.status, status, "{version:?} {path}");
    }
}

#[tokio::test]
async fn public_routes_need_no_credential_behind_a_required_layer() {
    let keys = keys_over(tollgate::keys::MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann").scopes(["orders:read"])).await;
    let auth = AuthLayer::new(keys).optional_for(rules().public_routes());
    let stack = ServiceBuilder::new()
        .layer(auth.clock(clock()))
        .layer(RequireLayer::new(rules()))
        .service(who());
    for (method, path, key, status) in [
        ("GET", "/health", None, 200),
        ("HEAD", "/health", None, 200),
        ("GET", "/health", Some(&*key), 200),
        ("GET", "/health", Some("acme_live_wrong"), 401),
        ("POST", "/health", None, 401),
        ("GET", "/health/", None, 401),
        ("GET", "/Health", None, 401),
        ("GET", "/%68ealth", None, 401),
        ("GET", "/elsewhere", None, 401),
        ("GET", "/orders/7", None, 401),
        ("GET", "/orders/7", Some(&*key), 200),
    ] {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let answer = send(&stack, request.body(()).unwrap()).await;
        assert_eq!(answer.status, status, "{method} {path} {key:?}");
    }
}

#[tokio::test]
async fn rules_outside_of_a_nested_router_see_the_whole_path() {
    let rules = Rules::new().route("GET /api/orders/{id}", authenticated());
    let inner =
        axum::Router::new().route("/orders/{id}", axum::routing::get(|| async { "reached" }));
    let router = axum::Router::new()
        .nest("/api", inner)
        .layer(RequireLayer::new(rules));
    let request = Request::get("/api/orders/7").extension(caller("", &[]));
    let answer = send(&router, request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 200);
}

#[test]
fn parameters_of_other_routers_are_errors_that_name_ours() {
    for (route, fix) in [
        ("/orders/:id", "`:id` is not a parameter here; write `{id}`"),
        (
            "GET /orders/<id>",
            "`<id>` is not a parameter here; write `{id}`",
        ),
        (
            "/files/*path",
            "`*path` is not a parameter here; write `{*path}`",
        ),
        ("/orders/{id:[0-9]+}", "must be a name in braces"),
        ("/orders/{id}.json", "a parameter is a whole segment"),
        ("get /orders", "capital letters"),
        ("orders", "must start with a slash"),
        ("/a//b", "remove the second slash"),
        ("/a/*/b", "must be the last segment"),
    ] {
        let error = Rules::new().try_public(route).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("Rules: {route:?} is not a route; ")),
            "{error}"
        );
        assert!(error.contains(fix), "{error}");
    }
    let literal = Rules::new().try_public("/v1/things:batch").is_ok();
    assert!(literal, "a colon inside of a segment is a literal");
}

#[test]
fn rules_that_contradict_each_other_are_refused_when_they_are_built() {
    let base = || Rules::new().route("GET /a/{x}", scope("s"));
    for again in [
        "GET /a/{x}",
        "GET /a/{y}",
        "GET /A/{x}",
        "GET /%61/{x}",
        "GET /a/{x}/",
    ] {
        assert!(base().try_route(again, scope("t")).is_err(), "{again}");
        assert!(base().try_public(again).is_err(), "{again}");
    }
    // The same said twice in another spelling is no contradiction.
    assert!(base().try_route("GET /a/{x}/", scope("s")).is_ok());
    assert!(base().try_route("GET /a/{x}", scope("s")).is_err());
    // As in axum, a parameter and the rest do not stand at the same place.
    assert!(base().try_route("/a/*", scope("t")).is_err());
    for other in [
        "POST /a/{x}",
        "/a/{x}",
        "GET /a/b",
        "GET /a/{x}/*",
        "GET /a",
    ] {
        assert!(base().try_route(other, scope("t")).is_ok(), "{other}");
    }
    for bad in [
        "",
        "a",
        "GET",
        "get /a",
        "GET /a/*/b",
        "/a/{}",
        "/a//b",
        "/a/..",
        "/a%2fb",
    ] {
        assert!(base().try_public(bad).is_err(), "{bad}");
    }
}

#[test]
#[should_panic(expected = "Rules: \"GET /a\" has a rule already")]
fn a_literal_rule_that_is_there_twice_panics() {
    let _ = Rules::new().public("GET /a").route("GET /a", scope("s"));
}

#[test]
fn the_report_lists_each_rule_and_what_happens_otherwise() {
    let text = rules().report().to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines.len(), 9);
    assert_eq!(lines[0], r#"GET /orders/{id}    scope("orders:read")"#);
    assert_eq!(lines[6], "GET /health         public");
    assert_eq!(lines[8], "otherwise           denied");
    let public = rules();
    let public = public
        .report()
        .rules()
        .filter(|(_, needed)| needed.is_none());
    assert_eq!(public.count(), 2);
}

#[test]
fn routes_without_a_rule_are_named() {
    assert_covered(
        &rules(),
        [
            "GET /orders/{id}",
            "HEAD /orders/{order}",
            "POST /admin/{a}/{b}",
            "/admin/{*rest}",
            "/",
        ],
    );
    let uncovered = rules().uncovered([
        "PUT /orders/{id}",
        "/orders/{id}",
        "GET /health",
        "/health",
        "GET /invoices",
        "POST /shop.Orders/Get",
        "POST /shop.Returns/Get",
    ]);
    let expected = [
        "PUT /orders/{id}",
        "/orders/{id}",
        "/health",
        "GET /invoices",
        "POST /shop.Returns/Get",
    ];
    assert_eq!(uncovered, expected);
}

#[test]
fn a_rule_for_one_segment_does_not_cover_the_rest() {
    let rules = || Rules::new().route("GET /files/{name}", scope("files"));
    let rest = ["GET /files/{*rest}", "GET /files/*"];
    assert_eq!(rules().uncovered(rest), rest);
    assert_covered(&rules(), ["GET /files/{other}"]);
    let rules = Rules::new().route("GET /files/*", scope("files"));
    assert_covered(
        &rules,
        [
            "GET /files/{*rest}",
            "GET /files/{a}/{b}",
            "GET /files/",
            "GET /files",
        ],
    );
    assert_eq!(rules.uncovered(["POST /files/*", "/files/*"]).len(), 2);
}

#[test]
#[should_panic(expected = "no rule is for GET /invoices")]
fn the_helper_names_what_is_not_covered() {
    assert_covered(&rules(), ["GET /orders/{id}", "GET /invoices"]);
}

#[tokio::test]
async fn rules_in_front_of_keys_that_are_real() {
    let keys = keys_over(tollgate::keys::MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann").scopes(["orders:read"])).await;
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).optional().clock(clock()).realm("shop"))
        .layer(RequireLayer::new(rules()))
        .service(who());
    let ask = async |method: &str, path: &str, key: Option<&str>| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        send(&stack, request.body(()).unwrap()).await
    };
    assert_eq!(ask("GET", "/orders/1", Some(&key)).await.body, "ann");
    assert_eq!(ask("GET", "/health", Some(&key)).await.body, "ann");
    assert_eq!(ask("GET", "/health", None).await.body, "nobody");
    let bad = ask("GET", "/health", Some("acme_live_nonsense")).await;
    assert_eq!(
        bad.status, 401,
        "who shows something must show something good"
    );
    let answer = ask("POST", "/shop.Orders/Get", Some(&key)).await;
    let challenge = r#"Bearer realm="shop", error="insufficient_scope", scope="orders:call""#;
    assert_eq!(answer.challenges(), [challenge]);
}

/// Ways to write the same path, as some router somewhere takes them.
fn respell(path: &str, choices: &[u8]) -> String {
    let mut out = String::new();
    for (at, byte) in path.bytes().enumerate() {
        let choice = choices.get(at).copied().unwrap_or(0);
        match (byte, choice % 12) {
            (b'/', 1) => out.push_str("//"),
            (b'/', 2) => out.push_str("/./"),
            (b'/', 3) => out.push_str("/x/../"),
            (b'/', 4) => out.push_str("%2F"),
            (b'/', 5) => out.push('\\'),
            (_, 6) => out.push_str(&format!("%{byte:02X}")),
            (_, 7) => out.push_str(&format!("%{byte:02x}")),
            (_, 8) => out.push_str(&format!("%25{byte:02x}")),
            (_, 9) => out.push(char::from(byte.to_ascii_uppercase())),
            (_, 10) => out.push(char::from(byte.to_ascii_lowercase())),
            _ => out.push(char::from(byte)),
        }
    }
    match choices.first().map(|choice| choice % 5) {
        Some(1) => out.push('/'),
        Some(2) => out.push_str("/."),
        _ => {}
    }
    out
}

proptest! {
    /// Whatever the spelling, the answer is that of the path or a refusal: nobody gets
    /// in by spelling who would not without.
    #[test]
    fn two_spellings_of_a_path_never_get_two_verdicts(
        path in prop::sample::select(vec![
            "/orders/7", "/orders/new", "/admin", "/admin/", "/admin/x", "/admin/x/y",
            "/shop.Orders", "/shop.Orders/", "/shop.Orders/Get", "/health",
            "/Users/1", "/orders", "/",
        ]),
        choices in prop::collection::vec(any::<u8>(), 0..20),
        method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
    ) {
        let spelling = respell(path, &choices);
        let Ok(uri) = spelling.parse::<http::Uri>() else { return Ok(()) };
        prop_assume!(uri.path() == spelling);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let callers = [
            caller("orders:read", &[]),
            caller("", &["clerk"]),
            caller("orders:call", &["admin"]),
            caller("users:write", &[]),
        ];
        for otherwise in [false, true] {
            let rules = || if otherwise { rules().otherwise(authenticated()) } else { rules() };
            for caller in &callers {
                let status = |path: &str| {
                    runtime.block_on(ask(rules(), Some(caller), method, path)).status.as_u16()
                };
                let (plain, spelt) = (status(path), status(&spelling));
                prop_assert!(spelt == plain || spelt == 403, "{method} {spelling}: {spelt}, {plain}");
            }
        }
    }
}
