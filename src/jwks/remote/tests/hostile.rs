//! Key servers on a socket, hostile ones, asked by every client that there is.
#![cfg(test)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant as Wall;

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::jwks::remote::status::FetchError;

/// What a server does with a connection.
#[derive(Clone, Debug)]
enum Does {
    /// Sends this, and closes.
    Says(String),
    /// Reads, and says nothing.
    Hangs,
    /// Sends a byte, and then another one.
    Drips,
    /// Sends without an end.
    Pours,
    /// Closes before it has read anything.
    Resets,
}

struct Hostile {
    address: std::net::SocketAddr,
    asked: Arc<AtomicUsize>,
    poured: Arc<AtomicUsize>,
}

impl Hostile {
    async fn start(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, poured) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (does, counts) = (Arc::new(does), (Arc::clone(&asked), Arc::clone(&poured)));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let (does, poured) = (Arc::clone(&does), Arc::clone(&counts.1));
                tokio::spawn(serve(socket, does, poured));
            }
        });
        Self {
            address,
            asked,
            poured,
        }
    }

    async fn always(does: Does) -> Self {
        Self::start(move |_| does.clone()).await
    }

    /// The keys there, by each client.
    fn remotes(&self) -> Vec<Remote> {
        let url = format!("http://{}/start", self.address);
        let settings = RemoteKeys::at(url)
            .allow_loopback_http()
            .fetch_timeout(Duration::from_millis(250));
        let hyper: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        #[allow(unused_mut, reason = "of a feature")]
        let mut all = vec![build(settings.clone().client(hyper))];
        #[cfg(feature = "jwks")]
        all.push(build(settings));
        all
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve(mut socket: TcpStream, does: Arc<impl Fn(&str) -> Does>, poured: Arc<AtomicUsize>) {
    let mut request = vec![0; 4096];
    let read = socket.read(&mut request).await.unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"keys\": [";
    match does(path) {
        Does::Says(text) => drop(socket.write_all(text.as_bytes()).await),
        Does::Hangs => tokio::time::sleep(secs(60)).await,
        Does::Drips => {
            let _ = socket.write_all(head.as_bytes()).await;
            while socket.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Does::Pours => {
            let _ = socket.write_all(head.as_bytes()).await;
            let junk = vec![b' '; 65_536];
            while let Ok(written) = socket.write(&junk).await {
                poured.fetch_add(written, Ordering::SeqCst);
            }
        }
        Does::Resets => {
            let _ = socket.set_zero_linger();
        }
    }
}

fn ok(body: &str) -> String {
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}")
}

fn redirect(location: &str) -> Does {
    Does::Says(format!(
        "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    ))
}

#[tokio::test]
async fn keys_come_over_a_socket() {
    let server = Hostile::always(Does::Says(ok(&jwks(&["a"])))).await;
    for remote in server.remotes() {
        remote.warm_up().await.unwrap();
        assert!(knows(
            &remote,
            "a",
            Timestamp::from(std::time::SystemTime::now())
        ));
    }
}

// D1
#[tokio::test]
async fn headers_that_do_not_come_and_bodies_that_do_not_end_are_given_up() {
    for does in [Does::Hangs, Does::Drips] {
        let server = Hostile::always(does.clone()).await;
        for remote in server.remotes() {
            let start = Wall::now();
            assert_eq!(
                remote.warm_up().await,
                Err(FetchError::TimedOut),
                "{does:?}"
            );
            assert!(start.elapsed() < secs(2), "{does:?}");
        }
    }
}

// D4
#[tokio::test]
async fn a_body_is_read_up_to_the_cap_and_no_further() {
    let server = Hostile::always(Does::Pours).await;
    let said = Does::Says("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n{".into());
    let boasting = Hostile::always(said).await;
    for remote in server.remotes().into_iter().chain(boasting.remotes()) {
        assert_eq!(remote.warm_up().await, Err(FetchError::TooLarge));
    }
    // Beside what the sockets hold.
    assert!(server.poured.load(Ordering::SeqCst) < 32 << 20);
}

// D3, D15
#[tokio::test]
async fn what_breaks_off_or_is_not_http_is_a_failure() {
    let good = jwks(&["a"]);
    let len = good.len() + 1;
    let truncated = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{good}");
    let gzip = ok("\u{1f}\u{8b}").replace("\r\n\r\n", "\r\ncontent-encoding: gzip\r\n\r\n");
    for (does, error) in [
        (Does::Says(truncated), FetchError::BrokenOff),
        (Does::Says(String::new()), FetchError::Unreachable),
        (
            Does::Says("SSH-2.0-OpenSSH_9.2\r\n".into()),
            FetchError::Unreachable,
        ),
        (Does::Says(gzip), FetchError::NotAKeySet),
        (Does::Resets, FetchError::Unreachable),
    ] {
        let server = Hostile::always(does.clone()).await;
        for remote in server.remotes() {
            assert_eq!(remote.warm_up().await, Err(error), "{does:?}");
        }
    }
}

// D15
#[tokio::test]
async fn nobody_there_is_a_failure_and_so_is_what_does_not_speak_tls() {
    let server = Hostile::always(Does::Says("no TLS here".into())).await;
    let mut settings = vec![
        RemoteKeys::at("http://127.0.0.1:1/").allow_loopback_http(),
        RemoteKeys::at(format!("https://{}/", server.address)),
    ];
    if cfg!(not(feature = "jwks")) {
        settings.clear();
    }
    for settings in settings {
        let remote = build(settings.fetch_timeout(secs(2)));
        let error = remote.warm_up().await.unwrap_err();
        assert!(matches!(
            error,
            FetchError::Unreachable | FetchError::TimedOut
        ));
    }
}

// D9
#[tokio::test]
async fn redirects_stay_at_their_origin_and_end() {
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost:1/keys",
        "http://127.0.0.1:1/keys",
        "https://id.example.com/keys",
        "//id.example.com/keys",
        "file:///etc/passwd",
        "",
        "http://",
    ] {
        let server = Hostile::start(move |_| redirect(location)).await;
        for (count, remote) in server.remotes().into_iter().enumerate() {
            let outcome = remote.warm_up().await;
            assert_eq!(outcome, Err(FetchError::Redirected), "{location}");
            if !location.is_empty() {
                assert_eq!(server.asked(), count + 1, "{location}");
            }
        }
    }
    let hops = |most: usize| {
        Hostile::start(
            move |path| match path.trim_start_matches("/hop").parse::<usize>() {
                Ok(hop) if hop == most => Does::Says(ok(&jwks(&["a"]))),
                Ok(hop) => redirect(&format!("/hop{}", hop + 1)),
                Err(_) => redirect("hop1"),
            },
        )
    };
    let (few, many) = (hops(5).await, hops(20).await);
    for remote in few.remotes() {
        remote.warm_up().await.unwrap();
    }
    for (count, remote) in many.remotes().into_iter().enumerate() {
        assert_eq!(remote.warm_up().await, Err(FetchError::Redirected));
        assert_eq!(many.asked(), 6 * (count + 1));
    }
}
