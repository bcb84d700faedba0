//! Faults that were found once, each told by the test that would find it again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderName, Method, Request, StatusCode};
use tollgate::auth::{Answer as Verdict, Authenticate, CredentialSource, Source};
use tollgate::authorize::{Hierarchy, Policy, authenticated};
use tollgate::clock::Timestamp;
use tollgate::credential::{Credential, Scheme};
use tollgate::identity::Kind;
use tollgate::keys::{
    KeyError, KeyFilter, KeyId, KeyPage, KeyRecord, KeyStore, MemoryKeys, NewKey, Peppers,
    StoreError,
};
use tollgate::rejection::{Cause, Reason};
use tollgate::respond::Restyled;
use tollgate::scope::ScopeSet;
use tollgate::{ApiKeys, AuthLayer, Identity, Rejection, RequireLayer, role, scope};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::ServiceBuilder;
use crate::support::{Foreign, 
    Answer, NOW, Script, Scripted, clock, get, issue, keys_over, peppers, send, who, with,
};

async fn keys() -> (ApiKeys, String) {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    (keys, key)
}

#[tokio::test]
async fn a_head_request_that_an_inner_gate_refuses_gets_no_content_either() {
    let (keys, key) = keys().await;
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .layer(RequireLayer::new(scope("zz")));
    let service = stack.service(who());
    let full = send(&service, with("x-api-key", &key)).await;
    let mut request = with("x-api-key", &key);
    *request.method_mut() = Method::HEAD;
    let head = send(&service, request).await;
    assert_eq!((head.status, &head.headers), (full.status, &full.headers));
    assert!(head.body.is_empty() && !full.body.is_empty());
}

#[tokio::test]
async fn keys_of_two_sources_over_one_store_stand_for_two_principals() {
    let store = MemoryKeys::new();
    let of = |source| {
        let keys = ApiKeys::new(store.clone(), peppers()).prefix("acme");
        keys.clock(clock()).source(source)
    };
    let key = issue(&of("a"), NewKey::for_owner("alice")).await;
    let source = service_fn(|request: Request<()>| async move {
        let identity = request.extensions().get::<Identity>().unwrap();
        let source = identity.principal().source().to_owned();
        Ok::<_, std::convert::Infallible>(http::Response::new(
            http_body_util::Full::<bytes::Bytes>::from(source),
        ))
    });
    for name in ["a", "b", "a"] {
        let door = AuthLayer::new(of(name));
        assert_eq!(
            send(&door.layer(source), with("x-api-key", &key))
                .await
                .body,
            name
        );
    }
}

#[tokio::test]
async fn who_is_known_inside_was_never_anonymous() {
    let (keys, key) = keys().await;
    let outer = AuthLayer::new(keys.clone())
        .sources([Source::header(HeaderName::from_static("x-other"))])
        .optional();
    let router = axum::Router::new()
        .route(
            "/",
            axum::routing::get(async |identity: Option<Identity>| {
                identity.map_or_else(|| "nobody".to_owned(), |known| known.subject().to_owned())
            }),
        )
        .layer(AuthLayer::new(keys))
        .layer(outer);
    let request = Request::get("/").header("x-api-key", key);
    let request = request.body(axum::body::Body::empty()).unwrap();
    assert_eq!(
        Answer::of(router.oneshot(request).await.unwrap())
            .await
            .body,
        "alice"
    );
}

#[tokio::test]
async fn an_identity_that_somebody_put_there_does_not_make_an_anonymous_caller_known() {
    let (keys, _) = keys().await;
    let mut request = get();
    request
        .extensions_mut()
        .insert(Identity::for_test().build());
    let answer = send(&AuthLayer::new(keys).optional().layer(who()), request).await;
    assert_eq!(answer.body, "nobody");
}

