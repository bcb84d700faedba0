//! Redis users that lack a right.

use std::time::Duration;

use tollgate::limit::{LimitKey, Limiter, Quota, Quotas, RedisFault, RedisLimiter};

use super::server::Server;
use super::take;
use crate::support::Events;

const PASSWORD: &str = "hunter2-hunter2";
const RIGHTS: [&str; 7] = [
    "~tg:*",
    "+evalsha",
    "+script|load",
    "+get",
    "+set",
    "+del",
    "+time",
];

/// Returns a limiter whose user has the documented rights but for one.
fn without(server: &Server, missing: &str, database: u8) -> RedisLimiter {
    let password = format!(">{PASSWORD}");
    let mut words = vec!["ACL", "SETUSER", "app", "reset", "on", &password, "+select"];
    words.extend(RIGHTS);
    words.retain(|word| *word != missing);
    assert_eq!(server.command(&words), "+OK\r\n");
    let url = format!(
        "redis://app:{PASSWORD}@127.0.0.1:{}/{database}",
        server.port
    );
    RedisLimiter::new(&url)
        .unwrap()
        .deadline(Duration::from_secs(2))
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let server = Server::start();
    for database in [0, 2] {
        let limiter = without(&server, "", database);
        limiter.warm_up().await.unwrap();
        assert!(server.keys().is_empty());
        let quotas = Quotas::from(Quota::per_day(5));
        let decision = take(&limiter, "a", &quotas).await.unwrap();
        limiter
            .settle(decision.ticket(), &quotas, -1, decision.now())
            .wait()
            .await;
        limiter.reset(decision.ticket(), &quotas).wait().await;
        let status = limiter.status();
        assert_eq!((status.fallbacks.total(), status.lost), (0, 0));
    }
    // Without a database in the URL, this right is not needed.
    without(&server, "+select", 0).warm_up().await.unwrap();
}

#[tokio::test]
async fn warm_up_does_not_need_the_info_command() {
    let server = Server::with(&["--rename-command", "INFO", ""]);
    let answer = server.command(&["INFO"]);
    assert!(answer.starts_with("-ERR unknown command"), "{answer}");
    let limiter = RedisLimiter::new(&server.url()).unwrap();
    limiter.warm_up().await.unwrap();
    assert!(server.keys().is_empty());
    assert_eq!(limiter.status().last_fault, None);
}

#[tokio::test]
async fn a_missing_right_is_an_error_that_names_it() {
    let server = Server::start();
    for missing in RIGHTS.into_iter().chain(["+select"]) {
        // The script is not kept from the round before.
        server.command(&["SCRIPT", "FLUSH"]);
        let limiter = without(&server, missing, u8::from(missing == "+select"));
        let error = limiter.warm_up().await.unwrap_err();
        assert_eq!(error.fault(), RedisFault::Forbidden, "{missing}: {error}");
        let text = error.to_string();
        assert!(text.contains(&format!("({missing})")), "{text}");

        // The same without a warm-up, in the log.
        let (events, _guard) = Events::listen();
        let limiter = without(&server, missing, u8::from(missing == "+select"));
        let quotas = Quotas::from(Quota::per_day(5));
        for _ in 0..4 {
            take(&limiter, "a", &quotas).await.unwrap();
            let ticket = limiter.ticket(&LimitKey::custom("a"));
            limiter.reset(ticket, &quotas).wait().await;
        }
        let errors = events.of("ERROR");
        assert_eq!(errors.len(), 1, "{missing}: {:?}", events.of(""));
        let cause = format!("cause=\"{missing}\"");
        assert!(errors[0].contains(&cause), "{errors:?}");
        assert!(errors[0].contains("grant the user"), "{errors:?}");
        assert_eq!(limiter.status().last_fault, Some(RedisFault::Forbidden));
        let all = events.of("").join("\n");
        for secret in [PASSWORD, "127.0.0.1", "tg:{"] {
            assert!(!all.contains(secret), "{all}");
        }
    }
}
