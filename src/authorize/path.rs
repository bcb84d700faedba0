//! Paths as rules and routers spell them.
//!
//! A rule that stands in front of a router must not be slipped past by a path that the
//! router takes for another one than the rule did. Routers differ in what they take for
//! the same: some decode what is percent-encoded, some strip a slash at the end, some do
//! not mind letter case. So a path is looked up twice, as it came and folded by all that
//! a router might do to it; and what no client has reason to send is refused outright.

use std::fmt::{self, Write};

/// How a pattern ends that stands for the rest of a path.
pub(super) const REST: &str = "/{*rest}";

/// What is known of the spelling of a path.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Spelling {
    /// It is its own fold.
    Plain,
    /// It could be spelled otherwise.
    Folds(String),
    /// It has an encoded slash inside of a segment, which is kept in the fold as `%2f`. Routers that
    /// decode it find another path.
    EncodedSlash(String),
    /// Two routers could take it for two paths.
    Ambiguous,
}

impl Spelling {
    pub(super) fn of(path: &str) -> Self {
        let bytes = path.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Self::Ambiguous;
        }
        let (mut folds, mut after_slash) = (false, false);
        for byte in bytes {
            match byte {
                b'/' if after_slash => return Self::Ambiguous,
                b'.' if after_slash => folds = true,
                b'%' | b'A'..=b'Z' | 0x80.. => folds = true,
                b'\\' | ..=b' ' | 0x7f => return Self::Ambiguous,
                _ => {}
            }
            after_slash = *byte == b'/';
        }
        if !folds && (!after_slash || bytes.len() == 1) {
            return Self::Plain;
        }
        match folded(path) {
            None => Self::Ambiguous,
            Some((fold, true)) => Self::EncodedSlash(fold),
            Some((fold, false)) if fold == path => Self::Plain,
            Some((fold, false)) => Self::Folds(fold),
        }
    }
}

/// Returns the path decoded once, in lower case, without a slash at the end, and whether it has
/// encoded slashes, which are kept as `%2f`. Returns `None` if that is not one path.
fn folded(path: &str) -> Option<(String, bool)> {
    let (mut decoded, mut rest, mut encoded_slash) = (Vec::new(), path, false);
    while let Some(at) = rest.find('%') {
        decoded.extend_from_slice(&rest.as_bytes()[..at]);
        let byte = u8::from_str_radix(escape(rest, at)?, 16).ok()?;
        match byte {
            b'/' => {
                encoded_slash = true;
                decoded.push(SLASH as u8);
            }
            b'\\' | ..=0x1f | 0x7f => return None,
            byte => decoded.push(byte),
        }
        rest = &rest[at + 3..];
    }
    decoded.extend_from_slice(rest.as_bytes());
    let mut decoded = String::from_utf8(decoded).ok()?;
    decoded.make_ascii_lowercase();
    // A second decoder would find another path in `%25xx`.
    let mut escapes = decoded.match_indices('%');
    if escapes.any(|(at, _)| escape(&decoded, at).is_some()) {
        return None;
    }
    // Also for a router that decodes slashes before it splits.
    let mut segments = decoded.split(['/', SLASH]);
    let is_part_empty =
        |segment: &str| segment.contains(SLASH) && segment.split(SLASH).any(str::is_empty);
    if segments.any(|segment| matches!(segment, "." | ".."))
        || decoded.split('/').any(is_part_empty)
    {
        return None;
    }
    if decoded.len() > 1 && decoded.ends_with('/') {
        decoded.pop();
    }
    let fold = if encoded_slash {
        decoded.replace(SLASH, "%2f")
    } else {
        decoded
    };
    Some((fold, encoded_slash))
}

/// Stands for an encoded slash, since no path has it.
const SLASH: char = '\0';

/// The two digits behind a `%`.
fn escape(path: &str, at: usize) -> Option<&str> {
    let digits = path.get(at + 1..at + 3)?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then_some(digits)
}

/// The method of a route, if it has one, and its pattern.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) method: Option<http::Method>,
    /// As it was written.
    pub(super) pattern: Box<str>,
    /// As the router wants it, with parameters named by their place.
    pub(super) exact: String,
    /// The same, folded.
    pub(super) fold: String,
}

