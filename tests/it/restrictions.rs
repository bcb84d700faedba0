//! Keys that are good only from somewhere: row 8, and the warning before they end.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request};
use tollgate::clock::Clock;
use tollgate::keys::{
    KeyError, KeyFilter, KeyRecord, KeyStore, KeyUpdate, MemoryKeys, NewKey, Rotation,
};
use tollgate::network::ClientIp;
use tollgate::restriction::Restrictions;
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{Answer, clock, issue, keys_over, peppers, send, who, with};

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
        Err(KeyError::InvalidRestriction(_))
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

/// The restrictions that are stored, or the error text, for a new key and for an update alike.
async fn stored(list: &str, values: &[&str]) -> Result<Vec<String>, String> {
    let keys = keys_over(MemoryKeys::new());
    let values = values.iter().copied();
    let new = NewKey::for_owner("alice");
    let (new, update) = match list {
        "networks" => (
            new.networks(values.clone()),
            KeyUpdate::new().set_networks(values),
        ),
        "methods" => (
            new.methods(values.clone()),
            KeyUpdate::new().set_methods(values),
        ),
        _ => (
            new.referrers(values.clone()),
            KeyUpdate::new().set_referrers(values),
        ),
    };
    let issued = keys.issue(new).await.map(|issued| issued.record);
    let plain = keys.issue(NewKey::for_owner("bob")).await.unwrap().record;
    let updated = keys.update(plain.id, update).await;
    let of = |record: &KeyRecord| {
        let held = &record.restrictions;
        match list {
            "networks" => held.networks.iter().map(ToString::to_string).collect(),
            "methods" => held.methods.clone(),
            _ => held.referrers.clone(),
        }
    };
    match (issued, updated) {
        (Ok(issued), Ok(updated)) => {
            assert_eq!(issued.restrictions, updated.restrictions);
            Ok(of(&issued))
        }
        (Err(issued), Err(updated)) => {
            let shorten = |error: KeyError, setting: &str| {
                assert!(matches!(error, KeyError::InvalidRestriction(_)), "{error}");
                let text = error.to_string();
                text.strip_prefix(setting).expect(&text).to_owned()
            };
            let issued = shorten(issued, &format!("NewKey::{list}: "));
            let updated = shorten(updated, &format!("KeyUpdate::set_{list}: "));
            assert_eq!(issued, updated);
            Err(issued)
        }
        other => panic!("{list}: issue and update differ: {other:?}"),
    }
}

#[tokio::test]
async fn restrictions_are_normalized_at_issue_and_update() {
    for (list, values, expected) in [
        ("methods", &["get"][..], &["GET"][..]),
        ("methods", &["Get", "GET", "hEAD"], &["GET", "HEAD"]),
        ("methods", &["propfind", "query"], &["PROPFIND", "QUERY"]),
        ("methods", &["purge", "PURGE"], &["PURGE"]),
        // Methods that are not standard are case-sensitive.
        ("methods", &["x-Sync", "x-sync"], &["x-Sync", "x-sync"]),
        ("networks", &["192.0.2.7"], &["192.0.2.7/32"]),
        ("networks", &["10.1.2.3/8", "10.0.0.0/8"], &["10.0.0.0/8"]),
        ("networks", &["::ffff:10.0.0.0/104"], &["10.0.0.0/8"]),
        ("networks", &["2001:DB8:0::1/32"], &["2001:db8::/32"]),
        (
            "referrers",
            &["https://App.Example.com:443/", "https://app.example.com"],
            &["https://app.example.com"],
        ),
        (
            "referrers",
            &["HTTP://*.A.example:80"],
            &["http://*.a.example"],
        ),
        (
            "referrers",
            &["https://[2001:DB8:0::1]"],
            &["https://[2001:db8::1]"],
        ),
        (
            "referrers",
            &["http://localhost:3000"],
            &["http://localhost:3000"],
        ),
    ] {
        let stored = stored(list, values).await.unwrap();
        assert_eq!(stored, expected, "{list} {values:?}");
    }
}

