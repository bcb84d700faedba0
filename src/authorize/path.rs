//! Paths as rules and routers spell them.
//!
//! A rule that stands in front of a router must not be slipped past by a path that the
//! router takes for another one than the rule did. Routers differ in what they take for
//! the same: some decode what is percent-encoded, some strip a slash at the end, some do
//! not mind letter case. So a path is looked up twice, as it came and folded by all that
//! a router might do to it; and what no client has reason to send is refused outright.

use std::fmt;

use percent_encoding::percent_decode;

/// How a pattern ends that stands for the rest of a path.
pub(super) const REST: &str = "/{*rest}";

/// What is known of the spelling of a path.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Spelling {
    /// It is its own fold.
    Plain,
    /// It could be spelt otherwise.
    Folds(String),
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
            Some(fold) if fold == path => Self::Plain,
            Some(fold) => Self::Folds(fold),
        }
    }
}

/// Decoded once, in small letters, without a slash at the end; none if that is not one
/// path.
fn folded(path: &str) -> Option<String> {
    for (at, _) in path.match_indices('%') {
        let decoded = u8::from_str_radix(escape(path, at)?, 16).ok()?;
        if matches!(decoded, b'/' | b'\\' | ..=0x1f | 0x7f) {
            return None;
        }
    }
    let decoded = percent_decode(path.as_bytes()).decode_utf8().ok()?;
    // A second decoder would find another path in `%25xx`.
    let mut escapes = decoded.match_indices('%');
    if escapes.any(|(at, _)| escape(&decoded, at).is_some()) {
        return None;
    }
    if decoded
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
    {
        return None;
    }
    let mut fold = decoded.into_owned();
    fold.make_ascii_lowercase();
    if fold.len() > 1 && fold.ends_with('/') {
        fold.pop();
    }
    Some(fold)
}

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
            Some((method, path)) => {
                let is_method =
                    !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
                let method = http::Method::from_bytes(method.as_bytes());
                let method = method.ok().filter(|_| is_method);
                let method = method.ok_or("what stands before the space is no method")?;
                (Some(method), path)
            }
        };
        if !path.starts_with('/') {
            return Err("the path does not start with a slash".into());
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
                _ if catch_all && !is_last => return Err("`*` stands for the rest".into()),
                _ if catch_all => (REST[1..].to_owned(), REST[1..].to_owned()),
                Some(name) if name.is_empty() || name.contains(['{', '}']) => {
                    return Err("a parameter has a name and nothing else".into());
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

fn literal_segment(segment: &str, may_be_empty: bool) -> Result<(String, String), String> {
    if segment.contains(['{', '}', '*', '?', '#']) {
        return Err("a parameter is a whole segment, as in `/orders/{id}`".into());
    }
    if segment.is_empty() {
        let root = || Ok((String::new(), String::new()));
        return if may_be_empty {
            root()
        } else {
            Err("a segment is empty".into())
        };
    }
    let path = format!("/{segment}");
    match Spelling::of(&path) {
        Spelling::Plain => Ok((segment.to_owned(), segment.to_owned())),
        Spelling::Folds(fold) => Ok((segment.to_owned(), fold[1..].to_owned())),
        Spelling::Ambiguous => Err("no client that means well sends such a path".into()),
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
            "/a%2fb",
            "/a%2Fb",
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
        ] {
            assert!(Route::parse(bad).is_err(), "{bad:?}");
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