impl Route {
    /// Reads `GET /orders/{id}`, `/orders/{id}` or `/shop.Orders/*`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (method, path) = match text.split_once(' ') {
            None => (None, text),
            Some((method, path)) => (Some(parse_method(text, method, path)?), path),
        };
        if !path.starts_with('/') {
            return Err("the path must start with a slash, as in `GET /orders`".into());
        }
        let (mut exact, mut fold, mut parameters) = (String::new(), String::new(), 0);
        let segments: Vec<&str> = path[1..].split('/').collect();
        for (index, segment) in segments.iter().enumerate() {
            let is_last = index + 1 == segments.len();
            let name = segment
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            let catch_all = *segment == "*" || name.is_some_and(|name| name.starts_with('*'));
            let (as_it_is, folded) = match name {
                _ if catch_all && !is_last => {
                    return Err(
                        "`*` stands for the rest of the path; it must be the last segment".into(),
                    );
                }
                _ if catch_all => (REST[1..].to_owned(), REST[1..].to_owned()),
                Some(name) if !is_name(name) => {
                    return Err(format!(
                        "the parameter `{segment}` must be a name in braces, as in `{{id}}`; \
                         conditions on its value are not supported"
                    ));
                }
                Some(_) => {
                    parameters += 1;
                    let parameter = format!("{{p{parameters}}}");
                    (parameter.clone(), parameter)
                }
                None => literal_segment(segment, is_last)?,
            };
            for (out, segment) in [(&mut exact, as_it_is), (&mut fold, folded)] {
                out.push('/');
                out.push_str(&segment);
            }
        }
        if fold.len() > 1 && fold.ends_with('/') {
            fold.pop();
        }
        Ok(Self {
            method,
            pattern: path.into(),
            exact,
            fold,
        })
    }

    /// Whether it stands for the rest of a path.
    pub(super) fn is_rest(&self) -> bool {
        self.exact.ends_with(REST)
    }

    /// A path that the pattern stands for.
    pub(super) fn example(&self) -> String {
        let exact = self.exact.replace(REST, "/{p}");
        let segments = exact.split('/').map(|segment| {
            if segment.starts_with("{p") {
                "-example-"
            } else {
                segment
            }
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

/// Parses the method of a route: `text` before the first space, and `path` after it.
fn parse_method(route: &str, text: &str, path: &str) -> Result<http::Method, String> {
    if let Some(slash) = route.find('/') {
        let (methods, path) = route.split_at(slash);
        let mut methods = methods.split([',', '|', ' ']).filter(|one| !one.is_empty());
        if let (Some(first), Some(second)) = (methods.next(), methods.next()) {
            return Err(format!(
                "a rule is for one method or for all; add one rule for each method: `{first} \
                 {path}` and `{second} {path}`, or leave the method out"
            ));
        }
    }
    if text.is_empty() || path.starts_with(' ') {
        return Err(
            "write one space between the method and the path and no other, as in `GET /orders`"
                .into(),
        );
    }
    if text.starts_with('/') {
        return Err("a path has no spaces; remove the space".into());
    }
    if ["ANY", "ALL", "*"]
        .iter()
        .any(|all| text.eq_ignore_ascii_case(all))
    {
        return Err(format!(
            "`{text}` is not a method that clients send; leave it out for a rule for all methods, \
             as in `{path}`"
        ));
    }
    let is_method = text.bytes().all(|b| b.is_ascii_uppercase());
    let method = http::Method::from_bytes(text.as_bytes());
    method.ok().filter(|_| is_method).ok_or_else(|| {
        "the text before the space is not a method; write it in capital letters, as in `GET /orders`"
            .into()
    })
}

/// Returns a segment as clients send it: what is not ASCII is percent-encoded (RFC 3986 §2.1).
fn encoded(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            0x80.. => _ = write!(text, "%{byte:02X}"),
            byte => text.push(byte.into()),
        }
    }
    text
}

/// Returns whether a text is a name of a parameter, in the sense of axum.
fn is_name(text: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | '.');
    !text.is_empty() && text.chars().all(is_part)
}

