//! The house rules that a machine can see.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn all(dir: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join(dir), &mut files);
    let relative = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    files
        .iter()
        .map(|path| (relative(path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Without tests, comments and blank lines.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = ["#[cfg(test)]", "#![cfg(test)]", "#[cfg(all(test"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let end = end.unwrap_or(text.len());
    text[..end]
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
}

/// The files in `src` that are not tests from end to end.
fn shipped() -> Vec<(String, String)> {
    let mut files = all("src");
    let declared = |text: &str| {
        let after = text.split("#[cfg(test)]\nmod ").nth(1)?;
        Some(format!("/{}.rs", after.split(';').next()?))
    };
    let tests: Vec<_> = files
        .iter()
        .filter_map(|(_, text)| declared(text))
        .collect();
    files.retain(|(path, _)| !tests.iter().any(|test| path.ends_with(test)));
    files
}

#[test]
fn every_file_says_what_it_is_and_is_one_thing() {
    for (path, text) in all("src")
        .into_iter()
        .chain(all("tests"))
        .chain(all("examples"))
    {
        let first = text.lines().next().unwrap();
        assert!(
            first.starts_with("//!") || first.starts_with("#![doc"),
            "{path}"
        );
    }
    for (path, text) in shipped() {
        let lines = code(&text).count();
        assert!(lines <= 400, "{path} has {lines} lines of code");
    }
}

#[test]
fn the_gates_meet_in_the_request_and_nowhere_else() {
    let forbidden: [(&str, &[&str]); 5] = [
        ("src/auth/", &["crate::authorize"]),
        ("src/authorize/", &["crate::auth::", "crate::keys"]),
        (
            "src/keys/",
            &["crate::auth::", "crate::authorize", "crate::gate"],
        ),
        ("src/scope.rs", &["tower", "tokio", "crate::auth"]),
        ("src/identity.rs", &["tower", "tokio", "crate::keys"]),
    ];
    for (path, text) in all("src") {
        for (_, words) in forbidden
            .iter()
            .filter(|(place, _)| path.starts_with(place))
        {
            for line in code(&text).filter(|line| line.starts_with("use ")) {
                assert!(
                    !words.iter().any(|word| line.contains(word)),
                    "{path}: {line}"
                );
            }
        }
    }
}

#[test]
fn nothing_that_the_outside_can_influence_is_unwrapped() {
    for (path, text) in shipped() {
        for line in code(&text) {
            assert!(!line.contains(".unwrap()"), "{path}: {line}");
        }
    }
}

#[test]
fn the_quickstart_stays_short() {
    let (_, text) = all("examples")
        .into_iter()
        .find(|(path, _)| path.ends_with("quickstart.rs"))
        .unwrap();
    assert!(text.lines().count() < 250);
}

/// A subscriber that is the only one misses events: see `Events::listen`.
#[test]
fn tests_collect_events_with_listen_only() {
    // In two parts, or this line would be found.
    let call = concat!("set_default", "(");
    let places = [all("src"), all("tests")].concat();
    let places = places.iter().filter(|(_, text)| text.contains(call));
    let mut paths: Vec<_> = places.map(|(path, _)| path.as_str()).collect();
    paths.sort_unstable();
    let helpers = ["src/jwks/remote/tests/events.rs", "tests/it/support.rs"];
    assert_eq!(paths, helpers, "call `Events::listen()` instead");
}
