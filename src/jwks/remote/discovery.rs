//! What an issuer says of itself: where its metadata stands, and where its keys do.

use std::borrow::Cow;

use serde::Deserialize;

use crate::jwks::remote::address::Address;
use crate::jwks::remote::status::FetchError;

/// Where the metadata of an issuer may be: OpenID Connect Discovery 1.0 §4 puts it behind
/// the path of the issuer, RFC 8414 §3.1 before it.
pub(crate) fn well_known(issuer: &Address) -> Result<[Address; 2], &'static str> {
    if issuer.has_query() {
        return Err("it has a query");
    }
    let path = issuer.path().trim_end_matches('/');
    Ok([
        issuer.at(&format!("{path}/.well-known/openid-configuration"))?,
        issuer.at(&format!("/.well-known/oauth-authorization-server{path}"))?,
    ])
}

/// Where the keys are, out of the metadata of that issuer and of no other (RFC 8414 §3.3).
pub(crate) fn keys_of<'a>(document: &'a [u8], issuer: &str) -> Result<Cow<'a, str>, FetchError> {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        issuer: Cow<'a, str>,
        #[serde(borrow)]
        jwks_uri: Cow<'a, str>,
    }
    let is_object = document.trim_ascii_start().starts_with(b"{");
    let metadata: Metadata<'_> = is_object
        .then(|| serde_json::from_slice(document).ok())
        .flatten()
        .ok_or(FetchError::NotMetadata)?;
    if metadata.issuer != issuer {
        return Err(FetchError::OtherIssuer);
    }
    Ok(metadata.jwks_uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(issuer: &str) -> [String; 2] {
        let issuer = Address::parse(issuer, false).unwrap();
        well_known(&issuer).unwrap().map(|at| at.uri().to_string())
    }

    #[test]
    fn metadata_stands_behind_the_path_or_before_it() {
        let root = [
            "https://id.example.com/.well-known/openid-configuration",
            "https://id.example.com/.well-known/oauth-authorization-server",
        ];
        assert_eq!(places("https://id.example.com"), root);
        assert_eq!(places("https://id.example.com/"), root);
        let tenant = [
            "https://id.example.com:8443/a/b/.well-known/openid-configuration",
            "https://id.example.com:8443/.well-known/oauth-authorization-server/a/b",
        ];
        assert_eq!(places("https://id.example.com:8443/a/b"), tenant);
        assert_eq!(places("https://id.example.com:8443/a/b/"), tenant);
        let query = Address::parse("https://id.example.com/?a", false).unwrap();
        assert!(well_known(&query).is_err());
    }

    #[test]
    fn metadata_is_of_the_issuer_that_was_asked_byte_for_byte() {
        let keys = |issuer: &str| {
            let document =
                format!(r#"{{"issuer": "{issuer}", "jwks_uri": "https://k/", "more": 1}}"#);
            keys_of(document.as_bytes(), "https://id.example.com/").map(Cow::into_owned)
        };
        assert_eq!(keys("https://id.example.com/").unwrap(), "https://k/");
        for other in [
            "https://id.example.com",
            "https://ID.example.com/",
            "https://id.example.com:443/",
            "",
        ] {
            assert_eq!(keys(other), Err(FetchError::OtherIssuer), "{other}");
        }
    }

    #[test]
    fn what_is_no_metadata_leads_nowhere() {
        for text in [
            "",
            "<html>",
            "[]",
            r#"["https://i", "https://k/"]"#,
            r#"{"issuer": "https://i"}"#,
            r#"{"issuer": 1, "jwks_uri": "https://k/"}"#,
            r#"{"issuer": "https://i", "jwks_uri": "a", "jwks_uri": "b"}"#,
        ] {
            let found = keys_of(text.as_bytes(), "https://i");
            assert_eq!(found, Err(FetchError::NotMetadata), "{text}");
        }
    }
}
