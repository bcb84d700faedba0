//! The tasks that take records to their sinks: none sleeps while there is work, none is lost
//! sight of, and what nobody can deliver is counted. Row I3.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::usage::{Buffer, Usage};

use crate::support::Events;
use crate::usage_sinks::{Acting, Fail, SECOND, Stall, Take, buffer, check, send};

fn runtime(has_timer: bool) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    if has_timer {
        builder.enable_time();
    }
    builder.build().unwrap()
}

async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// More wait than a batch has, and none of them was the first or the last of one.
#[test]
fn a_sink_that_failed_is_asked_again_by_the_next_record_if_there_is_no_timer() {
    let sink = Acting::new(&[Fail]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    runtime(false).block_on(async {
        send(&usage, 25, 3).await;
        turns(10).await;
        sink.becomes(Take);
        send(&usage, 1, 1).await;
        turns(10).await;
    });
    assert_eq!(check(&usage, 26).delivered, 26);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_there_is_no_room_for_does_not_wait_to_be_full() {
    let sink = Acting::new(&[Take]);
    let hour = Duration::from_secs(3_600);
    let buffer = Buffer::new().capacity(5).batch(10).every(hour);
    let usage = Usage::builder().sink_with(buffer, sink.clone()).build();
    for _ in 0..3 {
        // The first one wakes the task, which then waits for more.
        send(&usage, 1, 1).await;
        tokio::time::sleep(SECOND).await;
        send(&usage, 4, 1).await;
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(check(&usage, 15).delivered, 15);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_is_told_when_another_has_made_it() {
    let sink = Acting::new(&[Stall]);
    let usage = Usage::builder().sink_with(buffer(), sink).build();
    send(&usage, 5, 3).await;
    let start = tokio::time::Instant::now();
    let patient = usage.shutdown(60 * SECOND);
    let (first, second) = tokio::join!(usage.shutdown(SECOND), patient);
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!((first[0].lost, first), (5, second));
}

#[test]
fn a_shutdown_goes_on_where_the_runtime_of_the_task_has_ended() {
    let sink = Acting::new(&[Stall]);
    let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
    let first = runtime(true);
    first.block_on(async {
        send(&usage, 25, 3).await;
        turns(3).await;
    });
    assert_eq!(sink.calls(), 1, "a batch is on its way");
    let start = Instant::now();
    runtime(true).block_on(async {
        let end = async {
            tokio::time::sleep(SECOND / 20).await;
            sink.becomes(Take);
            // As a task of the other one would be dropped by another thread.
            std::thread::spawn(move || drop(first)).join().unwrap();
        };
        tokio::join!(usage.shutdown(60 * SECOND), end);
    });
    assert!(start.elapsed() < 30 * SECOND);
    assert_eq!(check(&usage, 25).delivered, 25);
}

#[test]
fn without_a_timer_a_shutdown_delivers_once_what_waits() {
    for (act, delivered, calls) in [(Take, 25, 3), (Fail, 0, 3), (Stall, 0, 1)] {
        let sink = Acting::new(&[act]);
        let usage = Usage::builder().sink_with(buffer(), sink.clone()).build();
        let start = Instant::now();
        let sinks = runtime(false).block_on(async {
            send(&usage, 25, 3).await;
            let limit = if act == Stall {
                SECOND / 20
            } else {
                60 * SECOND
            };
            usage.shutdown(limit).await
        });
        assert!(start.elapsed() < 30 * SECOND, "{act:?}");
        let status = check(&usage, 25);
        assert_eq!((sinks[0], status.waiting), (status, 0));
        assert_eq!(
            (status.delivered, sink.calls()),
            (delivered, calls),
            "{act:?}"
        );
    }
}

/// Nobody could ever deliver them, and nobody is left to ask.
#[test]
fn what_goes_with_the_last_handle_is_said_to_be_lost() {
    let (events, _guard) = Events::listen();
    let sink = Acting::new(&[Take]);
    let build = || Usage::builder().sink_with(buffer(), sink.clone()).build();
    let count = |usage: &Usage| {
        let waits_for_nothing = futures_util::FutureExt::now_or_never(send(usage, 25, 3));
        waits_for_nothing.unwrap();
    };

    // No runtime; one that ends before the task has run; one that has time for it.
    let usage = build();
    count(&usage);
    drop(usage);
    let lost = " message=what waited for a sink is lost lost=25";
    let is_told = || {
        let warnings = events.of("WARN");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].ends_with(lost), "{warnings:?}");
        events.clear();
    };
    is_told();
    runtime(true).block_on(async { count(&build()) });
    is_told();
    runtime(true).block_on(async {
        count(&build());
        turns(10).await;
    });
    assert_eq!((sink.requests(), events.of("WARN").len()), (25, 0));

    // Counted without a runtime, and dropped with one.
    let usage = build();
    count(&usage);
    runtime(true).block_on(async {
        drop(usage);
        turns(10).await;
    });
    assert_eq!((sink.requests(), events.of("WARN").len()), (50, 0));
    assert_eq!(Arc::strong_count(&sink.calls), 1);
}
