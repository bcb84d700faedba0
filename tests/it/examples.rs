//! The examples, as processes: the quickstart on a real socket, spoken to by a real client.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

/// An example that serves, ended with the test.
struct Running {
    child: Child,
    url: String,
    keys: HashMap<String, String>,
    /// What it prints afterwards.
    rest: Option<JoinHandle<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

impl Running {
    fn start(name: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(example(name))
            .env("PORT", "0")
            .envs(environment.iter().copied())
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
                .filter(|(name, _)| name.ends_with("key") || name.ends_with("token"))
            {
                keys.insert(name.to_owned(), key.to_owned());
            } else if let Some(rest) = line.strip_prefix("listening on ") {
                url = Some(rest.split(';').next().unwrap().to_owned());
                break;
            }
        }
        // Read on, or the example would fail to print.
        let rest = std::thread::spawn(move || {
            let lines = lines.map_while(Result::ok);
            lines.fold(String::new(), |text, line| text + &line + "\n")
        });
        Self {
            child,
            url: url.expect("it says where it listens"),
            keys,
            rest: Some(rest),
        }
    }

    /// Ends it as Ctrl-C does, and says what it has printed meanwhile.
    fn interrupt(&mut self) -> String {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-INT", &pid]).status();
        assert!(killed.unwrap().success());
        assert!(self.child.wait().unwrap().success());
        self.rest.take().unwrap().join().unwrap()
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
    let server = Running::start("quickstart", &[]);
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
        ("GET", "/whoami", bearer("reader_token"), 200, None),
        ("GET", "/orders", bearer("reader_token"), 200, None),
        (
            "POST",
            "/orders",
            bearer("reader_token"),
            403,
            Some("insufficient_scope"),
        ),
        ("POST", "/orders", bearer("writer_token"), 201, None),
        (
            "GET",
            "/whoami",
            bearer("expired_token"),
            401,
            Some("token_expired"),
        ),
        (
            "GET",
            "/whoami",
            bearer("alg_none_token"),
            401,
            Some("token_invalid"),
        ),
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
            Some("X-API-Key: acme_nonsense".into()),
            401,
            Some("credential_invalid"),
        ),
        (
            "GET",
            "/orders",
            Some("X-API-Key: nonsense".into()),
            401,
            Some("token_invalid"), // what does not look like a key is taken for a token
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

    // A client that knows nothing but the URL finds out where to log in.
    let path = "/.well-known/oauth-protected-resource";
    let (status, body) = server.curl("GET", path, None);
    let resource: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &resource["resource"]),
        (200, &server.url.clone().into())
    );
    assert_eq!(
        resource["authorization_servers"][0],
        "https://id.acme.example/"
    );
    let headers = Command::new("curl")
        .args(["-si", &format!("{}/whoami", server.url)])
        .output();
    let headers = String::from_utf8(headers.unwrap().stdout).unwrap();
    let named = format!("resource_metadata=\"{}{path}\"", server.url);
    assert!(headers.contains(&named), "{headers}");
}

/// Who has used what: for those who may know it, and for who ends the server.
#[test]
fn the_quickstart_says_who_has_used_what() {
    let mut server = Running::start("quickstart", &[]);
    let key = |name: &str| Some(format!("X-API-Key: {}", server.keys[name]));
    assert_eq!(server.curl("GET", "/usage", None).0, 401);
    assert_eq!(server.curl("GET", "/usage", key("reader_key")).0, 403);
    assert_eq!(server.curl("GET", "/orders", key("reader_key")).0, 200);
    assert_eq!(server.curl("GET", "/health", None).0, 200);
    let (status, body) = server.curl("GET", "/usage", key("admin_key"));
    assert_eq!(status, 200);
    let usage: Value = serde_json::from_str(&body).unwrap();
    let reader = &usage["callers"][0];
    assert_eq!(reader["subject"], "reader");
    assert_eq!(
        (&reader["requests"], &reader["refused"]),
        (&2.into(), &1.into())
    );
    assert_eq!(reader["refusals"], serde_json::json!({ "forbidden": 1 }));
    assert_eq!(usage["anonymous"]["requests"], 1);
    assert_eq!(usage["sum"]["requests"], 3, "this one had not ended");

    let table = server.interrupt();
    let line = |name: &str| {
        let mut lines = table.lines();
        let line = lines.find(|line| line.starts_with(name));
        let words = line.unwrap_or_else(|| panic!("{table}")).split_whitespace();
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("reader")[..4], ["reader", "(demo)", "2", "1"]);
    assert_eq!(line("admin")[1], "1");
    assert_eq!(line("anonymous")[1..3], ["1", "1"]);
    assert_eq!(line("sum")[1], "4");
}

