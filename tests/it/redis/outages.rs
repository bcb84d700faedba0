//! A Redis that is away, slow, or comes back as another.

use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use tollgate::Identity;
use tollgate::clock::{Clock, SystemClock};
use tollgate::limit::{
    LimitKey, Limiter, Quota, Quotas, RateLimitLayer, RedisFault, RedisLimiter, WhenDown,
};
use tower::Layer;

use crate::support::{send, who};

use super::proxy::{Mode, Proxy};
use super::server::{Server, free_port};
use super::{admitted, eventually, recovers, take};

/// Two hundred milliseconds: the machine that the tests run on is busy.
fn limiter(url: &str) -> RedisLimiter {
    RedisLimiter::new(url)
        .unwrap()
        .deadline(Duration::from_millis(200))
}

/// H1.
#[tokio::test]
async fn a_redis_that_is_down_at_the_start_is_used_when_it_comes() {
    let (port, quotas) = (free_port(), Quotas::from(Quota::per_day(5)));
    let limiter = limiter(&format!("redis://127.0.0.1:{port}"));
    assert_eq!(limiter.status().round_trips, 0);
    assert_eq!(
        admitted(&limiter, "a", &quotas, 8).await,
        5,
        "by the local share"
    );
    let status = limiter.status();
    assert!(status.is_partitioned);
    assert_eq!(status.fallbacks.local_share, 8);
    assert_eq!(status.last_fault, Some(RedisFault::Unreachable));

    let server = Server::on(port, &[]);
    recovers(&limiter, &Quota::per_second(1_000).into()).await;
    assert_eq!(admitted(&limiter, "a", &quotas, 8).await, 5);
    assert!(!server.keys().is_empty());
}

/// Row 25 of the answers: each policy, as a client sees it.
#[tokio::test]
async fn a_client_sees_the_policy_and_never_a_server_error_that_is_ours() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    for (when_down, expected) in [
        (WhenDown::default(), [200, 200, 429]),
        (WhenDown::LocalShare { share: 1, of: 2 }, [200, 429, 429]),
        (WhenDown::Open, [200, 200, 200]),
        (WhenDown::Closed, [503, 503, 503]),
    ] {
        let limiter = limiter(&url).when_down(when_down);
        let layer = RateLimitLayer::new(Quota::per_hour(2)).limiter(limiter.clone());
        let service = layer.layer(who());
        for status in expected {
            let mut request = Request::new(());
            request
                .extensions_mut()
                .insert(Identity::for_test().build());
            let answer = send(&service, request).await;
            assert_eq!(answer.status, status, "{when_down:?}");
            if answer.status != StatusCode::OK {
                assert!(answer.header("retry-after").is_some());
                let kind = match when_down {
                    WhenDown::Closed => "#temporary-reduced-capacity",
                    _ => "#quota-exceeded",
                };
                let body = String::from_utf8_lossy(&answer.body);
                assert!(body.contains(kind), "{body}");
            }
        }
        let counted = limiter.status().fallbacks;
        let kind = match when_down {
            WhenDown::Open => counted.open,
            WhenDown::Closed => counted.closed,
            _ => counted.local_share,
        };
        assert_eq!((kind, counted.total()), (3, 3));
    }
    for (share, of) in [(0, 1), (2, 1), (0, 0)] {
        let limiter = limiter(&url);
        let when_down = WhenDown::LocalShare { share, of };
        let error = limiter.try_when_down(when_down).unwrap_err();
        let setting =
            format!("`RedisLimiter::when_down(LocalShare {{ share: {share}, of: {of} }})`");
        assert!(error.to_string().starts_with(&setting), "{error}");
    }
    for url in [
        "",
        "redis",
        "http://127.0.0.1",
        "redis://",
        "rediss://u:hunter2@127.0.0.1",
    ] {
        if let Err(error) = RedisLimiter::new(url) {
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}

/// H2.
#[tokio::test]
async fn a_restart_loses_the_counts_and_the_script_and_nothing_else() {
    let mut server = Server::start();
    let (limiter, quotas) = (limiter(&server.url()), Quotas::from(Quota::per_day(5)));
    assert_eq!(admitted(&limiter, "a", &quotas, 4).await, 4);
    server.stop();
    assert_eq!(
        admitted(&limiter, "a", &quotas, 9).await,
        1,
        "it knows what it had admitted"
    );
    server.start_again();
    recovers(&limiter, &Quota::per_second(1_000).into()).await;
    let (trips, fallbacks) = (limiter.status().round_trips, limiter.status().fallbacks);
    assert_eq!(admitted(&limiter, "a", &quotas, 5).await, 5, "a new start");
    assert_eq!(admitted(&limiter, "a", &quotas, 5).await, 0);
    let status = limiter.status();
    assert_eq!(status.reloads, 2, "once for each server");
    assert_eq!(
        (status.round_trips - trips, status.fallbacks),
        (6, fallbacks)
    );
}

/// H3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_is_flushed_under_load_charges_nobody_twice() {
    let server = Server::start();
    let limiter = limiter(&server.url()).deadline(Duration::from_secs(5));
    let quotas = Quotas::from(Quota::per_day(100_000));
    let tasks = (0..8).map(|_| {
        let (limiter, quotas) = (limiter.clone(), quotas.clone());
        tokio::spawn(async move { admitted(&limiter, "a", &quotas, 150).await })
    });
    let tasks: Vec<_> = tasks.collect();
    for _ in 0..20 {
        server.command(&["SCRIPT", "FLUSH"]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 150);
    }
    let status = limiter.status();
    assert!((2..=21).contains(&status.reloads), "{status:?}");
    // A call may be flushed away again before it is retried: then the share has decided.
    let charged = 1_200 - usize::try_from(status.fallbacks.total()).unwrap();
    assert_eq!(
        left(&limiter, &quotas).await,
        100_000 - u32::try_from(charged).unwrap()
    );
}

