//! The same behind nginx with two upstreams and persistent connections, where one client's rejected
//! uploads are the other clients' 502.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::connection::{LONG, UPLOAD, patient, router, serve};
use super::script::counted;
use crate::tools::is_there;

/// An nginx of a test, with a directory of its own. Both are gone when it is dropped.
pub(super) struct Nginx {
    address: SocketAddr,
    dir: PathBuf,
    _child: Child,
}

impl Nginx {
    async fn start(name: &str, proxy: &str, upstreams: [SocketAddr; 2]) -> Self {
        Self::start_with(name, |address| two_upstreams(address, proxy, upstreams)).await
    }

    /// Starts nginx with these settings of `http`, for the address to listen on.
    pub(super) async fn start_with(name: &str, http: impl Fn(SocketAddr) -> String) -> Self {
        let dir = std::env::temp_dir().join(format!("tollgate-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        // Another process may take the port before nginx does.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            fs::write(dir.join("nginx.conf"), config(&http(address))).unwrap();
            let mut child = Command::new("nginx")
                .arg("-p")
                .arg(&dir)
                .args(["-c", "nginx.conf"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            for _ in 0..1_000 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(address).await.is_ok() {
                    return Self {
                        address,
                        dir,
                        _child: child,
                    };
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        let log = fs::read_to_string(dir.join("error.log")).unwrap_or_default();
        panic!("nginx does not start: {log}");
    }

    /// Sends a request on a connection of its own. Returns the status, or `None` if nothing came back.
    async fn request(&self, head: &str, body: &[u8]) -> Option<u16> {
        let answer = self.exchange(head, body).await?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// Sends a request on a connection of its own. Returns the response, or `None` if nothing came back.
    pub(super) async fn exchange(&self, head: &str, body: &[u8]) -> Option<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.ok()?;
            let head = format!("{head}host: a\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(body).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            String::from_utf8(answer).ok()
        };
        timeout(LONG, exchange).await.expect("nginx answers")
    }

    async fn upload(&self) -> Option<u16> {
        let head = format!("POST / HTTP/1.1\r\ncontent-length: {UPLOAD}\r\n");
        self.request(&head, &vec![b'x'; UPLOAD]).await
    }

    /// A request of another client.
    async fn health(&self) -> Option<u16> {
        self.request("GET /health HTTP/1.1\r\n", &[]).await
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Persistent connections to the upstreams.
const KEPT: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";

/// A connection for each request: the default before nginx 1.29.7.
const HTTP_1_0: &str = "proxy_http_version 1.0; proxy_set_header Connection close;";

/// Other settings have the defaults of nginx: `max_fails` is 1 and `fail_timeout` is 10 s.
fn config(http: &str) -> String {
    format!(
        "daemon off;
         master_process off;
         pid nginx.pid;
         error_log error.log warn;
         events {{ worker_connections 256; }}
         http {{
             access_log off;
             client_body_temp_path body;
             proxy_temp_path proxy;
             fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi;
             scgi_temp_path scgi;
             {http}
         }}"
    )
}

fn two_upstreams(address: SocketAddr, proxy: &str, [first, second]: [SocketAddr; 2]) -> String {
    format!(
        "upstream api {{
             server {first};
             server {second};
             keepalive 16;
         }}
         server {{
             listen {address};
             location / {{
                 proxy_pass http://api;
                 {proxy}
             }}
         }}"
    )
}

pub(super) fn is_installed() -> bool {
    let fix = "run the tests with scripts/test, which installs it, or `apt-get install nginx`";
    is_there("nginx", &["-v"], fix)
}

#[tokio::test]
async fn rejected_uploads_behind_nginx_harm_no_other_client() {
    if !is_installed() {
        return;
    }
    for (name, proxy) in [("kept", KEPT), ("http10", HTTP_1_0)] {
        let layer = patient();
        let upstreams = [
            serve(router().layer(layer.clone())).await,
            serve(router().layer(layer.clone())).await,
        ];
        let nginx = Nginx::start(&format!("drained-{name}"), proxy, upstreams).await;
        for round in 0..30 {
            assert_eq!(nginx.upload().await, Some(401), "{name} {round}");
            for _ in 0..3 {
                assert_eq!(nginx.health().await, Some(200), "{name} {round}");
            }
        }
        // One after the other, and several at a time.
        let at_once = futures_util::future::join_all((0..30).map(|number| {
            let nginx = &nginx;
            async move {
                match number % 3 {
                    0 => (nginx.upload().await, Some(401)),
                    _ => (nginx.health().await, Some(200)),
                }
            }
        }));
        for (status, expected) in at_once.await {
            assert_eq!(status, expected, "{name}");
        }
        let counters = layer.counters();
        assert_eq!(
            counted(&counters),
            (40, 40 * UPLOAD as u64, vec![]),
            "{name}"
        );
    }
}

/// The fault that the layer is for. If nginx or hyper change, this shows that the test above still
/// tests something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_uploads_without_the_layer_are_502_of_others() {
    if !is_installed() {
        return;
    }
    for (name, proxy) in [("kept", KEPT), ("http10", HTTP_1_0)] {
        let upstreams = [serve(router()).await, serve(router()).await];
        let nginx = Nginx::start(&format!("unread-{name}"), proxy, upstreams).await;
        // It takes a race between the upload and the reset, so several are tried at a time.
        let is_seen = AtomicBool::new(false);
        let uploads = futures_util::future::join_all((0..4).map(|_| async {
            while !is_seen.load(Ordering::Relaxed) {
                nginx.upload().await;
            }
        }));
        let others = async {
            while nginx.health().await != Some(502) {}
            is_seen.store(true, Ordering::Relaxed);
        };
        let both = async { tokio::join!(uploads, others) };
        let seen = timeout(LONG, both).await;
        assert!(
            seen.is_ok(),
            "{name}: no request of another client became 502"
        );
    }
}
