//! Tokens as attackers make them, and documents of keys as issuers should not: the vectors
//! of the project.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tollgate::auth::jwt::{Issuer, Jwt};
use tollgate::auth::{Answer as Judged, Authenticate};
use tollgate::clock::Timestamp;
use tollgate::credential::Credential;
use tollgate::jwks::{Algorithm, KeySet};
use tollgate::pending::Pending;
use tollgate::rejection::Reason;
use tollgate::{AuthLayer, Identity, Rejection};
use tower::Layer;

use crate::support::{clock, send, who, with};

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
    let max = usize::try_from(file["policy"]["max_token_bytes"].as_u64().unwrap()).unwrap();
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

fn judge(jwt: &Jwt, token: &[u8], now: Timestamp) -> Result<Identity, Rejection> {
    match jwt.authenticate(&Credential::new(token), now) {
        Judged::Mine(Pending::Ready(verdict)) => verdict,
        Judged::Mine(Pending::Later(_)) => panic!("a token has nothing fetched"),
        Judged::NotMine => panic!("every token is its"),
    }
}

#[test]
fn no_attack_gets_in_and_no_good_token_is_kept_out() {
    let file = attacks();
    let now = Timestamp::from_unix_seconds(file["policy"]["now"].as_u64().unwrap());
    let (public, secret) = verifiers(&file);
    for case in file["cases"].as_array().unwrap() {
        let (id, expect) = (
            case["id"].as_str().unwrap(),
            case["expect"].as_str().unwrap(),
        );
        let jwt = if case["verifier"] == "secret" {
            &secret
        } else {
            &public
        };
        let token = token(case);
        // Twice: what is remembered is judged as what is not.
        for _ in 0..2 {
            let verdict = judge(jwt, &token, now);
            match (expect, &verdict) {
                ("accept", Ok(_)) | ("policy", _) => {}
                ("reject", Err(rejection)) => {
                    let reason = rejection.reason();
                    let told = matches!(reason, Reason::TokenInvalid | Reason::TokenExpired);
                    assert!(told, "{id}: {reason:?}");
                }
                _ => panic!("{id} should be {expect}: {verdict:?}"),
            }
        }
    }
}

/// What the vectors leave open, and what is decided about it.
#[test]
fn what_is_left_open_is_decided() {
    let file = attacks();
    let now = Timestamp::from_unix_seconds(file["policy"]["now"].as_u64().unwrap());
    let (public, _) = verifiers(&file);
    let open = file["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["expect"] == "policy");
    let accepted: Vec<_> = open
        .filter(|case| judge(&public, &token(case), now).is_ok())
        .map(|case| case["id"].as_str().unwrap())
        .collect();
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
