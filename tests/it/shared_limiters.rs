//! One limiter in several layers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use http::Request;
use tollgate::Identity;
#[cfg(feature = "redis")]
use tollgate::limit::Limiter;
use tollgate::limit::{KeyBy, LimitKey, MemoryLimiter, Quota, Quotas, RateLimitLayer};
use tower::Layer;

use crate::support::{clock, get, send, who};

fn request() -> Request<()> {
    let mut request = get();
    let ann = Identity::for_test().subject("ann").build();
    request.extensions_mut().insert(ann);
    request
}

/// Returns the text of the panic of a layer that is applied, if it panics.
fn refusal(layer: &RateLimitLayer) -> Option<String> {
    let built = catch_unwind(AssertUnwindSafe(|| drop(layer.layer(who()))));
    let panic = built.err()?;
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

fn limit(limiter: &MemoryLimiter, count: u32) -> RateLimitLayer {
    RateLimitLayer::new(Quota::per_hour(count))
        .limiter(limiter.clone())
        .clock(clock())
}

/// Sends requests, and returns the number of those that are admitted.
macro_rules! admitted {
    ($service:expr, $requests:expr) => {{
        let mut admitted = 0;
        for _ in 0..$requests {
            admitted += u32::from(send($service, request()).await.status == 200);
        }
        admitted
    }};
}

#[tokio::test]
async fn a_second_layer_without_a_name_is_not_built() {
    for (quotas, key) in [
        (Quotas::from(Quota::per_hour(2)), KeyBy::principal()),
        (Quotas::from(Quota::per_hour(5)), KeyBy::principal()),
        (Quotas::from(Quota::per_day(5)), KeyBy::principal()),
        (Quotas::from(Quota::per_hour(2)), KeyBy::network()),
    ] {
        let limiter = MemoryLimiter::new();
        let first = limit(&limiter, 2);
        let service = first.layer(who());
        let second = RateLimitLayer::new(quotas).limiter(limiter).key(key);
        let text = refusal(&second).unwrap();
        for part in ["RateLimitLayer::name(\"\")", ".name(", ".share_budgets()"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(refusal(&second.name("other")), None);
        assert_eq!(admitted!(&service, 3), 2);
    }
}

#[tokio::test]
async fn layers_with_names_have_budgets_of_their_own() {
    let limiter = MemoryLimiter::new();
    for quota in [2, 5] {
        let api = limit(&limiter, 2);
        let search = limit(&limiter, quota).name(&format!("search {quota}"));
        let services = (api.layer(who()), search.layer(who()));
        let before = admitted!(&services.0, 9);
        assert_eq!(before, if quota == 2 { 2 } else { 0 });
        assert_eq!(admitted!(&services.1, 9), quota);
    }
}

#[tokio::test]
async fn layers_that_say_so_share_their_budgets() {
    let limiter = MemoryLimiter::new();
    let reads = limit(&limiter, 6).share_budgets();
    let writes = limit(&limiter, 6).share_budgets().cost(|_| 2);
    let services = (reads.layer(who()), writes.layer(who()));
    assert_eq!(admitted!(&services.0, 2), 2);
    assert_eq!(admitted!(&services.1, 9), 2);
    assert_eq!(admitted!(&services.0, 9), 0);
    // A third layer that does not say so has to have a name.
    assert!(refusal(&limit(&limiter, 6)).is_some());
}

#[tokio::test]
async fn clones_of_a_layer_are_the_same_layer() {
    let layer = RateLimitLayer::new(Quota::per_hour(2)).clock(clock());
    let services = (layer.layer(who()), layer.clone().layer(who()));
    assert_eq!(admitted!(&services.0, 1), 1);
    assert_eq!(admitted!(&services.1, 9), 1);
    // With another setting it is another layer.
    let changed = layer.clone().key(KeyBy::network());
    assert!(refusal(&changed).is_some());
    assert!(refusal(&changed.name("by network")).is_none());
}

#[test]
fn a_name_is_free_again_once_its_layer_is_dropped() {
    let limiter = MemoryLimiter::new();
    let service = limit(&limiter, 2).layer(who());
    let second = limit(&limiter, 5);
    assert!(refusal(&second).is_some());
    drop(service);
    assert_eq!(refusal(&second), None);
}

#[tokio::test]
async fn a_handle_changes_the_budgets_of_its_layer_only() {
    let limiter = MemoryLimiter::new();
    let (api, search) = (limit(&limiter, 9), limit(&limiter, 9).name("search"));
    let services = (api.layer(who()), search.layer(who()));
    let ann = Identity::for_test().subject("ann").build();
    let (key, quotas) = (
        LimitKey::principal(ann.principal()),
        Quota::per_hour(9).into(),
    );
    search.control().penalise(&key, &quotas, 7).await;
    let left = async |layer: &RateLimitLayer| {
        let standing = layer.control().peek(&key, &quotas).await.unwrap();
        standing.remaining(&quotas).next().unwrap()
    };
    assert_eq!((left(&api).await, left(&search).await), (9, 2));
    assert_eq!(admitted!(&services.1, 9), 2);
    api.control()
        .ban(&key, std::time::Duration::from_secs(60))
        .await;
    search.control().reset(&key, &quotas).await;
    assert_eq!(admitted!(&services.0, 9), 0);
    assert_eq!(admitted!(&services.1, 99), 9);
}

#[cfg(feature = "redis")]
#[test]
fn redis_clones_with_the_same_digests_need_layer_names() {
    use tollgate::limit::RedisLimiter;

    let root = RedisLimiter::new("redis://127.0.0.1:1").unwrap();
    let named = |name: &str| root.clone().name(name);
    let deadline = std::time::Duration::from_millis(20);
    for (first, second, share) in [
        (root.clone(), root.clone(), true),
        (root.clone(), root.clone().deadline(deadline), true),
        (named("orders"), named("orders"), true),
        (named("orders"), named("search").name("orders"), true),
        (named("orders"), named("search"), false),
        (named("orders"), root.clone(), false),
        (named("orders"), named("orders").secret(b"other"), false),
        (
            root.clone().secret(b"one"),
            root.clone().secret(b"two"),
            false,
        ),
        (
            root.clone().secret(b"one"),
            root.clone().secret(b"one"),
            true,
        ),
    ] {
        let (ann, case) = (LimitKey::custom("ann"), format!("{first:?} {second:?}"));
        assert_eq!(first.ticket(&ann) == second.ticket(&ann), share, "{case}");
        let api = RateLimitLayer::new(Quota::per_minute(600)).limiter(first);
        let search = RateLimitLayer::new(Quota::per_minute(10)).limiter(second);
        let service = api.layer(());
        let built = catch_unwind(AssertUnwindSafe(|| drop(search.layer(()))));
        assert_eq!(built.is_err(), share, "{case}");
        drop(search.name("search").layer(()));
        drop(service);
    }
}