async fn left(limiter: &RedisLimiter, quotas: &Quotas) -> u32 {
    let (key, now) = (LimitKey::custom("a"), SystemClock.now());
    let standing = limiter.take(&key, quotas, 0, now).wait().await.unwrap();
    standing.remaining(quotas).next().unwrap()
}

/// H4.
#[tokio::test]
async fn what_may_have_been_charged_is_not_sent_again() {
    for mode in [
        Mode::LosesAnswers,
        Mode::CutsAnswers,
        Mode::Delays(Duration::from_millis(400)),
    ] {
        let server = Server::start();
        let proxy = Proxy::to(server.port).await;
        let (limiter, quotas) = (limiter(&proxy.url()), Quotas::from(Quota::per_day(10)));
        assert_eq!(admitted(&limiter, "a", &quotas, 3).await, 3);
        let trips = limiter.status().round_trips;
        proxy.turn(mode.clone());
        assert_eq!(
            admitted(&limiter, "a", &quotas, 1).await,
            1,
            "by the local share"
        );
        let status = limiter.status();
        assert_eq!(
            (status.round_trips - trips, status.fallbacks.total()),
            (1, 1),
            "{mode:?}"
        );
        proxy.turn(Mode::Passes);
        recovers(&limiter, &Quota::per_second(1_000).into()).await;
        assert_eq!(left(&limiter, &quotas).await, 6, "charged once: {mode:?}");
    }
}

/// H5: whatever keeps it from answering, a request waits for the deadline, and most do not.
#[tokio::test]
async fn a_redis_that_does_not_answer_holds_nobody_up() {
    for cause in ["slow", "swallowed", "paused", "half open"] {
        let server = Server::start();
        let proxy = Proxy::to(server.port).await;
        let limiter = limiter(&proxy.url()).deadline(Duration::from_millis(40));
        let quotas = Quotas::from(Quota::per_day(1_000));
        recovers(&limiter, &quotas).await;
        match cause {
            "slow" => proxy.turn(Mode::Delays(Duration::from_secs(2))),
            "paused" => server.tell("CLIENT PAUSE 600"),
            _ => proxy.turn(Mode::Swallows),
        }
        let start = Instant::now();
        assert_eq!(admitted(&limiter, "a", &quotas, 200).await, 200, "{cause}");
        // Three that wait and a probe or two, and 195 that do not.
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "{cause}: {:?}",
            start.elapsed()
        );
        let status = limiter.status();
        assert!(status.is_partitioned, "{cause}");
        assert_eq!(status.last_fault, Some(RedisFault::TimedOut), "{cause}");
        assert_eq!(status.fallbacks.local_share, 200, "{cause}");
        proxy.turn(Mode::Passes);
        if cause != "paused" && cause != "half open" {
            // Nothing that was open before is of any use.
            proxy.cut();
        }
        recovers(&limiter, &quotas).await;
    }
}

/// H6.
#[tokio::test]
async fn a_primary_that_became_a_replica_is_left() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let (limiter, quotas) = (limiter(&proxy.url()), Quotas::from(Quota::per_day(10)));
    assert_eq!(admitted(&limiter, "a", &quotas, 2).await, 2);
    let connections = || {
        let stats = server.command(&["INFO", "stats"]);
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = connections();
    server.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    assert_eq!(admitted(&limiter, "a", &quotas, 3).await, 3);
    let status = limiter.status();
    assert_eq!(status.last_fault, Some(RedisFault::ReadOnly));
    assert_eq!(
        (status.fallbacks.local_share, status.is_partitioned),
        (3, true)
    );
    assert!(connections() > before + 2, "it tries another connection");
    server.command(&["REPLICAOF", "NO", "ONE"]);
    recovers(&limiter, &Quota::per_second(1_000).into()).await;
    assert_eq!(
        left(&limiter, &quotas).await,
        8,
        "a refused write has charged nothing"
    );
}

