//! Nothing of a secret in what the crate prints: rows K1 to K4. A binary of its own,
//! since it needs the process-wide subscriber and panic hook for itself.

#[path = "it/support.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests, which need more of it"
)]
mod support;

use std::fmt::{Debug, Write as _};
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderName, Request};
use tollgate::auth::jwt::Resolved;
use tollgate::auth::{AuthFailureLimitLayer, CredentialSource, HttpsOnlyLayer, Source};
use tollgate::authorize::{Policy, authenticated};
use tollgate::credential::Credential;
use tollgate::jwks::{Algorithm, KeySet};
use tollgate::keys::{Cached, IssuedKey, KeyError, KeyMac, NewKey, Peppers, Rotation};
use tollgate::testing::TestIssuer;
use tollgate::{ApiKeys, AuthLayer, Identity, Jwt, Rejection, RequireLayer, scope};
use tower::{Layer, ServiceBuilder};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use support::{Script, Scripted, clock, keys_over, peppers, send, who, with};

/// Writes down every event and span, with all fields, at every level.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<String>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut Writer(&mut self.0.lock().unwrap()));
    }

    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: Context<'_, S>,
    ) {
        attributes.record(&mut Writer(&mut self.0.lock().unwrap()));
    }
}

struct Writer<'a>(&'a mut String);

impl Visit for Writer<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        writeln!(self.0, "{field}={value:?}").unwrap();
    }
}

/// Looks for the secret, for its first characters, and for its hex.
fn assert_clean(text: &str, secret: &str, what: &str) {
    let hex: String = secret
        .bytes()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for canary in [secret, &secret[..8], &secret[secret.len() - 8..], &hex] {
        assert!(
            !text.contains(canary),
            "{what} has {canary} of {secret} in it:\n{text}"
        );
    }
}

