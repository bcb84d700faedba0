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
])]
fn gate(bencher: Bencher<'_, '_>, name: &str) {
    let scenario = Scenario::named(name);
    bencher.bench(|| scenario.run());
}