fn literal_segment(segment: &str, may_be_empty: bool) -> Result<(String, String), String> {
    // As other routers write parameters: here they would be literals, and never match.
    let foreign = segment.strip_prefix([':', '*', '<']);
    if let Some(name) = foreign
        .map(|name| name.trim_end_matches('>'))
        .filter(|name| is_name(name))
    {
        let star = if segment.starts_with('*') { "*" } else { "" };
        return Err(format!(
            "`{segment}` is not a parameter here; write `{{{star}{name}}}`"
        ));
    }
    if segment.contains(['{', '}', '*']) {
        return Err(format!(
            "`{segment}` mixes a parameter with text; a parameter is a whole segment, as in \
             `/orders/{{id}}`"
        ));
    }
    if segment.contains(['?', '#']) {
        return Err("a route has no query and no fragment".into());
    }
    if segment.is_empty() {
        let root = || Ok((String::new(), String::new()));
        return if may_be_empty {
            root()
        } else {
            Err("a segment is empty; remove the second slash".into())
        };
    }
    let path = format!("/{segment}");
    match Spelling::of(&path) {
        Spelling::Plain => Ok((encoded(segment), segment.to_owned())),
        Spelling::Folds(fold) => Ok((encoded(segment), fold[1..].to_owned())),
        Spelling::EncodedSlash(_) | Spelling::Ambiguous => Err(format!(
            "`{segment}` has dot segments, spaces or encoded slashes, and is always rejected"
        )),
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        f.write_str(&self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_routers_could_take_for_two_paths_is_ambiguous() {
        for path in [
            "",
            "*",
            "orders",
            "//",
            "/a//b",
            "/a/../b",
            "/a/./b",
            "/..",
            "/a/%2e%2E/b",
            "/%2e",
            "/a/%2f",
            "/%2Fa",
            "/a%2f/b",
            "/a%2f%2fb",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a%2f%2e%2e",
            "/a%2f.",
            "/a%252fb",
            "/a%2f%252fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%252e",
            "/a%25%32%66",
            "/a%ff",
            "/a b",
            "/a\u{7f}",
        ] {
            assert_eq!(Spelling::of(path), Spelling::Ambiguous, "{path}");
        }
    }

    #[test]
    fn a_fold_is_what_every_router_could_make_of_it() {
        let folds = |path| Spelling::of(path);
        let to = |path: &str| Spelling::Folds(path.into());
        for plain in [
            "/",
            "/orders",
            "/orders/1.json",
            "/a;b=c/~x",
            "/a..b",
            "/..a",
        ] {
            assert_eq!(folds(plain), Spelling::Plain, "{plain}");
        }
        for (path, fold) in [
            ("/a%2fb", "/a%2fb"),
            ("/A%2FB/", "/a%2fb"),
            ("/%40a%2Fb/c", "/@a%2fb/c"),
            ("/a/b%2Fc%2Fd", "/a/b%2fc%2fd"),
        ] {
            assert_eq!(folds(path), Spelling::EncodedSlash(fold.into()), "{path}");
        }
        assert_eq!(folds("/Orders"), to("/orders"));
        assert_eq!(folds("/%6frders/"), to("/orders"));
        assert_eq!(folds("/a%40b"), to("/a@b"));
        assert_eq!(folds("/caf%C3%A9"), to("/café"));
        assert_eq!(folds("/100%25"), to("/100%"));
    }

    #[test]
    fn patterns_that_say_nothing_sensible_are_refused() {
        for bad in [
            "",
            "orders",
            "get /orders",
            "GET orders",
            "GET  /orders",
            " /orders",
            "/a//b",
            "/a/*/b",
            "/a{id}",
            "/{id}.json",
            "/{}",
            "/a/../b",
            "/a%2Fb",
            "/a?b",
            "/a b",
            "GET",
            "/{a}{b}",
            "/{id:[0-9]+}",
            "/{id?}",
            "/<id>",
        ] {
            assert!(Route::parse(bad).is_err(), "{bad:?}");
        }
        // Parameters of other routers, with the spelling that is meant.
        for (foreign, instead) in [
            ("/orders/:id", "`{id}`"),
            ("/orders/<id>", "`{id}`"),
            ("/files/*path", "`{*path}`"),
        ] {
            let error = Route::parse(foreign).unwrap_err();
            assert!(error.contains(instead), "{error}");
        }
        for (good, exact, fold) in [
            ("/", "/", "/"),
            ("GET /orders/{id}", "/orders/{p1}", "/orders/{p1}"),
            (
                "/Shop.Orders/*",
                "/Shop.Orders/{*rest}",
                "/shop.orders/{*rest}",
            ),
            ("/a/{*rest}", "/a/{*rest}", "/a/{*rest}"),
            ("/a/", "/a/", "/a"),
            ("/caf\u{e9}/{id}", "/caf%C3%A9/{p1}", "/caf\u{e9}/{p1}"),
            ("/caf%C3%A9", "/caf%C3%A9", "/caf\u{e9}"),
        ] {
            let route = Route::parse(good).unwrap();
            assert_eq!(
                (route.exact.as_str(), route.fold.as_str()),
                (exact, fold),
                "{good}"
            );
        }
    }
}
