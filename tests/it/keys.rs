//! What becomes of a key: rows B1 to B11, and issuing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use tollgate::keys::{
    EndCause, KeyError, KeyFilter, KeyRecord, KeyState, KeyStore, MacAlgorithm, MemoryKeys, NewKey,
    Peppers, Rotation,
};
use tollgate::rejection::Cause;
use tollgate::{ApiKeys, AuthLayer};
use tower::Layer;

use crate::support::{
    Answer, Events, NOW, Script, Scripted, clock, get, issue, keys_over, peppers, send, who, with,
};

async fn answer<S: KeyStore>(keys: &ApiKeys<S>, key: &str) -> Answer {
    let service = AuthLayer::new(keys.clone()).clock(clock()).layer(who());
    send(&service, with("x-api-key", key)).await
}

#[tokio::test]
async fn a_key_is_who_it_was_issued_to_whether_the_store_answers_now_or_later() {
    for script in [Script::Now, Script::Later] {
        let keys = keys_over(Scripted::new(script));
        let key = issue(&keys, NewKey::for_owner("alice")).await;
        let answer = answer(&keys, &key).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body, "alice");
    }
}

#[tokio::test]
async fn nothing_in_the_carrier_is_malformed_and_a_bare_prefix_is_no_key() {
    let keys = keys_over(MemoryKeys::new());
    for blank in ["", " ", "   "] {
        assert_eq!(
            answer(&keys, blank).await.code(),
            "request_malformed",
            "{blank:?}"
        );
    }
    for short in ["acme", "acme_", "acme_live_", "acme_live", "x", "_"] {
        assert_eq!(
            answer(&keys, short).await.code(),
            "credential_invalid",
            "{short:?}"
        );
    }
    for odd in [
        &b"acme_live_\xe9"[..],
        b"acme live",
        b"acme_\xff",
        &[b'a'; 1 << 20],
    ] {
        let service = AuthLayer::new(keys.clone()).layer(who());
        let answer = send(&service, with("x-api-key", odd)).await;
        assert_eq!(answer.code(), "request_malformed");
    }
}

#[tokio::test]
async fn every_key_that_is_none_of_ours_gets_the_same_bytes() {
    let store = Scripted::new(Script::Now);
    let keys = keys_over(store.clone());
    let good = issue(&keys, NewKey::for_owner("alice")).await;
    let test = keys_over(MemoryKeys::new()).environments(["test"]);
    let stranger = issue(&keys_over(MemoryKeys::new()), NewKey::for_owner("eve")).await;
    let other_prefix = keys_over(MemoryKeys::new()).prefix("evil");
    let expired = NewKey::for_owner("alice")
        .not_before(NOW.saturating_sub(Duration::from_secs(20)))
        .expires_at(NOW.saturating_sub(Duration::from_secs(10)));
    let expired = issue(&keys, expired).await;

    let cases = [
        ("mistyped", mistyped(&good), Cause::KeyChecksum),
        ("unknown id", stranger, Cause::KeyUnknown),
        ("wrong secret", wrong_secret(&good), Cause::KeySecret),
        (
            "wrong secret of an expired key",
            wrong_secret(&expired),
            Cause::KeySecret,
        ),
        (
            "other environment",
            issue(&test, NewKey::for_owner("a")).await,
            Cause::KeyOfAnotherSpace,
        ),
        (
            "other prefix",
            issue(&other_prefix, NewKey::for_owner("a")).await,
            Cause::Unclaimed,
        ),
        ("no key at all", "aGVsbG8".into(), Cause::Unclaimed),
    ];
    let mut answers = Vec::new();
    for (name, key, cause) in cases {
        let answer = answer(&keys, &key).await;
        assert_eq!(answer.rejection.as_ref().unwrap().cause(), cause, "{name}");
        answers.push(answer.wire());
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    let (status, headers, _) = &answers[0];
    assert_eq!(*status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        headers["www-authenticate"],
        "ApiKey realm=\"api\", error=\"invalid_token\""
    );

    let bearer = with("authorization", format!("Bearer {}", mistyped(&good)));
    let service = AuthLayer::new(keys).layer(who());
    let challenges = send(&service, bearer).await;
    assert_eq!(
        challenges.challenges(),
        [
            "Bearer realm=\"api\", error=\"invalid_token\"",
            "ApiKey realm=\"api\""
        ]
    );
}

/// The key with another checksum.
fn mistyped(key: &str) -> String {
    let last = if key.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &key[..key.len() - 1])
}

