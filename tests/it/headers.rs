//! What stands in `Authorization`: rows A1 to A14.

use std::time::{Duration, Instant};

use http::{HeaderName, StatusCode};
use tollgate::AuthLayer;
use tollgate::auth::Source;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::{Cause, Reason};
use tower::Layer;

use crate::support::{Answer, base64, get, issue, keys_over, send, vectors, who, with};

/// What a door answers to `Authorization` lines; `TOKEN` stands for a good key.
async fn answer(lines: &[&[u8]]) -> Answer {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let service = AuthLayer::new(keys).layer(who());
    let mut request = get();
    for line in lines {
        let line = replace(line, b"TOKEN", key.as_bytes());
        let value = http::HeaderValue::from_bytes(&line).unwrap();
        request.headers_mut().append("authorization", value);
    }
    send(&service, request).await
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match text.windows(from.len()).position(|window| window == from) {
        Some(at) => [&text[..at], to, &text[at + from.len()..]].concat(),
        None => text.to_vec(),
    }
}

#[tokio::test]
async fn the_vectors_of_bearer_headers_hold() {
    for case in vectors("bearer-headers")["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let keys = keys_over(MemoryKeys::new());
        let key = issue(&keys, NewKey::for_owner("alice")).await;
        let service = AuthLayer::new(keys).layer(who());
        let mut request = get();
        for header in case["headers"].as_array().unwrap() {
            let name = header[0].as_str().unwrap().to_ascii_lowercase();
            let value = replace(
                &base64(header[1].as_str().unwrap()),
                b"TOKEN",
                key.as_bytes(),
            );
            let name = http::HeaderName::try_from(name).unwrap();
            request
                .headers_mut()
                .append(name, value.try_into().unwrap());
        }

        let answer = send(&service, request).await;

        // Where a case leaves a choice the contract does not: what is no credential by its
        // grammar is 400. `BearerTOKEN` is a scheme of its own by that grammar.
        let allowed = case["expect"]["status"].as_array().unwrap();
        let strictest = match id {
            "no-sep" => &allowed[1],
            _ => &allowed[0],
        };
        assert_eq!(*strictest, answer.status.as_u16(), "{id}: {answer:?}");
        let challenges = answer.challenges().join("\n");
        match case["expect"]["www_authenticate"].as_str() {
            Some("Bearer, no error parameter") => {
                assert!(challenges.starts_with("Bearer "), "{id}: {challenges}");
                assert!(!challenges.contains("error"), "{id}: {challenges}");
            }
            Some(_) => {
                assert!(
                    challenges.contains("error=\"invalid_"),
                    "{id}: {challenges}"
                );
                assert_eq!(
                    answer.status,
                    StatusCode::BAD_REQUEST,
                    "{id}: as strict as can be"
                );
            }
            None => {}
        }
    }
}

#[tokio::test]
async fn the_scheme_is_read_in_any_case() {
    for line in [
        "Bearer TOKEN",
        "bearer TOKEN",
        "BEARER   TOKEN",
        "ApiKey TOKEN",
        "apikey TOKEN",
    ] {
        assert_eq!(
            answer(&[line.as_bytes()]).await.status,
            StatusCode::OK,
            "{line}"
        );
    }
}

#[tokio::test]
async fn other_schemes_are_as_good_as_no_credential() {
    for line in [
        "Basic dTpw",
        "Digest username=\"u\", realm=\"r\", uri=\"/\"",
        "DPoP TOKEN",
        "Token TOKEN",
    ] {
        let answer = answer(&[line.as_bytes()]).await;
        assert_eq!(answer.code(), "credentials_missing", "{line}");
        assert_eq!(
            answer.challenges(),
            ["Bearer realm=\"api\"", "ApiKey realm=\"api\""]
        );
    }
}

