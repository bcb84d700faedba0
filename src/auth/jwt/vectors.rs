//! The test vectors of others about signatures and JSON, whose payloads are no claims.
//!
//! They are not part of the repository: see `TOLLGATE_VECTORS` in `CONTRIBUTING.md`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::auth::jwt::Jwt;
use crate::auth::jwt::claims::Claims;
use crate::auth::jwt::compact::Compact;
use crate::auth::jwt::header::Headers;
use crate::clock::Timestamp;
use crate::config::ConfigError;
use crate::jwks::{Algorithm, Backend, KeySet, Ring, Verdict};
use crate::vectors::{json, vectors};

fn backends() -> Vec<Backend> {
    vec![
        #[cfg(feature = "jwt")]
        Backend::AwsLcRs,
        #[cfg(feature = "jwt-rust-crypto")]
        Backend::RustCrypto,
    ]
}

/// An issuer with these keys, and with the types that the vectors have.
fn verifier(keys: KeySet, backend: Backend) -> Result<Jwt, ConfigError> {
    Jwt::issuer("https://id.example.com/")
        .audience("vectors")
        .types(["JWT", "at+jwt", "JOSE"])
        .keys(keys)
        .backend(backend)
        .build()
}

/// Returns whether a token is signed by one of these keys. All backends must agree.
fn is_signed(keys: &Result<KeySet, ConfigError>, token: &str) -> bool {
    let Ok(keys) = keys else { return false };
    let verdicts: Vec<_> = backends()
        .into_iter()
        .map(|backend| verifier(keys.clone(), backend).is_ok_and(|jwt| verifies(&jwt, token)))
        .collect();
    assert!(
        verdicts.iter().all(|one| one == &verdicts[0]),
        "backends differ about {token}"
    );
    verdicts[0]
}

/// Runs the steps of [`Jwt`] up to the signature: the payloads of the vectors are not claims.
fn verifies(jwt: &Jwt, token: &str) -> bool {
    let shared = &jwt.shared;
    let verdict = shared
        .parse(token.as_bytes())
        .and_then(|(compact, header, _)| {
            shared.issuers[0].verify(&compact, &header, Timestamp::EPOCH)
        });
    matches!(verdict, Ok(Ok(_)))
}

/// Keys out of one JWK or a set of them, be they public or secrets.
fn keys(jwk: &Value) -> Result<KeySet, ConfigError> {
    match jwk["keys"].as_array() {
        Some(all) => {
            let each = all.iter().map(|jwk| KeySet::from_jwk(jwk.to_string()));
            let usable = each.filter_map(Result::ok).reduce(KeySet::and);
            usable.ok_or_else(|| ConfigError::new("no key can be used"))
        }
        None => KeySet::from_jwk(jwk.to_string()),
    }
}

/// Cases that wycheproof labels otherwise than RFC 7515 §2 and RFC 7517 §4.4 have it.
fn is_accepted(id: u64, result: &str) -> bool {
    match id {
        // `?` in base64url; a key for PS256 and a token with PS384; `ES521`, which is none.
        372 | 373 | 346 | 350 | 347 | 351 => false,
        // Byte for byte the valid one before them.
        367 | 370 => true,
        _ => result == "valid",
    }
}

#[test]
fn wycheproof_agrees_about_signatures() {
    let Some(file) = json("wycheproof/json_web_signature_part.json") else {
        return;
    };
    let mut seen = 0;
    for group in file["testGroups"].as_array().unwrap() {
        let jwk = if group["public"].is_object() {
            &group["public"]
        } else {
            &group["private"]
        };
        let keys = keys(jwk);
        for test in group["tests"].as_array().unwrap() {
            let id = test["tcId"].as_u64().unwrap();
            let expected = is_accepted(id, test["result"].as_str().unwrap());
            // What is not compact is not read at all.
            let token = test["jws"].as_str().unwrap_or_default();
            assert_eq!(
                is_signed(&keys, token),
                expected,
                "tcId {id}: {}",
                test["comment"]
            );
            seen += 1;
        }
    }
    assert_eq!(seen, file["numberOfTests"].as_u64().unwrap());
}

#[test]
fn wycheproof_agrees_about_keys() {
    let Some(file) = json("wycheproof/json_web_key_part.json") else {
        return;
    };
    for group in file["testGroups"].as_array().unwrap() {
        let jwk = if group["public"].is_object() {
            &group["public"]
        } else {
            &group["private"]
        };
        let keys = keys(jwk);
        for test in group["tests"].as_array().unwrap() {
            let (id, token) = (
                test["tcId"].as_u64().unwrap(),
                test["jws"].as_str().unwrap(),
            );
            // 1 and 4 are called ambiguous: sets with secrets and public keys, which an
            // issuer cannot have, and with one `kid` twice, of which both are tried.
            if id == 1 || id == 4 {
                continue;
            }
            assert_eq!(
                is_signed(&keys, token),
                test["result"] == "valid",
                "tcId {id}"
            );
        }
    }
}

#[test]
fn wycheproof_agrees_about_ecdsa() {
    let Some(file) = json("wycheproof/ecdsa_p256_p1363_part.json") else {
        return;
    };
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect()
    };
    for group in file["testGroups"].as_array().unwrap() {
        let pem = group["publicKeyPem"].as_str().unwrap();
        let keys = KeySet::from_pem(Algorithm::Es256, pem).unwrap();
        for test in group["tests"].as_array().unwrap() {
            let message = bytes(test["msg"].as_str().unwrap());
            let signature = bytes(test["sig"].as_str().unwrap());
            for backend in backends() {
                let ring = Ring::prepare(keys.clone(), &[Algorithm::Es256], backend, None);
                let verdict = ring.verify(None, Algorithm::Es256, &message, &signature);
                let expected = test["result"] == "valid";
                assert_eq!(
                    verdict == Verdict::Good,
                    expected,
                    "{backend:?} {}",
                    test["tcId"]
                );
            }
        }
    }
}