/// The key with another secret, and the checksum that goes with it.
pub(crate) fn wrong_secret(key: &str) -> String {
    let body = &key[..key.len() - 6];
    let last = if body.ends_with('0') { '1' } else { '0' };
    let body = format!("{}{last}", &body[..body.len() - 1]);
    let digits: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
    let mut crc = crc32fast::hash(body.as_bytes());
    let mut tail = String::new();
    for _ in 0..6 {
        tail.insert(0, digits[(crc % 62) as usize]);
        crc /= 62;
    }
    body + &tail
}

#[tokio::test]
async fn where_a_key_stands_is_told_to_a_holder_of_its_secret_only() {
    let keys = keys_over(MemoryKeys::new());
    let second = Duration::from_secs(1);
    let ended = NewKey::for_owner("a")
        .not_before(NOW.saturating_sub(second))
        .expires_at(NOW);
    let future = NewKey::for_owner("a").not_before(NOW.saturating_add(Duration::from_nanos(1)));
    let ended = issue(&keys, ended).await;
    let future = issue(&keys, future).await;
    let revoked = keys.issue(NewKey::for_owner("a")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let revoked = revoked.key.expose();

    for (key, code) in [
        (&*ended, "credential_expired"),
        (&*future, "credential_not_yet_valid"),
        (revoked, "credential_revoked"),
    ] {
        let answer = answer(&keys, key).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (StatusCode::UNAUTHORIZED, code)
        );
        let challenge = answer.challenges()[0].to_owned();
        assert_eq!(challenge, "ApiKey realm=\"api\", error=\"invalid_token\"");
        let guess = self::answer(&keys, &wrong_secret(key)).await;
        assert_eq!(guess.code(), "credential_invalid");
    }
}

#[tokio::test]
async fn times_are_half_open_and_judged_for_each_request() {
    let keys = keys_over(MemoryKeys::new());
    let start = NOW.saturating_add(Duration::from_secs(10));
    let end = NOW.saturating_add(Duration::from_secs(20));
    let key = issue(
        &keys,
        NewKey::for_owner("a").not_before(start).expires_at(end),
    )
    .await;
    let clock = clock();
    let service = AuthLayer::new(keys).clock(clock.clone()).layer(who());
    let nanosecond = Duration::from_nanos(1);
    for (at, code) in [
        (
            start.saturating_sub(nanosecond),
            Some("credential_not_yet_valid"),
        ),
        (start, None),
        (end.saturating_sub(nanosecond), None),
        (end, Some("credential_expired")),
        (start, None),
    ] {
        clock.set(at);
        let answer = send(&service, with("x-api-key", &key)).await;
        let told = (answer.status != StatusCode::OK).then(|| answer.code());
        assert_eq!(told.as_deref(), code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_answer_is_503_and_never_401() {
    for (script, cause) in [
        (Script::Fails, Cause::StoreUnavailable),
        (Script::Hangs, Cause::StoreTimeout),
    ] {
        let store = Scripted::new(script);
        let keys = keys_over(store.clone());
        let key = issue(&keys, NewKey::for_owner("alice")).await;
        let started = tokio::time::Instant::now();
        let answer = answer(&keys, &key).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.code(), "verifier_unavailable");
        assert_eq!(answer.rejection.as_ref().unwrap().cause(), cause);
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3).contains(&wait));
        assert!(started.elapsed() <= Duration::from_millis(500));
        assert!(answer.challenges().is_empty());
    }
}

