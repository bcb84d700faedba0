//! Key sets that are configured: what is read, and what is refused with which reason.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tollgate::Jwt;
use tollgate::jwks::{Algorithm, Backend, KeySet};

const ED25519: &str = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn backends() -> Vec<Backend> {
    vec![
        Backend::AwsLcRs,
        #[cfg(feature = "jwt-rust-crypto")]
        Backend::RustCrypto,
    ]
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn good() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": "good", "x": X })
}

/// Keys that cannot be used, and a part of the reason.
fn bad_keys() -> Vec<(Value, &'static str)> {
    let ec = |crv: &str, x: usize, y: usize| {
        json!({ "kty": "EC", "crv": crv, "kid": "bad",
            "x": encoded(&vec![1; x]), "y": encoded(&vec![1; y]) })
    };
    let rsa = |n: &[u8], e: &[u8]| json!({ "kty": "RSA", "kid": "bad", "n": encoded(n), "e": encoded(e) });
    let ed = |x: &[u8]| json!({ "kty": "OKP", "crv": "Ed25519", "kid": "bad", "x": encoded(x) });
    let mut even = [0xff; 256];
    even[255] = 0xfe;
    let mut second = [0xff; 32];
    (second[0], second[31]) = (0xf0, 0x7f);
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    let mut with_alg = ec("P-256", 32, 32);
    with_alg["alg"] = json!("ES256");
    vec![
        (ec("P-256", 32, 32), "not on the curve"),
        (ec("P-384", 48, 48), "not on the curve"),
        (ec("P-521", 66, 66), "not on the curve"),
        (with_alg, "not on the curve"),
        (ec("P-256", 31, 32), "the size of the curve"),
        (ec("P-256", 32, 33), "the size of the curve"),
        (ec("P-384", 32, 32), "the size of the curve"),
        (ec("P-521", 65, 66), "the size of the curve"),
        (ec("secp256k1", 32, 32), "its curve is not"),
        (rsa(&[0xff; 128], &[1, 0, 1]), "2048 to 8192 bits"),
        (rsa(&[0xff; 1025], &[1, 0, 1]), "2048 to 8192 bits"),
        (rsa(&even, &[1, 0, 1]), "the modulus is even"),
        (rsa(&[0xff; 256], &[1]), "the exponent"),
        (rsa(&[0xff; 256], &[2]), "the exponent"),
        (rsa(&[0xff; 256], &[]), "the exponent"),
        (rsa(&[0xff; 256], &[1; 6]), "the exponent"),
        (ed(&[0; 32]), "small order"),
        (ed(&second), "not canonical"),
        (ed(&off_curve), "not on the curve"),
        (ed(&[1; 31]), "32 bytes"),
        (
            json!({ "kty": "OKP", "crv": "X25519", "kid": "bad", "x": X }),
            "Ed25519",
        ),
        (
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "bad", "x": "+/" }),
            "base64url",
        ),
        (
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "bad" }),
            "missing",
        ),
        (
            json!({ "kty": "oct", "kid": "bad", "k": X }),
            "KeySet::from_jwk",
        ),
    ]
}

#[test]
fn unusable_key_is_listed_with_the_reason() {
    for (bad, reason) in bad_keys() {
        let set = json!({ "keys": [good(), &bad] }).to_string();
        let set = KeySet::from_jwks(set).unwrap();
        assert_eq!(set.kids().collect::<Vec<_>>(), [Some("good")], "{bad}");
        let [unusable] = set.unusable() else {
            panic!("{bad}: {:?}", set.unusable());
        };
        assert_eq!(unusable.kid(), Some("bad"), "{bad}");
        assert!(unusable.reason().contains(reason), "{bad}: {unusable}");
        for backend in backends() {
            let issuer = Jwt::issuer("https://id.example.com/").audience("a");
            let jwt = issuer.keys(set.clone()).backend(backend).build().unwrap();
            let status = &jwt.status(std::time::SystemTime::now())[0];
            assert_eq!(status.kids().collect::<Vec<_>>(), [Some("good")], "{bad}");
            assert_eq!(status.unusable().len(), 1, "{bad}");
        }
    }
}

