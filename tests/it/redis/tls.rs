//! Redis over TLS, with a certificate that the test makes.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, generate_simple_self_signed};
use redis::{Client, TlsCertificates};
use tollgate::limit::{Quota, Quotas, RedisFault, RedisLimiter};

use super::proxy::{Mode, Proxy};
use super::server::{Server, free_port};
use super::{admitted, eventually, take};
use crate::support::Events;

struct TlsServer {
    server: Server,
    port: u16,
    /// In PEM.
    certificate: String,
    files: [PathBuf; 2],
}

impl TlsServer {
    fn start(name: &str) -> Self {
        let certified = generate_simple_self_signed([name.to_owned()]).unwrap();
        let port = free_port();
        let file = |kind: &str, text: &str| {
            let name = format!("tollgate-{}-{port}.{kind}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = certified.cert.pem();
        let files = [
            file("crt", &certificate),
            file("key", &certified.signing_key.serialize_pem()),
        ];
        let [crt, key] = files.each_ref().map(|path| path.to_str().unwrap());
        let server = Server::with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            crt,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            crt,
            "--tls-auth-clients",
            "no",
        ]);
        Self {
            server,
            port,
            certificate,
            files,
        }
    }

    /// Returns a limiter that trusts the certificate.
    fn limiter(&self, port: u16, certificate: &str) -> RedisLimiter {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(certificate.into()),
        };
        let url = format!("rediss://127.0.0.1:{port}");
        let client = Client::build_with_tls(url, certificates).unwrap();
        RedisLimiter::from_client(client).connect_timeout(Duration::from_secs(20))
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.server.stop();
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}

fn quotas() -> Quotas {
    Quota::per_day(5).into()
}

#[tokio::test]
async fn redis_over_tls_decides_from_the_first_request() {
    let server = TlsServer::start("127.0.0.1");
    // A handshake that takes longer than a request may.
    let proxy = Proxy::to(server.port).await;
    proxy.turn(Mode::Delays(Duration::from_millis(300)));
    let deadline = Duration::from_millis(250);
    let cold = server
        .limiter(proxy.port, &server.certificate)
        .deadline(deadline);
    assert!(take(&cold, "a", &quotas()).await.unwrap().is_admitted());
    assert_eq!(cold.status().fallbacks.local_share, 1);
    assert_eq!(cold.status().last_fault, Some(RedisFault::TimedOut));

    let warm = server
        .limiter(proxy.port, &server.certificate)
        .deadline(deadline);
    warm.warm_up().await.unwrap();
    let connections = proxy.connections();
    proxy.turn(Mode::Passes);
    // Requests keep their deadline, and this machine may be busy.
    eventually("a decision of Redis", async || {
        let before = warm.status().fallbacks;
        take(&warm, "b", &quotas()).await.unwrap();
        warm.status().fallbacks == before
    })
    .await;
    assert_eq!(proxy.connections(), connections, "it is opened once");
    assert_eq!(server.server.keys().len(), 1);
    // The first limiter has gone on opening its connection.
    eventually("a decision of the cold one", async || {
        let before = cold.status().fallbacks;
        take(&cold, "c", &quotas()).await.unwrap();
        cold.status().fallbacks == before
    })
    .await;
    assert_eq!(proxy.connections(), connections);
}

#[tokio::test]
async fn the_cause_of_a_failed_handshake_is_in_the_log() {
    let server = TlsServer::start("127.0.0.1");
    let elsewhere = TlsServer::start("redis.example");
    let mut other = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    other
        .distinguished_name
        .push(DnType::CommonName, "another CA");
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let (other, own) = (other.pem(), server.certificate.clone());
    for (limiter, cause, fault) in [
        (
            server.limiter(server.port, &other),
            "UnknownIssuer",
            RedisFault::Tls,
        ),
        (
            elsewhere.limiter(elsewhere.port, &elsewhere.certificate),
            "not valid for",
            RedisFault::Tls,
        ),
        (
            // In clear, to the port for TLS.
            RedisLimiter::new(&format!("redis://127.0.0.1:{}", server.port)).unwrap(),
            "",
            RedisFault::Unreachable,
        ),
        (
            server.limiter(free_port(), &own),
            "Connection refused",
            RedisFault::Unreachable,
        ),
    ] {
        let (events, _guard) = Events::listen();
        let limiter = limiter.deadline(Duration::from_secs(10));
        assert_eq!(admitted(&limiter, "a", &quotas(), 9).await, 5);
        assert_eq!(limiter.status().last_fault, Some(fault), "{cause}");
        let level = match fault {
            RedisFault::Tls => "ERROR",
            _ => "WARN",
        };
        let said = events.of(level);
        assert_eq!(said.len(), 1, "{:?}", events.of(""));
        assert!(
            said[0].contains("cause=\"") && said[0].contains(cause),
            "{said:?}"
        );
        if fault == RedisFault::Tls {
            assert!(said[0].contains("build_with_tls"), "{said:?}");
        }

        let error = limiter.warm_up().await.unwrap_err();
        assert_eq!(error.fault(), fault);
        assert!(error.to_string().contains(cause), "{error}");
        assert!(error.source().is_some());
    }
}

#[tokio::test]
async fn warm_up_says_that_there_is_no_server() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let limiter = RedisLimiter::new(&url).unwrap();
    let error = limiter.warm_up().await.unwrap_err();
    assert_eq!(error.fault(), RedisFault::Unreachable);
    let text = error.to_string();
    assert!(
        text.starts_with("`RedisLimiter::warm_up`: ") && text.contains("refused"),
        "{text}"
    );
}