/// H9.
#[tokio::test]
async fn what_is_flushed_starts_anew() {
    let server = Server::start();
    let (limiter, quotas) = (limiter(&server.url()), Quotas::from(Quota::per_day(3)));
    for _ in 0..2 {
        assert_eq!(admitted(&limiter, "a", &quotas, 3).await, 3);
        server.command(&["FLUSHALL"]);
    }
    assert_eq!(limiter.status().fallbacks.total(), 0);
}

/// H12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_takes_only_what_was_on_it() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let limiter = limiter(&proxy.url()).deadline(Duration::from_secs(2));
    let quotas = Quotas::from(Quota::per_day(1_000_000));
    recovers(&limiter, &quotas).await;
    proxy.turn(Mode::Delays(Duration::from_millis(50)));
    let tasks = (0..1_000).map(|_| {
        let (limiter, quotas) = (limiter.clone(), quotas.clone());
        tokio::spawn(async move { take(&limiter, "a", &quotas).await.unwrap().is_admitted() })
    });
    let tasks: Vec<_> = tasks.collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    proxy.turn(Mode::Passes);
    proxy.cut();
    let start = Instant::now();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    let status = limiter.status();
    assert!(
        (1..=1_000).contains(&status.fallbacks.total()),
        "{status:?}"
    );
    assert!(
        !status.is_partitioned,
        "one connection is one failure: {status:?}"
    );
    assert_eq!(admitted(&limiter, "a", &quotas, 10).await, 10);
    assert_eq!(limiter.status().fallbacks, status.fallbacks);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

/// H10: who asks while Redis is away, and when it is back, is one at a time.
#[tokio::test]
async fn a_crowd_does_not_run_at_a_redis_that_is_back() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let (limiter, quotas) = (limiter(&proxy.url()), Quotas::from(Quota::per_day(100_000)));
    proxy.turn(Mode::Refuses);
    let crowd = async |name: &str| {
        let mut tasks = Vec::new();
        for i in 0..200 {
            let (limiter, quotas, name) = (limiter.clone(), quotas.clone(), format!("{name}{i}"));
            tasks.push(tokio::spawn(async move {
                take(&limiter, &name, &quotas).await.unwrap().is_admitted()
            }));
        }
        for task in tasks {
            assert!(task.await.unwrap());
        }
    };
    crowd("first").await;
    assert!(limiter.status().is_partitioned);
    let (away, at_first) = (Instant::now(), proxy.connections());
    assert!(at_first <= 3, "{at_first}");
    for round in 0..20 {
        crowd(&format!("later{round}")).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Two after a tenth of a second each would be a fifth; the pauses grow from there.
    let most = 2 + away.elapsed().as_millis() / 100;
    let probes = u128::try_from(proxy.connections() - at_first).unwrap();
    assert!((1..=most).contains(&probes), "{probes} of {most}");
    let at_last = proxy.connections();
    proxy.turn(Mode::Passes);
    eventually("the healing", async || {
        crowd("again").await;
        !limiter.status().is_partitioned
    })
    .await;
    let away = limiter.status().fallbacks.total();
    crowd("at last").await;
    assert_eq!(limiter.status().fallbacks.total(), away);
    // The one that succeeded, and probes that were under way before.
    let connections = proxy.connections() - at_last;
    assert!((1..=2).contains(&connections), "{connections}");
}

/// H10, from one side: nodes that are cut off admit their shares, and no more.
#[tokio::test]
async fn nodes_without_redis_admit_their_shares() {
    let server = Server::start();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let proxy = Proxy::to(server.port).await;
        let share = WhenDown::LocalShare { share: 1, of: 2 };
        nodes.push((limiter(&proxy.url()).when_down(share), proxy));
    }
    let quotas = Quotas::from(Quota::per_day(20));
    let mut sum = 0;
    for round in 0..2 {
        for (limiter, proxy) in &nodes {
            sum += admitted(limiter, "a", &quotas, 3 + 20 * round).await;
            proxy.turn(Mode::Refuses);
            proxy.cut();
        }
    }
    assert_eq!(sum, 20, "six by Redis, and seven by each");
    assert!(
        nodes
            .iter()
            .all(|(limiter, _)| limiter.status().is_partitioned)
    );
}

