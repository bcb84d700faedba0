//! Keys that are good only from somewhere: row 8, and the warning before they end.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request};
use tollgate::clock::Clock;
use tollgate::keys::{KeyError, MemoryKeys, NewKey, Rotation};
use tollgate::network::ClientIp;
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{Answer, clock, issue, keys_over, send, who, with};

async fn restricted(new: NewKey) -> (ApiKeys, String) {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, new).await;
    (keys, key)
}

fn from(peer: &str, key: &str) -> Request<()> {
    let mut request = with("x-api-key", key);
    request
        .extensions_mut()
        .insert(SocketAddr::new(peer.parse().unwrap(), 4711));
    request
}

async fn ask(door: &AuthLayer<ApiKeys>, request: Request<()>) -> Answer {
    send(&door.layer(who()), request).await
}

#[tokio::test]
async fn a_key_for_some_networks_is_good_there_and_403_elsewhere_without_a_word_why() {
    let new = NewKey::for_owner("alice").networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]);
    let (keys, key) = restricted(new).await;
    let door = AuthLayer::new(keys);
    for peer in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.1"] {
        assert_eq!(ask(&door, from(peer, &key)).await.status, 200, "{peer}");
    }
    for peer in ["11.1.2.3", "2001:db9::1", "192.0.2.2", "::ffff:11.0.0.1"] {
        let answer = ask(&door, from(peer, &key)).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (403, "source_not_allowed")
        );
        assert!(answer.challenges().is_empty());
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(!text.contains("10.0") && !text.contains(peer), "{text}");
    }
    // As an operator may write it who thinks in IPv6.
    let new = NewKey::for_owner("alice").networks(["::ffff:10.0.0.0/104"]);
    let (keys, mapped) = restricted(new).await;
    let also = AuthLayer::new(keys);
    for (peer, status) in [
        ("10.1.2.3", 200),
        ("::ffff:10.1.2.3", 200),
        ("11.1.2.3", 403),
    ] {
        assert_eq!(
            ask(&also, from(peer, &mapped)).await.status,
            status,
            "{peer}"
        );
    }
    let unknown = ask(&door, with("x-api-key", &key)).await;
    assert_eq!(
        unknown.code(),
        "source_not_allowed",
        "an unknown client is nowhere"
    );
}

#[tokio::test]
async fn what_proxies_say_counts_only_if_they_are_trusted() {
    let (keys, key) = restricted(NewKey::for_owner("alice").networks(["203.0.113.0/24"])).await;
    let forwarded = |peer: &str| {
        let mut request = from(peer, &key);
        request
            .headers_mut()
            .insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
        request
    };
    let naive = AuthLayer::new(keys.clone());
    assert_eq!(ask(&naive, forwarded("10.0.0.1")).await.status, 403);
    let door = AuthLayer::new(keys).client_ip(ClientIp::new().trusted_proxies(["10.0.0.1"]));
    assert_eq!(ask(&door, forwarded("10.0.0.1")).await.status, 200);
    assert_eq!(
        ask(&door, forwarded("10.0.0.2")).await.status,
        403,
        "a stranger says so"
    );
}

#[tokio::test]
async fn methods_and_referrers_restrict_too_and_all_must_be_met() {
    let new = NewKey::for_owner("alice")
        .methods(["GET"])
        .referrers(["https://app.example.com"])
        .networks(["10.0.0.0/8"]);
    let (keys, key) = restricted(new).await;
    let door = AuthLayer::new(keys);
    let good = || {
        let mut request = from("10.0.0.1", &key);
        request
            .headers_mut()
            .insert("referer", "https://app.example.com/a".parse().unwrap());
        request
    };
    assert_eq!(ask(&door, good()).await.status, 200);
    let mut posted = good();
    *posted.method_mut() = Method::POST;
    let mut elsewhere = good();
    elsewhere
        .headers_mut()
        .insert("referer", "https://evil.example".parse().unwrap());
    let mut nowhere = good();
    nowhere.extensions_mut().clear();
    for request in [posted, elsewhere, nowhere] {
        assert_eq!(ask(&door, request).await.code(), "source_not_allowed");
    }
}

#[tokio::test]
async fn where_restrictions_are_hidden_the_key_looks_like_none() {
    let (keys, key) = restricted(NewKey::for_owner("alice").networks(["10.0.0.0/8"])).await;
    let door = AuthLayer::new(keys).hide_restrictions();
    let hidden = ask(&door, from("11.0.0.1", &key)).await;
    let none = ask(&door, from("11.0.0.1", "acme_nonsense")).await;
    assert_eq!(hidden.wire(), none.wire());
}

#[tokio::test]
async fn a_network_that_is_none_is_not_stored() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("alice").networks(["10.0.0.0/99"]);
    assert!(matches!(
        keys.issue(new).await,
        Err(KeyError::InvalidNetwork(_))
    ));
}

#[tokio::test]
async fn callers_are_warned_before_their_key_ends_whichever_of_the_lineage_it_is() {
    let clock = clock();
    let keys = keys_over(MemoryKeys::new()).clock(clock.clone());
    let day = Duration::from_secs(86_400);
    let old = keys
        .issue(NewKey::for_owner("alice").expires_in(30 * day))
        .await
        .unwrap();
    let warned = async |key: &str| {
        let door = AuthLayer::new(keys.clone())
            .clock(clock.clone())
            .warn_before_expiry(7 * day);
        ask(&door, with("x-api-key", key))
            .await
            .header("credential-expiration")
            .map(str::to_owned)
    };
    assert_eq!(warned(old.key.expose()).await, None, "there is time yet");
    clock.advance(23 * day);
    let end = old.record.expires_at.unwrap();
    let date = |at: tollgate::clock::Timestamp| Some(httpdate::fmt_http_date(at.into()));
    assert_eq!(warned(old.key.expose()).await, date(end));
    let successor = keys
        .rotate(old.record.id, Rotation::with_grace(2 * day))
        .await
        .unwrap();
    let grace = clock.now().saturating_add(2 * day);
    assert_eq!(
        warned(old.key.expose()).await,
        date(grace),
        "its grace ends before"
    );
    assert_eq!(warned(successor.key.expose()).await, None);
    // Who did not ask for it does not get it.
    let plain = AuthLayer::new(keys.clone()).clock(clock.clone());
    let answer = ask(&plain, with("x-api-key", old.key.expose())).await;
    assert_eq!(answer.header("credential-expiration"), None);
}

/// The client is counted as the proxy then, and must not get what the proxy may do.
#[tokio::test]
async fn unreadable_proxy_field_meets_no_network_restriction() {
    let (keys, key) = restricted(NewKey::for_owner("alice").networks(["10.0.0.0/8"])).await;
    let proxies = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
    let layer = AuthLayer::new(keys).client_ip(proxies);
    for (field, status) in [
        ("10.1.2.3", 200),
        ("203.0.113.9", 403),
        ("garbage", 403),
        ("203.0.113.9.1", 403),
        ("203.0.113.9, unknown", 403),
        ("10.1.2.3, _hidden", 403),
    ] {
        let mut request = from("10.0.0.1", &key);
        let headers = request.headers_mut();
        headers.insert("x-forwarded-for", field.parse().unwrap());
        assert_eq!(ask(&layer, request).await.status, status, "{field}");
    }
}
