//! Test vectors of others. They are not part of the repository: see `TOLLGATE_VECTORS` in
//! `CONTRIBUTING.md`.
#![cfg(test)]

use std::path::PathBuf;

use serde_json::Value;

/// The text of a file of vectors; nothing where there are none, outside of CI.
pub(crate) fn vectors(file: &str) -> Option<String> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors"));
    let root = std::env::var_os("TOLLGATE_VECTORS").map_or_else(beside, PathBuf::from);
    match std::fs::read_to_string(root.join(file)) {
        Ok(text) => Some(text),
        Err(_) if std::env::var_os("CI").is_none() => {
            println!("{file} was left out: set TOLLGATE_VECTORS to where the vectors are");
            None
        }
        Err(error) => panic!("{file} is missing ({error}): set TOLLGATE_VECTORS"),
    }
}

pub(crate) fn json(file: &str) -> Option<Value> {
    vectors(file).map(|text| serde_json::from_str(&text).expect("vectors are JSON"))
}
