//! Programs that tests start: whether they are there, and what to do if they are not.

use std::io::Write;
use std::process::{Command, Stdio};

/// Returns whether a program runs with these arguments, which print its version.
///
/// # Panics
/// Panics with the fix if the program is missing and `CI` is set. Elsewhere the test is left out, and
/// one line says so.
#[track_caller]
pub(crate) fn is_there(program: &str, version: &[&str], fix: &str) -> bool {
    let ran = Command::new(program)
        .args(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = ran.is_ok_and(|status| status.success());
    if !is_there {
        leave_out(&format!("{program} is missing"), fix);
    }
    is_there
}

/// Says that a test is left out, and why.
///
/// # Panics
/// Panics if `CI` is set, where no test is left out.
#[track_caller]
pub(crate) fn leave_out(why: &str, fix: &str) {
    let text = format!("{why}: {fix}");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    // Not by `eprintln!`, of which nothing is seen unless the test fails.
    let line = format!("{test} is left out: {text}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
