//! Tokens as attackers make them, and documents of keys as issuers should not: the vectors
//! of the project.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tollgate::AuthLayer;
use tollgate::auth::jwt::{Issuer, Jwt};
use tollgate::clock::Timestamp;
use tollgate::jwks::{Algorithm, KeySet};
use tower::Layer;

use crate::support::{Answer, clock, send, who, with};

fn attacks() -> Value {
    serde_json::from_str(include_str!("../vectors/jwt-attacks.json")).unwrap()
}

fn issuer(file: &Value) -> Issuer {
    let policy = &file["policy"];
    Jwt::issuer(policy["issuer"].as_str().unwrap())
        .audience(policy["audience"].as_str().unwrap())
        .leeway(Duration::from_secs(policy["leeway_s"].as_u64().unwrap()))
}

/// The verifier that the vectors are about, with public keys and with a secret.
fn verifiers(file: &Value) -> (Jwt, Jwt) {
    let max = max_len(file);
    let secret = file["hs256_secret_b64url"].as_str().unwrap();
    let jwk = format!(r#"{{"kty":"oct","alg":"HS256","k":"{secret}"}}"#);
    let public = issuer(file)
        .keys(KeySet::from_jwks(file["jwks"].to_string()).unwrap())
        .algorithms([
            Algorithm::Rs256,
            Algorithm::Ps256,
            Algorithm::Es256,
            Algorithm::Es384,
            Algorithm::Ed25519,
        ]);
    let secret = issuer(file).keys(KeySet::from_jwk(jwk).unwrap());
    let build = |issuer: Issuer| issuer.build().unwrap().max_len(max);
    (build(public), build(secret))
}

/// The token of a case, which may be no text.
fn token(case: &Value) -> Vec<u8> {
    match case["token"].as_str() {
        Some(text) => text.into(),
        None => STANDARD
            .decode(case["token_b64"].as_str().unwrap())
            .unwrap(),
    }
}

/// The layer that tokens are sent through, at the time of the vectors.
fn layer(file: &Value, jwt: Jwt) -> AuthLayer<Jwt> {
    let clock = clock();
    let now = file["policy"]["now"].as_u64().unwrap();
    clock.set(Timestamp::from_unix_seconds(now));
    AuthLayer::new(jwt).clock(clock)
}

/// Sends a token through the layer. Returns `None` if no header can hold it.
async fn show(layer: &AuthLayer<Jwt>, token: &[u8]) -> Option<Answer> {
    let value = http::HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    Some(send(&layer.layer(who()), with("authorization", value.as_bytes())).await)
}

#[tokio::test]
async fn attacks_are_rejected_and_good_tokens_accepted() {
    let file = attacks();
    let (public, secret) = verifiers(&file);
    let (public, secret) = (layer(&file, public), layer(&file, secret));
    for case in file["cases"].as_array().unwrap() {
        let (id, expect) = (
            case["id"].as_str().unwrap(),
            case["expect"].as_str().unwrap(),
        );
        let layer = if case["verifier"] == "secret" {
            &secret
        } else {
            &public
        };
        let token = token(case);
        // A cached token is judged as one that is not.
        for _ in 0..2 {
            let Some(answer) = show(layer, &token).await else {
                assert_eq!(expect, "reject", "{id}");
                continue;
            };
            match expect {
                "accept" => assert_eq!(answer.status, 200, "{id}"),
                "reject" => {
                    let is_token68 = is_token68(&token) && token.len() <= max_len(&file);
                    let code = answer.code();
                    let rejected = ["token_invalid", "token_expired"].contains(&&*code);
                    assert!(
                        rejected || !is_token68 && code == "request_malformed",
                        "{id}: {code}"
                    );
                }
                _ => {}
            }
        }
    }
}

fn is_token68(token: &[u8]) -> bool {
    let digits = token.trim_ascii_end();
    let end = digits
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |at| at + 1);
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
    end > 0 && digits[..end].iter().all(is_digit)
}

fn max_len(file: &Value) -> usize {
    usize::try_from(file["policy"]["max_token_bytes"].as_u64().unwrap()).unwrap()
}

/// What the vectors leave open, and what is decided about it.
#[tokio::test]
async fn open_cases_are_decided() {
    let file = attacks();
    let layer = layer(&file, verifiers(&file).0);
    let mut accepted = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        if case["expect"] == "policy"
            && show(&layer, &token(case))
                .await
                .is_some_and(|answer| answer.status == 200)
        {
            accepted.push(case["id"].as_str().unwrap());
        }
    }
    assert_eq!(accepted, ACCEPTED);
}

/// A token may have no `typ` and no `iat`, and parameters of encryption mean nothing in a
/// signature. One without `kid` is for the only key of its algorithm, of which there are two
/// here; dates are those that a clock can show; and what is nested too deep, has too many
/// members, or names a subject that cannot be printed, is refused.
const ACCEPTED: &[&str] = &["valid/typ-absent", "jwe-members/p2c-huge", "iat/missing"];

/// All refusals of tokens look alike on the wire, but for those that have expired.
#[tokio::test]
async fn a_client_does_not_learn_which_check_failed() {
    let file = attacks();
    let clock = clock();
    clock.set(Timestamp::from_unix_seconds(
        file["policy"]["now"].as_u64().unwrap(),
    ));
    let (public, _) = verifiers(&file);
    let service = AuthLayer::new(public)
        .clock(clock)
        .max_credential_len(16_384)
        .layer(who());
    let mut answers = std::collections::BTreeMap::new();
    for case in file["cases"].as_array().unwrap() {
        if case["expect"] != "reject" || case["verifier"] != "jwks" {
            continue;
        }
        let Ok(value) = http::HeaderValue::from_bytes(&[b"Bearer ", &*token(case)].concat()) else {
            continue;
        };
        let answer = send(&service, with("authorization", value.as_bytes())).await;
        assert!(
            answer.status == 401 || answer.status == 400,
            "{}",
            case["id"]
        );
        answers
            .entry(answer.code())
            .or_insert_with(Vec::new)
            .push(format!("{:?}", answer.wire()));
    }
    for (code, all) in &answers {
        assert!(all.iter().all(|answer| answer == &all[0]), "{code}");
    }
    let codes: Vec<_> = answers.keys().map(String::as_str).collect();
    assert_eq!(codes, ["request_malformed", "token_invalid"]);
}

#[test]
fn a_document_of_keys_is_read_entry_by_entry() {
    let file: Value = serde_json::from_str(include_str!("../vectors/jwks-documents.json")).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let issuer = |keys| {
            Jwt::issuer("https://as.example")
                .audience("x")
                .keys(keys)
                .build()
        };
        // On the curve or not is for the backend to say, when it is put to use.
        let usable = KeySet::from_jwks(case["document"].as_str().unwrap()).and_then(issuer);
        match case["result"].as_str().unwrap() {
            "ok" => {
                let status = usable.unwrap().status(Timestamp::EPOCH);
                let kids = status[0].kids().map(|kid| json!(kid));
                assert_eq!(json!(kids.collect::<Vec<_>>()), case["usable_kids"], "{id}");
            }
            _ => assert!(usable.is_err(), "{id}"),
        }
    }
}