#[tokio::test]
async fn two_lines_are_ambiguous_whatever_they_say() {
    for lines in [
        ["Bearer TOKEN", "Bearer TOKEN"],
        ["Bearer TOKEN", "Bearer evil"],
        ["Basic dTpw", "Bearer TOKEN"],
        ["Bearer TOKEN", "Basic dTpw"],
        ["Basic dTpw", "Basic dTpw"],
    ] {
        let answer = answer(&lines.map(str::as_bytes)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{lines:?}");
        assert_eq!(answer.code(), "credentials_ambiguous", "{lines:?}");
        assert_eq!(
            answer.challenges(),
            ["Bearer realm=\"api\", error=\"invalid_request\""]
        );
    }
}

#[tokio::test]
async fn what_is_no_token68_is_malformed() {
    let bad: [&[u8]; 16] = [
        b"Bearer",
        b"Bearer ",
        b"Bearer    ",
        b"Bearer\tTOKEN",
        b"Bearer TOKEN,",
        b"Bearer TOKEN, Bearer TOKEN",
        b"Bearer TOKEN ",
        b"Bearer a b",
        b"Bearer \"TOKEN\"",
        b"Bearer token=TOKEN",
        b"Bearer {TOKEN}",
        b"Bearer \xc2\xa0TOKEN",
        b"Bearer \xf0\x9f\x98\x80",
        b"Bearer \xff",
        b"Bearer TOKEN\xc3\xa9",
        b"Bearer %41",
    ];
    for line in bad {
        let answer = answer(&[line]).await;
        let text = String::from_utf8_lossy(line);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{text}");
        assert_eq!(answer.code(), "request_malformed", "{text}");
        assert_eq!(
            answer.challenges(),
            ["Bearer realm=\"api\", error=\"invalid_request\""],
            "{text}"
        );
    }
}

#[tokio::test]
async fn what_does_not_start_with_a_scheme_is_malformed_too() {
    let bad: [&[u8]; 13] = [
        b"Bearer: TOKEN",
        b"Bearer=TOKEN",
        b"\"Bearer TOKEN\"",
        b"{x} y",
        b"Bearer\xc2\xa0TOKEN",
        b"\xff\xfe",
        b"\xf0\x9f\x98\x80 x",
        b"\xf0\x9f\x98\x80",
        b"Basic a\xf0\x9f\x98\x80",
        b"Basic\tdTpw",
        b"Basic \xff",
        b"(TOKEN)",
        b"a@b c",
    ];
    for line in bad {
        let answer = answer(&[line]).await;
        let text = String::from_utf8_lossy(line);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{text}");
        assert_eq!(answer.code(), "request_malformed", "{text}");
        assert_eq!(
            answer.challenges(),
            ["Bearer realm=\"api\", error=\"invalid_request\""],
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_list_that_hides_one_of_ours_is_ambiguous() {
    for line in [
        "Basic dTpw, Bearer TOKEN",
        "Basic dTpw,ApiKey TOKEN",
        "Negotiate x , bearer TOKEN",
    ] {
        let answer = answer(&[line.as_bytes()]).await;
        assert_eq!(answer.code(), "credentials_ambiguous", "{line}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_is_looked_at() {
    for filling in ["a", "."] {
        let line = format!("Bearer {}", filling.repeat(60_000));
        let answer = answer(&[line.as_bytes()]).await;
        assert_eq!(answer.code(), "request_malformed");
    }
    let line = format!("Bearer acme_{}", "a".repeat(8 * 1024 - 5));
    assert_eq!(
        answer(&[line.as_bytes()]).await.code(),
        "credential_invalid"
    );
    let line = format!("Bearer acme_{}", "a".repeat(8 * 1024 - 4));
    assert_eq!(answer(&[line.as_bytes()]).await.code(), "request_malformed");
}

/// Row A8. What is allocated for such a request is counted beside this.
#[tokio::test]
async fn what_is_too_long_is_refused_in_a_moment_in_every_carrier() {
    let sources = [
        Source::authorization(),
        Source::header(HeaderName::from_static("x-api-key")),
        Source::query("key"),
        Source::cookie("key"),
        Source::websocket_protocol("key."),
    ];
    let service = AuthLayer::new(keys_over(MemoryKeys::new()))
        .sources(sources)
        .layer(who());
    for filling in ["a", ".", "a.", "acme_live_"] {
        let long = filling.repeat(60_000 / filling.len());
        let mut in_query = get();
        *in_query.uri_mut() = format!("/?key={long}").parse().unwrap();
        for request in [
            in_query,
            with("authorization", format!("Bearer {long}")),
            with("x-api-key", &long),
            with("cookie", format!("key={long}")),
            with("sec-websocket-protocol", format!("key.{long}")),
        ] {
            let mut fastest = Duration::MAX;
            for _ in 0..10 {
                let (request, start) = (request.clone(), Instant::now());
                let answer = send(&service, request).await;
                fastest = fastest.min(start.elapsed());
                let rejection = answer.rejection.unwrap();
                assert_eq!(rejection.reason(), Reason::RequestMalformed);
                assert_eq!(rejection.cause(), Cause::TooLong);
            }
            // A build for tests is some ten times as slow as one that is shipped.
            assert!(fastest < Duration::from_millis(10), "{fastest:?}");
        }
    }
}

/// Rows A7 and A9, for what is a credential and nothing else.
#[tokio::test]
async fn what_is_no_token68_is_malformed_in_every_carrier() {
    let sources = [
        Source::header(HeaderName::from_static("x-api-key")),
        Source::cookie("key"),
        Source::websocket_protocol("key."),
    ];
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("alice")).await;
    let service = AuthLayer::new(keys).sources(sources).layer(who());
    let bad: [&[u8]; 9] = [
        b"\xc2\xa0TOKEN",
        b"TOKEN\xc3\xa9",
        b"\xf0\x9f\x98\x80",
        b"\xff",
        b"\"TOKEN\"",
        b"{TOKEN}",
        b"token=TOKEN",
        b"TOKEN TOKEN",
        b"a\tb",
    ];
    for text in bad {
        let text = replace(text, b"TOKEN", key.as_bytes());
        for (name, before) in [
            ("x-api-key", ""),
            ("cookie", "key="),
            ("sec-websocket-protocol", "key."),
        ] {
            // RFC 6265 §4.1.1 allows a cookie to be quoted.
            if name == "cookie" && text.starts_with(b"\"") {
                continue;
            }
            let line = [before.as_bytes(), &text].concat();
            let answer = send(&service, with(name, &line)).await;
            let line = line.escape_ascii();
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {line}");
            assert_eq!(answer.code(), "request_malformed", "{name}: {line}");
        }
    }
}

#[tokio::test]
async fn fields_that_look_like_an_identity_or_a_carrier_are_just_fields() {
    let keys = keys_over(MemoryKeys::new());
    let (alice, bob) = (NewKey::for_owner("alice"), NewKey::for_owner("bob"));
    let (alice, bob) = (issue(&keys, alice).await, issue(&keys, bob).await);
    let service = AuthLayer::new(keys).optional().layer(who());
    for name in [
        "x-identity",
        "x-tollgate-identity",
        "x-authorization",
        "proxy-authorization",
        "x_api_key",
        "api-key",
        "x-api-key-2",
        "x-user",
    ] {
        for value in [&*bob, &format!("Bearer {bob}"), "bob"] {
            let mut request = with(name, value);
            assert_eq!(
                send(&service, request.clone()).await.body,
                "nobody",
                "{name}"
            );
            let key = alice.parse().unwrap();
            request.headers_mut().insert("x-api-key", key);
            assert_eq!(send(&service, request).await.body, "alice", "{name}");
        }
    }
}
