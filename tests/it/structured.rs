//! The fields of a limit are structured fields (RFC 9651): a reader of those, held to the
//! vectors of its working group, reads what is written.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tollgate::Identity;
use tollgate::limit::{ConcurrencyLayer, Quota, Quotas, RateLimitLayer};
use tower::{Layer, Service, service_fn};

use crate::support::{clock, get, send, who};

/// A bare item or a parameter's value, as far as the fields of a limit have them.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Integer(i64),
    Text(String),
    Token(String),
    Flag(bool),
    /// Not looked into.
    Other,
}

type Member = (Item, Vec<(String, Item)>);

/// A list of items with parameters (RFC 9651 §4.2.1), without inner lists.
fn list(text: &str) -> Option<Vec<Member>> {
    let mut rest = text.trim_start_matches(' ');
    let mut members = Vec::new();
    while !rest.is_empty() {
        let (item, after) = item(rest)?;
        let (parameters, after) = parameters(after)?;
        members.push((item, parameters));
        rest = after.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(',')?.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return None;
        }
    }
    Some(members)
}

fn parameters(mut rest: &str) -> Option<(Vec<(String, Item)>, &str)> {
    let mut all: Vec<(String, Item)> = Vec::new();
    while let Some(after) = rest.strip_prefix(';') {
        let after = after.trim_start_matches(' ');
        let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c);
        let end = after.find(|c| !is_key(c)).unwrap_or(after.len());
        let (key, after) = after.split_at(end);
        if !key.starts_with(|c: char| c.is_ascii_lowercase() || c == '*') {
            return None;
        }
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => item(after)?,
            None => (Item::Flag(true), after),
        };
        all.retain(|(held, _)| held != key);
        all.push((key.to_owned(), value));
        rest = after;
    }
    Some((all, rest))
}

fn item(text: &str) -> Option<(Item, &str)> {
    match text.chars().next()? {
        '"' => string(text),
        '-' | '0'..='9' => number(text),
        '*' | 'a'..='z' | 'A'..='Z' => {
            let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c);
            let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
            Some((Item::Token(text[..end].to_owned()), &text[end..]))
        }
        '?' => match text.get(..2)? {
            "?0" => Some((Item::Flag(false), &text[2..])),
            "?1" => Some((Item::Flag(true), &text[2..])),
            _ => None,
        },
        ':' => {
            let end = text[1..].find(':')? + 2;
            let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
            let inner = &text[1..end - 1];
            inner
                .chars()
                .all(is_base64)
                .then(|| (Item::Other, &text[end..]))
        }
        _ => None,
    }
}

fn string(text: &str) -> Option<(Item, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Item::Text(value), &text[at + 1..])),
            '\\' => match chars.next()? {
                (_, c @ ('"' | '\\')) => value.push(c),
                _ => return None,
            },
            ' '..='~' => value.push(c),
            _ => return None,
        }
    }
    None
}

fn number(text: &str) -> Option<(Item, &str)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let (whole, after) = digits.split_at(end);
    if let Some(fraction) = after.strip_prefix('.') {
        let end = fraction
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(fraction.len());
        let is_good = (1..=3).contains(&end) && (1..=12).contains(&whole.len());
        return is_good.then(|| (Item::Other, &fraction[end..]));
    }
    if whole.is_empty() || whole.len() > 15 {
        return None;
    }
    let value: i64 = whole.parse().ok()?;
    let value = if digits.len() < text.len() {
        -value
    } else {
        value
    };
    Some((Item::Integer(value), after))
}

