//! What is recorded is delivered or counted as lost, to the unit, and no sink is in the way of
//! a request. Rows I1, I3.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tollgate::usage::{
    Buffer, ChannelSink, JsonLinesSink, Record, Sink, SinkError, SinkStatus, TracingSink, Usage,
};
use tollgate::{Identity, UsageLayer};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, who};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What a sink does with each batch, in turn, and with all that follow the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Act {
    Take,
    Fail,
    Reject,
    Panic,
    Stall,
}
pub(crate) use Act::{Fail, Panic, Reject, Stall, Take};

#[derive(Clone)]
pub(crate) struct Acting {
    acts: Arc<Mutex<Vec<Act>>>,
    pub(crate) calls: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<Record>>>,
}

impl Acting {
    pub(crate) fn new(acts: &[Act]) -> Self {
        Self {
            acts: Arc::new(Mutex::new(acts.to_vec())),
            calls: Arc::default(),
            taken: Arc::default(),
        }
    }

    pub(crate) fn becomes(&self, act: Act) {
        *self.acts.lock().unwrap() = vec![act];
    }

    pub(crate) fn taken(&self) -> Vec<Record> {
        self.taken.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.taken().iter().map(Record::requests).sum()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Sink<Record> for Acting {
    async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
        assert!(!batch.is_empty());
        self.calls.fetch_add(1, Ordering::SeqCst);
        let act = {
            let mut acts = self.acts.lock().unwrap();
            if acts.len() > 1 {
                acts.remove(0)
            } else {
                acts[0]
            }
        };
        match act {
            Take => self.taken.lock().unwrap().extend_from_slice(batch),
            Fail => return Err(SinkError::unavailable("no")),
            Reject => return Err(SinkError::rejected("never")),
            Panic => panic!("a sink that panics"),
            Stall => std::future::pending().await,
        }
        Ok(())
    }
}

/// Requests of so many callers, in turn.
pub(crate) async fn send(usage: &Usage, requests: usize, callers: usize) {
    let service = UsageLayer::new(usage.clone()).layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("abc")))
    }));
    for n in 0..requests {
        let mut request = Request::new(());
        let identity = Identity::for_test().subject(format!("caller {}", n % callers));
        request.extensions_mut().insert(identity.build());
        let response = service.clone().oneshot(request).now_or_never();
        let response = response.expect("nothing waits").unwrap();
        response
            .into_body()
            .collect()
            .now_or_never()
            .unwrap()
            .unwrap();
    }
}

#[track_caller]
pub(crate) fn check(usage: &Usage, requests: u64) -> SinkStatus {
    let status = usage.sinks()[0];
    let sum = status.delivered + status.lost + status.waiting;
    assert_eq!((status.recorded, sum), (requests, requests), "{status:?}");
    status
}

pub(crate) fn buffer() -> Buffer {
    Buffer::new().capacity(50).sums(10).batch(10)
}