/// What Prometheus scrapes, for those who may know it.
#[test]
fn the_quickstart_has_numbers_for_prometheus() {
    let server = Running::start("quickstart", &[]);
    let key = |name: &str| Some(format!("X-API-Key: {}", server.keys[name]));
    assert_eq!(server.curl("GET", "/metrics", None).0, 401);
    assert_eq!(server.curl("GET", "/metrics", key("reader_key")).0, 403);
    let bearer = Some(format!(
        "Authorization: Bearer {}",
        server.keys["reader_token"]
    ));
    for _ in 0..2 {
        assert_eq!(server.curl("GET", "/orders", bearer.clone()).0, 200);
    }
    let (status, page) = server.curl("GET", "/metrics", key("admin_key"));
    assert_eq!(status, 200);
    for line in [
        r#"http_server_active_requests{http_request_method="GET",url_scheme="http"} 1"#,
        r#"tollgate_refusals_total{tollgate_refusal_code="forbidden",tollgate_refusal_cause="fact_missing"} 1"#,
        r#"tollgate_cache_lookups_total{tollgate_name="tokens",tollgate_cache_result="hit"} 1"#,
        r#"tollgate_cache_lookups_total{tollgate_name="tokens",tollgate_cache_result="miss"} 1"#,
    ] {
        assert!(page.lines().any(|known| known == line), "{line} in {page}");
    }
    let orders = page.lines().find(|line| {
        line.starts_with("http_server_request_duration_seconds_count")
            && line.contains("\"/orders\"")
    });
    assert!(orders.unwrap_or_else(|| panic!("{page}")).ends_with(" 2"));
}