/// What was paid for here, while there was nobody else to ask, is given back here.
#[tokio::test]
async fn what_redis_was_never_paid_is_not_given_back_to_it() {
    let mut server = Server::start();
    let (here, there) = (limiter(&server.url()), limiter(&server.url()));
    let (quotas, now) = (Quotas::from(Quota::per_day(100)), SystemClock.now());
    let key = LimitKey::custom("a");
    server.stop();
    let paid = here.take(&key, &quotas, 50, now).wait().await.unwrap();
    assert!(paid.is_admitted(), "by what is kept here");
    server.start_again();
    recovers(&here, &Quotas::from(Quota::per_day(7).named("probe"))).await;
    let elsewhere = there.take(&key, &quotas, 60, now).wait().await.unwrap();
    assert!(elsewhere.is_admitted());
    here.settle(paid.ticket(), &quotas, -45, now).wait().await;
    assert_eq!(left(&there, &quotas).await, 40);
    server.stop();
    assert_eq!(left(&here, &quotas).await, 95, "and here it is");
}

#[tokio::test]
async fn what_nobody_waited_for_is_counted_as_lost() {
    let server = Server::start();
    let (limiter, quotas) = (limiter(&server.url()), Quotas::from(Quota::per_day(10)));
    let ticket = limiter.ticket(&LimitKey::custom("a"));
    drop(limiter.settle(ticket, &quotas, 4, SystemClock.now()));
    assert_eq!(limiter.status().lost, 1);
    limiter
        .settle(ticket, &quotas, 4, SystemClock.now())
        .wait()
        .await;
    assert_eq!(limiter.status().lost, 1);
}

#[tokio::test]
async fn who_has_another_secret_counts_for_themselves() {
    let server = Server::start();
    let quotas = Quotas::from(Quota::per_day(10));
    let nodes = [&b"one"[..], b"other"].map(|secret| limiter(&server.url()).secret(secret));
    for node in &nodes {
        assert!(take(node, "a", &quotas).await.unwrap().is_admitted());
        assert_eq!(left(node, &quotas).await, 9);
    }
}

#[tokio::test]
async fn what_does_not_arrive_is_counted_and_still_holds_here() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let (limiter, quotas) = (limiter(&proxy.url()), Quotas::from(Quota::per_day(10)));
    let (key, now) = (LimitKey::custom("a"), SystemClock.now());
    proxy.turn(Mode::Refuses);
    let ticket = limiter.ticket(&key);
    limiter.settle(ticket, &quotas, 4, now).wait().await;
    assert_eq!(left(&limiter, &quotas).await, 6);
    limiter
        .ban(ticket, now.saturating_add(Duration::from_secs(60)), now)
        .wait()
        .await;
    assert!(!take(&limiter, "a", &quotas).await.unwrap().is_admitted());
    limiter.reset(ticket, &quotas).wait().await;
    assert_eq!(left(&limiter, &quotas).await, 10);
    assert_eq!(limiter.status().lost, 3);
}

#[tokio::test]
async fn a_request_that_is_given_up_takes_no_probe_with_it() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let limiter = limiter(&proxy.url());
    let quotas = Quotas::from(Quota::per_day(1_000));
    proxy.turn(Mode::Refuses);
    admitted(&limiter, "a", &quotas, 3).await;
    assert!(limiter.status().is_partitioned);
    proxy.turn(Mode::Delays(Duration::from_millis(30)));
    // Clients without patience: each may be the probe.
    for _ in 0..20 {
        let asked = tokio::time::timeout(Duration::from_millis(10), take(&limiter, "a", &quotas));
        let _ = asked.await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("a recovery", async || {
        let _ = take(&limiter, "a", &quotas).await;
        !limiter.status().is_partitioned
    })
    .await;
}

#[test]
fn a_limiter_outlives_its_runtime_and_does_without_one() {
    let server = Server::start();
    let (limiter, quotas) = (limiter(&server.url()), Quotas::from(Quota::per_day(10)));
    let on_a_runtime = |tries| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .unwrap()
            .block_on(admitted(&limiter, "a", &quotas, tries))
    };
    assert_eq!(on_a_runtime(2), 2);
    assert_eq!(on_a_runtime(2), 2);
    assert_eq!(on_a_runtime(2), 2);
    assert_eq!(
        limiter.status().fallbacks.total(),
        2,
        "one for each runtime that has ended"
    );

    // One without I/O, where tokio panics.
    let bare = RedisLimiter::new(&server.url()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(admitted(&bare, "b", &quotas, 12)), 10);
    assert_eq!(bare.status().fallbacks.local_share, 12);
}
