//! The format of keys, by the vectors.

use tollgate::AuthLayer;
use tollgate::rejection::{Cause, Reason};
use tower::Layer;

use crate::support::{Script, Scripted, keys_over, send, vectors, who, with};

#[tokio::test]
async fn only_keys_with_the_right_checksum_reach_the_store() {
    let vectors = vectors("api-key-checksums");
    let keys = vectors["keys"].as_array().unwrap();
    assert!(keys.len() > 40);
    for case in keys {
        let key = case["key"].as_str().unwrap();
        let (prefix, env) = (
            case["prefix"].as_str().unwrap(),
            case["env"].as_str().unwrap(),
        );
        let store = Scripted::new(Script::Now);
        let api_keys = keys_over(store.clone()).prefix(prefix).environments([env]);
        let service = AuthLayer::new(api_keys).layer(who());

        let answer = send(&service, with("x-api-key", key)).await;

        let rejection = answer.rejection.unwrap();
        if case["valid"] == true {
            assert_eq!(rejection.cause(), Cause::KeyUnknown, "{case}");
            assert_eq!(store.finds(), 1, "{case}");
        } else {
            // 400 is for what no carrier may hold; what one may is no key, and no more.
            let is_token68 = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            let reason = if !key.is_empty() && key.bytes().all(is_token68) {
                Reason::CredentialInvalid
            } else {
                Reason::RequestMalformed
            };
            assert_eq!(rejection.reason(), reason, "{case}");
            assert_eq!(store.finds(), 0, "{case}");
        }
    }
}

#[tokio::test]
async fn the_printed_example_is_a_key_and_nobodys() {
    let example = vectors("api-key-checksums")["printed_in_wire_md"].clone();
    let store = Scripted::new(Script::Now);
    let service = AuthLayer::new(keys_over(store.clone())).layer(who());
    let answer = send(&service, with("x-api-key", example.as_str().unwrap())).await;
    assert_eq!(answer.code(), "credential_invalid");
    assert_eq!(store.finds(), 1);
}