#[test]
fn a_runtime_without_a_timer_is_good_enough() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for script in [Script::Now, Script::Later] {
            let keys = keys_over(Scripted::new(script));
            let key = issue(&keys, NewKey::for_owner("alice")).await;
            let service = AuthLayer::new(keys).layer(who());
            for _ in 0..3 {
                assert_eq!(send(&service, with("x-api-key", &key)).await.body, "alice");
            }
        }
    });
}

#[test]
fn the_last_uses_are_told_on_a_second_runtime_too() {
    let store = Scripted::new(Script::Now);
    let clock = clock();
    let keys = ApiKeys::new(store.clone(), peppers())
        .prefix("acme")
        .clock(clock.clone());
    let service = AuthLayer::new(keys.clone())
        .clock(clock.clone())
        .layer(who());
    let mut key = None;
    for told in 1..3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            if key.is_none() {
                key = Some(issue(&keys, NewKey::for_owner("alice")).await);
            }
            clock.advance(Duration::from_secs(61));
            send(&service, with("x-api-key", key.as_ref().unwrap())).await;
            tokio::time::sleep(Duration::from_secs(61)).await;
        });
        assert_eq!(store.notes(), told);
    }
}

#[tokio::test]
async fn a_key_in_the_query_may_be_kept_there() {
    let (keys, key) = keys().await;
    let door = AuthLayer::new(keys)
        .sources([Source::query("key")])
        .keep_credential();
    let mut request = get();
    *request.uri_mut() = format!("/?key={key}&x=1").parse().unwrap();
    assert_eq!(
        send(&door.layer(who()), request.clone()).await.body,
        "alice"
    );
    *request.uri_mut() = format!("/?key={key}&other={key}").parse().unwrap();
    assert_eq!(
        send(&door.layer(who()), request).await.code(),
        "credential_in_uri"
    );
}

