//! A file that hangs holds one thread, and has each line once when it goes on. Row I3.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tollgate::usage::{JsonLinesSink, Sink};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(10);

/// A pipe that nobody reads takes a few kilobytes, and then holds who writes.
fn pipe(name: &str) -> (JsonLinesSink, BufReader<File>) {
    let path = std::env::temp_dir().join(format!("tollgate-{name}-{}", std::process::id()));
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let reading = path.clone();
    // Either end waits for the other one to be opened.
    let reader = std::thread::spawn(move || File::open(reading).unwrap());
    let sink = JsonLinesSink::append(&path).unwrap();
    let reader = BufReader::new(reader.join().unwrap());
    std::fs::remove_file(&path).unwrap();
    (sink, reader)
}

fn read(reader: &mut BufReader<File>, count: usize) -> Vec<String> {
    let lines = reader.lines().map(|line| line.unwrap());
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .take(count)
        .map(|line| line[1..9].to_owned())
        .collect()
}

fn batch(name: &str) -> Vec<String> {
    let line = |n| format!("{name} {n:06}{}", "x".repeat(1_000));
    (0..500).map(line).collect()
}

#[test]
fn a_file_that_hangs_holds_one_thread_and_has_each_line_once() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().max_blocking_threads(2).build();
    runtime.unwrap().block_on(async {
        let (sink, mut reader) = pipe("hangs");
        let (first, second) = (batch("a"), batch("b"));
        for _ in 0..3 {
            let given_up = timeout(SHORT, sink.deliver(&first)).await;
            assert!(given_up.is_err(), "nobody reads");
            // Another one that has the same file waits for it.
            assert!(timeout(SHORT, sink.deliver(&second)).await.is_err());
        }
        let other = timeout(LONG, spawn_blocking(|| "there is a thread left"));
        other.await.unwrap().unwrap();

        let all = std::thread::spawn(move || (read(&mut reader, 1_000), reader));
        timeout(LONG, sink.deliver(&second)).await.unwrap().unwrap();
        timeout(LONG, sink.deliver(&first)).await.unwrap().unwrap();
        let (lines, mut reader) = all.join().unwrap();
        let mut expected = first.iter().chain(&second).map(|line| &line[..8]);
        assert!(lines.iter().all(|line| Some(&**line) == expected.next()));
        // It is no longer taken for the same one.
        timeout(LONG, sink.deliver(&first[..1]))
            .await
            .unwrap()
            .unwrap();
        timeout(LONG, sink.deliver(&first[..1]))
            .await
            .unwrap()
            .unwrap();
        drop(sink);
        assert_eq!(read(&mut reader, 1_000), ["a 000000", "a 000000"]);
    });
}