#[tokio::test]
async fn invalid_restrictions_are_refused_with_value_and_fix() {
    for (list, value, problem) in [
        ("methods", "", "is not an HTTP method; write a method name"),
        ("methods", "*", "leave the methods out"),
        ("methods", "GET,POST", "each method on its own"),
        ("methods", "GET POST", "each method on its own"),
        ("methods", " GET", "without spaces"),
        ("methods", "GET\n", "write a method name"),
        ("methods", "GET/", "write a method name"),
        ("methods", "G\u{c9}T", "write a method name"),
        (
            "networks",
            "",
            "is not an IP address or CIDR block; leave it out",
        ),
        ("networks", "*", "is not an IP address or CIDR block; write"),
        ("networks", "10.0.0.0/33", "up to 32"),
        ("networks", "::/129", "up to 128"),
        ("networks", "10.0.0", "write an address"),
        ("networks", "example.com", "write an address"),
        ("networks", " 10.0.0.1", "remove the spaces"),
        ("referrers", "", "starts with a scheme"),
        ("referrers", "*", "starts with a scheme"),
        ("referrers", "null", "starts with a scheme"),
        ("referrers", "app.example.com", "starts with a scheme"),
        ("referrers", "https://app.example.com/path", "has no path"),
        ("referrers", "https://a.*.com", "first label"),
        ("referrers", "https://.example.com", "is empty"),
        ("referrers", "https://u@example.com", "`scheme://host`"),
        ("referrers", "https://*.10.0.0.1", "has no subdomains"),
        ("referrers", "https://app.example.com:x", "`scheme://host`"),
    ] {
        let good = match list {
            "methods" => "GET",
            "networks" => "10.0.0.0/8",
            _ => "https://a.example",
        };
        let text = stored(list, &[good, value]).await.unwrap_err();
        assert!(text.starts_with(&format!("{value:?} is not ")), "{text}");
        assert!(text.contains(problem), "{value:?}: {text}");
    }
    // Long values are cut.
    let text = stored("methods", &[&"\u{e9}".repeat(10_000)])
        .await
        .unwrap_err();
    assert!(text.len() < 300, "{text}");
}

#[tokio::test]
async fn key_for_get_in_lower_case_works_for_get_only() {
    let (keys, key) = restricted(NewKey::for_owner("alice").methods(["get"])).await;
    let door = AuthLayer::new(keys);
    for (method, status) in [
        (Method::GET, 200),
        (Method::HEAD, 403),
        (Method::POST, 403),
        (Method::from_bytes(b"get").unwrap(), 403),
    ] {
        let mut request = with("x-api-key", &key);
        *request.method_mut() = method.clone();
        assert_eq!(ask(&door, request).await.status, status, "{method}");
    }
}