#[tokio::test]
async fn a_cookie_is_found_beside_any_others_and_the_others_stay_as_they_are() {
    let (keys, key) = keys().await;
    let show = service_fn(|request: Request<()>| async move {
        let lines = request.headers().get_all("cookie").iter();
        let lines: Vec<_> = lines.map(|line| line.as_bytes().to_vec()).collect();
        let body = http_body_util::Full::<bytes::Bytes>::from(lines.join(&b"\n"[..]));
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    let layer = AuthLayer::new(keys).sources([Source::cookie("key")]);
    for (line, rest) in [
        (format!("key={key}; name=\u{e9}"), "name=\u{e9}"),
        (format!("flag; key={key}; a=1"), "flag; a=1"),
        (format!("a=\"x;key=1\"; key={key}"), ""),
    ] {
        let answer = send(&layer.layer(show), with("cookie", line)).await;
        if rest.is_empty() {
            // Quotes do not keep a semicolon together (RFC 6265 §5.2): there are two.
            assert_eq!(answer.code(), "credentials_ambiguous");
        } else {
            assert_eq!(answer.body, rest);
        }
    }
    let mut request = with("cookie", format!("key={key}"));
    request
        .headers_mut()
        .append("cookie", "b=\u{e9}; c".parse().unwrap());
    assert_eq!(send(&layer.layer(show), request).await.body, "b=\u{e9}; c");
    let bad = send(
        &layer.layer(show),
        with("cookie", format!("key={key}\u{e9}")),
    )
    .await;
    assert_eq!(bad.code(), "request_malformed");
    let empty = send(&layer.layer(show), with("cookie", "key")).await;
    assert_eq!(empty.code(), "request_malformed");

    let kept = layer.keep_credential();
    let sensitive = service_fn(|request: Request<()>| async move {
        let marked = request.headers()["cookie"].is_sensitive().to_string();
        let body = http_body_util::Full::<bytes::Bytes>::from(marked);
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    let request = with("cookie", format!("key={key}; a=1"));
    assert_eq!(
        send(&kept.layer(show), request.clone()).await.body,
        format!("key={key}; a=1")
    );
    assert_eq!(send(&kept.layer(sensitive), request).await.body, "true");
}

#[tokio::test]
async fn a_key_in_the_uri_is_found_however_it_is_spelt_and_other_words_are_let_be() {
    let (keys, key) = keys().await;
    let service = AuthLayer::new(keys).layer(who());
    let ask = async |query: String| {
        let mut request = with("x-api-key", &key);
        *request.uri_mut() = format!("/?{query}").parse().unwrap();
        send(&service, request).await
    };
    for query in [
        key.clone(),
        format!("{key}=1"),
        format!("k={}", key.replace('_', "%5F")),
        format!("k={}", key.replace('_', "%5f")),
        format!("x=1;key={key}"),
        format!("a=Bearer%20{key}"),
        format!("a=[{key}]"),
    ] {
        assert_eq!(
            ask(query.clone()).await.code(),
            "credential_in_uri",
            "{query}"
        );
    }
    for query in [
        "tenant=acme_corp".to_owned(),
        "q=acme_live_and_kicking_and_other_stories_from_the_early_days".into(),
        format!("q={}", "a".repeat(500)),
        "q=%ff%zz%".into(),
    ] {
        assert_eq!(ask(query.clone()).await.status, StatusCode::OK, "{query}");
    }
}

#[tokio::test]
async fn a_rejection_of_a_handler_is_said_by_the_door() {
    use axum::response::IntoResponse;
    let (keys, key) = keys().await;
    let door = AuthLayer::new(keys)
        .realm("shop")
        .respond_with(|rejection: &Rejection| {
            Restyled::new(
                http::HeaderValue::from_static("text/plain"),
                rejection.reason().code(),
            )
        });
    let handler = async || {
        Rejection::new(Reason::InsufficientScope, Cause::Other)
            .with_required_scopes("orders:read".parse().unwrap())
            .into_response()
    };
    let router = axum::Router::new()
        .route("/", axum::routing::get(handler))
        .layer(door);
    let request = Request::get("/").header("x-api-key", key);
    let request = request.body(axum::body::Body::empty()).unwrap();
    let answer = Answer::of(router.oneshot(request).await.unwrap()).await;
    assert_eq!(answer.body, "insufficient_scope");
    let challenge = "ApiKey realm=\"shop\", error=\"insufficient_scope\", scope=\"orders:read\"";
    assert_eq!(answer.challenges(), [challenge]);
}

/// Judges by what it is told, and claims what starts with `token-`.
#[derive(Clone)]
struct Tokens(Reason, Arc<AtomicUsize>);

impl Authenticate for Tokens {
    fn authenticate(&self, credential: &Credential, _: Timestamp) -> Verdict {
        if !credential.expose().starts_with(b"token-") {
            return Verdict::NotMine;
        }
        self.1.fetch_add(1, Ordering::SeqCst);
        match credential.expose() {
            b"token-good" => Verdict::Mine(
                Ok(Identity::builder("tokens", "bob").kind(Kind::User).build()).into(),
            ),
            _ => Verdict::Mine(Err(Rejection::new(self.0, Cause::Other)).into()),
        }
    }

    fn claims(&self, text: &[u8]) -> bool {
        text.starts_with(b"token_in_a_uri")
    }
}

#[tokio::test]
async fn keys_and_others_share_a_door_and_what_one_claims_the_other_is_not_asked() {
    let (keys, key) = keys().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let tokens = Tokens(Reason::CredentialInvalid, Arc::clone(&asked));
    let service = AuthLayer::new(keys.or(tokens)).layer(who());
    let bearer = |token: &str| with("authorization", format!("Bearer {token}"));
    assert_eq!(send(&service, bearer(&key)).await.body, "alice");
    assert_eq!(
        send(&service, bearer("acme_live_nonsense")).await.code(),
        "credential_invalid"
    );
    assert_eq!(
        asked.load(Ordering::SeqCst),
        0,
        "a key that is refused is not tried as a token"
    );
    assert_eq!(send(&service, bearer("token-good")).await.body, "bob");
    assert_eq!(
        send(&service, bearer("token-bad")).await.code(),
        "credential_invalid"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(
        send(&service, bearer("neither"))
            .await
            .rejection
            .unwrap()
            .cause(),
        Cause::Unclaimed
    );
    let mut request = bearer("token-good");
    let uri = format!("/?x=token_in_a_uri_{}", "x".repeat(60));
    *request.uri_mut() = uri.parse().unwrap();
    assert_eq!(send(&service, request).await.code(), "credential_in_uri");
}

#[tokio::test]
async fn an_authenticator_of_ones_own_that_has_to_name_a_wait_names_one() {
    for reason in [Reason::VerifierUnavailable, Reason::TooManyFailures] {
        let service = AuthLayer::new(Tokens(reason, Arc::default())).layer(who());
        let answer = send(&service, with("authorization", "Bearer token-bad")).await;
        assert_eq!(answer.status, reason.status());
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    // What is advertised is for those who show nothing.
    let door =
        AuthLayer::new(Tokens(Reason::InsufficientScope, Arc::default())).challenge_scopes(["all"]);
    let answer = send(
        &door.layer(who()),
        with("authorization", "Bearer token-bad"),
    )
    .await;
    assert!(
        !answer.challenges()[0].contains("scope="),
        "{:?}",
        answer.challenges()
    );
}

#[test]
fn a_set_of_many_scopes_is_built_in_a_moment() {
    let many: Vec<String> = (0..50_000).map(|i| format!("scope-{i}")).collect();
    let start = std::time::Instant::now();
    let set = ScopeSet::try_new(many.iter().chain(&many)).unwrap();
    assert_eq!(set.iter().count(), 50_000);
    // Quadratic, it takes minutes.
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_preflight_passes_what_stands_inside_the_door_too() {
    let (keys, _) = keys().await;
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys).allow_preflight())
        .layer(RequireLayer::new(scope("a")));
    let service = stack.service(who());
    let preflight = |origin: bool, method: Method| {
        let mut request = get();
        *request.method_mut() = method;
        let headers = request.headers_mut();
        headers.insert("access-control-request-method", "POST".parse().unwrap());
        if origin {
            headers.insert("origin", "https://app.example.com".parse().unwrap());
        }
        request
    };
    assert_eq!(
        send(&service, preflight(true, Method::OPTIONS)).await.body,
        "nobody"
    );
    for other in [
        preflight(false, Method::OPTIONS),
        preflight(true, Method::GET),
    ] {
        assert_eq!(send(&service, other).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_record_under_a_pepper_that_is_gone_is_a_500_and_the_operators_mistake() {
    let store = MemoryKeys::new();
    let old = ApiKeys::new(store.clone(), Peppers::new(1, [1; 32]).unwrap()).prefix("acme");
    let key = issue(&old, NewKey::for_owner("alice")).await;
    let new = ApiKeys::new(store, Peppers::new(2, [2; 32]).unwrap()).prefix("acme");
    let answer = send(&AuthLayer::new(new).layer(who()), with("x-api-key", key)).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (500, "internal"));
    assert_eq!(answer.rejection.unwrap().cause(), Cause::PepperUnknown);
}

#[tokio::test]
async fn a_hook_that_panics_changes_nothing_of_what_it_hears() {
    let keys = keys_over(MemoryKeys::new()).on_event(|_| panic!("a hook that panics"));
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    keys.revoke(issued.record.id).await.unwrap();
    let service = AuthLayer::new(keys).layer(who());
    let answer = send(&service, with("x-api-key", issued.key.expose())).await;
    assert_eq!(answer.code(), "credential_revoked");
}

/// A store that compares ids as careless SQL does.
struct Careless(MemoryKeys, KeyId);

impl KeyStore for Careless {
    async fn find(&self, _: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.0.find(self.1).await
    }
    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.0.insert(record).await
    }
    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.0.update(record).await
    }
    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.0.remove(id).await
    }
    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.0.list(filter).await
    }
}

#[tokio::test]
async fn a_store_that_answers_with_another_key_has_none_changed() {
    let store = MemoryKeys::new();
    let admin = keys_over(store.clone())
        .issue(NewKey::for_owner("admin"))
        .await
        .unwrap();
    let careless = keys_over(Careless(store.clone(), admin.record.id));
    let bob = "7Hq2mZxR0aKd".parse().unwrap();
    assert!(matches!(
        careless.revoke(bob).await,
        Err(KeyError::Store(_))
    ));
    let held = store.find(admin.record.id).await.unwrap().unwrap();
    assert!(held.state(NOW).is_good());
}

#[tokio::test]
async fn a_policy_that_panics_when_it_is_given_up_is_caught() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("given up");
        }
    }
    let policy = Policy::asynchronous("bomb", |_, _| {
        let bomb = Bomb;
        async move {
            let _bomb = bomb;
            std::future::pending::<bool>().await
        }
    });
    let service = RequireLayer::new(authenticated())
        .policy(policy)
        .layer(who());
    let mut request = get();
    request
        .extensions_mut()
        .insert(Identity::for_test().build());
    let mut call = Box::pin(service.oneshot(request));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
}

