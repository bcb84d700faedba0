//! What Redis decides, and what it is left with.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use tollgate::Identity;
use tollgate::clock::{Clock, ManualClock, SystemClock, Timestamp};
use tollgate::limit::{
    Decision, Fields, LimitKey, Limiter, MemoryLimiter, Quota, Quotas, RateLimitLayer, RedisLimiter,
};
use tollgate::pending::Pending;
use tower::{Layer, ServiceExt, service_fn};

use super::server::Server;
use super::{admitted, eventually, take};

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The script, told the time.
fn script(now: u64) -> String {
    let source = include_str!("../../../src/limit/redis/gcra.lua");
    let told = format!("{{{}, {}}}", now / 1_000_000, now % 1_000_000);
    let text = source.replace("redis.call('TIME')", &told);
    assert_ne!(text, source);
    text
}

/// What the script is told about quotas: in hexadecimal, for it has to be text here.
fn numbers(quotas: &Quotas, units: u32) -> String {
    let mut text = String::new();
    for quota in quotas.iter() {
        let whole = u128::from(quota.count()) * 1_000;
        for units in [units, quota.burst_size()] {
            let parts = quota.period().as_nanos() * u128::from(units);
            text.push_str(&format!("{:016x}{:016x}", parts / whole, parts % whole));
        }
        text.push_str(&format!("{whole:016x}"));
    }
    text
}

fn micros(now: u64) -> Timestamp {
    Timestamp::EPOCH.saturating_add(Duration::from_micros(now))
}

fn peek(memory: &MemoryLimiter, key: &LimitKey<'_>, quotas: &Quotas, now: u64) -> Decision {
    let Pending::Ready(Ok(decision)) = memory.take(key, quotas, 0, micros(now)) else {
        unreachable!();
    };
    decision
}

