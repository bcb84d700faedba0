//! The warnings of a drain layer.

use tollgate::drain::DrainLayer;

use super::script::Step::Data;
use super::script::{Script, reject};
use super::{Duration, FutureExt, post, three_frames};
use crate::support::Events;

/// The warnings of the layer itself.
fn warnings(events: &Events) -> Vec<String> {
    let logged = events.of("WARN").into_iter();
    logged.filter(|text| text.contains("DrainLayer")).collect()
}

#[tokio::test(start_paused = true)]
async fn too_large_body_is_logged_once_with_the_fix() {
    let (events, _guard) = Events::listen();
    let layer = DrainLayer::new().max_bytes(59);
    for body in [three_frames(), three_frames().declaring(61), three_frames()] {
        reject(&layer.clone(), post(body), 401).await;
    }
    let logged = warnings(&events);
    assert_eq!(logged.len(), 1, "{logged:?}");
    for part in [
        "DrainLayer::max_bytes",
        "client_max_body_size",
        "too_large",
        "limit=59",
    ] {
        assert!(logged[0].contains(part), "{logged:?}");
    }
    reject(&DrainLayer::new().max_bytes(59), post(three_frames()), 401).await;
    assert_eq!(warnings(&events).len(), 2, "another layer");
}

#[test]
fn missing_timer_is_logged() {
    let (events, _guard) = Events::listen();
    let response = reject(&DrainLayer::new(), post(three_frames()), 401).now_or_never();
    assert!(response.is_some());
    let logged = warnings(&events);
    assert!(
        logged.len() == 1 && logged[0].contains("enable_time"),
        "{logged:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_client_is_not_logged() {
    let (events, _guard) = Events::listen();
    let layer = DrainLayer::new().timeout(Duration::from_millis(1));
    let body = Script::new([Data(1), super::Hang]);
    reject(&layer, post(body), 401).await;
    assert_eq!(warnings(&events), Vec::<String>::new());
}