#[test]
fn the_cookbook_of_rfc_7520_holds() {
    for (file, expected) in [
        ("4_1.rsa_v15_signature.json", true),
        ("4_4.hmac-sha2_integrity_protection.json", true),
        ("4_6.protecting_specific_header_fields.json", false),
        ("4.2.hmac-sha2_b64_false.json", false),
        ("5_2.key_encryption_using_rsa-oaep_with_aes-gcm.json", false),
        ("5_6.direct_encryption_using_aes-gcm.json", false),
    ] {
        let Some(case) = json(&format!("ietf-jose-cookbook/{file}")) else {
            return;
        };
        let mut key = case["input"]["key"].clone();
        // It is printed with its private half, which no verifier is given.
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            key.as_object_mut().unwrap().remove(private);
        }
        let token = case["output"]["compact"].as_str().unwrap_or_default();
        assert_eq!(is_signed(&keys(&key), token), expected, "{file}");
    }
    for (file, usable) in [
        ("3_1.ec_public_key.json", true),
        ("3_3.rsa_public_key.json", true),
        ("3_5.symmetric_key_mac_computation.json", true),
    ] {
        let Some(jwk) = json(&format!("ietf-jose-cookbook/{file}")) else {
            return;
        };
        assert_eq!(keys(&jwk).is_ok(), usable, "{file}");
        let set = serde_json::json!({ "keys": [jwk] }).to_string();
        assert_eq!(
            KeySet::from_jwks(set).is_ok(),
            jwk["kty"] != "oct",
            "{file}"
        );
    }
}

#[test]
fn the_examples_of_the_rfcs_hold() {
    let Some(file) = json("rfc/rfc_examples.json") else {
        return;
    };
    let token = |name: &str| file[name]["token"].as_str().unwrap().to_owned();
    let secret = URL_SAFE_NO_PAD
        .decode(file["rfc7515_a1_hs256"]["k"].as_str().unwrap())
        .unwrap();
    let secret = KeySet::from_secret(Algorithm::Hs256, secret);
    assert!(is_signed(&secret, &token("rfc7515_a1_hs256")));
    for name in ["rfc7515_a3_es256", "rfc8037_a4_ed25519"] {
        assert!(is_signed(&keys(&file[name]["jwk"]), &token(name)), "{name}");
        assert!(!is_signed(&secret, &token(name)), "{name}");
    }
    assert!(!is_signed(&secret, &token("rfc7515_a5_unsecured")));
}

#[test]
fn keys_of_pyjwt_are_used_or_left_out() {
    for (file, usable) in [
        ("jwk_ec_pub_P-521.json", true),
        ("jwk_ec_pub_secp256k1.json", false),
        ("jwk_okp_pub_Ed448.json", false),
        ("jwk_empty.json", false),
    ] {
        let Some(text) = vectors(&format!("pyjwt/{file}")) else {
            return;
        };
        assert_eq!(KeySet::from_jwk(text).is_ok(), usable, "{file}");
    }
    let Some(text) = vectors("pyjwt/jwk_keyset_with_unknown_alg.json") else {
        return;
    };
    let keys = KeySet::from_jwks(text).unwrap();
    assert_eq!((keys.kids().count(), keys.unusable().len()), (1, 1));
}

#[test]
fn the_secret_of_joserfc_is_too_short_to_be_one() {
    let Some(file) = json("joserfc/jwt_use_jws.json") else {
        return;
    };
    for test in file["tests"].as_array().unwrap() {
        let algorithm = Algorithm::named(test["name"].as_str().unwrap()).unwrap();
        if let Some(secret) = test["secret"].as_str() {
            assert!(KeySet::from_secret(algorithm, secret).is_err());
        }
        let compact = Compact::split(test["token"].as_str().unwrap().as_bytes())
            .ok()
            .unwrap();
        let header = Headers::default().read(compact.header).ok().unwrap();
        assert_eq!(header.algorithm, Some(algorithm));
        let payload = compact.payload().ok().unwrap();
        let claims = Claims::read(str::from_utf8(&payload).unwrap(), &[]).unwrap();
        assert_eq!(claims.subject.as_deref(), file["payload"]["sub"].as_str());
    }
}

/// Every document by itself, and as the value of a member of what is read.
#[test]
fn documents_that_are_no_json_are_no_header_and_no_claims() {
    let Some(file) = json("json-parsing/jsontestsuite_part.json") else {
        return;
    };
    for case in file.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let bytes = STANDARD
            .decode(case["bytes_b64"].as_str().unwrap())
            .unwrap();
        let (mut wrapped, mut named) = (b"{\"x\":".to_vec(), b"{\"scope\":".to_vec());
        for text in [&mut wrapped, &mut named] {
            text.extend_from_slice(&bytes);
            text.push(b'}');
        }
        let is_object = bytes.trim_ascii().starts_with(b"{");
        for (text, counts) in [(&bytes, is_object), (&wrapped, true), (&named, true)] {
            let read = str::from_utf8(text).is_ok_and(|text| {
                let encoded = URL_SAFE_NO_PAD.encode(text);
                let header = Headers::default().read(encoded.as_bytes()).is_ok();
                let claims = Claims::read(text, &["scope".into()]).is_ok();
                // A header is shorter than some of the documents.
                claims && (header || text.len() > 1024)
            });
            match case["expect"].as_str().unwrap() {
                "reject" => assert!(!read, "{name}"),
                // Two members of one name are JSON, and are refused all the same.
                "accept" if counts && !name.contains("duplicated_key") => assert!(read, "{name}"),
                _ => {}
            }
        }
    }
}