#[tokio::test(start_paused = true)]
async fn batches_are_full_or_have_waited() {
    let sink = Acting::new(&[Take]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    send(&usage, 3, 3).await;
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(sink.calls(), 0, "there may be more");
    tokio::time::sleep(SECOND).await;
    assert_eq!((sink.calls(), sink.requests()), (1, 3));
    send(&usage, 25, 3).await;
    tokio::time::sleep(SECOND / 100).await;
    assert_eq!(sink.requests(), 23, "two full ones, and the rest has time");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(check(&usage, 28).delivered, 28);
    let ids: HashSet<_> = sink.taken().iter().map(Record::id).collect();
    assert_eq!(ids.len(), 28, "each has an id of its own");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_is_offered_again() {
    for trouble in [Fail, Panic, Stall] {
        let sink = Acting::new(&[trouble, trouble, trouble, Take]);
        let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
        send(&usage, 25, 3).await;
        tokio::time::sleep(120 * SECOND).await;
        let status = check(&usage, 25);
        assert_eq!((status.delivered, status.lost), (25, 0), "{trouble:?}");
        assert_eq!(status.failures, 3);
        let ids: HashSet<_> = sink.taken().iter().map(Record::id).collect();
        assert_eq!((ids.len(), sink.taken().len()), (25, 25));
    }
    let sink = Acting::new(&[Reject, Take]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    send(&usage, 25, 3).await;
    tokio::time::sleep(5 * SECOND).await;
    let status = check(&usage, 25);
    assert_eq!((status.delivered, status.lost), (15, 10), "never is never");
}

#[tokio::test(start_paused = true)]
async fn a_sink_in_trouble_is_not_asked_all_the_time() {
    let sink = Acting::new(&[Fail]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    send(&usage, 10, 3).await;
    tokio::time::sleep(600 * SECOND).await;
    assert!((15..40).contains(&sink.calls()), "{}", sink.calls());
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_records_are_added_up_and_then_lost() {
    for trouble in [Fail, Panic, Stall] {
        let sink = Acting::new(&[trouble]);
        let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
        // Six callers: all of it is kept, in sums.
        send(&usage, 1_000, 6).await;
        tokio::task::yield_now().await;
        let status = check(&usage, 1_000);
        assert_eq!((status.waiting, status.lost), (1_000, 0), "{trouble:?}");
        sink.becomes(Take);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(check(&usage, 1_000).delivered, 1_000);
        assert_eq!(sink.requests(), 1_000);
        let bytes: u64 = sink.taken().iter().map(Record::bytes_out).sum();
        assert_eq!(bytes, 3_000);
        assert!(sink.taken().len() <= 70);
        // So many callers that there are too many sums.
        sink.becomes(trouble);
        send(&usage, 1_000, 500).await;
        let status = check(&usage, 2_000);
        assert!(status.lost > 0);
        sink.becomes(Take);
        tokio::time::sleep(60 * SECOND).await;
        let status = check(&usage, 2_000);
        assert_eq!(status.waiting, 0);
        assert_eq!(sink.requests(), status.delivered);
        assert_eq!(usage.snapshot().sum().requests(), 2_000, "totals are exact");
    }
}

#[tokio::test(start_paused = true)]
async fn at_its_end_the_process_waits_for_sinks_as_long_as_it_says() {
    let sink = Acting::new(&[Fail, Panic, Take]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    send(&usage, 25, 3).await;
    let [status] = usage.shutdown(5 * SECOND).await[..] else {
        panic!("one sink")
    };
    assert_eq!((status.delivered, status.lost, status.waiting), (25, 0, 0));
    assert_eq!(sink.requests(), 25);
    // What comes later is lost, and counted; the totals have it.
    send(&usage, 5, 5).await;
    let status = check(&usage, 30);
    assert_eq!((status.delivered, status.lost), (25, 5));
    assert_eq!(usage.snapshot().sum().requests(), 30);
    assert_eq!(usage.shutdown(SECOND).await, [status]);

    for trouble in [Fail, Panic, Stall] {
        let sink = Acting::new(&[Take, trouble]);
        let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
        send(&usage, 35, 3).await;
        let start = tokio::time::Instant::now();
        usage.shutdown(5 * SECOND).await;
        assert_eq!(start.elapsed(), 5 * SECOND, "{trouble:?}");
        let status = check(&usage, 35);
        assert_eq!((status.delivered, status.lost, status.waiting), (10, 25, 0));
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(check(&usage, 35), usage.sinks()[0]);
        assert_eq!(sink.requests(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_takes_the_task_with_it() {
    let sink = Acting::new(&[Take]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    send(&usage, 3, 3).await;
    drop(usage);
    tokio::time::sleep(SECOND / 100).await;
    assert_eq!(sink.requests(), 3, "what waits is delivered first");
    assert_eq!(Arc::strong_count(&sink.calls), 1, "nobody holds the sink");
    let sink = Acting::new(&[Fail]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    send(&usage, 13, 3).await;
    drop(usage);
    tokio::time::sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&sink.calls), 1);
}

#[test]
fn a_runtime_that_ends_loses_nothing() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let sink = Acting::new(&[Stall]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    let first = runtime();
    first.block_on(async {
        send(&usage, 25, 3).await;
        tokio::time::sleep(SECOND).await;
    });
    assert_eq!(sink.calls(), 1, "a batch is on its way");
    drop(first);
    assert_eq!(check(&usage, 25).waiting, 25);
    sink.becomes(Take);
    runtime().block_on(async {
        send(&usage, 1, 1).await;
        tokio::time::sleep(5 * SECOND).await;
    });
    assert_eq!(check(&usage, 26).delivered, 26);
    assert_eq!(sink.requests(), 26);
}

#[test]
fn a_runtime_without_a_timer_delivers_too() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let sink = Acting::new(&[Fail, Take]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    runtime.block_on(async {
        send(&usage, 25, 3).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        send(&usage, 10, 3).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
    assert!(sink.requests() > 0);
    check(&usage, 35);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sum_is_right_while_all_of_it_happens_at_once() {
    let acts: Vec<_> = (0..4_000)
        .map(|n| [Take, Fail, Take, Panic, Take, Reject][n % 6])
        .chain([Take])
        .collect();
    let sink = Acting::new(&acts);
    let buffer = buffer()
        .every(SECOND / 100)
        .pause(Duration::from_micros(100));
    let usage = Usage::builder().sink_with(buffer, sink.clone()).build();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let usage = usage.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    send(&usage, 100, 40).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let start = Instant::now();
    let [status] = usage.shutdown(20 * SECOND).await[..] else {
        panic!("one sink")
    };
    assert!(start.elapsed() < 20 * SECOND);
    assert_eq!(check(&usage, 8_000), status);
    assert_eq!((status.waiting, status.delivered), (0, sink.requests()));
}

#[tokio::test(start_paused = true)]
async fn a_channel_gets_batches_until_nobody_receives() {
    let (sink, mut batches) = ChannelSink::new(4);
    let usage = Usage::builder().sink_with(buffer(), sink).build();
    send(&usage, 10, 3).await;
    let batch = batches.recv().await.unwrap();
    assert_eq!(batch.len(), 10);
    assert_eq!(batch[0].principal().unwrap().subject(), "caller 0");
    drop(batches);
    send(&usage, 10, 3).await;
    usage.shutdown(SECOND).await;
    let status = check(&usage, 20);
    assert_eq!((status.delivered, status.lost), (10, 10));
}

#[tokio::test]
async fn a_file_has_a_line_of_json_for_each_record() {
    let path = std::env::temp_dir().join(format!("tollgate-usage-{}", std::process::id()));
    // What another process has left, torn.
    std::fs::write(&path, "{\"id\":").unwrap();
    let usage = Usage::builder()
        .units(["tokens"])
        .sink(JsonLinesSink::append(&path).unwrap())
        .sink(TracingSink::new())
        .build();
    send(&usage, 250, 3).await;
    let sinks = usage.shutdown(10 * SECOND).await;
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(sinks.iter().all(|status| status.delivered == 250));
    let lines: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(lines.len(), 250);
    assert_eq!(lines[0]["subject"], "caller 0");
    assert_eq!(lines[0]["end"], "complete");
    assert_eq!(lines[0]["units"], serde_json::json!({ "tokens": 0 }));
    assert_eq!(
        (&lines[0]["status"], &lines[0]["bytes_out"]),
        (&200.into(), &3.into())
    );
    assert!(lines[0]["route"].is_null() && lines[0]["refusal"].is_null());
}

#[test]
fn a_shutdown_without_a_runtime_waits_for_nobody() {
    let usage = Usage::builder().sink(TracingSink::new()).build();
    let service = UsageLayer::new(usage.clone()).layer(who());
    let answer = service.oneshot(get()).now_or_never().unwrap().unwrap();
    drop(answer);
    let sinks = usage.shutdown(Duration::from_secs(3_600)).now_or_never();
    let sink = sinks.expect("there is nobody to wait for")[0];
    assert_eq!((sink.recorded, sink.lost, sink.waiting), (1, 1, 0));
}
