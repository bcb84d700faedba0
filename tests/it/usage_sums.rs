//! What is added up where a sink is too slow: strangers take no room from callers. Row I3.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tollgate::audit::{Audit, Event};
use tollgate::keys::NewKey;
use tollgate::usage::{Buffer, ChannelSink, Record, Usage};
use tollgate::{AuthLayer, Identity, UsageLayer};
use tower::{Layer, ServiceExt, service_fn};

use super::audit::{hello, keys};
use super::ServiceBuilder;
use crate::support::clock;
use crate::usage_sinks::{Acting, SECOND, Stall, Take, check};

/// Requests from so many addresses.
fn send_from(usage: &Usage, caller: Option<&str>, addresses: u16) {
    let service = UsageLayer::new(usage.clone()).layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    for n in 0..addresses {
        let [high, low] = n.to_be_bytes();
        let mut request = Request::new(());
        let address = SocketAddr::from(([10, 0, high, low], 4711));
        request.extensions_mut().insert(address);
        if let Some(name) = caller {
            let identity = Identity::builder("s", name).build();
            request.extensions_mut().insert(identity);
        }
        let response = service.clone().oneshot(request).now_or_never();
        drop(response.expect("nothing waits").unwrap());
    }
}

fn small() -> Buffer {
    Buffer::new().capacity(5).sums(10).batch(5)
}

fn requests_of(records: &[Record], name: &str) -> u64 {
    let of = |record: &&Record| record.principal().is_some_and(|who| who.subject() == name);
    records.iter().filter(of).map(Record::requests).sum()
}

#[tokio::test(start_paused = true)]
async fn strangers_from_anywhere_take_no_room_from_a_caller() {
    let sink = Acting::new(&[Stall]);
    let usage = Usage::builder().sink_with(small(), sink.clone());
    let usage = usage.audit(Audit::new()).build();
    send_from(&usage, None, 5_000);
    for _ in 0..3 {
        send_from(&usage, Some("ann"), 2);
        send_from(&usage, None, 5_000);
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(check(&usage, 20_006).lost, 0);
    sink.becomes(Take);
    let status = usage.shutdown(60 * SECOND).await[0];
    assert_eq!((status.lost, status.waiting), (0, 0));
    check(&usage, 20_006);

    let taken = sink.taken();
    assert_eq!(requests_of(&taken, "ann"), 6);
    for record in &taken {
        let is_known = record.principal().is_some();
        let is_sum_of_strangers = !is_known && record.requests() > 1;
        assert_eq!(record.client().is_none(), is_sum_of_strangers, "{record:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_from_anywhere_takes_no_room_from_others() {
    let sink = Acting::new(&[Stall]);
    let usage = Usage::builder().sink_with(small(), sink.clone());
    let usage = usage.audit(Audit::new()).build();
    for _ in 0..3 {
        send_from(&usage, Some("everywhere"), 5_000);
        send_from(&usage, Some("ann"), 2);
        send_from(&usage, None, 5_000);
    }
    assert_eq!(check(&usage, 30_006).lost, 0);
    sink.becomes(Take);
    let status = usage.shutdown(60 * SECOND).await[0];
    assert_eq!((status.lost, status.waiting), (0, 0));
    check(&usage, 30_006);
    let taken = sink.taken();
    assert_eq!(requests_of(&taken, "ann"), 6);
    assert_eq!(requests_of(&taken, "everywhere"), 15_000);

    // The addresses are there again when there is room.
    let sink = Acting::new(&[Take]);
    let usage = Usage::builder().sink_with(small(), sink.clone());
    let usage = usage.audit(Audit::new()).build();
    send_from(&usage, Some("everywhere"), 100);
    tokio::time::sleep(10 * SECOND).await;
    send_from(&usage, Some("ann"), 10);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(check(&usage, 110).delivered, 110);
    let of_ann = |record: &&Record| record.principal().unwrap().subject() == "ann";
    let taken = sink.taken();
    let clients = taken.iter().filter(of_ann).map(Record::client);
    assert_eq!(clients.flatten().count(), 10);
}

#[tokio::test]
async fn strangers_from_anywhere_take_no_room_from_an_event_of_a_caller() {
    let (sink, mut events) = ChannelSink::new(1);
    let audit = Audit::builder().sink_with(small(), sink).build();
    let clock = clock();
    let keys = keys(&audit, &clock);
    let revoked = keys.issue(NewKey::for_owner("ann")).await.unwrap();
    keys.revoke(revoked.record.id).await.unwrap();
    let usage = Usage::builder().audit(audit.clone()).build();
    let service = ServiceBuilder::new()
        .layer(UsageLayer::new(usage))
        .layer(AuthLayer::new(keys).clock(clock))
        .service(service_fn(hello));
    let unknown = revoked.key.expose().replace("acme_", "acme_x");
    for n in 0..5_000_u16 {
        let [high, low] = n.to_be_bytes();
        let is_ann = n >= 4_990;
        let key = if is_ann {
            revoked.key.expose()
        } else {
            unknown.as_str()
        };
        let request = Request::get("/")
            .header("x-api-key", key)
            .extension(SocketAddr::from(([10, 0, high, low], 4711)));
        let response = service.clone().oneshot(request.body(()).unwrap());
        assert_eq!(response.await.unwrap().status(), 401);
        tokio::task::yield_now().await;
    }
    let status = audit.sinks()[0];
    assert_eq!((status.recorded, status.lost), (5_002, 0));
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(batch) = events.recv().await {
            all.extend(batch);
        }
        all
    });
    let status = audit.shutdown(Duration::from_secs(5)).await[0];
    assert_eq!((status.delivered, status.waiting), (5_002, 0));
    drop((audit, service));
    let all: Vec<Event> = reader.await.unwrap();
    let of_ann = all.iter().filter(|event| event.principal().is_some());
    assert_eq!(of_ann.map(Event::times).sum::<u64>(), 12);
}

#[test]
fn an_id_names_the_same_record_at_each_sink() {
    let sinks: Vec<_> = (0..2).map(|_| Acting::new(&[Take])).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let mut usage = Usage::builder();
    for sink in &sinks {
        usage = usage.sink(sink.clone());
    }
    let usage = usage.build();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (usage, runtime) = (&usage, &runtime);
            scope.spawn(move || {
                let _entered = runtime.enter();
                for n in 0..200 {
                    send_from(usage, Some(&format!("{thread}-{n}")), 1);
                }
            });
        }
    });
    runtime.block_on(usage.shutdown(5 * SECOND));
    let read = |sink: &Acting| -> BTreeMap<_, _> {
        let named = |record: &Record| {
            let name = record.principal().unwrap().subject().to_owned();
            (record.id(), name)
        };
        sink.taken().iter().map(named).collect()
    };
    let (one, two) = (read(&sinks[0]), read(&sinks[1]));
    assert_eq!(one.len(), 1_600);
    assert_eq!(one, two);
}