/// Nothing but the time is not as it is in production, and the time can be anything: the
/// script against the limiter in memory, whatever the clock does.
#[test]
fn the_script_decides_what_memory_decides_at_any_time() {
    let server = Server::start();
    let quotas = Quotas::new([
        Quota::per_hour(7).burst(5),
        Quota::per_day(11).burst(9),
        Quota::per(13, Duration::from_nanos(86_400_000_000_001)),
    ]);
    let mut random = Random(0x5eed);
    for sequence in 0..40 {
        let (memory, key) = (MemoryLimiter::new(), LimitKey::custom("a"));
        let ticket = memory.ticket(&key);
        let mut now = 1_800_000_000_000_000_u64;
        let mut latest = now;
        let name = format!("{{a}}:{sequence}");
        for step in 0..25 {
            if server.number(&["EXISTS", &name]) == 0 {
                // What had come back is forgotten, even if the clock steps back to before.
                let left = peek(&memory, &key, &quotas, latest)
                    .remaining(&quotas)
                    .collect::<Vec<_>>();
                assert_eq!(left, [5, 9, 13]);
                let _ = memory.reset(ticket, &quotas);
            }
            now = match random.below(20) {
                0 => now - 3_600_000_000,
                1 => now + 366 * 86_400_000_000,
                2 => now,
                _ => now + random.below(1_000_000_000),
            };
            latest = latest.max(now);
            let at = micros(now);
            let units = u32::try_from(random.below(7)).unwrap();
            let (op, sign) = match random.below(8) {
                0 => ("charge", 1),
                1 if units > 0 => ("refund", -1),
                _ if units == 0 => ("peek", 0),
                _ => ("take", 0),
            };
            let bytes = "(ARGV[2]:gsub('..', function(d) return string.char(tonumber(d, 16)) end))";
            let text = script(now).replace("ARGV[1], ARGV[2]", &format!("ARGV[1], {bytes}"));
            let numbers = numbers(&quotas, units);
            let answer = server.command(&["EVAL", &text, "2", &name, "{a}:ban", op, &numbers]);
            let what = format!("sequence {sequence}, step {step}: {op} {units} at {now}: {answer}");
            if sign != 0 {
                let _ = memory.settle(ticket, &quotas, sign * i64::from(units), at);
                continue;
            }
            let answer: Vec<i64> = answer
                .lines()
                .filter_map(|line| line.strip_prefix(':')?.parse().ok())
                .collect();
            let Pending::Ready(Ok(decision)) = memory.take(&key, &quotas, units, at) else {
                unreachable!();
            };
            assert_eq!(
                answer[0] == 1,
                decision.is_admitted(),
                "{what} {decision:?}"
            );
            if !decision.is_admitted() {
                // The cells as they were: how much is left says how far ahead they are.
                for ((quota, left), cell) in quotas
                    .iter()
                    .zip(decision.remaining(&quotas))
                    .zip(answer[3..].chunks(2))
                {
                    let ahead = u128::try_from(cell[0]).unwrap() - u128::from(now);
                    let free = quota.period().as_nanos() * u128::from(quota.burst_size());
                    let used = ahead * 1_000 * u128::from(quota.count())
                        + u128::try_from(cell[1]).unwrap();
                    let remaining = free.saturating_sub(used) / quota.period().as_nanos();
                    assert_eq!(remaining, u128::from(left), "{what} {decision:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_limiter_in_redis_says_what_one_in_memory_says() {
    let server = Server::start();
    let redis = RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    // One for each key: what is refused here is dated a little earlier than it would be by the
    // server, and time does not go back for keys that share a lock.
    let mut memories = HashMap::new();
    let sets = [
        Quotas::from(Quota::per_second(300).burst(7)),
        Quotas::from([
            Quota::per_minute(700).burst(9),
            Quota::per_hour(7_000).burst(30),
        ]),
        Quotas::from(Quota::per_second(10_000).burst(3)),
    ];
    let mut random = Random(7);
    let (mut admitted, mut refused) = (0, 0);
    for step in 0..3_000 {
        let set = usize::try_from(random.below(3)).unwrap();
        let (quotas, name) = (&sets[set], ["x", "y", "z"][set]);
        let caller = ["a", "b"][usize::try_from(random.below(2)).unwrap()];
        let (key, cost) = (
            LimitKey::custom(caller),
            u32::try_from(random.below(11)).unwrap(),
        );
        let key = key.and(LimitKey::custom(name));
        // A clock that is of no interest.
        let decision = redis
            .take(&key, quotas, cost, Timestamp::EPOCH)
            .wait()
            .await
            .unwrap();
        let memory = memories
            .entry((caller, name))
            .or_insert_with(|| MemoryLimiter::with_capacity(1_000));
        let expected = memory
            .take(&key, quotas, cost, decision.now())
            .wait()
            .await
            .unwrap();
        let what = format!("step {step}: {cost} of {quotas:?}");
        assert_eq!(decision.is_admitted(), expected.is_admitted(), "{what}");
        assert_eq!(decision.wait(), expected.wait(), "{what}");
        let left = |decision: &Decision| decision.remaining(quotas).collect::<Vec<_>>();
        assert_eq!(left(&decision), left(&expected), "{what}");
        *if decision.is_admitted() {
            &mut admitted
        } else {
            &mut refused
        } += 1;
    }
    assert!(admitted > 300 && refused > 300, "{admitted} and {refused}");
    let status = redis.status();
    assert_eq!((status.fallbacks.total(), status.reloads), (0, 1));
    assert!(status.denied_locally > 100, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tasks_on_two_nodes_admit_exactly_what_there_is() {
    let server = Server::start();
    let node = || {
        let limiter = RedisLimiter::new(&server.url()).unwrap().name("orders");
        limiter.deadline(Duration::from_secs(5))
    };
    let (nodes, quotas) = ([node(), node()], Quotas::from(Quota::per_day(137)));
    let tasks = (0..1_000).map(|i| {
        let (limiter, quotas) = (nodes[i % 2].clone(), quotas.clone());
        tokio::spawn(async move { admitted(&limiter, "a", &quotas, 2).await })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    assert_eq!(sum, 137);
    assert!(
        nodes
            .iter()
            .all(|node| node.status().fallbacks.total() == 0)
    );
}

#[tokio::test]
async fn budgets_are_paid_together_looked_at_settled_and_given_back() {
    let server = Server::start();
    let limiter = RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    let quotas = Quotas::from([Quota::per_minute(10), Quota::per_hour(3)]);
    let control = RateLimitLayer::new(quotas.clone())
        .limiter(limiter.clone())
        .control();
    let key = LimitKey::custom("a");
    let left = async || {
        let standing = control.peek(&key, &quotas).await.unwrap();
        standing.remaining(&quotas).collect::<Vec<_>>()
    };
    assert_eq!(left().await, [10, 3]);
    assert!(server.keys().is_empty(), "who looks leaves nothing");
    assert_eq!(admitted(&limiter, "a", &quotas, 5).await, 3);
    assert_eq!(
        left().await,
        [7, 0],
        "the second refuses, and the first is not charged"
    );
    let never = limiter
        .take(&key, &quotas, 11, SystemClock.now())
        .wait()
        .await
        .unwrap();
    assert!(
        !never.is_admitted() && never.wait().is_none(),
        "more than the burst"
    );

    let ticket = limiter.ticket(&key);
    limiter
        .settle(ticket, &quotas, -2, SystemClock.now())
        .wait()
        .await;
    assert_eq!(left().await, [9, 2]);
    assert_eq!(
        admitted(&limiter, "a", &quotas, 1).await,
        1,
        "a refund is heard of at once"
    );
    control.penalise(&key, &quotas, 2).await;
    assert_eq!(left().await, [6, 0]);
    control.penalise(&key, &quotas, u32::MAX).await;
    let refused = take(&limiter, "a", &quotas).await.unwrap();
    let debt = refused.wait().unwrap();
    assert!(
        debt <= Duration::from_secs(3_600 + 1_200),
        "of a burst at the most: {debt:?}"
    );

    control.reset(&key, &quotas).await;
    assert_eq!((left().await, server.keys().len()), (vec![10, 3], 0));
    control.ban(&key, Duration::from_secs(3_600)).await;
    let banned = take(&limiter, "a", &quotas).await.unwrap();
    assert!(banned.wait().unwrap() > Duration::from_secs(3_590));
    assert!(!control.peek(&key, &quotas).await.unwrap().is_admitted());
    let other = Quotas::from(Quota::per_second(1));
    assert!(
        !take(&limiter, "a", &other).await.unwrap().is_admitted(),
        "whatever the quotas"
    );
    control.ban(&key, Duration::ZERO).await;
    assert!(take(&limiter, "a", &quotas).await.unwrap().is_admitted());
    control.ban(&key, Duration::MAX).await;
    control.reset(&key, &quotas).await;
    assert!(take(&limiter, "a", &quotas).await.unwrap().is_admitted());
    assert_eq!(limiter.status().lost, 0);
}

#[tokio::test]
async fn a_key_tells_nobody_who_it_is_and_goes_away() {
    let server = Server::start();
    let limiter = RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    let quotas = Quotas::from([Quota::per_second(10), Quota::per_minute(7)]);
    for subject in ["acct_1", "a}b{c:\0\r\n", &"x".repeat(10_000)] {
        assert!(
            take(&limiter, subject, &quotas)
                .await
                .unwrap()
                .is_admitted()
        );
    }
    let keys = server.keys();
    assert_eq!(keys.len(), 3);
    for key in keys {
        let (tag, rest) = key.strip_prefix("tg:{").unwrap().split_once("}:").unwrap();
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(
            tag.len() == 32 && rest.len() == 16 && is_hex(tag) && is_hex(rest),
            "{key}"
        );
        let left = server.number(&["PTTL", &key]);
        assert!(
            (8_000..=8_572).contains(&left),
            "one of seven a minute: {left}"
        );
        assert_eq!(server.number(&["STRLEN", &key]), 32);
    }
}

/// H11: the time of a node is of no interest to the others.
#[tokio::test]
async fn clocks_of_nodes_may_be_off_by_an_hour() {
    let server = Server::start();
    let true_now = SystemClock.now();
    let hour = Duration::from_secs(3_600);
    let clocks = [true_now.saturating_sub(hour), true_now.saturating_add(hour)];
    let mut statuses = Vec::new();
    let nodes = clocks.map(|at| {
        let limiter = RedisLimiter::new(&server.url())
            .unwrap()
            .deadline(Duration::from_secs(2));
        RateLimitLayer::new(Quota::per_hour(4))
            .limiter(limiter)
            .fields(Fields::LegacyEpoch)
            .clock(ManualClock::new(at))
            .layer(service_fn(|_: Request<()>| async {
                Ok::<_, std::convert::Infallible>(Response::new(()))
            }))
    });
    for i in 0..6 {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(Identity::for_test().build());
        let response = nodes[i % 2].clone().oneshot(request).await.unwrap();
        statuses.push(response.status().as_u16());
        let reset: u64 = response.headers()["x-ratelimit-reset"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let latest = true_now.unix_seconds() + 3_602;
        assert!(
            (true_now.unix_seconds()..latest).contains(&reset),
            "by the server's clock"
        );
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
}

#[tokio::test]
async fn clients_are_told_what_they_would_be_told_from_memory() {
    let server = Server::start();
    let quotas = [Quota::per_minute(60).burst(3), Quota::per_day(100)];
    let limiter = RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    async fn fields<L: Limiter>(layer: RateLimitLayer<L>) -> Vec<(StatusCode, HeaderMap)> {
        let service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, std::convert::Infallible>(Response::new(()))
        }));
        let mut all = Vec::new();
        for _ in 0..5 {
            let mut request = Request::new(());
            request
                .extensions_mut()
                .insert(Identity::for_test().build());
            let response = service.clone().oneshot(request).await.unwrap();
            all.push((response.status(), response.headers().clone()));
        }
        all
    }
    let layer = RateLimitLayer::new(quotas);
    let told = fields(layer.clone().limiter(limiter)).await;
    assert!(told[4].1.contains_key("retry-after"));
    assert_eq!(told, fields(layer).await);
}

#[tokio::test]
async fn a_wait_that_was_told_is_enough() {
    let server = Server::start();
    let limiter = RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    let quotas = Quotas::from(Quota::per_second(30).burst(1));
    take(&limiter, "a", &quotas).await.unwrap();
    for _ in 0..10 {
        let refused = take(&limiter, "a", &quotas).await.unwrap();
        let again = take(&limiter, "a", &quotas).await.unwrap(); // from here
        tokio::time::sleep(refused.wait().unwrap().max(again.wait().unwrap())).await;
        assert!(take(&limiter, "a", &quotas).await.unwrap().is_admitted());
    }
    assert!(limiter.status().denied_locally > 0);
}

#[tokio::test]
async fn who_knocks_all_the_time_is_asked_about_once_a_second() {
    let server = Server::start();
    let node = || {
        RedisLimiter::new(&server.url())
            .unwrap()
            .deadline(Duration::from_secs(2))
    };
    let (here, there, quotas) = (node(), node(), Quotas::from(Quota::per_day(5)));
    assert_eq!(admitted(&here, "a", &quotas, 1_000).await, 5);
    assert!(here.status().round_trips < 15, "{:?}", here.status());
    assert!(here.status().denied_locally > 985);
    // Another node gives the budget back, and this one hears of it.
    there
        .reset(there.ticket(&LimitKey::custom("a")), &quotas)
        .wait()
        .await;
    eventually("the reset", async || {
        take(&here, "a", &quotas).await.unwrap().is_admitted()
    })
    .await;
}

#[tokio::test]
async fn a_plan_with_other_numbers_goes_on_where_the_last_one_stood() {
    let server = Server::start();
    let limiter = RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    let (small, large) = (
        Quotas::from(Quota::per_hour(10)),
        Quotas::from(Quota::per_hour(100)),
    );
    assert_eq!(admitted(&limiter, "a", &small, 12).await, 10);
    // An hour of debt under the one is an hour under the other.
    assert_eq!(admitted(&limiter, "a", &large, 1).await, 0);
    let limiter = limiter.name("other");
    assert_eq!(
        admitted(&limiter, "a", &small, 12).await,
        10,
        "another limit"
    );
}

/// Sends requests of one caller through a layer, and returns the number that is admitted.
async fn through(layer: &RateLimitLayer<RedisLimiter>, requests: usize) -> usize {
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, std::convert::Infallible>(Response::new(()))
    }));
    let mut admitted = 0;
    for _ in 0..requests {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(Identity::for_test().build());
        let response = service.clone().oneshot(request).await.unwrap();
        admitted += usize::from(response.status() == 200);
    }
    admitted
}

#[tokio::test]
async fn layers_of_one_limiter_are_apart_and_processes_are_not() {
    let server = Server::start();
    let process = || {
        let limiter = RedisLimiter::new(&server.url())
            .unwrap()
            .deadline(Duration::from_secs(2));
        let api = RateLimitLayer::new(Quota::per_hour(4)).limiter(limiter.clone());
        let search = RateLimitLayer::new(Quota::per_hour(4))
            .limiter(limiter.clone())
            .name("search");
        (limiter, api, search)
    };
    let (here, there) = (process(), process());
    assert_eq!(through(&here.1, 3).await, 3);
    assert_eq!(through(&there.1, 3).await, 1, "the other process");
    assert_eq!(through(&there.2, 3).await, 3, "the other layer");
    assert_eq!(through(&here.2, 3).await, 1);

    // One more layer of the same name is not built, whatever else was set at the limiter.
    let _service = here.1.layer(());
    let same = here.0.deadline(Duration::from_secs(1));
    let again = RateLimitLayer::new(Quota::per_day(9)).limiter(same.clone());
    let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| again.layer(())));
    let panic = built.unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("`RateLimitLayer::name(\"\")`"), "{text}");
    let other = RateLimitLayer::new(Quota::per_hour(4)).limiter(same.name("other"));
    assert_eq!(through(&other, 9).await, 4);
}