#[tokio::test]
async fn no_fault_prints_the_secret() {
    let capture = Capture::default();
    let subscriber = tracing_subscriber::registry().with(capture.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let panics = Arc::new(Mutex::new(String::new()));
    let printed = Arc::clone(&panics);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        writeln!(printed.lock().unwrap(), "{info}").unwrap()
    }));

    let mut secrets = Vec::new();
    let mut seen = String::new();
    for script in [
        Script::Now,
        Script::Later,
        Script::Fails,
        Script::Hangs,
        Script::Panics,
    ] {
        let store = Scripted::new(script);
        let moment = Duration::from_millis(1);
        let keys = keys_over(store.clone()).store_timeout(moment);
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let key = issued.key.expose().to_owned();
        let secret = key[23..].to_owned();
        let panicky = Policy::new("panicky", |_, parts: &http::request::Parts| {
            assert!(!parts.headers.contains_key("x-panic"), "policy panics");
            !parts.headers.contains_key("x-deny")
        });
        let sources = [
            Source::authorization(),
            Source::header(HeaderName::from_static("x-api-key")),
            Source::query("key"),
            Source::cookie("key"),
            Source::websocket_protocol("key."),
            Source::custom(InPath),
        ];
        let door = AuthLayer::new(keys.clone()).clock(clock()).sources(sources);
        let stack = ServiceBuilder::new()
            .layer(door.clone())
            .layer(RequireLayer::new(authenticated()).policy(panicky))
            .service(who());
        let strict = ServiceBuilder::new()
            .layer(door.keep_credential())
            .layer(RequireLayer::new(scope("none")))
            .service(who());

        let cached = ApiKeys::new(Cached::new(store.clone()).timeout(moment), peppers())
            .prefix("acme")
            .clock(clock());
        let behind_a_cache = AuthLayer::new(cached).layer(who());
        // In clear, from a network that soon has no failures left.
        let guarded = ServiceBuilder::new()
            .layer(AuthFailureLimitLayer::failures_per_minute(1))
            .layer(AuthLayer::new(keys.clone()).clock(clock()))
            .service(who());
        let in_clear = HttpsOnlyLayer::new()
            .burn(keys.clone(), 100)
            .layer(guarded.clone());

        let elsewhere = keys_over(Scripted::new(Script::Now));
        let stranger = elsewhere.issue(NewKey::for_owner("eve")).await.unwrap();
        let stranger = stranger.key.expose().to_owned();
        secrets.push(stranger[23..].to_owned());
        let mut mistyped = key.clone();
        mistyped.replace_range(60.., if key.ends_with('0') { "1" } else { "0" });
        let mut requests: Vec<Request<()>> = Vec::new();
        for shown in [
            &key,
            &mistyped,
            &key[5..].to_owned(),
            &format!("{key}=,"),
            &format!("{key}é"),
            &stranger,
        ] {
            requests.push(with("x-api-key", shown));
            requests.push(with("authorization", format!("Bearer {shown}")));
            requests.push(with("authorization", format!("Basic {shown}")));
            requests.push(with("cookie", format!("key={shown}")));
            requests.push(with("authorization", shown));
            requests.push(with("authorization", format!("Bearer: {shown}")));
            requests.push(with("sec-websocket-protocol", format!("a, key.{shown}")));
            requests.push(with("x-in-path", shown));
            let mut twice = with("x-api-key", shown);
            twice
                .headers_mut()
                .append("x-api-key", shown.as_bytes().try_into().unwrap());
            requests.push(twice);
            let mut in_two_places = with("x-api-key", shown);
            let cookie = format!("key={shown}");
            let cookie = cookie.as_bytes().try_into().unwrap();
            in_two_places.headers_mut().insert("cookie", cookie);
            requests.push(in_two_places);
            if let Ok(uri) = format!("/?key={shown}").parse() {
                let mut request = Request::new(());
                *request.uri_mut() = uri;
                requests.push(request);
            }
            if let Ok(uri) = format!("/?other={shown}").parse() {
                let mut request = Request::new(());
                *request.uri_mut() = uri;
                requests.push(request);
            }
        }
        for flag in ["x-panic", "x-deny"] {
            let mut request = with("x-api-key", &key);
            request.headers_mut().insert(flag, "1".parse().unwrap());
            requests.push(request);
        }
        let mut from_somewhere = Vec::new();
        for request in requests {
            from_somewhere.push(request.clone());
            let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
            let last = from_somewhere.last_mut().unwrap();
            last.extensions_mut().insert(peer);
            for answer in [
                send(&stack, request.clone()).await,
                send(&strict, request.clone()).await,
                send(&behind_a_cache, request).await,
            ] {
                write!(seen, "{answer:?}").unwrap();
                seen.push_str(&String::from_utf8_lossy(&answer.body));
            }
        }
        // The last, since it ends the key.
        for request in from_somewhere {
            let mut explicit = request.clone();
            explicit
                .extensions_mut()
                .insert(tollgate::network::Transport::Plain);
            for answer in [
                send(&guarded, request.clone()).await,
                send(&in_clear, request).await,
                send(&in_clear, explicit).await,
            ] {
                write!(seen, "{answer:?}").unwrap();
                seen.push_str(&String::from_utf8_lossy(&answer.body));
            }
        }
        tell_errors(&keys, &issued, &mut seen).await;
        write!(seen, "{issued:?} {keys:?} {:?}", issued.record).unwrap();
        secrets.push(secret);
    }
    renew_in_vain(&mut secrets, &mut seen).await;
    extract_on_axum(&mut secrets, &mut seen).await;
    show_tokens(&mut secrets, &mut seen).await;
    panic::set_hook(Box::new(move |info| before(info)));

    // What is missing is named, for the one who has forgotten it.
    let lost = RequireLayer::new(scope("a")).layer(who());
    assert_eq!(send(&lost, Request::new(())).await.status, 500);

    let log = capture.0.lock().unwrap().clone();
    assert!(log.contains("put an AuthLayer outside"), "{log}");
    assert!(log.contains("credential_invalid"), "the log was captured");
    // What a store has to say is for the operator, and for nobody else.
    assert!(log.contains("connection refused"), "{log}");
    assert!(!seen.contains("connection refused"), "{seen}");
    for kind in [
        "store_timeout",
        "network_throttled",
        "plain_transport",
        "transport_unknown",
        "a key stays under an old pepper",
        "not_token68",
        "several_carriers",
    ] {
        assert!(log.contains(kind), "{kind} was meant to happen: {log}");
    }
    assert!(
        panics.lock().unwrap().contains("policy panics"),
        "the panics were captured"
    );
    for secret in &secrets {
        assert_clean(&log, secret, "the log");
        assert_clean(&seen, secret, "an answer");
        assert_clean(&panics.lock().unwrap(), secret, "a panic");
    }
}