#[tokio::test]
async fn a_store_that_panics_spoils_that_request_only() {
    let store = Scripted::new(Script::Panics);
    let keys = keys_over(store);
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let service = AuthLayer::new(keys).layer(who());
    for _ in 0..2 {
        let answer = send(&service, with("x-api-key", &key)).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.rejection.unwrap().cause(), Cause::Panicked);
        assert_eq!(send(&service, get()).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_key_under_an_old_pepper_is_renewed_when_it_is_used() {
    for script in [Script::Now, Script::Later] {
        let store = Scripted::new(script);
        let old = ApiKeys::new(store.clone(), Peppers::new(1, [1; 32]).unwrap()).prefix("acme");
        let issued = old.issue(NewKey::for_owner("alice")).await.unwrap();
        let key = issued.key.expose();

        let both = Peppers::new(2, [2; 32])
            .unwrap()
            .with_previous(1, [1; 32])
            .unwrap();
        let both = ApiKeys::new(store.clone(), both).prefix("acme");
        for _ in 0..3 {
            assert_eq!(answer(&both, key).await.body, "alice");
        }
        assert_eq!(store.updates.load(Ordering::SeqCst), 1);
        assert_eq!(
            both.get(issued.record.id)
                .await
                .unwrap()
                .unwrap()
                .pepper_version,
            2
        );

        // The old pepper can go now.
        let new = ApiKeys::new(store.clone(), Peppers::new(2, [2; 32]).unwrap()).prefix("acme");
        assert_eq!(answer(&new, key).await.body, "alice");
        // A record under a pepper that is gone is the operator's mistake, not the caller's.
        assert_eq!(
            answer(&old, key).await.rejection.unwrap().cause(),
            Cause::PepperUnknown
        );
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_then_on() {
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    assert_eq!(
        answer(&keys, issued.key.expose()).await.status,
        StatusCode::OK
    );
    let first = keys.revoke(issued.record.id).await.unwrap();
    assert_eq!(
        answer(&keys, issued.key.expose()).await.code(),
        "credential_revoked"
    );
    let again = keys.revoke(issued.record.id).await.unwrap();
    assert_eq!(
        first.revision, again.revision,
        "revoking twice changes nothing"
    );
    let nobody = "000000000000".parse().unwrap();
    assert!(matches!(keys.revoke(nobody).await, Err(KeyError::NotFound)));
}

#[tokio::test]
async fn keys_that_make_no_sense_are_not_issued() {
    let keys = keys_over(MemoryKeys::new());
    let past = NewKey::for_owner("a").expires_at(NOW);
    assert!(matches!(
        keys.issue(past).await,
        Err(KeyError::InvalidTimes(_))
    ));
    let never = NewKey::for_owner("a").expires_in(Duration::ZERO);
    assert!(matches!(
        keys.issue(never).await,
        Err(KeyError::InvalidTimes(_))
    ));
    let scope = NewKey::for_owner("a").scopes(["a b"]);
    assert!(matches!(
        keys.issue(scope).await,
        Err(KeyError::InvalidScope(_))
    ));
    let env = NewKey::for_owner("a").environment("test");
    assert!(matches!(
        keys.issue(env).await,
        Err(KeyError::UnknownEnvironment(_))
    ));
    assert!(
        keys.list(KeyFilter::all())
            .await
            .unwrap()
            .records
            .is_empty()
    );
}

#[tokio::test]
async fn what_cannot_be_a_prefix_or_environment_is_refused_when_it_is_set() {
    for bad in [
        "",
        "a",
        "A1",
        "1a",
        "a_b",
        "acme-",
        "abcdefghijklmnopq",
        "é1",
    ] {
        assert!(
            ApiKeys::in_memory(peppers()).try_prefix(bad).is_err(),
            "{bad:?}"
        );
        assert!(
            ApiKeys::in_memory(peppers())
                .try_environments([bad])
                .is_err(),
            "{bad:?}"
        );
    }
    assert!(ApiKeys::in_memory(peppers()).try_environments([]).is_err());
    assert!(Peppers::new(1, [0; 31]).is_err());
    let keys = ApiKeys::in_memory(peppers());
    let clone = keys.clone();
    assert!(
        keys.try_prefix("late").is_err(),
        "settings are shared by clones"
    );
    drop(clone);
}

#[tokio::test]
async fn a_record_says_who_issued_the_key_and_what_its_mac_is_made_with() {
    let keys = keys_over(MemoryKeys::new());
    let new = NewKey::for_owner("alice").created_by("console/eve");
    let issued = keys.issue(new).await.unwrap();
    let record = keys.get(issued.record.id).await.unwrap().unwrap();
    assert_eq!(record.created_by.as_deref(), Some("console/eve"));
    let mut json = serde_json::to_value(&*record).unwrap();
    assert_eq!(json["mac_alg"], "hmac-sha-256");
    // A record that was written down without them is as good.
    for name in ["mac_alg", "created_by"] {
        json.as_object_mut().unwrap().remove(name).unwrap();
    }
    let record: KeyRecord = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(record.created_by, None);
    assert_eq!(record.mac_alg, MacAlgorithm::HmacSha256);
    // One under a MAC that is not known here is no record at all.
    json["mac_alg"] = "md5".into();
    assert!(serde_json::from_value::<KeyRecord>(json).is_err());
}

#[tokio::test]
async fn keys_from_configuration_are_as_good_as_issued_ones() {
    let issued = keys_over(MemoryKeys::new())
        .issue(
            NewKey::for_owner("alice")
                .tenant("emea")
                .scopes(["a", "b"])
                .role("r")
                .plan("pro"),
        )
        .await
        .unwrap();
    let json = serde_json::to_string(&issued.record).unwrap();
    let secret = &issued.key.expose()[23..];
    assert!(!json.contains(secret) && !json.contains(&secret[..8]));
    let record: KeyRecord = serde_json::from_str(&json).unwrap();

    let keys = ApiKeys::from_records([record.clone()], peppers())
        .unwrap()
        .prefix("acme");
    assert_eq!(answer(&keys, issued.key.expose()).await.body, "alice");

    let twice = [record.clone(), record.clone()];
    assert!(ApiKeys::from_records(twice, peppers()).is_err());
    let unknown = Peppers::new(9, [7; 32]).unwrap();
    assert!(ApiKeys::from_records([record], unknown).is_err());
}

#[tokio::test]
async fn keys_are_listed_by_owner_a_page_at_a_time() {
    let keys = keys_over(MemoryKeys::new());
    for i in 0..25 {
        issue(
            &keys,
            NewKey::for_owner(if i % 5 == 0 { "bob" } else { "alice" }),
        )
        .await;
    }
    let mut filter = KeyFilter::of_owner("alice").limit(8);
    let mut seen = Vec::new();
    loop {
        let page = keys.list(filter.clone()).await.unwrap();
        seen.extend(page.records.iter().map(|record| record.id));
        let Some(next) = page.next else { break };
        filter = filter.after(next);
    }
    assert_eq!(seen.len(), 20);
    assert!(seen.is_sorted());
    let bobs = keys.list(KeyFilter::of_owner("bob")).await.unwrap();
    assert_eq!((bobs.records.len(), bobs.next), (5, None));
    let other = KeyFilter::of_owner("bob").tenant("emea");
    assert!(keys.list(other).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn a_record_that_was_changed_meanwhile_is_not_overwritten() {
    let keys = keys_over(MemoryKeys::new());
    let issued = keys.issue(NewKey::for_owner("alice")).await.unwrap();
    let mut mine = issued.record.clone();
    mine.revision += 1;
    mine.plan = Some("pro".into());
    let mut theirs = mine.clone();
    theirs.plan = Some("free".into());
    assert!(keys.store().update(mine).await.unwrap());
    assert!(!keys.store().update(theirs).await.unwrap());
    assert!(!keys.store().insert(issued.record.clone()).await.unwrap());
    let held = keys.get(issued.record.id).await.unwrap().unwrap();
    assert_eq!(held.plan.as_deref(), Some("pro"));
}

#[tokio::test]
async fn error_texts_name_setting_value_and_fix() {
    let keys = || keys_over(MemoryKeys::new());
    let peppers_of = |version: u32| Peppers::new(version, [7; 32]).unwrap();
    let record = keys().issue(NewKey::for_owner("a")).await.unwrap().record;
    let id = record.id.to_string();
    let issue = async |new: NewKey| keys().issue(new).await.unwrap_err().to_string();
    let past = NewKey::for_owner("a").not_before(NOW).expires_at(NOW);
    let test = NewKey::for_owner("a").environment("test");
    let (clone, cloned) = (keys(), keys());
    let _held = (clone.clone(), cloned.clone());
    let long = "x".repeat(1000);
    for (text, parts) in [
        (
            issue(NewKey::for_owner("a").scopes(["ok", "a b"])).await,
            &["NewKey::scopes: \"a b\"", "on its own"][..],
        ),
        (
            issue(NewKey::for_owner("a").scopes(["", "ok"])).await,
            &["NewKey::scopes: \"\"", "leave it out"],
        ),
        (
            issue(NewKey::for_owner("a").scopes(["a\\b"])).await,
            &["scopes: ", "printable ASCII"],
        ),
        (
            issue(NewKey::for_owner("")).await,
            &["NewKey::for_owner", "empty"],
        ),
        (
            issue(NewKey::for_owner("a").expires_in(Duration::ZERO)).await,
            &["NewKey::expires_in: ", "later end"],
        ),
        (
            issue(past).await,
            &["NewKey::expires_at", "GMT", "later end"],
        ),
        (
            issue(test).await,
            &[
                "NewKey::environment",
                "\"test\"",
                "use one of live",
                "ApiKeys::environments",
            ],
        ),
        (
            keys().try_prefix("A-1").unwrap_err().to_string(),
            &["ApiKeys::prefix", "\"A-1\"", "lower-case"],
        ),
        (
            keys().try_prefix(&long).unwrap_err().to_string(),
            &["ApiKeys::prefix", "x\"… does not"],
        ),
        (
            keys()
                .try_environments(["live", "te st"])
                .unwrap_err()
                .to_string(),
            &["ApiKeys::environments", "\"te st\""],
        ),
        (
            keys().try_environments([]).unwrap_err().to_string(),
            &["ApiKeys::environments", "empty", "\"live\""],
        ),
        (
            clone.try_prefix("late").unwrap_err().to_string(),
            &["ApiKeys::prefix", "before the first clone"],
        ),
        (
            cloned.try_environments(["late"]).unwrap_err().to_string(),
            &["ApiKeys::environments", "before the first clone"],
        ),
        (
            ApiKeys::from_records([record.clone()], peppers_of(9))
                .unwrap_err()
                .to_string(),
            &[
                "ApiKeys::from_records",
                &id,
                "version 1",
                "Peppers::with_previous",
            ],
        ),
        (
            ApiKeys::from_records([record.clone(), record], peppers_of(1))
                .unwrap_err()
                .to_string(),
            &["ApiKeys::from_records", &id, "remove one"],
        ),
        (
            Peppers::new(3, [b'S'; 31]).unwrap_err().to_string(),
            &["Peppers::new", "version 3", "31 bytes", "at least 32"],
        ),
        (
            peppers_of(3)
                .with_previous(2, "SSS")
                .unwrap_err()
                .to_string(),
            &["Peppers::with_previous", "version 2", "3 bytes"],
        ),
        (
            peppers_of(3)
                .with_previous(3, [b'S'; 32])
                .unwrap_err()
                .to_string(),
            &["Peppers::with_previous", "version 3", "of its own"],
        ),
        (
            Peppers::from_env("TOLLGATE_NOT_SET")
                .unwrap_err()
                .to_string(),
            &[
                "Peppers::from_env",
                "TOLLGATE_NOT_SET",
                "openssl rand -hex 32",
            ],
        ),
    ] {
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(text.contains("; "), "there is a fix: {text}");
        assert!(!text.contains("SSS"), "no secret: {text}");
        assert!(text.len() < 300, "{text}");
    }
}

#[tokio::test]
async fn missing_pepper_is_logged_once_per_version_with_the_fix() {
    let store = MemoryKeys::new();
    let under = |version: u32| {
        let peppers = Peppers::new(version, [version as u8; 32]).unwrap();
        ApiKeys::new(store.clone(), peppers).prefix("acme")
    };
    let mut issued = Vec::new();
    for version in [1, 1, 2] {
        issued.push(under(version).issue(NewKey::for_owner("a")).await.unwrap());
    }
    let current = under(3);
    let (events, _guard) = Events::listen();
    for _ in 0..3 {
        for issued in &issued {
            let answer = answer(&current, issued.key.expose()).await;
            let seen = (answer.status.as_u16(), answer.code());
            assert_eq!(seen, (500, "internal".to_owned()));
            assert_eq!(answer.rejection.unwrap().cause(), Cause::PepperUnknown);
            // A report of a leak cannot be verified either.
            let leak = current.report_leaked(issued.key.expose()).await.unwrap();
            assert!(leak.is_none());
        }
    }
    let of_peppers = |event: &String| event.contains("pepper_version");
    let logged: Vec<_> = events.of("ERROR").into_iter().filter(of_peppers).collect();
    assert_eq!(logged.len(), 2, "{logged:#?}");
    for (event, (issued, version)) in logged.iter().zip([(&issued[0], 1), (&issued[2], 2)]) {
        for part in [
            format!("key_id={}", issued.record.id),
            format!("pepper_version={version}"),
            format!("Peppers::with_previous({version}, secret)"),
            "current: 3, previous: []".to_owned(),
        ] {
            assert!(event.contains(&part), "{part} is not in {event}");
        }
    }
}

#[test]
fn states_and_causes_have_stable_names() {
    let until = NOW;
    for (state, name) in [
        (KeyState::Scheduled, "scheduled"),
        (KeyState::Active, "active"),
        (KeyState::Retiring { until }, "retiring"),
        (KeyState::Disabled, "disabled"),
        (KeyState::Ended(EndCause::Expired), "ended"),
    ] {
        assert_eq!(state.to_string(), name);
        assert_eq!(state.as_str(), name);
        assert_eq!(serde_json::to_value(state).unwrap(), name);
    }
    assert_eq!(KeyState::Active.end_cause(), None);
    for (cause, name) in [
        (EndCause::CleartextExposure, "cleartext_exposure"),
        (EndCause::Compromised, "compromised"),
        (EndCause::Expired, "expired"),
        (EndCause::OwnerRemoved, "owner_removed"),
        (EndCause::Revoked, "revoked"),
        (EndCause::RotatedOut, "rotated_out"),
    ] {
        assert_eq!(cause.to_string(), name);
        assert_eq!(serde_json::to_value(cause).unwrap(), name);
        assert_eq!(name.parse::<EndCause>(), Ok(cause));
        assert_eq!(KeyState::Ended(cause).end_cause(), Some(cause));
    }
    let error = "Revoked".parse::<EndCause>().unwrap_err().to_string();
    assert!(
        error.contains("\"Revoked\"") && error.contains("rotated_out"),
        "{error}"
    );
}

#[tokio::test]
async fn key_errors_map_to_http_statuses() {
    let keys = keys_over(MemoryKeys::new());
    let id = keys.issue(NewKey::for_owner("a")).await.unwrap().record.id;
    keys.disable(id).await.unwrap();
    let failing = keys_over(Scripted::new(Script::Fails));
    let nobody = "000000000000".parse().unwrap();
    let new = || NewKey::for_owner("a");
    let at_once = Rotation::at_once();
    for (error, status) in [
        (keys.revoke(nobody).await.unwrap_err(), 404),
        (keys.rotate(id, at_once).await.unwrap_err(), 409),
        (keys.schedule(id, NOW).await.unwrap_err(), 409),
        (keys.issue(NewKey::for_owner("")).await.unwrap_err(), 422),
        (keys.issue(new().scopes([""])).await.unwrap_err(), 422),
        (keys.issue(new().methods([""])).await.unwrap_err(), 422),
        (keys.issue(new().expires_at(NOW)).await.unwrap_err(), 422),
        (keys.issue(new().environment("x")).await.unwrap_err(), 422),
        (failing.revoke(id).await.unwrap_err(), 503),
    ] {
        assert_eq!(error.status().as_u16(), status, "{error}");
    }
    // The text is fit for the response: the reason of the store stays in the source.
    let error = failing.revoke(id).await.unwrap_err();
    assert!(!error.to_string().contains("connection refused"));
    let source = std::error::Error::source(&error).unwrap();
    let reason = source.source().unwrap().to_string();
    assert_eq!(reason, "connection refused");
}
