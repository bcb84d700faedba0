//! What each caller has used, in a table with room for so many. Row I6.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::usage::{Caller, Usage};
use tollgate::{Identity, UsageLayer};
use tower::{Layer, ServiceExt, service_fn};

use crate::nested::usage::poll_body;
use crate::support::{get, send, who};

fn caller(name: &str) -> Request<()> {
    let mut request = get();
    let identity = Identity::for_test().subject(name).build();
    request.extensions_mut().insert(identity);
    request
}

#[test]
fn totals_are_exact_under_many_threads_and_under_eviction() {
    for room in [1, 7, 2_000, 100_000] {
        let usage = Usage::builder().callers(room).units(["tokens"]).build();
        let service = service_fn(|request: Request<()>| async move {
            Usage::add(request.extensions(), "tokens", 3);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("abc")))
        });
        let service = UsageLayer::new(usage.clone()).layer(service);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let service = service.clone();
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let name = format!("caller {}", (n * (thread + 1)) % 3_000);
                        let request = if n % 10 == 0 { get() } else { caller(&name) };
                        let response = service.clone().oneshot(request).now_or_never();
                        let response = response.unwrap().unwrap();
                        let mut body = response.into_body();
                        assert!(poll_body(&mut body).is_ready());
                    }
                });
            }
        });
        let snapshot = usage.snapshot();
        let sum = snapshot.sum();
        assert_eq!(sum.requests(), 16_000, "with room for {room}");
        assert_eq!((sum.bytes_out(), sum.unit("tokens")), (48_000, 48_000));
        assert_eq!(snapshot.anonymous.requests(), 1_600);
        assert!(snapshot.callers.len() <= room);
        assert_eq!(snapshot.other.requests() > 0, room < 100_000);
        let requests = snapshot
            .callers
            .iter()
            .map(|caller| caller.total.requests());
        assert!(requests.is_sorted_by(|a, b| a >= b));
        assert_eq!(usage.top(5).len(), room.min(5));
    }
}

#[test]
fn as_many_callers_fit_as_there_is_room_for_whoever_they_are() {
    for room in [3, 1_024, 2_000, 10_000] {
        let usage = Usage::builder().callers(room).build();
        let service = UsageLayer::new(usage.clone()).layer(who());
        let send = |n: usize| {
            let request = caller(&format!("caller {n}"));
            let identity = request.extensions().get::<Identity>().cloned();
            send(&service, request).now_or_never().unwrap();
            usage.of(identity.unwrap().principal()).unwrap().requests()
        };
        for n in (0..room).chain(0..room) {
            send(n);
        }
        let snapshot = usage.snapshot();
        assert_eq!(snapshot.callers.len(), room);
        assert_eq!(snapshot.other.requests(), 0, "with room for {room}");
        // From now on somebody makes room for each.
        for n in room..3 * room {
            assert_eq!(send(n), 1);
        }
        let snapshot = usage.snapshot();
        assert_eq!(snapshot.callers.len(), room);
        assert_eq!(snapshot.sum().requests(), 4 * room as u64);
        let is_new = |caller: &Caller| caller.total.requests() == 1;
        // Not in the order in which they came, but nearly so.
        assert!(snapshot.callers.iter().filter(|each| is_new(each)).count() > room * 9 / 10);
    }
}

/// Against a list that is sorted by hand.
#[test]
fn the_table_knows_in_which_order_callers_were_seen() {
    let usage = Usage::builder().callers(7).build();
    let service = UsageLayer::new(usage.clone()).layer(who());
    let (mut expected, mut random) = (Vec::<(String, u64)>::new(), 1_u64);
    for _ in 0..2_000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let name = format!("caller {}", (random >> 33) % 12);
        send(&service, caller(&name)).now_or_never().unwrap();
        let seen = expected.iter().position(|(known, _)| *known == name);
        let requests = seen.map_or(0, |place| expected.remove(place).1);
        expected.push((name, requests + 1));
        if expected.len() > 7 {
            expected.remove(0);
        }
        let callers = usage.snapshot().callers;
        let mut found: Vec<_> = callers
            .iter()
            .map(|caller| {
                (
                    caller.principal.subject().to_owned(),
                    caller.total.requests(),
                )
            })
            .collect();
        let mut sorted = expected.clone();
        found.sort();
        sorted.sort();
        assert_eq!(found, sorted);
    }
    assert_eq!(usage.snapshot().sum().requests(), 2_000);
}

#[tokio::test]
async fn who_was_not_seen_for_longest_makes_room() {
    let usage = Usage::builder().callers(2).build();
    let service = UsageLayer::new(usage.clone()).layer(who());
    for name in ["ann", "bob", "ann", "eve", "ann", "ann"] {
        send(&service, caller(name)).await;
    }
    let snapshot = usage.snapshot();
    let names: Vec<_> = snapshot
        .callers
        .iter()
        .map(|caller| (caller.principal.subject(), caller.total.requests()))
        .collect();
    assert_eq!(names, [("ann", 4), ("eve", 1)]);
    assert_eq!(snapshot.other.requests(), 1);
    assert!(
        usage
            .of(Identity::for_test().subject("bob").build().principal())
            .is_none()
    );
    let table = snapshot.to_string();
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("sum") && last.contains('6'), "{table}");
    // A name cannot make a line of its own.
    send(&service, caller("mal\nsum  99")).await;
    assert_eq!(usage.snapshot().to_string().lines().count(), 6);
}