/// A place that no carrier of ours is.
struct InPath;

impl CredentialSource for InPath {
    fn take(&self, parts: &mut Parts) -> Result<Option<Credential>, Rejection> {
        let value = parts.headers.remove("x-in-path");
        Ok(value.map(|value| Credential::new(value.as_bytes())))
    }
}

/// The errors that whoever manages keys gets to see, with all that stands behind them.
async fn tell_errors(keys: &ApiKeys<Scripted>, issued: &IssuedKey, seen: &mut String) {
    let id = issued.record.id;
    keys.store().fail_updates(true);
    let managed = async {
        let mut errors: Vec<KeyError> = Vec::new();
        errors.extend(keys.get(id).await.err());
        errors.extend(keys.revoke(id).await.err());
        errors.extend(keys.disable(id).await.err());
        errors.extend(keys.rotate(id, Rotation::at_once()).await.err());
        let new = || NewKey::for_owner("bob");
        errors.extend(keys.issue(new().scopes(["a b"])).await.err());
        errors.extend(keys.issue(new().environment("none")).await.err());
        errors.extend(keys.report_leaked(issued.key.expose()).await.err());
        errors
    };
    let managed = AssertUnwindSafe(tokio::time::timeout(Duration::from_millis(20), managed));
    let Ok(Ok(errors)) = managed.catch_unwind().await else {
        return; // a store that hangs or panics
    };
    for error in &errors {
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = next {
            // The words of a store are its own; the canary is looked for in all others.
            if error.to_string() != "connection refused" {
                write!(seen, "{error}").unwrap();
            }
            next = error.source();
        }
    }
}

/// A good key under an old pepper, whose store cannot be written to.
async fn renew_in_vain(secrets: &mut Vec<String>, seen: &mut String) {
    let store = Scripted::new(Script::Later);
    let issued = keys_over(store.clone())
        .issue(NewKey::for_owner("ann"))
        .await;
    let key = issued.unwrap().key.expose().to_owned();
    store.fail_updates(true);
    let newer = Peppers::new(2, [9; 32]).unwrap();
    let newer = newer.with_previous(1, [7; 32]).unwrap();
    let keys = ApiKeys::new(store, newer).prefix("acme").clock(clock());
    let answer = send(&AuthLayer::new(keys).layer(who()), with("x-api-key", &key)).await;
    assert_eq!(answer.status, 200);
    write!(seen, "{answer:?}").unwrap();
    secrets.push(key[23..].to_owned());
}

/// Handlers of axum that want to know more than there is.
#[cfg(feature = "axum")]
async fn extract_on_axum(secrets: &mut Vec<String>, seen: &mut String) {
    use axum::routing::get;

    let keys = keys_over(Scripted::new(Script::Now));
    let key = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    let key = key.key.expose().to_owned();
    let claims = async |_: tollgate::Claims<u8>| "claims";
    let identity = async |identity: Identity| format!("{identity:?}");
    let router = axum::Router::new()
        .route("/claims", get(claims))
        .route("/me", get(identity))
        .layer(AuthLayer::new(keys).clock(clock()))
        .route("/lost", get(identity));
    for path in ["/claims", "/me", "/lost", "/none"] {
        let request = Request::get(path).header("x-api-key", &key);
        let request = request.body(axum::body::Body::empty()).unwrap();
        let answer = send(&router, request).await;
        write!(seen, "{answer:?}").unwrap();
        seen.push_str(&String::from_utf8_lossy(&answer.body));
    }
    secrets.push(key[23..].to_owned());
}

#[cfg(not(feature = "axum"))]
async fn extract_on_axum(_: &mut Vec<String>, _: &mut String) {}