#[tokio::test]
async fn unnormalized_restrictions_of_a_store_are_never_wider() {
    let canonical = Restrictions {
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        methods: vec!["GET".into()],
        referrers: vec!["https://app.example.com".into()],
    };
    let lists = |networks: &[&str], methods: &[&str], referrers: &[&str]| Restrictions {
        networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        methods: methods.iter().map(|text| (*text).to_owned()).collect(),
        referrers: referrers.iter().map(|text| (*text).to_owned()).collect(),
    };
    let stored = [
        lists(&["10.1.2.3/8"], &["get"], &["https://App.Example.com:443/"]),
        lists(&["::ffff:10.0.0.0/104"], &["GET"], &["app.example.com"]),
        lists(&["10.0.0.0/8"], &["", "*", "GET,POST"], &["*"]),
        lists(&["10.0.0.0/8"], &["GET "], &[""]),
        lists(&["10.0.0.0/8"], &["GET"], &["", "*", "null", "https://*"]),
    ];
    for odd in stored {
        let store = MemoryKeys::new();
        let keys = keys_over(store.clone());
        let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
        let mut record = issued.record.clone();
        record.restrictions = odd.clone();
        record.revision += 1;
        assert!(store.update(record).await.unwrap());
        let door = AuthLayer::new(keys);
        for method in ["GET", "HEAD", "POST", "get", "*"] {
            for peer in ["10.0.0.1", "11.0.0.1", "::1"] {
                for origin in [
                    "https://app.example.com",
                    "https://evil.example",
                    "null",
                    "",
                ] {
                    let mut request = from(peer, issued.key.expose());
                    *request.method_mut() = method.parse().unwrap();
                    let value = origin.parse().unwrap();
                    request.headers_mut().insert("origin", value);
                    let (parts, ()) = request.into_parts();
                    let allowed = canonical.admit(Some(peer.parse().unwrap()), &parts);
                    let answer = ask(&door, Request::from_parts(parts, ())).await;
                    let case = format!("{odd:?}: {method} {peer} {origin}");
                    assert!(answer.status == 403 || allowed, "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn restrictions_of_configured_records_are_normalized_too() {
    let issued = keys_over(MemoryKeys::new())
        .issue(NewKey::for_owner("alice"))
        .await
        .unwrap();
    let mut record = issued.record;
    record.restrictions.methods = vec!["get".into()];
    let keys = ApiKeys::from_records([record.clone()], peppers()).unwrap();
    let held = keys.get(record.id).await.unwrap().unwrap();
    assert_eq!(held.restrictions.methods, ["GET"]);
    record.restrictions.methods = vec!["GET,POST".into()];
    let error = ApiKeys::from_records([record.clone()], peppers()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(record.id.as_str()) && text.contains("\"GET,POST\""),
        "{text}"
    );
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

#[tokio::test]
async fn nat64_restriction_admits_the_client_behind_the_nat64() {
    for (network, stored, client, other) in [
        (
            "64:ff9b::203.0.113.1",
            "203.0.113.1/32",
            "203.0.113.1",
            "203.0.113.2",
        ),
        (
            "64:ff9b::203.0.113.0/120",
            "203.0.113.0/24",
            "203.0.113.9",
            "203.0.114.1",
        ),
        (
            "64:ff9b::cb00:7177/112",
            "203.0.0.0/16",
            "203.0.113.9",
            "203.1.0.1",
        ),
        // Addresses of private networks are not unwrapped.
        (
            "64:ff9b::10.0.0.1",
            "64:ff9b::a00:1/128",
            "10.0.0.1",
            "10.0.0.2",
        ),
        (
            "64:ff9b::10.0.0.0/104",
            "64:ff9b::a00:0/104",
            "10.1.2.3",
            "11.1.2.3",
        ),
        (
            "64:ff9b::224.0.0.0/99",
            "64:ff9b::e000:0/99",
            "224.0.0.1",
            "203.0.113.1",
        ),
    ] {
        let (keys, key) = restricted(NewKey::for_owner("alice").networks([network])).await;
        let listed = keys.list(KeyFilter::all()).await.unwrap().records;
        assert_eq!(
            listed[0].restrictions.networks,
            [stored.parse().unwrap()],
            "{network}"
        );
        let layer = AuthLayer::new(keys);
        for (peer, status) in [(client, 200), (other, 403)] {
            let peer = format!("64:ff9b::{peer}");
            assert_eq!(
                ask(&layer, from(&peer, &key)).await.status,
                status,
                "{network} {peer}"
            );
        }
    }
    let keys = keys_over(MemoryKeys::new());
    for (network, advice) in [
        ("64:ff9b::/96", "`0.0.0.0/0`"),
        ("64:ff9b::192.0.0.0/104", "`192.0.0.0/8`"),
    ] {
        let refused = keys
            .issue(NewKey::for_owner("alice").networks([network]))
            .await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(network) && text.contains(advice), "{text}");
    }
    // Other prefixes of NAT64 and prefixes that cover more are left as they are.
    for network in ["64:ff9b:1::203.0.113.1", "::/0", "2001:db8::/32"] {
        let new = NewKey::for_owner("alice").networks([network]);
        keys.issue(new).await.unwrap();
    }
}
