//! Reads PEM (RFC 7468) as configuration carries it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::jwks::material::Unusable;

/// The label of a PEM document, and what is encoded in it.
///
/// White space may stand anywhere in the document, and lines may have any length or be
/// missing. A line break may be written as `\n` or `\r\n` with a backslash, as environment
/// variables and JSON carry it, and the document may be in quotes. Text before and after
/// it is ignored (RFC 7468 §5.2).
pub(crate) fn decode(pem: &[u8]) -> Result<(&str, Vec<u8>), Unusable> {
    let text = text(pem)?;
    let (_, rest) = text.split_once(BEGIN).ok_or_else(|| missing_begin(text))?;
    let (label, rest) = rest.split_once("-----").ok_or(BROKEN_BEGIN)?;
    if label.is_empty() || !label.bytes().all(is_of_label) {
        return Err(BROKEN_BEGIN);
    }
    let (body, rest) = rest
        .split_once(END)
        .ok_or("it has no `-----END …-----` line")?;
    let (end, rest) = rest
        .split_once("-----")
        .ok_or("its `-----END …-----` line is broken")?;
    if end != label {
        return Err("its `-----END …-----` line does not match its `-----BEGIN …-----` line");
    }
    if rest.contains(BEGIN) {
        return Err(
            "it has several PEM documents; pass each key on its own, joined by `KeySet::and`",
        );
    }
    if body.contains(':') {
        return Err("it has headers, as encrypted private keys do; pass a public key");
    }
    let body = without_breaks(body);
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(body);
    der.map(|der| (label, der))
        .map_err(|_| "its base64 is broken, or a part of it is missing")
}

fn text(pem: &[u8]) -> Result<&str, Unusable> {
    let text = match pem {
        [0x30, 0x80..=0x84, ..] => {
            return Err("it is DER; convert it to PEM: `openssl pkey -pubin -inform DER`");
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err("it is UTF-16; save it as UTF-8");
        }
        text => str::from_utf8(text).map_err(|_| "it is not PEM: it is not text")?,
    };
    Ok(text)
}

fn missing_begin(text: &str) -> Unusable {
    if text.trim().is_empty() {
        "it is empty"
    } else if text.contains("---- BEGIN SSH2")
        || text.contains("ssh-")
        || text.contains("ecdsa-sha2-")
    {
        "it is an SSH key; convert it to PEM: `ssh-keygen -e -m PKCS8`"
    } else if text.trim_start().starts_with('{') {
        "it is JSON; read it by `KeySet::from_jwk` or `KeySet::from_jwks`"
    } else if is_path(text) {
        "it is the path of a file; call `KeySet::from_pem_file`"
    } else {
        "it is not PEM: it has no `-----BEGIN …-----` line"
    }
}

/// Returns whether a text looks like the path of a file. Base64 has slashes too.
pub(crate) fn is_path(text: &str) -> bool {
    let text = text.trim();
    let extension = text.rsplit_once('.').map(|(_, extension)| extension);
    let is_extension = |extension: &str| {
        let known = [
            "pem", "pub", "key", "crt", "cer", "der", "json", "jwk", "jwks", "txt",
        ];
        known
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    };
    let is_rooted = ["/", "./", "../", "~/", ".\\", "..\\"]
        .iter()
        .any(|root| text.starts_with(root));
    text.len() < MOST_PATH
        && !text.contains(['\n', '\r', '{', '"'])
        && (is_rooted || extension.is_some_and(is_extension))
}

/// Replaces line breaks that are written with a backslash by spaces. Base64 has no
/// backslashes, so that nothing else is lost; several of them are from escaping twice.
fn without_breaks(body: &str) -> Cow<'_, str> {
    if !body.contains('\\') {
        return Cow::Borrowed(body);
    }
    let mut text = String::with_capacity(body.len());
    let mut parts = body.split('\\');
    text.extend(parts.next());
    for part in parts {
        let rest = part.strip_prefix(['n', 'r', 't']);
        text.push(' ');
        text.push_str(rest.unwrap_or(part));
    }
    text.into()
}

/// RFC 7468 §3, without what no label has.
const fn is_of_label(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
}

