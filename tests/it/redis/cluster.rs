//! A limiter that is connected to one node of a Redis Cluster.

use std::path::PathBuf;
use std::time::Duration;

use tollgate::limit::{Quota, Quotas, RedisFault, RedisLimiter};

use super::proxy::{Mode, Proxy};
use super::server::{Server, port_with_bus};
use super::{admitted, recovers, take};
use crate::support::Events;

struct Node {
    server: Server,
    config: PathBuf,
}

impl Node {
    fn start() -> Self {
        let port = port_with_bus();
        let name = format!("tollgate-nodes-{}-{port}.conf", std::process::id());
        let server = Server::on(
            port,
            &[
                "--cluster-enabled",
                "yes",
                "--cluster-require-full-coverage",
                "no",
                "--cluster-config-file",
                &name,
            ],
        );
        let config = std::env::temp_dir().join(name);
        Self { server, config }
    }

    fn serves(&self, first: u16, last: u16) {
        let slots: Vec<_> = (first..=last).map(|slot| slot.to_string()).collect();
        let mut words = vec!["CLUSTER", "ADDSLOTS"];
        words.extend(slots.iter().map(String::as_str));
        assert_eq!(self.server.command(&words), "+OK\r\n");
    }

    /// Waits until the node serves its slots, and knows of `slots` slots in the whole cluster.
    async fn is_ready(&self, slots: u16) {
        let assigned = format!("cluster_slots_assigned:{slots}\r");
        for _ in 0..3_000 {
            let info = self.server.command(&["CLUSTER", "INFO"]);
            if info.contains("cluster_state:ok") && info.contains(&assigned) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the cluster does not form");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.stop();
        let _ = std::fs::remove_file(&self.config);
    }
}

fn limiter(server: &Server) -> RedisLimiter {
    RedisLimiter::new(&server.url())
        .unwrap()
        .deadline(Duration::from_secs(2))
}

/// Two processes with a quota of 3, and 40 callers one after the other. Callers whose slot the
/// node serves share one budget. For all others, each process decides by itself.
async fn limits_hold_for_each_caller(node: &Node, expected: RedisFault) {
    let (events, _guard) = Events::listen();
    let processes = [limiter(&node.server), limiter(&node.server)];
    let quotas = Quotas::from(Quota::per_day(3));
    let (mut shared, mut apart) = (0, 0);
    for caller in 0..40 {
        let caller = format!("caller {caller}");
        let mut all = 0;
        for process in &processes {
            all += admitted(process, &caller, &quotas, 5).await;
            assert!(!process.status().is_partitioned);
        }
        match all {
            3 => shared += 1,
            6 => apart += 1,
            other => panic!("{caller}: {other} admitted"),
        }
    }
    assert!(shared > 5 && apart > 5, "{shared} and {apart}");
    for process in &processes {
        let status = process.status();
        assert_eq!(status.fallbacks.local_share, 5 * apart);
        assert_eq!(status.last_fault, Some(expected));
    }
    // Once for each process, with the fix.
    let level = match expected {
        RedisFault::Moved => "ERROR",
        _ => "WARN",
    };
    let said = events.of(level);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("not part of a cluster"), "{said:?}");
}

#[tokio::test]
async fn moved_budgets_do_not_switch_off_the_limit_of_others() {
    let (here, there) = (Node::start(), Node::start());
    here.serves(0, 8_191);
    there.serves(8_192, 16_383);
    let port = there.server.port.to_string();
    here.server
        .command(&["CLUSTER", "MEET", "127.0.0.1", &port]);
    here.is_ready(16_384).await;
    limits_hold_for_each_caller(&here, RedisFault::Moved).await;
}

#[tokio::test]
async fn slots_not_served_do_not_switch_off_the_limit_of_others() {
    let node = Node::start();
    node.serves(0, 8_191);
    node.is_ready(8_192).await;
    limits_hold_for_each_caller(&node, RedisFault::ClusterDown).await;
}

#[tokio::test]
async fn warm_up_refuses_a_node_of_a_cluster() {
    let node = Node::start();
    // With all slots on one node it is a cluster as well.
    for serves_all in [false, true] {
        if serves_all {
            node.serves(0, 16_383);
        }
        let error = limiter(&node.server).warm_up().await.unwrap_err();
        assert_eq!(error.fault(), RedisFault::Cluster);
        let text = error.to_string();
        for part in ["Redis Cluster", "not part of a cluster"] {
            assert!(text.contains(part), "{text}");
        }
    }
    // A database cannot be selected there.
    let url = format!("{}/2", node.server.url());
    let error = RedisLimiter::new(&url)
        .unwrap()
        .warm_up()
        .await
        .unwrap_err();
    assert_eq!(error.fault(), RedisFault::Cluster);
}

#[tokio::test]
async fn answers_about_one_slot_do_not_open_the_breaker() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    for (answer, is_of_one_slot) in [
        ("MOVED 3999 127.0.0.1:1", true),
        ("ASK 3999 127.0.0.1:1", true),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            true,
        ),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            true,
        ),
        ("CLUSTERDOWN Hash slot not served", true),
        ("CLUSTERDOWN The cluster is down", false),
        ("LOADING Redis is loading the dataset in memory", false),
    ] {
        proxy.turn(Mode::Passes);
        let url = proxy.url();
        let limiter = RedisLimiter::new(&url)
            .unwrap()
            .deadline(Duration::from_secs(2));
        let quotas = Quotas::from(Quota::per_day(1_000));
        recovers(&limiter, &quotas).await;
        proxy.turn(Mode::Answers(format!("-{answer}\r\n").into()));
        for _ in 0..10 {
            assert!(take(&limiter, "a", &quotas).await.unwrap().is_admitted());
        }
        let status = limiter.status();
        assert_eq!(status.is_partitioned, !is_of_one_slot, "{answer}");
        assert_eq!(status.fallbacks.local_share, 10, "{answer}");
        proxy.turn(Mode::Passes);
        if is_of_one_slot {
            assert!(take(&limiter, "b", &quotas).await.unwrap().is_admitted());
            assert_eq!(limiter.status().fallbacks.local_share, 10, "{answer}");
        }
    }
}

#[tokio::test]
async fn alternating_answers_are_each_reported_once() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let limiter = RedisLimiter::new(&proxy.url())
        .unwrap()
        .deadline(Duration::from_secs(2));
    let quotas = Quotas::from(Quota::per_day(1_000));
    recovers(&limiter, &quotas).await;
    let (events, _guard) = Events::listen();
    for request in 0..100 {
        let answer = match request % 2 {
            0 => "-MOVED 3999 127.0.0.1:1\r\n",
            _ => "-CLUSTERDOWN Hash slot not served\r\n",
        };
        proxy.turn(Mode::Answers(answer.into()));
        take(&limiter, "a", &quotas).await.unwrap();
    }
    let counts = ["ERROR", "WARN"].map(|level| events.of(level).len());
    assert_eq!(counts, [1, 1], "{:?}", events.of(""));
}
