//! Behaviour that a [`Tollgate`] has and nested layers do not; all else is tested with both forms.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use tollgate::auth::HttpsOnlyLayer;
use tollgate::authorize::authenticated;
use tollgate::keys::NewKey;
use tollgate::limit::{KeyBy, Quota, RateLimitLayer};
use tollgate::rejection::{Cause, Reason};
use tollgate::respond::Restyled;
use tollgate::usage::Usage;
use tollgate::{AuthLayer, Rejection, RequireLayer, Tollgate, UsageLayer, role};
use tower::{Layer, ServiceExt};

use crate::support::{Script, Scripted, get, issue, keys_over, send, who, with};

/// A style that counts how often it is asked for.
fn style(asked: &Arc<AtomicUsize>) -> impl Fn(&Rejection) -> Restyled + use<> {
    let asked = Arc::clone(asked);
    move |rejection| {
        asked.fetch_add(1, Ordering::SeqCst);
        let id = rejection.request_id().unwrap_or("no id");
        let text = format!("{} {id}", rejection.reason().code());
        Restyled::new("text/plain".parse().unwrap(), text)
    }
}

#[tokio::test]
async fn rejection_is_rendered_once_in_the_style_of_the_auth_layer() {
    for script in [Script::Now, Script::Later] {
        let keys = keys_over(Scripted::new(script));
        let key = issue(&keys, NewKey::for_owner("alice")).await;
        let asked = Arc::default();
        let auth = AuthLayer::new(keys)
            .realm("shop")
            .request_id(|_| Some("id-7".into()))
            .respond_with(style(&asked));
        let layer = Tollgate::new((auth, RequireLayer::new(role("admin"))));
        let answer = send(&layer.layer(who()), with("x-api-key", &key)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_eq!(answer.body, "forbidden id-7");
        assert_eq!(answer.header("vary"), Some("x-api-key"));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let answer = send(&layer.layer(who()), get()).await;
        assert_eq!(answer.body, "credentials_missing id-7");
        assert_eq!(answer.challenges()[0], "Bearer realm=\"shop\"");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn layer_outside_of_the_auth_layer_rejects_in_its_style() {
    let asked = Arc::default();
    let auth = || {
        let keys = keys_over(Scripted::new(Script::Now));
        AuthLayer::new(keys).optional().respond_with(style(&asked))
    };
    let limit = RateLimitLayer::new(Quota::per_hour(1)).key(KeyBy::network());
    let service = Tollgate::new((limit, auth())).layer(who());
    assert_eq!(send(&service, get()).await.body, "nobody");
    assert_eq!(send(&service, get()).await.body, "rate_limited no id");
    // A style of its own goes first.
    let own = HttpsOnlyLayer::new()
        .respond_with(|_: &Rejection| Restyled::new("text/plain".parse().unwrap(), "own"));
    let service = Tollgate::new((own, auth())).layer(who());
    assert_eq!(send(&service, get()).await.body, "own");
}

#[tokio::test]
async fn absent_layers_let_every_request_pass() {
    let keys = keys_over(Scripted::new(Script::Now));
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let limit = |on: bool| on.then(|| RateLimitLayer::new(Quota::per_hour(1)));
    for (is_on, second) in [(false, 200), (true, 429)] {
        let layer = Tollgate::new(((), (AuthLayer::new(keys.clone()), limit(is_on))));
        let service = layer.layer(who());
        assert_eq!(send(&service, with("x-api-key", &key)).await.status, 200);
        let answer = send(&service, with("x-api-key", &key)).await;
        assert_eq!(answer.status, second);
    }
}

#[tokio::test]
async fn rejection_is_exposed_only_if_something_outside_needs_it() {
    let keys = keys_over(Scripted::new(Script::Now));
    let stack = || (UsageLayer::new(Usage::new()), AuthLayer::new(keys.clone()));
    let response = Tollgate::new(stack()).layer(who()).oneshot(get()).await;
    assert!(response.unwrap().extensions().get::<Rejection>().is_none());
    // In the request, or by a layer of this crate outside.
    let exposed = send(&Tollgate::new(stack()).layer(who()), get()).await;
    assert_eq!(exposed.rejection.unwrap().cause(), Cause::NothingShown);
    let outer = UsageLayer::new(Usage::new());
    let nested = outer.layer(Tollgate::new(stack()).layer(who()));
    let response = nested.oneshot(get()).await.unwrap();
    assert!(response.extensions().get::<Rejection>().is_some());
}

#[tokio::test]
async fn stacks_nest_like_layers() {
    let keys = keys_over(Scripted::new(Script::Later));
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let (usage, asked) = (Usage::new(), Arc::default());
    let auth = AuthLayer::new(keys).respond_with(style(&asked));
    let outer = Tollgate::new((UsageLayer::new(usage.clone()), auth));
    let inner = Tollgate::new((
        RequireLayer::new(authenticated()),
        RateLimitLayer::new(Quota::per_hour(1)),
    ));
    let service = outer.layer(inner.layer(who()));
    assert_eq!(send(&service, with("x-api-key", &key)).await.body, "alice");
    let answer = send(&service, with("x-api-key", &key)).await;
    assert_eq!(answer.body, "rate_limited no id");
    assert!(answer.header("retry-after").is_some());
    let total = usage.snapshot().callers.remove(0).total;
    assert_eq!(total.requests(), 2);
    let refusals: Vec<_> = total.refusals().collect();
    assert_eq!(refusals, [(Reason::RateLimited, 1)]);
}

#[test]
fn authentication_around_a_nested_tuple_is_a_valid_order() {
    let auth = || AuthLayer::new(crate::support::keys_over(tollgate::keys::MemoryKeys::new()));
    let require = || RequireLayer::new(tollgate::authorize::authenticated());
    let flat = Tollgate::new((auth(), require(), auth()));
    let nested = Tollgate::new((auth(), (require(), auth())));
    assert!(!format!("{flat:?} {nested:?}").is_empty());
}
