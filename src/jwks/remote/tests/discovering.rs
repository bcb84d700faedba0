//! Keys that the metadata of an issuer leads to.
#![cfg(test)]

use http::{Response, StatusCode};

use super::*;
use crate::jwks::remote::status::FetchError;

const OPENID: &str = "/a/.well-known/openid-configuration";
const OAUTH: &str = "/.well-known/oauth-authorization-server/a";

fn metadata(issuer: &str, keys: &str) -> Response<String> {
    Response::new(format!(r#"{{"issuer": "{issuer}", "jwks_uri": "{keys}"}}"#))
}

fn discover(server: &Server) -> (Remote, Ticking) {
    let clock = Ticking::new();
    let settings = RemoteKeys::discover().client(server.clone()).clock(clock);
    let algorithms = Algorithm::ASYMMETRIC.to_vec();
    let issuer = "https://id.example.com/a";
    let remote = Remote::new(settings, issuer, algorithms, Backend::default());
    (remote.unwrap(), clock)
}

const ISSUER: &str = "https://id.example.com/a";

#[tokio::test(start_paused = true)]
async fn the_metadata_is_asked_once_and_again_after_a_failure() {
    let server = Server::new(|request| match request.uri.path() {
        OPENID => metadata(ISSUER, "https://keys.example.net/set"),
        "/set" => Response::new(jwks(&["a"])),
        _ => failing(),
    });
    let (remote, clock) = discover(&server);
    remote.warm_up().await.unwrap();
    assert!(knows(&remote, "a", clock.now()));
    assert_eq!(server.last_request().uri, "https://keys.example.net/set");
    assert_eq!(server.asked(), 2);
    pass(secs(485)).await;
    assert_eq!(server.asked(), 3);
    // The keys move.
    server.answers(|request| match request.uri.path() {
        OPENID => metadata(ISSUER, "https://keys.example.net/moved"),
        "/moved" => Response::new(jwks(&["b"])),
        _ => status(StatusCode::GONE),
    });
    pass(secs(485)).await;
    assert!(knows(&remote, "b", clock.now()));
}

#[tokio::test(start_paused = true)]
async fn an_authorization_server_without_openid_is_found_where_rfc_8414_says() {
    for nothing in [StatusCode::NOT_FOUND, StatusCode::OK, StatusCode::FORBIDDEN] {
        let server = Server::new(move |request| match request.uri.path() {
            OAUTH => metadata(ISSUER, "https://id.example.com/set"),
            "/set" => Response::new(jwks(&["a"])),
            _ => status(nothing),
        });
        let (remote, clock) = discover(&server);
        remote.warm_up().await.unwrap();
        assert!(knows(&remote, "a", clock.now()));
        assert_eq!(server.asked(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_that_cannot_be_trusted_leads_nowhere() {
    let other = FetchError::OtherIssuer;
    let address = FetchError::ForbiddenAddress;
    for (issuer, keys, error, asked) in [
        (
            "https://id.example.com/a/",
            "https://id.example.com/set",
            other,
            1,
        ),
        (
            "https://evil.example/a",
            "https://id.example.com/set",
            other,
            1,
        ),
        (ISSUER, "http://id.example.com/set", address, 1),
        (ISSUER, "https://169.254.169.254/set", address, 1),
        (ISSUER, "https://127.0.0.1/set", address, 1),
        (ISSUER, "file:///etc/passwd", address, 1),
        (ISSUER, "/set", address, 1),
    ] {
        let server = Server::new(move |request| match request.uri.path() {
            OPENID | OAUTH => metadata(issuer, keys),
            _ => Response::new(jwks(&["a"])),
        });
        let (remote, _) = discover(&server);
        assert_eq!(remote.warm_up().await, Err(error), "{issuer} {keys}");
        assert_eq!(server.asked(), asked, "{issuer} {keys}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_in_trouble_is_not_asked_twice() {
    for trouble in [StatusCode::TOO_MANY_REQUESTS, StatusCode::BAD_GATEWAY] {
        let server = Server::new(move |_| status(trouble));
        let (remote, _) = discover(&server);
        let error = FetchError::Status(trouble);
        assert_eq!(remote.warm_up().await, Err(error));
        assert_eq!(server.asked(), 1);
    }
}

#[test]
fn an_issuer_that_is_no_url_cannot_be_asked() {
    let server = Server::of(&["a"]);
    for issuer in [
        "id.example.com",
        "http://id.example.com",
        "https://i/?a",
        "https://i/#a",
    ] {
        let settings = RemoteKeys::discover().client(server.clone());
        let remote = Remote::new(settings, issuer, vec![], Backend::default());
        assert!(remote.is_err(), "{issuer}");
    }
}
