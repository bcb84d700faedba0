//! The wall clock: `cargo bench --bench gate`. Compare within one run only.

mod scenarios;

use divan::Bencher;
use scenarios::Scenario;

fn main() {
    divan::main();
}

#[divan::bench(args = [
    "passthrough",
    "key accepted",
    "unknown key, 401",
    "bad checksum, 401",
    "key accepted, scope met",
    "scope missing, 403",
    "anonymous, optional",
    "counted",
    "counted, key accepted",
])]
fn gate(bencher: Bencher<'_, '_>, name: &str) {
    let scenario = Scenario::named(name);
    bencher.bench(|| scenario.run());
}

/// A good key of a cache while so many unknown ids are looked up for each of its requests.
/// The flood itself is not timed; what it does to the median should stay within half as
/// much again.
#[divan::bench(args = [0, 1, 10, 100], sample_size = 1, sample_count = 10_000)]
fn beside_a_flood(bencher: Bencher<'_, '_>, unknown: usize) {
    let (good, flood) = Scenario::beside_flood(unknown);
    bencher.with_inputs(flood).bench_values(|()| good.run());
}
