//! Errors of settings: each names the setting, the value and the fix.

use tollgate::auth::Source;
use tollgate::authorize::{Hierarchy, try_scope};
use tollgate::network::ClientIp;
use tollgate::{ApiKeys, AuthLayer, ConfigError, Quota};

use crate::support::peppers;

fn text<T>(result: Result<T, ConfigError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

fn layer() -> AuthLayer<ApiKeys> {
    AuthLayer::new(ApiKeys::in_memory(peppers()))
}

#[test]
fn several_scopes_in_one_text_are_refused_with_the_expression() {
    for (scope, expected) in [
        (
            "orders:read orders:write",
            "`scope`: \"orders:read orders:write\" is not a scope; pass each scope on its own, \
             without spaces: `scope(\"orders:read\") & scope(\"orders:write\")` requires both, `|` one \
             of them",
        ),
        (
            " orders:read",
            "`scope`: \" orders:read\" is not a scope; pass each scope on its own, without spaces",
        ),
        (
            "",
            "`scope`: \"\" is not a scope; leave it out, or write at least one character",
        ),
        (
            "caf\u{e9}",
            "`scope`: \"caf\u{e9}\" is not a scope; use printable ASCII characters other than `\"` \
             and `\\`",
        ),
    ] {
        assert_eq!(text(try_scope(scope)), expected);
    }
}

#[test]
fn settings_that_cannot_work_are_named_with_the_fix() {
    for (error, parts) in [
        (
            text(layer().try_sources([])),
            ["AuthLayer::sources([]): ", "`Source::authorization()`"],
        ),
        (
            text(layer().try_ignore_schemes(["Basic", "bearer"])),
            ["AuthLayer::ignore_schemes: \"bearer\"", "leave it out"],
        ),
        (
            text(layer().try_realm("a\"b")),
            [r#"AuthLayer::realm: "a\"b""#, "printable ASCII"],
        ),
        (
            text(layer().try_realm("caf\u{e9}")),
            ["AuthLayer::realm: \"caf\u{e9}\"", "printable ASCII"],
        ),
        (
            text(layer().try_resource_metadata("/meta")),
            ["AuthLayer::resource_metadata: \"/meta\"", "`https://`"],
        ),
        (
            text(layer().try_resource_metadata("https://a/\n")),
            ["AuthLayer::resource_metadata: ", "printable ASCII"],
        ),
        (
            text(layer().try_challenge_scopes(["a b"])),
            ["AuthLayer::challenge_scopes: \"a b\"", "on its own"],
        ),
        (
            text(Source::try_query("")),
            ["Source::query: \"\" is not", "at least one"],
        ),
        (
            text(Source::try_query("api key")),
            ["Source::query: \"api key\" is not", "use ASCII letters"],
        ),
        (
            text(Source::try_cookie("a=b")),
            ["Source::cookie: \"a=b\" is not", "use ASCII letters"],
        ),
        (
            text(Hierarchy::new().try_wildcards('*')),
            ["`Hierarchy::wildcards`: '*'", "such as ':'"],
        ),
        (
            text(Quota::per_day(1).try_burst(0)),
            ["`Quota::burst`: ", "use 1 to 1000000000"],
        ),
    ] {
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn panics_of_quotas_name_the_constructor() {
    for (quota, name) in [
        (Quota::per_second as fn(u32) -> Quota, "per_second"),
        (Quota::per_minute, "per_minute"),
        (Quota::per_hour, "per_hour"),
        (Quota::per_day, "per_day"),
    ] {
        let panic = std::panic::catch_unwind(|| quota(0)).unwrap_err();
        let expected = format!("`Quota::{name}`: the count is 0; use 1 to 1000000000");
        assert_eq!(panic.downcast_ref(), Some(&expected));
    }
}

#[test]
fn networks_that_do_not_parse_are_refused_with_a_hint() {
    for (network, fix) in [
        ("", "leave it out, or write an address"),
        ("10.0.0.0/8,192.0.2.7", "pass each network on its own"),
        ("10.0.0.0/8, 192.0.2.7", "pass each network on its own"),
        ("10.0.0.0/8 192.0.2.7", "pass each network on its own"),
        (" 10.0.0.0/8", "remove the spaces around it"),
        ("10.0.0.0/8\n", "remove the spaces around it"),
        ("10.0.0.1:443", "leave the port out"),
        ("[2001:db8::1]:443", "leave the port out"),
        ("[2001:db8::1]", "write it without brackets"),
        ("10.0.0.0/40", "a number up to 32"),
        ("2001:db8::/200", "a number up to 128"),
        ("10.0.0.0/255.0.0.0", "a number up to 32"),
        ("localhost", "write an address such as `192.0.2.7`"),
    ] {
        let error = text(ClientIp::new().try_trusted_proxies([network]));
        assert!(error.contains(&format!("{network:?}")), "{error}");
        assert!(error.contains(fix), "{network:?}: {error}");
    }
}