const MOST_PATH: usize = 4096;
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const BROKEN_BEGIN: Unusable = "its `-----BEGIN …-----` line is broken";

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn document(body: &str, line_break: &str) -> String {
        format!("-----BEGIN PUBLIC KEY-----{line_break}{body}{line_break}-----END PUBLIC KEY-----")
    }

    /// `BODY` in lines of that length.
    fn folded(columns: usize, line_break: &str) -> String {
        let lines: Vec<_> = BODY.as_bytes().chunks(columns).collect();
        let lines: Vec<_> = lines
            .iter()
            .map(|line| str::from_utf8(line).unwrap())
            .collect();
        document(&lines.join(line_break), line_break)
    }

    #[test]
    fn line_breaks_may_have_any_form() {
        let der = STANDARD.decode(BODY).unwrap();
        let mut documents = Vec::new();
        for line_break in [
            "\n", "\r\n", "\r", " ", "", "\n    ", "\t\n", "\n\n", r"\n", r"\r\n", r"\\n",
            r"\\r\\n", "\\n\n", "\\\n",
        ] {
            for columns in [1, 16, 20, 64, 76, 1000] {
                documents.push(folded(columns, line_break));
            }
        }
        let plain = document(BODY, "\n");
        documents.extend([
            format!("\u{feff}{plain}\n"),
            format!("\n\n  {plain}  \r\n\r\n"),
            format!("\"{plain}\""),
            format!("'{}'\n", folded(64, r"\n")),
            format!("Public-Key: (256 bit)\nissuer: C=DE\n{plain}\nmore text"),
            format!("KEY=\"{plain}\""),
        ]);
        for text in documents {
            assert_eq!(
                decode(text.as_bytes()),
                Ok(("PUBLIC KEY", der.clone())),
                "{text}"
            );
        }
    }

    #[test]
    fn text_that_is_not_pem_is_refused_with_the_reason() {
        let plain = document(BODY, "\n");
        for (text, reason) in [
            (String::new(), "it is empty"),
            (" \n".into(), "it is empty"),
            (BODY.into(), "no `-----BEGIN"),
            ("-----BEGIN".into(), "no `-----BEGIN"),
            ("-----BEGIN PUBLIC KEY".into(), "line is broken"),
            ("-----BEGIN -----x-----END -----".into(), "line is broken"),
            (
                plain.replace("BEGIN PUBLIC", "BEGIN public"),
                "line is broken",
            ),
            (plain.replace("-----END", "----END"), "has no `-----END"),
            (plain.replace("END PUBLIC", "END PRIVATE"), "does not match"),
            (plain.trim_end_matches('-').into(), "line is broken"),
            (format!("{plain}\n{plain}"), "several PEM documents"),
            (document("Proc-Type: 4,ENCRYPTED", "\n"), "headers"),
            (plain.replace("MCow", "MC_w"), "base64 is broken"),
            (plain.replace("URo=", "URo"), "base64 is broken"),
            (plain.replace("Ro=", ""), "base64 is broken"),
            (plain.replace("MCow", "…"), "base64 is broken"),
            (plain.replace("MCow", r"\x"), "base64 is broken"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5".into(), "ssh-keygen"),
            ("---- BEGIN SSH2 PUBLIC KEY ----".into(), "ssh-keygen"),
            (r#"{"kty": "RSA"}"#.into(), "from_jwk"),
            ("keys/public.pem".into(), "call `KeySet::from_pem_file`"),
            ("/etc/api/public\n".into(), "call `KeySet::from_pem_file`"),
            (r"C:\keys\api.PUB".into(), "call `KeySet::from_pem_file`"),
            (r"..\api".into(), "call `KeySet::from_pem_file`"),
        ] {
            let refused = decode(text.as_bytes()).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        for (bytes, reason) in [
            (&b"\xff\xfe-\0-\0"[..], "UTF-16"),
            (&STANDARD.decode(BODY).unwrap(), "not text"),
            (b"\x30\x82\x01\x22\x30\x0d", "DER"),
        ] {
            let refused = decode(bytes).unwrap_err();
            assert!(refused.contains(reason), "{bytes:?}: {refused}");
        }
    }
}