#[test]
fn set_without_a_usable_key_is_refused_with_reasons() {
    for (bad, reason) in bad_keys() {
        let set = json!({ "keys": [&bad, &bad] }).to_string();
        let error = KeySet::from_jwks(set).unwrap_err().to_string();
        assert!(
            error.contains(reason) && error.contains("\"bad\""),
            "{bad}: {error}"
        );
    }
    let long = json!({ "kty": "x", "kid": "k\n".repeat(10_000) });
    let set = json!({ "keys": vec![long; 200] }).to_string();
    let error = KeySet::from_jwks(set).unwrap_err().to_string();
    assert!(error.contains("and 195 more"), "{error}");
    assert!(error.len() < 1_500 && !error.contains('\n'), "{error}");
    let error = KeySet::from_jwks(r#"{"keys": []}"#)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "`KeySet::from_jwks`: the set has no keys");
}

#[test]
fn build_names_the_keys_that_it_cannot_use() {
    let set = KeySet::from_jwks(json!({ "keys": [good()] }).to_string()).unwrap();
    for backend in backends() {
        let issuer = Jwt::issuer("https://id.example.com/").audience("a");
        let issuer = issuer.keys(set.clone()).backend(backend);
        let error = issuer.algorithms([Algorithm::Es256]).build().unwrap_err();
        let error = error.to_string();
        for part in ["https://id.example.com/", "\"good\"", "Issuer::algorithms"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn pem_is_read_in_the_forms_of_configuration() {
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{ED25519}\n-----END PUBLIC KEY-----\n");
    let (first, second) = ED25519.split_at(20);
    let file = std::env::temp_dir().join(format!("tollgate-key-{}.pem", std::process::id()));
    for text in [
        pem.clone(),
        pem.replace('\n', "\r\n"),
        pem.replace('\n', ""),
        pem.replace('\n', " "),
        pem.replace('\n', r"\n"),
        pem.replace('\n', r"\r\n"),
        pem.replace('\n', "\n    "),
        pem.replace(ED25519, &format!("{first}\n{second}")),
        format!("\u{feff}{pem}"),
        format!("'{pem}'"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let from_file = KeySet::from_pem_file(Algorithm::Ed25519, &file);
        for set in [KeySet::from_pem(Algorithm::Ed25519, &text), from_file] {
            let issuer = Jwt::issuer("https://id.example.com/").audience("a");
            assert!(issuer.keys(set.expect(&text)).build().is_ok(), "{text}");
        }
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn pem_that_is_no_public_key_is_refused_with_the_fix() {
    let labelled = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----");
    for (text, part) in [
        (labelled("CERTIFICATE"), "openssl x509 -noout -pubkey"),
        (labelled("PRIVATE KEY"), "openssl pkey -pubout"),
        (labelled("EC PRIVATE KEY"), "openssl pkey -pubout"),
        (labelled("PUBLIC KEY"), "it is not a public key"),
        (labelled("EC PARAMETERS"), "its label is not"),
        (ED25519.into(), "no `-----BEGIN"),
    ] {
        let error = KeySet::from_pem(Algorithm::Ed25519, &text).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("`KeySet::from_pem`: "), "{error}");
        assert!(error.contains(part), "{text}: {error}");
    }
    for (error, fix) in [
        (
            KeySet::from_pem(Algorithm::Es256, "keys/a.pem"),
            "`KeySet::from_pem`: it is the path of a file; call `KeySet::from_pem_file`",
        ),
        (
            KeySet::from_jwks("/etc/keys"),
            "`KeySet::from_jwks`: it is the path of a file; call `KeySet::from_jwks_file`",
        ),
        (
            KeySet::from_jwk("key.json"),
            "`KeySet::from_jwk`: it is the path of a file; call `KeySet::from_jwk_file`",
        ),
    ] {
        assert_eq!(error.unwrap_err().to_string(), fix);
    }
    let text = labelled("PUBLIC KEY").replace("AAAA", ED25519);
    let error = KeySet::from_pem(Algorithm::Es256, &text).unwrap_err();
    assert!(error.to_string().contains("ES256"), "{error}");
    let error = KeySet::from_pem_file(Algorithm::Es256, "/none.pem").unwrap_err();
    assert!(error.to_string().contains("/none.pem"), "{error}");
}