/// A key has leaked: one call ends it, and says what it was used for.
#[test]
fn the_audit_example_says_what_a_leaked_key_did() {
    let mut server = Running::start("audit", &[]);
    let key = |name: &str| Some(format!("X-API-Key: {}", server.keys[name]));
    let id = server.keys["ann_key"].split('_').nth(2).unwrap().to_owned();
    for path in ["/orders", "/orders", "/secrets"] {
        assert_eq!(server.curl("GET", path, key("ann_key")).0, 200);
    }
    let report = format!("/report/{id}");
    assert_eq!(server.curl("POST", &report, key("ann_key")).0, 403);
    let (status, body) = server.curl("POST", &report, key("admin_key"));
    assert_eq!(status, 200);
    let activity: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(activity["requests"], 4);
    let acts: Vec<_> = activity["acts"].as_array().unwrap().iter().collect();
    let routes: Vec<_> = acts
        .iter()
        .map(|act| act["route"].as_str().unwrap())
        .collect();
    assert_eq!(routes, ["/report/{id}", "/secrets", "/orders"]);
    assert_eq!(
        (&acts[2]["requests"], &acts[2]["client"]),
        (&2.into(), &"127.0.0.1".into())
    );
    assert_eq!(server.curl("GET", "/orders", key("ann_key")).0, 401);
    assert_eq!(server.curl("POST", "/report/none", key("admin_key")).0, 404);

    let rest = server.interrupt();
    let events = rest.lines().filter_map(|line| line.strip_prefix("event "));
    let events: Vec<Value> = events
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    for name in [
        "key_issued",
        "access_denied",
        "key_compromised",
        "key_used_after_end",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

#[test]
fn the_usage_example_bills_for_words() {
    let mut server = Running::start("usage", &[]);
    let key = Some(format!("X-API-Key: {}", server.keys["ann_key"]));
    let (status, text) = server.curl("GET", "/tell", key.clone());
    assert_eq!(status, 200);
    let words = text.split_whitespace().count();
    let (_, used) = server.curl("GET", "/used", key);
    let used: Value = serde_json::from_str(&used).unwrap();
    assert_eq!(
        (&used["requests"], &used["units"]["words"]),
        (&1.into(), &words.into())
    );
    // The last records are billed before the process ends.
    let rest = server.interrupt();
    let bills = rest.lines().filter_map(|line| line.strip_prefix("bill "));
    let bills: Vec<Value> = bills
        .map(|bill| serde_json::from_str(bill).unwrap())
        .collect();
    assert_eq!(bills.len(), 2, "{rest}");
    let routes: Vec<_> = bills.iter().map(|bill| bill["route"].as_str()).collect();
    assert_eq!(routes, [Some("/tell"), Some("/used")]);
    assert_eq!(bills[0]["units"]["words"], words);
    assert!(
        rest.lines().any(|line| line == "delivered 2, lost 0"),
        "{rest}"
    );
}

/// A loop is told to wait, and who waits is let in again.
#[test]
fn the_quickstart_holds_a_caller_to_a_limit() {
    let server = Running::start("quickstart", &[]);
    let config = std::env::temp_dir().join(format!("tollgate-{}", std::process::id()));
    let url = format!("url = \"{}/orders\"\noutput = \"/dev/null\"\n", server.url);
    std::fs::write(&config, url.repeat(1_500)).unwrap();
    let output = Command::new("curl")
        .args(["-s", "-w", "%{http_code}\n", "-K", config.to_str().unwrap()])
        .args(["-H", &format!("X-API-Key: {}", server.keys["reader_key"])])
        .output()
        .unwrap();
    std::fs::remove_file(&config).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let statuses: Vec<_> = text.lines().collect();
    assert!(statuses.starts_with(&["200"; 100]), "generous to a person");
    assert!(
        statuses.contains(&"429"),
        "{} calls were all let in",
        statuses.len()
    );
    // Another caller has a budget of their own, and other routes have none.
    let key = |name: &str| Some(format!("X-API-Key: {}", server.keys[name]));
    assert_eq!(server.curl("GET", "/orders", key("writer_key")).0, 200);
    assert_eq!(server.curl("GET", "/whoami", key("reader_key")).0, 200);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(server.curl("GET", "/orders", key("reader_key")).0, 200);
}

#[test]
fn callers_on_plans_are_held_to_what_they_have_used() {
    let server = Running::start("plans", &[]);
    let key = |name: &str| Some(format!("X-API-Key: {}", server.keys[name]));
    let left = |name: &str| -> u64 {
        let (_, body) = server.curl("GET", "/left", key(name));
        serde_json::from_str::<Value>(&body).unwrap()["units"]
            .as_u64()
            .unwrap()
    };
    for _ in 0..10 {
        assert_eq!(server.curl("GET", "/complete", key("free_key")).0, 200);
    }
    assert!((20..40).contains(&left("free_key")), "{}", left("free_key"));
    let refused = (0..10).any(|_| server.curl("GET", "/complete", key("free_key")).0 == 429);
    assert!(refused);
    assert_eq!(left("pro_key"), 1_000);
    assert_eq!(server.curl("POST", "/upgrade", key("pro_key")).0, 403);
    assert_eq!(server.curl("POST", "/upgrade", key("admin_key")).0, 200);
}

#[cfg(feature = "jwks")]
#[test]
fn an_issuer_rotates_its_keys_and_the_api_follows() {
    let output = Command::new(example("jwks")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let statuses: Vec<_> = text
        .lines()
        .filter_map(|line| line.get(53..57))
        .map(str::trim)
        .collect();
    assert_eq!(
        statuses,
        ["200", "200", "200", "200", "401", "200", "200"],
        "{text}"
    );
}

#[cfg(feature = "redis")]
#[test]
fn two_nodes_share_one_budget() {
    let output = Command::new(example("redis"))
        .env_remove("REDIS_URL")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let admitted: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split_once("admitted ")?.1.split_once(" of"))
        .map(|(sum, _)| {
            sum.split('+')
                .map(|n| n.trim().parse::<u32>().unwrap())
                .sum()
        })
        .collect();
    let [first, second, third] = admitted[..] else {
        panic!("{text}");
    };
    // What comes back while they knock is theirs as well.
    assert!((12..=17).contains(&first), "{text}");
    assert!((5..=10).contains(&second), "{text}");
    assert!((5..=15).contains(&third), "{text}");
    assert!(text.contains("partitioned: true"), "{text}");
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

#[test]
fn the_hyper_example_greets_who_has_a_key() {
    let server = Running::start("hyper", &[]);
    let key = format!("X-API-Key: {}", server.keys["key"]);
    assert_eq!(
        server.curl("GET", "/", Some(key)),
        (200, "hello ann\n".into())
    );
    assert_eq!(server.curl("GET", "/", None).0, 401);
}

#[cfg(feature = "tonic")]
#[test]
fn the_tonic_example_is_its_own_client() {
    let server = Running::start("tonic", &[]);
    let port = server.url.rsplit(':').next().unwrap();
    let call = |key: Option<&str>| {
        let client = Command::new(example("tonic"))
            .env("PORT", port)
            .arg("--client")
            .args(key)
            .output();
        String::from_utf8(client.unwrap().stdout).unwrap()
    };
    assert_eq!(
        call(Some(&server.keys["greeter_key"])),
        "hello world, says ann\n"
    );
    let refused = call(Some(&server.keys["other_key"]));
    assert!(
        refused.starts_with("PermissionDenied ACCESS_TOKEN_SCOPE_INSUFFICIENT: "),
        "{refused}"
    );
    let refused = call(None);
    assert!(
        refused.starts_with("Unauthenticated CREDENTIALS_MISSING: "),
        "{refused}"
    );
}

#[cfg(feature = "tonic")]
#[test]
fn one_port_serves_axum_and_tonic() {
    let server = Running::start("one_port", &[]);
    let key = || Some(format!("X-API-Key: {}", server.keys["key"]));
    assert_eq!(server.curl("GET", "/", None).0, 200);
    assert_eq!(server.curl("GET", "/me", None).0, 401);
    assert_eq!(server.curl("GET", "/me", key()), (200, "ann".into()));
    assert_eq!(server.curl("GET", "/else", key()).0, 403);
    let grpc = Command::new("curl")
        .args(["-s", "-i", "--http2-prior-knowledge", "-X", "POST"])
        .args(["-H", "content-type: application/grpc"])
        .arg(format!("{}/grpc.health.v1.Health/Check", server.url))
        .output()
        .unwrap();
    let text = String::from_utf8(grpc.stdout).unwrap();
    assert!(
        text.starts_with("HTTP/2 200") && text.contains("grpc-status: 16"),
        "{text}"
    );
}

#[tokio::test]
async fn a_websocket_closes_when_its_key_ends() {
    use futures_util::StreamExt;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    use tokio_tungstenite::tungstenite::{Error, Message};

    // One that is revoked, and one that expires.
    for (life, revoke) in [("3600", true), ("2", false)] {
        let server = Running::start("websocket", &[("LIFE_SECONDS", life)]);
        let url = format!("{}/ticks", server.url.replace("http", "ws"));
        let connect = async |protocols: String| {
            let mut request = url.as_str().into_client_request().unwrap();
            let name = "sec-websocket-protocol";
            request
                .headers_mut()
                .insert(name, protocols.parse().unwrap());
            tokio_tungstenite::connect_async(request).await
        };
        let Err(Error::Http(refused)) = connect("ticks.v1".into()).await else {
            panic!("it needs a key");
        };
        assert_eq!(refused.status(), 401);
        let marked = format!("ticks.v1, key.{}", server.keys["key"]);
        let (mut socket, response) = connect(marked).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "ticks.v1");
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::text("tick, ann")
        );
        if revoke {
            assert_eq!(server.curl("DELETE", "/key", None).0, 200);
        }
        let close = loop {
            if let Message::Close(close) = socket.next().await.unwrap().unwrap() {
                break close.unwrap();
            }
        };
        assert_eq!(close.code, CloseCode::Policy);
        let reason = if revoke {
            "the key was revoked"
        } else {
            "the key has expired"
        };
        assert_eq!(close.reason.as_str(), reason);
    }
}