fn vectors(file: &str) -> Option<String> {
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

#[test]
fn the_reader_is_one_of_structured_fields() {
    for file in ["param-list", "list", "string", "number", "token", "boolean"] {
        let Some(text) = vectors(&format!("structured-fields/{file}.json")) else {
            return;
        };
        let mut seen = 0;
        for case in serde_json::from_str::<Value>(&text)
            .unwrap()
            .as_array()
            .unwrap()
        {
            let raw: Vec<_> = case["raw"].as_array().unwrap().iter().collect();
            let raw: Vec<_> = raw.iter().map(|line| line.as_str().unwrap()).collect();
            let raw = raw.join(", ");
            // Kinds that no limit has: inner lists, dates, display strings.
            if case["header_type"] == "dictionary" || raw.contains(['(', '@', '%']) {
                continue;
            }
            let read = match case["header_type"].as_str().unwrap() {
                "item" => list(raw.trim_matches(' '))
                    .filter(|all| all.len() == 1)
                    .is_some(),
                _ => list(&raw).is_some(),
            };
            if case["can_fail"] != true {
                let expected = case["must_fail"] != true;
                assert_eq!(read, expected, "{file}: {}", case["name"]);
            }
            seen += 1;
        }
        assert!(seen > 1, "{file}");
    }
    let Some(lines) = vectors("rfc/ratelimit_header_lines.txt") else {
        return;
    };
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let (_, value) = line.split_once(':').unwrap();
        assert!(
            list(value).is_some_and(|members| !members.is_empty()),
            "{line}"
        );
    }
}

fn integer(parameters: &[(String, Item)], name: &str) -> i64 {
    let found = parameters.iter().find(|(key, _)| key == name);
    match found {
        Some((_, Item::Integer(value))) => *value,
        other => panic!("{name} is {other:?}"),
    }
}

/// What is told can be read, and what it promises is kept: a client that uses `r` in `t`
/// seconds keeps to the rate.
#[tokio::test]
async fn what_is_told_is_read_and_holds() {
    for quotas in [
        vec![Quota::per_second(1)],
        vec![Quota::per_minute(600).burst(50).named("burst-1.x_Y")],
        vec![
            Quota::per(7, Duration::from_millis(1_700))
                .burst(3)
                .named("odd"),
            Quota::per_day(9),
        ],
        vec![
            Quota::per(1_000_000_000, Duration::from_secs(1)),
            Quota::per_hour(1),
        ],
    ] {
        let names: Vec<_> = quotas.iter().map(|quota| quota.name().to_owned()).collect();
        let rates: Vec<_> = quotas
            .iter()
            .map(|quota| f64::from(quota.count()) / quota.period().as_secs_f64())
            .collect();
        let clock = clock();
        let layer = RateLimitLayer::new(Quotas::new(quotas)).clock(clock.clone());
        let service = layer.layer(who());
        for _ in 0..60 {
            let mut request = get();
            request
                .extensions_mut()
                .insert(Identity::for_test().build());
            let answer = send(&service, request).await;
            let policies = list(answer.header("ratelimit-policy").unwrap()).unwrap();
            let standings = list(answer.header("ratelimit").unwrap()).unwrap();
            for (at, name) in names.iter().enumerate() {
                assert_eq!(policies[at].0, Item::Text(name.clone()));
                assert_eq!(standings[at].0, Item::Text(name.clone()));
                let (quota, window) =
                    (integer(&policies[at].1, "q"), integer(&policies[at].1, "w"));
                let (left, time) = (
                    integer(&standings[at].1, "r"),
                    integer(&standings[at].1, "t"),
                );
                assert!(window > 0 && time > 0 && (0..=quota).contains(&left));
                assert!(left as f64 / time as f64 <= rates[at] + 1e-9, "{answer:?}");
            }
            if let Some(wait) = answer.header("retry-after") {
                let wait: i64 = wait.parse().unwrap();
                let empty = standings.iter().filter(|(_, all)| integer(all, "r") == 0);
                let longest = empty.map(|(_, all)| integer(all, "t")).max().unwrap();
                assert!(wait >= longest, "a client waits for the longest");
            }
            clock.advance(Duration::from_millis(170));
        }
    }
    let waiting = service_fn(|_: http::Request<()>| {
        std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>()
    });
    let mut service = ConcurrencyLayer::per_caller(1).layer(waiting);
    let mut request = get();
    request
        .extensions_mut()
        .insert(Identity::for_test().build());
    let _first = service.call(request.clone());
    let refused = service.call(request).await.unwrap();
    let policy = refused.headers()["ratelimit-policy"].to_str().unwrap();
    let policy = list(policy).unwrap();
    assert_eq!(
        policy[0].1[1],
        ("qu".into(), Item::Text("concurrent-requests".into()))
    );
}