#[tokio::test]
async fn a_layer_between_that_answers_otherwise_has_its_way() {
    let (keys, key) = keys().await;
    let hide = tower::util::MapResponseLayer::new(|mut response: http::Response<_>| {
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().remove("www-authenticate");
        response
    });
    let stack = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .foreign(hide)
        .layer(RequireLayer::new(scope("a")));
    let answer = send(&stack.service(who()), with("x-api-key", key)).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.challenges().is_empty());
}

#[tokio::test]
async fn hierarchies_add_up() {
    let layer = RequireLayer::new(scope("c"))
        .hierarchy(&Hierarchy::new().implies("b", "c"))
        .hierarchy(&Hierarchy::new().implies("a", "b"));
    for held in ["a", "b", "c"] {
        let mut request = get();
        let identity = Identity::for_test().scopes(held.parse().unwrap()).build();
        request.extensions_mut().insert(identity);
        assert_eq!(
            send(&layer.layer(who()), request).await.status,
            200,
            "{held}"
        );
    }
}

#[test]
fn settings_that_cannot_work_are_refused_when_they_are_made() {
    for bad in ["", "a=b", "a&b", "a;b", "a b", "é"] {
        assert!(
            Source::try_query(bad).is_err() && Source::try_cookie(bad).is_err(),
            "{bad}"
        );
    }
    assert!(Hierarchy::new().try_implies("a b", "c").is_err());
    let door = || AuthLayer::new(keys_over(MemoryKeys::new()));
    assert!(std::panic::catch_unwind(|| door().sources([])).is_err());
    assert!(std::panic::catch_unwind(|| door().ignore_schemes(["bearer"])).is_err());
}

