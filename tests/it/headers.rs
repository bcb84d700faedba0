//! What stands in `Authorization`: rows A1 to A14.

use http::StatusCode;
use tollgate::AuthLayer;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::rejection::Reason;
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

        let allowed = case["expect"]["status"].as_array().unwrap();
        assert!(
            allowed
                .iter()
                .any(|status| *status == answer.status.as_u16()),
            "{id}: {answer:?}"
        );
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

#[tokio::test]
async fn fields_that_look_like_an_identity_are_just_fields() {
    let service = AuthLayer::new(keys_over(MemoryKeys::new())).layer(who());
    for name in [
        "x-identity",
        "x-tollgate-identity",
        "x-authorization",
        "x-user",
    ] {
        let answer = send(&service, with(name, "alice")).await;
        assert_eq!(
            answer.rejection.unwrap().reason(),
            Reason::CredentialsMissing
        );
    }
}
