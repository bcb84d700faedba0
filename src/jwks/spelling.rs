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