#[tokio::test]
async fn an_answer_to_nobody_is_not_kept_for_somebody() {
    let (keys, _) = keys().await;
    let door = AuthLayer::new(keys).optional();
    let answer = send(&door.layer(who()), get()).await;
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["authorization", "x-api-key"]);
}

#[tokio::test]
async fn an_ignored_credential_is_a_secret_all_the_same() {
    let (keys, key) = keys().await;
    let service = AuthLayer::new(keys)
        .ignore_schemes(["Basic"])
        .layer(service_fn(|request: Request<()>| async move {
            assert!(request.headers()["authorization"].is_sensitive());
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<
                bytes::Bytes,
            >::default()))
        }));
    let mut request = with("x-api-key", key);
    request
        .headers_mut()
        .insert("authorization", "Basic dTpw".parse().unwrap());
    assert_eq!(send(&service, request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_page_has_room_for_one_record_at_the_least() {
    let (keys, _) = keys().await;
    let page = keys.list(KeyFilter::all().limit(0)).await.unwrap();
    assert_eq!(page.records.len(), 1);
}

#[tokio::test]
async fn all_that_a_key_was_issued_with_is_in_the_identity() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("alice")
        .tenant("emea")
        .name("export")
        .scopes(["a", "b"])
        .role("clerk")
        .roles(["driver"])
        .plan("pro")
        .metadata("region", "eu")
        .expires_in(Duration::from_secs(60));
    let issued = keys.issue(new).await.unwrap();
    let door = AuthLayer::new(keys.clone()).clock(clock());
    let id = issued.record.id.to_string();
    let check = service_fn(move |request: Request<()>| {
        let identity = request.extensions().get::<Identity>().unwrap().clone();
        assert_eq!(identity.principal().source(), "api-key");
        assert_eq!(
            (identity.subject(), identity.tenant()),
            ("alice", Some("emea"))
        );
        assert_eq!(identity.kind(), Kind::Application);
        assert_eq!(identity.scopes().as_str(), "a b");
        assert_eq!(identity.roles().collect::<Vec<_>>(), ["clerk", "driver"]);
        assert_eq!(identity.plan(), Some("pro"));
        assert_eq!(identity.metadata()["region"], "eu");
        assert_eq!(identity.credential_id(), Some(&*id));
        assert_eq!(
            identity.expires_at(),
            Some(NOW.saturating_add(Duration::from_secs(60)))
        );
        async {
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<
                bytes::Bytes,
            >::default()))
        }
    });
    let answer = send(&door.layer(check), with("x-api-key", issued.key.expose())).await;
    assert_eq!(answer.status, 200);
    assert!(matches!(
        keys.issue(NewKey::for_owner("")).await,
        Err(KeyError::NoOwner)
    ));
}