/// Tokens, good and bad in every way; their signatures are the secrets.
async fn show_tokens(secrets: &mut Vec<String>, seen: &mut String) {
    let authority = TestIssuer::new("https://id.example.com/");
    let issuer = || {
        Jwt::issuer(authority.url())
            .audience("api")
            .keys(authority.keys())
    };
    let panicky = issuer().resolve_with(async |identity: Identity| -> Resolved {
        panic!("the hook panics about {identity:?}")
    });
    let good = || authority.token("alice").audience("api");
    for jwt in [issuer().build().unwrap(), panicky.build().unwrap()] {
        let service = AuthLayer::new(jwt.clone()).layer(who());
        for token in [
            good().sign(),
            good().audience("other").sign(),
            good().expired(Duration::from_secs(600)).sign(),
            good().header("kid", "unknown").sign(),
            good().header("crit", "x").sign(),
            good().claim("sub", "").sign(),
            good().claim("exp", "x").sign(),
            format!("{}A", good().sign()),
        ] {
            for _ in 0..2 {
                let answer = send(&service, with("authorization", format!("Bearer {token}"))).await;
                write!(seen, "{answer:?} {jwt:?}").unwrap();
                seen.push_str(&String::from_utf8_lossy(&answer.body));
            }
            secrets.push(token.rsplit_once('.').unwrap().1.to_owned());
        }
    }
    let secret = "an-hmac-secret-of-at-least-32-bytes";
    let keys = KeySet::from_secret(Algorithm::Hs256, secret).unwrap();
    write!(seen, "{keys:?} {:?}", issuer().keys(keys.clone())).unwrap();
    write!(seen, "{:?}", KeySet::from_secret(Algorithm::Hs512, secret)).unwrap();
    secrets.push(secret.to_owned());
}

#[tokio::test]
async fn no_public_type_prints_what_it_hides() {
    const PEPPER: &[u8; 32] = b"pepper-pepper-pepper-pepper-1234";
    let peppers = Peppers::new(1, PEPPER).unwrap();
    let keys = ApiKeys::in_memory(peppers.clone()).prefix("acme");
    let issued = keys
        .issue(NewKey::for_owner("alice").metadata("note", "private"))
        .await
        .unwrap();
    let key = issued.key.expose();
    let record = keys.get(issued.record.id).await.unwrap().unwrap();
    let layer = AuthLayer::new(keys.clone());
    let service = layer.layer(who());
    let mut text = String::new();
    write!(text, "{layer:?}").unwrap();
    write!(
        text,
        "{:?} {:?} {:?}",
        issued,
        issued.key,
        issued.key.hint()
    )
    .unwrap();
    write!(text, "{keys:?} {peppers:?} {record:?}").unwrap();
    write!(text, "{:?}", Credential::new(key.as_bytes())).unwrap();
    write!(text, "{:?}", KeyMac::from_bytes([b'p'; 32])).unwrap();
    write!(text, "{:?}", Peppers::new(1, &PEPPER[..9]).unwrap_err()).unwrap();
    let answer = send(&service, with("x-api-key", key)).await;
    write!(text, "{answer:?}").unwrap();
    assert_clean(&text, &key[23..], "a Debug");
    assert!(!text.contains("pepper-p"), "{text}");
    let mac = record.mac.as_bytes();
    assert!(!text.contains(&format!("{mac:?}")), "{text}");
}

/// Types that can be printed as text must be listed here, and have nothing to hide.
#[test]
fn a_key_has_no_display() {
    trait NotDisplay {
        const DISPLAY: bool = false;
    }
    impl<T> NotDisplay for T {}
    struct Probe<T>(std::marker::PhantomData<T>);
    impl<T: std::fmt::Display> Probe<T> {
        #[allow(
            dead_code,
            reason = "it stands in front of the trait's, where it applies"
        )]
        const DISPLAY: bool = true;
    }
    const { assert!(Probe::<String>::DISPLAY) };
    const { assert!(!Probe::<tollgate::keys::ApiKey>::DISPLAY) };
    const { assert!(!Probe::<Credential>::DISPLAY) };
    const { assert!(!Probe::<Peppers>::DISPLAY) };
}
