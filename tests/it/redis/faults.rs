//! A Redis that answers, and not with what it was asked for.

use std::fmt::Write;
use std::time::Duration;

use tollgate::limit::{Quota, Quotas, RedisFault, RedisLimiter};

use super::proxy::{Mode, Proxy};
use super::server::{Server, port_with_bus};
use super::{admitted, eventually, recovers, take};
use crate::support::Events;

const PASSWORD: &str = "hunter2-hunter2";

fn limiter(url: &str) -> RedisLimiter {
    RedisLimiter::new(url)
        .unwrap()
        .deadline(Duration::from_millis(200))
}

fn quotas() -> Quotas {
    Quota::per_day(1_000).into()
}

/// H7, with a server that is in that state.
#[tokio::test]
async fn a_server_in_trouble_has_the_policy_decide() {
    for (trouble, expected) in [
        ("oom", RedisFault::OutOfMemory),
        ("forbidden", RedisFault::Forbidden),
        ("busy", RedisFault::Busy),
        ("no replicas", RedisFault::MasterDown),
    ] {
        let server = Server::with(&["--lua-time-limit", "20"]);
        let (limiter, quotas) = (limiter(&server.url()), quotas());
        recovers(&limiter, &quotas).await;
        let before = limiter.status().fallbacks.local_share;
        let (make, heal): (&[&str], &[&str]) = match trouble {
            "oom" => (
                &["CONFIG", "SET", "maxmemory", "1"],
                &["CONFIG", "SET", "maxmemory", "0"],
            ),
            "forbidden" => (
                &["ACL", "SETUSER", "default", "-evalsha"],
                &["ACL", "SETUSER", "default", "+evalsha"],
            ),
            "no replicas" => (
                &["CONFIG", "SET", "min-replicas-to-write", "1"],
                &["CONFIG", "SET", "min-replicas-to-write", "0"],
            ),
            _ => (&[], &["SCRIPT", "KILL"]),
        };
        let mut loops = None;
        if make.is_empty() {
            // It ends when it is killed, with an error that nobody reads.
            let port = server.port;
            loops = Some(std::thread::spawn(move || endless_script(port)));
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else {
            server.command(make);
        }
        assert_eq!(admitted(&limiter, "a", &quotas, 5).await, 5, "{trouble}");
        let status = limiter.status();
        assert_eq!(status.last_fault, Some(expected), "{trouble}");
        assert_eq!(status.fallbacks.local_share - before, 5, "{trouble}");
        server.command(heal);
        recovers(&limiter, &quotas).await;
        if let Some(loops) = loops {
            loops.join().unwrap();
        }
    }
}

fn endless_script(port: u16) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"EVAL \"while true do end\" 0\r\n")
        .unwrap();
    let _ = stream.read(&mut [0; 256]);
}

#[tokio::test]
async fn a_cluster_that_is_down_has_the_policy_decide() {
    let name = format!("tollgate-nodes-{}.conf", std::process::id());
    let settings = ["--cluster-enabled", "yes", "--cluster-config-file", &name];
    let server = Server::on(port_with_bus(), &settings);
    let limiter = limiter(&server.url());
    assert_eq!(admitted(&limiter, "a", &quotas(), 5).await, 5);
    assert_eq!(limiter.status().last_fault, Some(RedisFault::ClusterDown));
    drop(server);
    std::fs::remove_file(std::env::temp_dir().join(name)).unwrap();
}

#[tokio::test]
async fn a_server_with_too_many_clients_has_the_policy_decide() {
    let server = Server::start();
    server.command(&["CONFIG", "SET", "maxclients", "1"]);
    let _other = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let limiter = limiter(&server.url());
    assert_eq!(admitted(&limiter, "a", &quotas(), 5).await, 5);
    assert_eq!(limiter.status().fallbacks.local_share, 5);
    assert!(limiter.status().is_partitioned);
    drop(_other);
    recovers(&limiter, &quotas()).await;
}

