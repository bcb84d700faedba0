//! Nothing of a secret in what the crate prints: rows K1 to K4. A binary of its own,
//! since it needs the process-wide subscriber and panic hook for itself.

#[path = "it/support.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests, which need more of it"
)]
mod support;

use std::fmt::{Debug, Write as _};
use std::panic;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderName, Request};
use tollgate::auth::Source;
use tollgate::auth::jwt::Resolved;
use tollgate::authorize::{Policy, authenticated};
use tollgate::credential::Credential;
use tollgate::jwks::{Algorithm, KeySet};
use tollgate::keys::{KeyMac, NewKey, Peppers};
use tollgate::testing::TestIssuer;
use tollgate::{ApiKeys, AuthLayer, Identity, Jwt, RequireLayer, scope};
use tower::{Layer, ServiceBuilder};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use support::{Script, Scripted, clock, keys_over, send, who, with};

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
    for script in [Script::Now, Script::Later, Script::Fails, Script::Panics] {
        let store = Scripted::new(script);
        let keys = keys_over(store.clone());
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

        let mut mistyped = key.clone();
        mistyped.replace_range(60.., if key.ends_with('0') { "1" } else { "0" });
        let mut requests: Vec<Request<()>> = Vec::new();
        for shown in [
            &key,
            &mistyped,
            &key[5..].to_owned(),
            &format!("{key}=,"),
            &format!("{key}é"),
        ] {
            requests.push(with("x-api-key", shown));
            requests.push(with("authorization", format!("Bearer {shown}")));
            requests.push(with("authorization", format!("Basic {shown}")));
            requests.push(with("cookie", format!("key={shown}")));
            let mut twice = with("x-api-key", shown);
            twice
                .headers_mut()
                .append("x-api-key", shown.as_bytes().try_into().unwrap());
            requests.push(twice);
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
        for request in requests {
            for answer in [
                send(&stack, request.clone()).await,
                send(&strict, request).await,
            ] {
                write!(seen, "{answer:?}").unwrap();
                seen.push_str(&String::from_utf8_lossy(&answer.body));
            }
        }
        write!(seen, "{issued:?} {keys:?} {:?}", issued.record).unwrap();
        secrets.push(secret);
    }
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