#[tokio::test]
async fn an_id_that_is_taken_is_drawn_again() {
    /// Refuses the first ids that it is given.
    #[derive(Clone)]
    struct Full(MemoryKeys, Arc<AtomicUsize>);
    impl KeyStore for Full {
        async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
            self.0.find(id).await
        }
        async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
            if self.1.fetch_add(1, Ordering::SeqCst) < 3 {
                return Ok(false);
            }
            self.0.insert(record).await
        }
        async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
            self.0.update(record).await
        }
        async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
            self.0.remove(id).await
        }
        async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
            self.0.list(filter).await
        }
    }
    let keys = keys_over(Full(MemoryKeys::new(), Arc::default()));
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    assert_eq!(
        send(&AuthLayer::new(keys).layer(who()), with("x-api-key", key))
            .await
            .body,
        "alice"
    );
}

#[tokio::test]
async fn a_refusal_after_a_wait_gives_back_the_permit_too() {
    let keys = keys_over(Scripted::new(Script::Later));
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let good = issue(&keys, NewKey::for_owner("bob")).await;
    keys.revoke(issued.record.id).await.unwrap();
    let deny = Policy::asynchronous("deny", |_, _| async {
        tokio::task::yield_now().await;
        false
    });
    let limit = tower::limit::GlobalConcurrencyLimitLayer::new(1);
    let mut service = ServiceBuilder::new()
        .layer(AuthLayer::new(keys))
        .layer(RequireLayer::new(authenticated()).policy(deny))
        .service(limit.layer(who()));
    for (key, status) in [(issued.key.expose(), 401), (&good, 403), (&good, 403)] {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(with("x-api-key", key))
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        let mut other = limit.layer(who());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(Service::<Request<()>>::poll_ready(&mut other, &mut cx).is_ready());
    }
}

