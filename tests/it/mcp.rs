//! Logging in to an MCP server, with the TypeScript SDK and an authorization server in which clients
//! register themselves (RFC 7591, RFC 9728). Row R20.
//!
//! The programs of both are in `tests/mcp`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Json;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, serve};
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tollgate::auth::ProtectedResource;
use tollgate::clock::{Clock, SystemClock, Timestamp};
use tollgate::jwks::RemoteKeys;
use tollgate::{AuthLayer, Identity, Jwt, RequireLayer, scope};

use crate::tools::{is_there, leave_out};

/// The time of the system, put forward by the test. Goes on by itself, as the clock of the authorization
/// server does.
#[derive(Clone, Default)]
struct Shifted(Arc<AtomicU64>);

impl Shifted {
    fn advance(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        let ahead = Duration::from_secs(self.0.load(Ordering::Relaxed));
        SystemClock.now().saturating_add(ahead)
    }
}

/// The smallest MCP server with one tool (Streamable HTTP, without sessions).
async fn mcp(identity: Identity, Json(message): Json<Value>) -> Response {
    let result = match message["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "a server of a test", "version": "1.0.0" },
        }),
        Some("tools/call") => json!({
            "content": [{ "type": "text", "text": identity.subject() }],
        }),
        _ => return StatusCode::ACCEPTED.into_response(),
    };
    let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
    Json(answer).into_response()
}

/// Drops `scope` from the challenge to a credential that is not good.
async fn without_scope(mut response: Response) -> Response {
    if let Some(challenge) = response.headers_mut().get_mut(WWW_AUTHENTICATE) {
        let text = challenge.to_str().unwrap();
        if text.contains("error=") {
            let text = text.replace(r#", scope="tools:call""#, "");
            *challenge = text.try_into().unwrap();
        }
    }
    response
}

fn node(script: &str, argument: &str) -> Command {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp");
    let mut command = Command::new("node");
    command
        .current_dir(dir)
        .args([script, argument])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn is_installed() -> bool {
    const FIX: &str =
        "install Node.js 20 or later, and run `npm ci` in tests/mcp (scripts/test does)";
    let at_least_20 = "process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)";
    if !is_there("node", &["-e", at_least_20], FIX) {
        return false;
    }
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/node_modules");
    let is_installed = modules.join("oidc-provider").is_dir();
    if !is_installed {
        leave_out("tests/mcp/node_modules is missing", FIX);
    }
    is_installed
}

const LONG: Duration = Duration::from_secs(60);

/// Ends when it is dropped. Its output is kept open, since a program that cannot print ends.
type Running = (Child, Lines<BufReader<ChildStdout>>);

/// Starts an authorization server for the resource. Returns its issuer identifier.
async fn authorization_server(resource: &str) -> (Running, String) {
    let mut child = node("server.mjs", resource).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(issuer) = line.strip_prefix("ready ") {
                return Some(issuer.to_owned());
            }
        }
        None
    };
    match timeout(LONG, ready).await {
        Ok(Some(issuer)) => ((child, lines), issuer),
        ended => {
            let _ = child.start_kill();
            let output = child.wait_with_output().await.unwrap();
            panic!("{ended:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Has a client log in and lose its token in several ways. Returns its report.
async fn report(change: impl FnOnce(Router) -> Router) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let url = format!("http://{address}/mcp");
    let (_server, issuer) = authorization_server(&url).await;

    let clock = Shifted::default();
    let keys = RemoteKeys::discover()
        .allow_loopback_http()
        .clock(clock.clone());
    let jwt = Jwt::issuer(issuer.as_str())
        .audience(url.as_str())
        .keys(keys);
    let resource = ProtectedResource::new(&url)
        .authorization_server(&issuer)
        .scopes(["tools:read", "tools:call", "tools:admin"]);
    let auth = AuthLayer::new(jwt.build().unwrap())
        .clock(clock.clone())
        .protected_resource(&resource)
        .challenge_scopes(["tools:call"]);
    let protected = Router::new()
        .route("/mcp", post(mcp))
        .layer(RequireLayer::new(scope("tools:call")))
        .layer(auth);
    let app = change(protected)
        .route_service(resource.path(), resource.clone())
        .route(
            "/clock",
            post(async move || clock.advance(Duration::from_secs(600))),
        );
    tokio::spawn(async move { serve(listener, app).await });

    let client = node("client.mjs", &url).output();
    let output = timeout(LONG, client).await.expect("the client ends");
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}{stderr}"))
}

#[tokio::test]
async fn mcp_client_gets_a_new_token_after_losing_one() {
    if !is_installed() {
        return;
    }
    let report = report(|router| router).await;
    assert_eq!(report["registrations"], json!(["tools:call"]), "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| &step["name"]).collect();
    let losses = ["first", "expired", "invalid", "opaque", "missing"];
    assert_eq!(names, losses, "{report:#}");
    for step in steps {
        assert_eq!(step["result"], "ok", "{report:#}");
        assert_eq!(step["requested"], "tools:call", "{report:#}");
        assert_eq!(step["granted"], "tools:call", "{report:#}");
        assert_eq!(step["text"], "ann", "{report:#}");
        let challenge = step["challenge"].as_str().unwrap();
        assert!(challenge.contains(r#"scope="tools:call""#), "{report:#}");
        // The test is of the losses that it names.
        let error = match step["name"].as_str().unwrap() {
            "first" | "missing" => None,
            "expired" => Some("The access token expired"),
            _ => Some("The access token is invalid"),
        };
        let described = challenge.split("error_description=").nth(1);
        assert_eq!(
            described.map(|text| text.split('"').nth(1)),
            error.map(Some)
        );
    }
}

/// The fault that `scope` in every challenge avoids. If clients or the authorization server change,
/// this shows that the test above still tests something.
#[tokio::test]
async fn mcp_client_without_scope_in_the_challenge_fails() {
    if !is_installed() {
        return;
    }
    let report = report(|router| router.layer(map_response(without_scope))).await;
    let last = report["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(last["name"], "expired", "{report:#}");
    assert_eq!(last["requested"], "tools:read tools:call tools:admin");
    assert_eq!(last["result"], "invalid_scope", "{report:#}");
}