/// H7 and H8, with whatever a server can say.
#[tokio::test]
async fn whatever_it_answers_the_policy_decides() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    for answer in [
        &b"-LOADING Redis is loading the dataset in memory\r\n"[..],
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-MOVED 3999 127.0.0.1:1\r\n",
        b"-ASK 3999 127.0.0.1:1\r\n",
        b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-ERR max number of clients reached\r\n",
        b"-NOSCRIPT No matching script.\r\n",
        b"-ERR Error running script: @user_script:9: -READONLY You can't write.\r\n",
        b"-\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"*5\r\n:1\r\n:1800000000000000\r\n:0\r\n:-1\r\n:0\r\n",
        b"*5\r\n:1\r\n:9223372036854775807\r\n:0\r\n:9223372036854775807\r\n:0\r\n",
        b"*5\r\n:1\r\n:5\r\n:0\r\n:5\r\n:0\r\n",
        b"*5\r\n:1\r\n$3\r\nabc\r\n:0\r\n:5\r\n:0\r\n",
        b"*99999999999\r\n",
        b"$99999999999999999999\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00\xff\xfe\x01",
        &[b'*'; 4_096],
    ] {
        let limiter = limiter(&proxy.url()).deadline(Duration::from_millis(40));
        proxy.turn(Mode::Answers(answer.into()));
        let text = String::from_utf8_lossy(answer).into_owned();
        assert_eq!(admitted(&limiter, "a", &quotas(), 4).await, 4, "{text}");
        let status = limiter.status();
        assert_eq!(status.fallbacks.local_share, 4, "{text}");
        assert!(status.last_fault.is_some(), "{text}");
        proxy.turn(Mode::Passes);
        recovers(&limiter, &quotas()).await;
    }
}

/// H9, and WRONGTYPE of H7: what others write under the key of a budget.
#[tokio::test]
async fn what_others_write_locks_nobody_out() {
    let server = Server::start();
    let (limiter, quotas) = (
        limiter(&server.url()),
        Quotas::from(Quota::per_second(10).burst(5)),
    );
    take(&limiter, "a", &quotas).await.unwrap();
    let key = server.keys().pop().unwrap();
    for value in [
        "",
        "garbage",
        "0123456789abcdef",
        "~~~~~~~~~~~~~~~~",
        &"9".repeat(64),
    ] {
        server.command(&["SET", &key, value]);
        eventually("an admission", async || {
            take(&limiter, "a", &quotas).await.unwrap().is_admitted()
        })
        .await;
        assert!(server.number(&["PTTL", &key]) != -1, "{value}: for ever");
    }
    let ban = format!("{}ban", &key[..key.find("}:").unwrap() + 2]);
    server.command(&["SET", &ban, "for ever and ever"]);
    assert!(take(&limiter, "a", &quotas).await.unwrap().is_admitted());
    server.command(&["DEL", &ban]);
    assert_eq!(limiter.status().fallbacks.total(), 0);

    // Something else than a string is somebody's data: it is not overwritten, and said once.
    let (events, _guard) = Events::listen();
    server.command(&["DEL", &key]);
    server.command(&["LPUSH", &key, "a list"]);
    for _ in 0..5 {
        take(&limiter, "a", &quotas).await.unwrap();
        take(&limiter, "b", &quotas).await.unwrap();
    }
    let status = limiter.status();
    assert_eq!(
        (status.fallbacks.local_share, status.is_partitioned),
        (5, false)
    );
    assert_eq!(status.last_fault, Some(RedisFault::WrongType));
    assert_eq!(events.of("ERROR").len(), 1, "{:?}", events.of(""));
    assert!(!events.of("")[0].contains("tg:"));
    assert_eq!(server.command(&["TYPE", &key]), "+list\r\n");
}

/// H13.
#[tokio::test]
async fn a_password_that_is_wrong_or_rotated_is_an_alarm_that_does_not_tell_it() {
    let (events, _guard) = Events::listen();
    let mut server = Server::start();
    server.password("another password");
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", server.port);
    let (limiter, quotas) = (limiter(&url), quotas());
    assert_eq!(admitted(&limiter, "a", &quotas, 20).await, 20);
    let status = limiter.status();
    assert_eq!(status.last_fault, Some(RedisFault::Unauthenticated));
    assert_eq!(
        (status.fallbacks.local_share, status.is_partitioned),
        (20, true)
    );
    assert_eq!(events.of("ERROR").len(), 1, "{:?}", events.of(""));

    // It becomes what we know, and later something else.
    server.password(PASSWORD);
    recovers(&limiter, &quotas).await;
    server.password("yet another one");
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("a partition", async || {
        take(&limiter, "a", &quotas).await.unwrap();
        limiter.status().is_partitioned
    })
    .await;
    assert_eq!(
        limiter.status().last_fault,
        Some(RedisFault::Unauthenticated)
    );
    server.password(PASSWORD);
    recovers(&limiter, &quotas).await;

    let levels = events.of("").len();
    assert_eq!(
        (events.of("ERROR").len(), events.of("INFO").len()),
        (2, 2),
        "{levels}"
    );
    let mut all = events.of("").join("\n");
    write!(all, "{limiter:?} {:?}", limiter.status()).unwrap();
    for secret in [PASSWORD, &PASSWORD[..8], "127.0.0.1", "tg:"] {
        assert!(!all.contains(secret), "{all}");
    }
}
