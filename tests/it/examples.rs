//! The examples, as processes: the quickstart on a real socket, spoken to by a real client.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The example, ended with the test.
struct Quickstart {
    child: Child,
    url: String,
    keys: HashMap<String, String>,
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Quickstart {
    fn start() -> Self {
        let mut child = Command::new(example("quickstart"))
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = HashMap::new();
        let mut url = None;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref() {
            let line = line.unwrap();
            if let Some((name, key)) = line
                .split_once('=')
                .filter(|(name, _)| name.ends_with("_key"))
            {
                keys.insert(name.to_owned(), key.to_owned());
            } else if let Some(rest) = line.strip_prefix("listening on ") {
                url = Some(rest.split(';').next().unwrap().to_owned());
                break;
            }
        }
        // Read on, or the example would fail to print.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            url: url.expect("it says where it listens"),
            keys,
        }
    }

    /// Status and body, by curl.
    fn curl(&self, method: &str, path: &str, header: Option<String>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "-w", "\n%{http_code}"])
            .arg(format!("{}{path}", self.url));
        if let Some(header) = header {
            curl.args(["-H", &header]);
        }
        let output = curl
            .output()
            .expect("curl is installed: scripts/test sees to it");
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }
}

/// The binary of an example, which cargo builds together with the tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run the tests with scripts/test",
        path.display()
    );
    path
}

#[test]
fn the_quickstart_does_what_it_prints() {
    let server = Quickstart::start();
    let key = |name: &str| Some(format!("X-API-Key: {}", server.keys[name]));
    let bearer = |name: &str| Some(format!("Authorization: Bearer {}", server.keys[name]));
    for (method, path, header, status, code) in [
        ("GET", "/health", None, 200, None),
        ("GET", "/whoami", None, 401, Some("credentials_missing")),
        ("GET", "/whoami", key("reader_key"), 200, None),
        ("GET", "/orders", bearer("reader_key"), 200, None),
        (
            "POST",
            "/orders",
            key("reader_key"),
            403,
            Some("insufficient_scope"),
        ),
        ("POST", "/orders", key("writer_key"), 201, None),
        ("POST", "/orders", key("admin_key"), 201, None),
        (
            "GET",
            "/orders",
            key("expired_key"),
            401,
            Some("credential_expired"),
        ),
        (
            "GET",
            "/orders",
            key("revoked_key"),
            401,
            Some("credential_revoked"),
        ),
        (
            "GET",
            "/orders",
            Some("X-API-Key: nonsense".into()),
            401,
            Some("credential_invalid"),
        ),
    ] {
        let (got, body) = server.curl(method, path, header);
        assert_eq!(got, status, "{method} {path}: {body}");
        if let Some(code) = code {
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["code"], code);
        }
    }
    let (_, body) = server.curl("GET", "/whoami", key("reader_key"));
    let whoami: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(whoami["subject"], "reader");
    assert_eq!(whoami["scopes"], serde_json::json!(["orders:read"]));
}

#[test]
fn a_key_rotates_under_load_without_a_refused_request() {
    let output = Command::new(example("rotation")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for line in [
        "has a successor",
        "used in its grace",
        ", 0 refused",
        "the old key now: 401",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}
