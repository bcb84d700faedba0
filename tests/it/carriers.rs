//! Where a credential may stand, that it is taken out, and that it is one.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::{Empty, Full};
use tollgate::auth::{
    AuthFailureLimitLayer, Authenticate, CredentialSource, HttpsOnlyLayer, Source,
};
use tollgate::clock::Timestamp;
use tollgate::credential::Credential;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::Cause;
use tollgate::{ApiKeys, AuthLayer, Rejection};
use tower::{Layer, service_fn};

use crate::support::{Answer, clock, get, issue, keys_over, send, who, with};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

async fn keys() -> (ApiKeys, String) {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    (keys, key)
}

/// Sends a request through the layer to a service that prints what it got.
async fn seen_behind(layer: AuthLayer<ApiKeys>, request: Request<()>) -> Answer {
    let print = service_fn(|request: Request<()>| async move {
        let seen = format!("{} {:?}", request.uri(), request.headers());
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::from(seen)))
    });
    send(&layer.layer(print), request).await
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[tokio::test]
async fn what_is_behind_the_layer_does_not_see_the_credential() {
    let (keys, key) = keys().await;
    for request in [
        with("x-api-key", &key),
        with("authorization", format!("Bearer {key}")),
        with("authorization", format!("ApiKey {key}")),
    ] {
        let answer = seen_behind(AuthLayer::new(keys.clone()), request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(text(&answer), "/ {}");
    }
}

#[tokio::test]
async fn a_credential_that_is_kept_is_marked_sensitive() {
    let (keys, key) = keys().await;
    let layer = AuthLayer::new(keys).keep_credential();
    let sources = [
        Source::authorization(),
        Source::header(X_API_KEY),
        Source::cookie("key"),
        Source::websocket_protocol("key."),
    ];
    let layer = layer.sources(sources);
    for request in [
        with("x-api-key", &key),
        with("authorization", format!("Bearer {key}")),
        with("cookie", format!("key={key}")),
        with("sec-websocket-protocol", format!("a, key.{key}")),
    ] {
        let (name, line) = request.headers().iter().next().unwrap();
        let (name, line) = (name.clone(), line.clone());
        let kept = service_fn(async |request: Request<()>| {
            let mut response = http::Response::new(Empty::<bytes::Bytes>::new());
            *response.headers_mut() = request.headers().clone();
            Ok::<_, std::convert::Infallible>(response)
        });
        let answer = send(&layer.layer(kept), request).await;
        assert_eq!(answer.headers[&name], line);
        assert!(answer.headers[&name].is_sensitive(), "{name}");
    }
}

#[tokio::test]
async fn a_credential_in_two_places_is_refused_even_if_both_are_good() {
    let (keys, key) = keys().await;
    let sources = [
        Source::authorization(),
        Source::header(X_API_KEY),
        Source::query("key"),
        Source::cookie("key"),
    ];
    let service = AuthLayer::new(keys).sources(sources).layer(who());
    let bearer = format!("Bearer {key}");
    let cookie = format!("key={key}");
    let in_query = format!("/?key={key}");
    let both = |name: &'static str, value: &str, uri: &str, more: Option<(HeaderName, &str)>| {
        let mut request = with(name, value);
        *request.uri_mut() = uri.parse().unwrap();
        if let Some((name, value)) = more {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    };
    for request in [
        both("x-api-key", &key, "/", Some((X_API_KEY, &key))),
        both("x-api-key", &key, "/", Some((AUTHORIZATION, &bearer))),
        both("authorization", &bearer, &in_query, None),
        both("authorization", &bearer, "/", Some((COOKIE, &cookie))),
        both("cookie", &cookie, "/", Some((COOKIE, &cookie))),
        both("cookie", &cookie, &in_query, None),
        both("x-other", "", &format!("/?key={key}&key={key}"), None),
        both("x-api-key", &key, "/", Some((AUTHORIZATION, "Basic dTpw"))),
    ] {
        let answer = send(&service, request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.code(), "credentials_ambiguous");
    }
}

#[tokio::test]
async fn a_proxy_may_log_in_for_itself_if_that_is_configured() {
    let (keys, key) = keys().await;
    let service = AuthLayer::new(keys).ignore_schemes(["Basic"]).layer(who());
    let mut request = with("x-api-key", &key);
    request
        .headers_mut()
        .append(AUTHORIZATION, "basic dTpw".parse().unwrap());
    assert_eq!(send(&service, request).await.status, StatusCode::OK);
    // Whatever it is, as if it were not there.
    for alone in [&b"Basic dTpw"[..], b"Basic \xff"] {
        let answer = send(&service, with("authorization", alone)).await;
        assert_eq!(answer.code(), "credentials_missing");
    }
}

#[tokio::test]
async fn a_key_in_the_uri_is_refused_good_or_not() {
    let (keys, key) = keys().await;
    let service = AuthLayer::new(keys).layer(who());
    let bad = key.replace(&key[25..30], "00000");
    let mut answers = Vec::new();
    for uri in [
        format!("/?api_key={key}"),
        format!("/?api_key={bad}"),
        format!("/a?x=1&whatever={key}"),
        "/?access_token=anything".into(),
    ] {
        let mut request = get();
        *request.uri_mut() = uri.parse().unwrap();
        let answer = send(&service, request).await;
        assert_eq!(answer.code(), "credential_in_uri", "{uri}");
        answers.push(answer.wire());
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    // Beside a good one it is refused too.
    let mut request = with("x-api-key", &key);
    *request.uri_mut() = format!("/?k={key}").parse().unwrap();
    assert_eq!(
        send(&service, request).await.status,
        StatusCode::BAD_REQUEST
    );
}

/// Whoever authenticates says what is one of theirs, however short it is.
#[tokio::test]
async fn a_credential_of_ones_own_in_the_uri_is_refused() {
    struct Short;
    impl Authenticate for Short {
        fn authenticate(&self, _: &Credential, _: Timestamp) -> tollgate::auth::Answer {
            tollgate::auth::Answer::NotMine
        }

        fn claims(&self, text: &[u8]) -> bool {
            text == b"shop_1"
        }
    }
    let service = AuthLayer::new(Short).layer(who());
    let mut request = get();
    *request.uri_mut() = "/?k=shop_1".parse().unwrap();
    assert_eq!(send(&service, request).await.code(), "credential_in_uri");
}

/// Unless it says that it looks for itself, whoever authenticates gets to see nothing else.
#[tokio::test]
async fn a_credential_that_is_not_well_formed_reaches_nobody_who_relies_on_it() {
    struct Trusting;
    impl Authenticate for Trusting {
        fn authenticate(&self, credential: &Credential, _: Timestamp) -> tollgate::auth::Answer {
            assert!(!credential.expose().contains(&b','));
            tollgate::auth::Answer::NotMine
        }

        fn claims(&self, _: &[u8]) -> bool {
            false
        }
    }
    let (keys, _) = keys().await;
    let both = AuthLayer::new(keys.or(Trusting)).layer(who());
    let alone = AuthLayer::new(Trusting).layer(who());
    for (shown, code) in [("a,b", "request_malformed"), ("ab", "credential_invalid")] {
        let answer = send(&alone, with("x-api-key", shown)).await;
        assert_eq!(answer.code(), code);
        let answer = send(&both, with("x-api-key", shown)).await;
        assert_eq!(answer.code(), code);
    }
}

#[tokio::test]
async fn a_key_in_the_query_is_cut_out_of_the_uri() {
    let (keys, key) = keys().await;
    let layer = AuthLayer::new(keys).sources([Source::query("key")]);
    for (uri, seen) in [
        (format!("/a/b?key={key}"), "/a/b"),
        (format!("/a?x=1&key={key}&y=%20"), "/a?x=1&y=%20"),
        (
            format!("http://h.example:81/a?key={key}&x"),
            "http://h.example:81/a?x",
        ),
    ] {
        let mut request = get();
        *request.uri_mut() = uri.parse().unwrap();
        let answer = seen_behind(layer.clone(), request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(text(&answer), format!("{seen} {{}}"));
        assert_eq!(answer.header("cache-control"), Some("private"));
        assert_eq!(answer.header("vary"), None);
    }
    let mut request = get();
    *request.uri_mut() = "/?key=".parse().unwrap();
    assert_eq!(
        seen_behind(layer, request).await.code(),
        "request_malformed"
    );
}

#[tokio::test]
async fn a_cookie_is_taken_out_and_the_others_stay() {
    let (keys, key) = keys().await;
    let layer = AuthLayer::new(keys).sources([Source::cookie("key")]);
    let answer = seen_behind(
        layer.clone(),
        with("cookie", format!("a=1; key={key}; b=2")),
    )
    .await;
    assert_eq!(text(&answer), "/ {\"cookie\": \"a=1; b=2\"}");
    assert_eq!(answer.header("vary"), Some("cookie"));
    let answer = seen_behind(layer.clone(), with("cookie", format!("key={key}"))).await;
    assert_eq!(text(&answer), "/ {}");
    let answer = seen_behind(layer, with("cookie", "monkey=1; keys=2")).await;
    assert_eq!(answer.code(), "credentials_missing");
}

#[tokio::test]
async fn cookie_value_may_be_quoted() {
    let (keys, key) = keys().await;
    let layer = AuthLayer::new(keys).sources([Source::cookie("key")]);
    for (value, status) in [
        (format!("\"{key}\""), 200),
        (format!("\"{key}"), 400),
        (format!("{key}\""), 400),
        (format!("\"\"{key}\"\""), 400),
        ("\"\"".into(), 400),
        ("\"".into(), 400),
    ] {
        let answer = seen_behind(layer.clone(), with("cookie", format!("key={value}"))).await;
        assert_eq!(answer.status, status, "{value}");
    }
    let beside = with("cookie", format!("a=\"1\"; key=\"{key}\"; b=2"));
    let answer = seen_behind(layer, beside).await;
    assert_eq!(text(&answer), "/ {\"cookie\": \"a=\\\"1\\\"; b=2\"}");
}

#[tokio::test]
async fn caches_are_kept_off_unless_the_handler_knows_better() {
    let (keys, key) = keys().await;
    let layer = AuthLayer::new(keys);
    let answer_of = async |request: Request<()>, set: &'static [(&'static str, &'static str)]| {
        let inner = service_fn(move |_: Request<()>| async move {
            let mut response = http::Response::new(Empty::<bytes::Bytes>::new());
            for (name, value) in set {
                response.headers_mut().append(*name, value.parse().unwrap());
            }
            Ok::<_, std::convert::Infallible>(response)
        });
        send(&layer.layer(inner), request).await
    };
    let answer = answer_of(with("x-api-key", &key), &[]).await;
    assert_eq!(answer.header("cache-control"), Some("private"));
    assert_eq!(answer.header("vary"), Some("x-api-key"));

    let set = &[("cache-control", "public, max-age=60"), ("vary", "accept")];
    let answer = answer_of(with("x-api-key", &key), set).await;
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["accept", "x-api-key"]);

    for known in [&[("vary", "accept, X-Api-Key")], &[("vary", "*")]] {
        let answer = answer_of(with("x-api-key", &key), known).await;
        assert_eq!(answer.headers.get_all("vary").iter().count(), 1);
    }
    // RFC 9111 §3.5 protects these.
    let answer = answer_of(with("authorization", format!("Bearer {key}")), &[]).await;
    assert!(answer.headers.is_empty(), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_source_of_ones_own_counts_like_the_others() {
    struct FirstSegment;
    impl CredentialSource for FirstSegment {
        fn take(&self, parts: &mut http::request::Parts) -> Result<Option<Credential>, Rejection> {
            let path = parts.uri.path().to_owned();
            let Some((key, rest)) = path[1..].split_once('/') else {
                return Ok(None);
            };
            parts.uri = format!("/{rest}").parse().unwrap();
            Ok(Some(Credential::new(key.as_bytes())))
        }
    }
    let (keys, key) = keys().await;
    let sources = [Source::custom(FirstSegment), Source::authorization()];
    let layer = AuthLayer::new(keys).sources(sources);
    let mut request = get();
    *request.uri_mut() = format!("/{key}/orders").parse().unwrap();
    let answer = seen_behind(layer.clone(), request).await;
    assert_eq!(text(&answer), "/orders {}");

    let mut request = with("authorization", format!("Bearer {key}"));
    *request.uri_mut() = format!("/{key}/orders").parse().unwrap();
    assert_eq!(
        seen_behind(layer, request).await.code(),
        "credentials_ambiguous"
    );
}

#[tokio::test]
async fn preflights_pass_only_if_that_is_configured_and_their_credential_is_not_read() {
    let (keys, _) = keys().await;
    let preflight = || {
        let mut request = with("origin", "https://app.example.com");
        *request.method_mut() = Method::OPTIONS;
        let headers = request.headers_mut();
        headers.insert("access-control-request-method", "POST".parse().unwrap());
        headers.insert("authorization", "Bearer {nonsense}".parse().unwrap());
        request
    };
    let layer = AuthLayer::new(keys);
    let answer = send(&layer.clone().layer(who()), preflight()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let open = layer.allow_preflight().layer(who());
    let answer = send(&open, preflight()).await;
    assert_eq!(answer.body, "nobody");
    // A mere OPTIONS is none.
    let mut request = get();
    *request.method_mut() = Method::OPTIONS;
    assert_eq!(send(&open, request).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_preflight_takes_no_credential_inside() {
    let (keys, key) = keys().await;
    let sources = [
        Source::authorization(),
        Source::header(X_API_KEY),
        Source::query("key"),
        Source::cookie("key"),
        Source::websocket_protocol("key."),
    ];
    let door = AuthLayer::new(keys).sources(sources).allow_preflight();
    let mut request = with("access-control-request-method", "POST");
    *request.method_mut() = Method::OPTIONS;
    *request.uri_mut() = format!("/a?x=1&key={key}&key=2").parse().unwrap();
    // More than may be shown in other requests, and what is no credential at all.
    for (name, value) in [
        ("authorization", format!("Bearer {key}")),
        ("authorization", "Bearer {nonsense}".into()),
        ("x-api-key", key.clone()),
        ("x-api-key", String::new()),
        ("cookie", format!("a=1; key={key}; key=3")),
        ("sec-websocket-protocol", format!("b, key.{key}, key.")),
        ("origin", "https://app.example.com".into()),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = seen_behind(door.clone(), request.clone()).await;
    let seen = text(&answer);
    assert!(seen.starts_with("/a?x=1 "), "{seen}");
    for left in [
        "\"cookie\": \"a=1\"",
        "\"sec-websocket-protocol\": \"b\"",
        "\"origin\"",
    ] {
        assert!(seen.contains(left), "{seen}");
    }
    for gone in [&key[10..], "authorization", "x-api-key", "nonsense"] {
        assert!(!seen.contains(gone), "{seen}");
    }
    // What is kept is marked; nobody cuts it out of the URI then.
    *request.uri_mut() = "/a".parse().unwrap();
    let answer = seen_behind(door.clone().keep_credential(), request).await;
    assert!(!text(&answer).contains(&key[10..]), "{}", text(&answer));
    assert_eq!(text(&answer).matches("Sensitive").count(), 6);
    // A proxy's own credential is the proxy's.
    let mut request = with("authorization", "Basic dTpw");
    *request.method_mut() = Method::OPTIONS;
    for name in ["origin", "access-control-request-method"] {
        request.headers_mut().append(name, "x".parse().unwrap());
    }
    let answer = seen_behind(door.ignore_schemes(["Basic"]), request).await;
    assert!(text(&answer).contains("\"authorization\": Sensitive"));
}

#[tokio::test]
async fn a_credential_in_a_larger_text_is_held_to_the_cap() {
    let (keys, key) = keys().await;
    let long = format!("{key}{}", "x".repeat(40));
    let sources = || {
        [
            Source::query("key"),
            Source::cookie("key"),
            Source::websocket_protocol("key."),
        ]
    };
    let service = AuthLayer::new(keys)
        .sources(sources())
        .max_credential_len(key.len())
        .layer(who());
    for (shown, code) in [(&key, None), (&long, Some(Cause::TooLong))] {
        let mut in_query = get();
        *in_query.uri_mut() = format!("/?key={shown}").parse().unwrap();
        for request in [
            in_query,
            with("cookie", format!("key={shown}")),
            with("sec-websocket-protocol", format!("key.{shown}")),
        ] {
            let answer = send(&service, request).await;
            let refused = answer.rejection.map(|rejection| rejection.cause());
            assert_eq!(refused, code);
        }
    }
}

#[tokio::test]
async fn a_door_inside_another_asks_for_what_it_reads_itself() {
    let (keys, key) = keys().await;
    let x_admin_key = HeaderName::from_static("x-admin-key");
    let inner = |sources: Vec<Source>| AuthLayer::new(keys.clone()).sources(sources);
    let outer = AuthLayer::new(keys.clone());
    let admin = inner(vec![Source::header(x_admin_key.clone())]).layer(who());
    // What the client forgot is the client's to mend.
    let answer = send(&outer.layer(admin.clone()), with("x-api-key", &key)).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (401, "credentials_missing")
    );
    let mut both = with("x-api-key", &key);
    both.headers_mut()
        .insert(x_admin_key.clone(), key.parse().unwrap());
    assert_eq!(send(&outer.layer(admin), both).await.body, "alice");
    // What the outer door has taken away is the operator's.
    for sources in [
        vec![Source::header(X_API_KEY)],
        vec![Source::header(x_admin_key), Source::header(X_API_KEY)],
    ] {
        let twice = outer.layer(inner(sources.clone()).layer(who()));
        assert_eq!(
            send(&twice, with("x-api-key", &key)).await.code(),
            "internal"
        );
        let kept = outer.clone().keep_credential();
        let kept = kept.layer(inner(sources).layer(who()));
        assert_eq!(send(&kept, with("x-api-key", &key)).await.body, "alice");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_when_they_are_made() {
    let keys = || keys_over(MemoryKeys::new());
    assert!(AuthLayer::new(keys()).try_sources([]).is_err());
    assert!(
        AuthLayer::new(keys())
            .try_ignore_schemes(["bearer"])
            .is_err()
    );
    assert!(AuthLayer::new(keys()).try_ignore_schemes(["Basic"]).is_ok());
    assert!(HttpsOnlyLayer::new().try_burn(keys(), 0).is_err());
    assert!(HttpsOnlyLayer::new().try_burn(keys(), 1).is_ok());
    assert!(AuthFailureLimitLayer::try_failures_per_minute(0).is_err());
    let throttle = AuthFailureLimitLayer::try_failures_per_minute(1).unwrap();
    assert!(throttle.clone().try_burst(0).is_err());
    assert!(throttle.try_burst(1).is_ok());
}

#[tokio::test]
async fn a_browser_s_websocket_shows_its_key_as_a_protocol() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let sources = [Source::authorization(), Source::websocket_protocol("key.")];
    let door = AuthLayer::new(keys).clock(clock()).sources(sources);
    let left = tower::service_fn(async |request: Request<()>| {
        let left = request.headers().get_all("sec-websocket-protocol").iter();
        let left: Vec<_> = left.map(|line| line.to_str().unwrap()).collect();
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::from(
            left.join("|"),
        )))
    });
    let service = tower::Layer::layer(&door, left);
    let ask = async |lines: &[&str]| {
        let mut request = Request::get("/");
        for line in lines {
            request = request.header("sec-websocket-protocol", *line);
        }
        send(&service, request.body(()).unwrap()).await
    };
    let marked = format!("key.{key}");
    for (lines, left) in [
        (&["orders.v1", &marked][..], "orders.v1"),
        (&[&format!("a, {marked} ,b")], "a, b"),
        (&[&marked], ""),
    ] {
        let answer = ask(lines).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, left.as_bytes())
        );
        assert_eq!(answer.header("vary"), Some("sec-websocket-protocol"));
        assert_eq!(answer.header("cache-control"), Some("private"));
    }
    for (lines, code) in [
        (&["orders.v1"][..], "credentials_missing"),
        (&[&marked, &marked], "credentials_ambiguous"),
        (&["key."], "request_malformed"),
        (&["key.acme_live_x"], "credential_invalid"),
        (&["key.a\"b"], "request_malformed"),
    ] {
        assert_eq!(ask(lines).await.code(), code);
    }
    for bad in ["", "key ", "key,", "ké"] {
        assert!(Source::try_websocket_protocol(bad).is_err());
    }
}
