//! Instructions, which repeat where the wall clock does not: `cargo bench --bench icount`.
//! It wants valgrind, and `cargo install gungraun-runner` in the version of the library.
//!
//! Keys are drawn anew for each run, so where one is looked up the count varies: by four
//! in a hundred where it is not found. Valgrind has no instructions for SHA-256, which
//! processors have: in software it is more than half of what a good key takes here.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the macros of the harness make items without"
)]

mod scenarios;

use gungraun::{library_benchmark, library_benchmark_group, main};
use scenarios::Scenario;

#[library_benchmark(setup = Scenario::named)]
#[bench::passthrough("passthrough")]
#[bench::accepted("key accepted")]
#[bench::unknown("unknown key, 401")]
#[bench::mistyped("bad checksum, 401")]
#[bench::scope("key accepted, scope met")]
#[bench::scope_missing("scope missing, 403")]
#[bench::anonymous("anonymous, optional")]
#[bench::counted("counted")]
#[bench::counted_key("counted, key accepted")]
#[bench::whole("whole stack")]
#[bench::whole_nested("whole stack, nested")]
#[bench::over_limit("whole stack, over the limit, 429")]
fn gate(scenario: Scenario) -> (u16, Scenario) {
    // It is handed back, so that its end is not counted.
    (scenario.run(), scenario)
}

library_benchmark_group!(name = gates, benchmarks = gate);
main!(library_benchmark_groups = gates);
