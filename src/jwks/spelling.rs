//! Issuers that are spelled differently and mean the same server.

/// Returns whether two issuers differ only by a slash at the end, the letter case of scheme
/// and host, or `http` in place of `https`. They are different issuers nevertheless (RFC
/// 8414 §3.3), but one of the two was probably mistyped.
///
/// A text that is similar to a configured issuer has nearly the same length and characters, so
/// that it can be logged.
pub(crate) fn is_similar(one: &str, other: &str) -> bool {
    if one == other || one.len().abs_diff(other.len()) > "s/".len() {
        return false;
    }
    match (Parts::of(one), Parts::of(other)) {
        (Some(one), Some(other)) => {
            one.authority.eq_ignore_ascii_case(other.authority) && one.rest == other.rest
        }
        _ => false,
    }
}

/// Returns whether two audiences differ only by a slash at the end, letter case, or `http` in place of
/// `https`.
pub(crate) fn is_similar_audience(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    one == other || without_form(&one) == without_form(&other)
}

/// Returns a text in lower case without `http://` or `https://` and the slash at its end.
fn without_form(text: &str) -> (bool, &str) {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let (is_url, rest) = (rest.is_some(), rest.unwrap_or(text));
    (is_url, rest.strip_suffix('/').unwrap_or(rest))
}

struct Parts<'a> {
    authority: &'a str,
    /// Without a slash at its end.
    rest: &'a str,
}

impl<'a> Parts<'a> {
    fn of(issuer: &'a str) -> Option<Self> {
        let (scheme, rest) = issuer.split_once("://")?;
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        is_http.then(|| Self {
            authority,
            rest: rest.strip_suffix('/').unwrap_or(rest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_audiences_differ_in_form_only() {
        let api = "https://api.example.com/v1";
        for (one, other, similar) in [
            (api, "https://api.example.com/v1/", true),
            (api, "http://api.example.com/v1", true),
            (api, "HTTPS://Api.example.com/V1/", true),
            (api, "https://api.example.com/v2", false),
            (api, "https://api.example.com/v1//", false),
            (api, "https://api.example.com", false),
            (api, "api.example.com/v1", false),
            (api, "ftp://api.example.com/v1", false),
            (api, "", false),
            ("orders", "Orders", true),
            ("orders", "orders/", true),
            ("orders", "order", false),
            ("api://orders", "api://Orders/", true),
        ] {
            assert_eq!(is_similar_audience(one, other), similar, "{one} {other}");
            assert_eq!(is_similar_audience(other, one), similar, "{other} {one}");
        }
    }

    #[test]
    fn similar_issuers_differ_in_form_only() {
        let issuer = "https://id.example.com/Realms/a";
        for similar in [
            "https://id.example.com/Realms/a/",
            "http://id.example.com/Realms/a",
            "HTTPS://ID.Example.com/Realms/a",
            "Http://id.EXAMPLE.com/Realms/a/",
        ] {
            assert!(is_similar(issuer, similar), "{similar}");
            assert!(is_similar(similar, issuer), "{similar}");
        }
        for other in [
            issuer,
            "",
            "/",
            "https://",
            "https://id.example.com/realms/a",
            "https://id.example.com/Realms/a//",
            "https://id.example.com/Realms/b",
            "https://id.example.com/Realms",
            "https://id.example.com:443/Realms/a",
            "https://id.example.org/Realms/a",
            "ftp://id.example.com/Realms/a",
            "id.example.com/Realms/a",
            "https://id.example.com/Realms/a\n",
            "https://id.example.com/Realms/a?/",
        ] {
            assert!(!is_similar(issuer, other), "{other}");
        }
        assert!(is_similar(
            "https://id.example.com",
            "https://id.example.com/"
        ));
        assert!(!is_similar("a", "A") && !is_similar("accounts", "accounts/"));
    }
}
