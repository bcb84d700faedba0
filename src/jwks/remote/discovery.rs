//! What an issuer says of itself: where its metadata stands, and where its keys do.

use std::borrow::Cow;

use serde::Deserialize;

use crate::jwks::remote::address::{Address, Refused};
use crate::jwks::remote::fetch::Failure;
use crate::jwks::remote::status::FetchError;
use crate::jwks::spelling::is_similar;

/// Where the metadata of an issuer may be: OpenID Connect Discovery 1.0 §4 puts it behind
/// the path of the issuer, RFC 8414 §3.1 before it.
pub(crate) fn well_known(issuer: &Address) -> Result<[Address; 2], Refused> {
    if issuer.has_query() {
        return Err("it has a query; call `RemoteKeys::at` with the URL of its keys".into());
    }
    let path = issuer.path().trim_end_matches('/');
    Ok([
        issuer.at(&format!("{path}/.well-known/openid-configuration"))?,
        issuer.at(&format!("/.well-known/oauth-authorization-server{path}"))?,
    ])
}

/// Where the keys are, out of the metadata of that issuer and of no other (RFC 8414 §3.3).
pub(crate) fn keys_of<'a>(document: &'a [u8], issuer: &str) -> Result<Cow<'a, str>, Failure> {
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
        let mut failure = Failure::from(FetchError::OtherIssuer);
        if is_similar(issuer, &metadata.issuer) {
            failure.cause = Some(format!(
                "the metadata says {:?}; call `Jwt::issuer` with that text",
                metadata.issuer,
            ));
        }
        return Err(failure);
    }
    Ok(metadata.jwks_uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwks::remote::address::PlainHttp;

    fn places(issuer: &str) -> [String; 2] {
        let issuer = Address::parse(issuer, &PlainHttp::default()).unwrap();
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
        let query = Address::parse("https://id.example.com/?a", &PlainHttp::default()).unwrap();
        assert!(well_known(&query).is_err());
    }

    #[test]
    fn metadata_is_of_the_issuer_that_was_asked_byte_for_byte() {
        let keys = |issuer: &str| {
            let document =
                format!(r#"{{"issuer": "{issuer}", "jwks_uri": "https://k/", "more": 1}}"#);
            let found = keys_of(document.as_bytes(), "https://id.example.com/");
            found.map(Cow::into_owned).map_err(|failure| failure.error)
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
    fn only_a_similar_issuer_is_shown() {
        let cause = |issuer: &str| {
            let document = format!(r#"{{"issuer": "{issuer}", "jwks_uri": "https://k/"}}"#);
            let found = keys_of(document.as_bytes(), "https://id.example.com");
            found.unwrap_err().cause
        };
        let shown = cause("https://id.example.com/").unwrap();
        assert!(shown.contains(r#""https://id.example.com/""#), "{shown}");
        assert_eq!(cause("https://evil.example.com"), None);
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
            let error = found.unwrap_err().error;
            assert_eq!(error, FetchError::NotMetadata, "{text}");
        }
    }
}