#[tokio::test]
async fn waits_are_spread_so_that_clients_do_not_come_back_at_once() {
    let keys = keys_over(Scripted::new(Script::Fails));
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let clock = clock();
    let service = AuthLayer::new(keys).clock(clock.clone()).layer(who());
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..3 {
        clock.advance(Duration::from_micros(1));
        let answer = send(&service, with("x-api-key", &key)).await;
        waits.insert(answer.header("retry-after").unwrap().to_owned());
    }
    assert_eq!(waits.len(), 3, "{waits:?}");
}

#[tokio::test]
async fn a_carrier_of_ones_own_says_its_scheme_and_its_field() {
    struct Field;
    impl CredentialSource for Field {
        fn take(&self, parts: &mut http::request::Parts) -> Result<Option<Credential>, Rejection> {
            let value = parts.headers.remove("x-acme");
            Ok(value.map(|value| Credential::new(value.as_bytes()).with_scheme(Scheme::Bearer)))
        }
        fn varies_by(&self) -> Option<HeaderName> {
            Some(HeaderName::from_static("x-acme"))
        }
    }
    let (keys, key) = keys().await;
    let door = AuthLayer::new(keys).sources([Source::custom(Field), Source::authorization()]);
    let answer = send(&door.layer(who()), with("x-acme", key)).await;
    assert_eq!(
        (answer.body.as_ref(), answer.header("vary")),
        (&b"alice"[..], Some("x-acme"))
    );
    let answer = send(&door.layer(who()), with("x-acme", "nonsense")).await;
    assert!(answer.challenges()[0].starts_with("Bearer realm=\"api\", error=\"invalid_token\""));
}

#[tokio::test]
async fn the_end_of_an_inner_body_is_seen_through_the_gate() {
    use http_body::Body as _;
    let (keys, key) = keys().await;
    let layer = AuthLayer::new(keys);
    let empty = service_fn(|_: Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(
            http_body_util::Empty::<bytes::Bytes>::new(),
        ))
    });
    let response = layer
        .layer(empty)
        .oneshot(with("x-api-key", &key))
        .await
        .unwrap();
    assert!(response.body().is_end_stream());
    let full = layer
        .layer(who())
        .oneshot(with("x-api-key", &key))
        .await
        .unwrap();
    assert!(!full.body().is_end_stream());
}

#[test]
fn a_mac_is_compared_in_constant_time() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/keys/pepper.rs"));
    let text = text.unwrap();
    let eq = &text[text.find("impl PartialEq for KeyMac").unwrap()..];
    assert!(
        eq[..200].contains("ct_eq"),
        "equality of MACs is left to subtle"
    );
    assert!(!text.contains("derive(PartialEq"), "and is not derived");
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + Sync + Unpin>() {}
    crosses::<ApiKeys>();
    crosses::<ApiKeys<tollgate::keys::Cached<MemoryKeys>>>();
    crosses::<AuthLayer<ApiKeys>>();
    crosses::<RequireLayer>();
    crosses::<tollgate::auth::AuthFailureLimitLayer>();
    crosses::<tollgate::auth::HttpsOnlyLayer>();
    crosses::<Identity>();
    crosses::<Rejection>();
    crosses::<Credential>();
    crosses::<Peppers>();
    crosses::<KeyRecord>();
    crosses::<tollgate::keys::ApiKey>();
    crosses::<tollgate::authorize::Requirement>();
    crosses::<Policy>();
    crosses::<tollgate::network::ClientIp>();
    crosses::<StoreError>();
    crosses::<KeyError>();
    crosses::<tollgate::ConfigError>();
}

#[tokio::test]
async fn a_role_that_was_not_asked_for_is_no_way_around_a_scope() {
    let mut request = get();
    let identity = Identity::for_test().role("a").role("scope:a").build();
    request.extensions_mut().insert(identity);
    request
        .extensions_mut()
        .insert(SocketAddr::from(([127, 0, 0, 1], 1)));
    let layer = RequireLayer::new(scope("a") & !role("b"));
    assert_eq!(send(&layer.layer(who()), request).await.status, 403);
}
