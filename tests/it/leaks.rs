//! Keys that were found where they should not be.

use std::time::Duration;

use tollgate::keys::{Cached, EndCause, KeyState, KeyStore, MemoryKeys, NewKey};
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{NOW, clock, issue, keys_over, peppers, send, vectors, who, with};

#[tokio::test]
async fn the_scanner_finds_keys_in_any_text_and_the_checksum_tells_them_from_others() {
    let keys = keys_over(MemoryKeys::new()).environments(["live", "test"]);
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let other = issue(&keys, NewKey::for_owner("bob").environment("test")).await;
    let scanner = regex::Regex::new(&keys.scanner_regex()).unwrap();
    let lookalike = format!("{}000000", &key[..key.len() - 6]);
    let text =
        format!("TOKEN=\"{key}\"\nurl: https://h/?k={other}&x=1\n{lookalike} acme_dev_{key}x");
    let found: Vec<_> = scanner
        .find_iter(&text)
        .map(|found| found.as_str())
        .collect();
    assert_eq!(found, [&*key, &*other, &*lookalike]);
    let recognized: Vec<_> = found
        .iter()
        .map(|found| keys.recognize(found).is_some())
        .collect();
    assert_eq!(recognized, [true, true, false]);
    assert_eq!(keys.recognize(&key).unwrap().as_str(), &key[10..22]);
}

#[tokio::test]
async fn the_vectors_are_recognized_as_they_should_be() {
    for case in vectors("api-key-checksums")["keys"].as_array().unwrap() {
        let text = |name: &str| case[name].as_str().unwrap();
        let keys = keys_over(MemoryKeys::new())
            .prefix(text("prefix"))
            .environments([text("env")]);
        let recognized = keys.recognize(text("key")).is_some();
        assert_eq!(recognized, case["valid"].as_bool().unwrap(), "{case}");
        let scanner = regex::Regex::new(&keys.scanner_regex()).unwrap();
        if recognized {
            assert!(scanner.is_match(text("key")), "{case}");
        }
    }
}

#[test]
fn the_rule_for_gitleaks_is_toml_with_what_gitleaks_wants() {
    let rule = keys_over(MemoryKeys::new()).gitleaks_rule();
    let expected = "[[rules]]\n\
        id = \"acme-api-key\"\n\
        description = \"API key of acme\"\n\
        regex = '''\\bacme_(?:live)_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}\\b'''\n\
        entropy = 3\n\
        keywords = [\"acme_\"]\n";
    assert_eq!(rule, expected);
}

#[tokio::test]
async fn a_report_ends_the_key_and_says_what_is_known() {
    let clock = clock();
    let cached = Cached::new(MemoryKeys::new()).clock(clock.clone());
    let keys = ApiKeys::new(cached, peppers())
        .prefix("acme")
        .clock(clock.clone());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let key = issued.key.expose();
    let service = AuthLayer::new(keys.clone())
        .clock(clock.clone())
        .layer(who());
    assert_eq!(send(&service, with("x-api-key", key)).await.status, 200);
    clock.advance(Duration::from_secs(5));

    let report = keys.report_leaked(key).await.unwrap().unwrap();
    assert_eq!(report.record.id, issued.record.id);
    assert_eq!(report.last_used, Some(NOW));
    assert_eq!(report.refused_within, Duration::from_secs(10));
    let state = report.record.state(NOW);
    assert_eq!(state, KeyState::Ended(EndCause::Compromised));
    assert_eq!(
        send(&service, with("x-api-key", key)).await.code(),
        "credential_revoked"
    );
}

#[tokio::test]
async fn a_report_by_somebody_who_does_not_hold_the_key_ends_nothing() {
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let stranger = issue(&keys_over(MemoryKeys::new()), NewKey::for_owner("eve")).await;
    let key = issued.key.expose();
    let hint = &key[..23];
    for text in [
        "",
        "nonsense",
        hint,
        &stranger,
        &format!("{hint}{}", &stranger[23..]),
    ] {
        assert!(keys.report_leaked(text).await.unwrap().is_none(), "{text}");
    }
    assert!(
        keys.get(issued.record.id)
            .await
            .unwrap()
            .unwrap()
            .state(NOW)
            .is_good()
    );
    assert!(keys.store().find(issued.record.id).await.unwrap().is_some());
}
