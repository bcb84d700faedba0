//! The wall clock: `cargo bench --features test-util --bench gate`. Compare within one run only.

mod scenarios;

use divan::Bencher;
use scenarios::{NAMES, Scenario};

fn main() {
    divan::main();
}

#[divan::bench(args = NAMES)]
fn gate(bencher: Bencher, name: &str) {
    let scenario = Scenario::named(name);
    bencher.bench(|| scenario.run());
}
