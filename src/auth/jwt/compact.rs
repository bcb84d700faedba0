//! The compact serialization of a signed token (RFC 7515 §3.1), and its header.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Error, MapAccess};

use crate::json::{Members, SKIP, Text, read_object};
use crate::jwks::{Algorithm, MOST_KID};
use crate::rejection::Cause;

/// Three segments, still encoded.
#[derive(Clone, Copy)]
pub(super) struct Compact<'t> {
    header: &'t [u8],
    payload: &'t [u8],
    signature: &'t [u8],
    /// What the signature is of: the first two segments and the dot between them.
    pub(super) signed: &'t [u8],
}

impl<'t> Compact<'t> {
    /// Exactly three segments. Five are an encrypted token, which nothing here can read.
    pub(super) fn split(token: &'t [u8]) -> Result<Self, Cause> {
        let mut dots = token.iter().enumerate().filter(|(_, byte)| **byte == b'.');
        let (Some((first, _)), Some((second, _)), None) = (dots.next(), dots.next(), dots.next())
        else {
            return Err(Cause::TokenStructure);
        };
        let compact = Self {
            header: &token[..first],
            payload: &token[first + 1..second],
            signature: &token[second + 1..],
            signed: &token[..second],
        };
        if compact.header.is_empty() || compact.signature.is_empty() {
            return Err(Cause::TokenStructure);
        }
        Ok(compact)
    }

    /// The header, decoded into `buffer`.
    pub(super) fn header<'b>(
        &self,
        buffer: &'b mut [u8; MOST_HEADER],
    ) -> Result<Header<'b>, Cause> {
        let len = decode(self.header, buffer)?;
        let text = str::from_utf8(&buffer[..len]).map_err(|_| Cause::TokenHeader)?;
        let header = read_object(text, Header::default()).map_err(|_| Cause::TokenHeader)?;
        if header.refused {
            return Err(Cause::TokenHeader);
        }
        Ok(header)
    }

    /// The bytes that are signed for.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Cause> {
        URL_SAFE_NO_PAD
            .decode(self.payload)
            .map_err(|_| Cause::TokenStructure)
    }

    /// The signature, decoded into `buffer`.
    pub(super) fn signature<'b>(
        &self,
        buffer: &'b mut [u8; MOST_SIGNATURE],
    ) -> Result<&'b [u8], Cause> {
        let len = decode(self.signature, buffer)?;
        Ok(&buffer[..len])
    }
}

/// base64url without padding, in its one canonical spelling (RFC 7515 §2).
fn decode(segment: &[u8], buffer: &mut [u8]) -> Result<usize, Cause> {
    URL_SAFE_NO_PAD
        .decode_slice(segment, buffer)
        .map_err(|_| Cause::TokenStructure)
}

/// What a token says of how it is signed. Parameters that carry keys, or say where keys
/// are, are read over: `jwk`, `jku`, `x5u`, `x5c`.
#[derive(Default)]
pub(super) struct Header<'b> {
    alg: Option<Cow<'b, str>>,
    pub(super) kid: Option<Cow<'b, str>>,
    pub(super) typ: Option<Cow<'b, str>>,
    refused: bool,
}

impl Header<'_> {
    /// The algorithm, if it is one of ours. `none` is nobody's.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::named(self.alg.as_deref()?)
    }
}

impl<'b> Members<'b> for Header<'b> {
    fn member<A: MapAccess<'b>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "alg" => self.alg = Some(map.next_value::<Text<'b>>()?.0),
            "typ" => self.typ = Some(map.next_value::<Text<'b>>()?.0),
            "kid" => {
                let Text(kid) = map.next_value()?;
                if kid.len() > MOST_KID {
                    return Err(A::Error::custom("kid is too long"));
                }
                self.kid = Some(kid);
            }
            // RFC 7515 §4.1.11: who does not know an extension must refuse it, and none
            // is known here. RFC 7797 and RFC 7516 §4.1.3 change what is signed.
            "crit" | "b64" | "zip" => {
                self.refused = true;
                map.next_value_seed(SKIP)?;
            }
            _ => drop(map.next_value_seed(SKIP)?),
        }
        Ok(())
    }
}

/// The most bytes of a decoded header.
pub(super) const MOST_HEADER: usize = 1024;
/// The most bytes of a signature: one of RSA with 8192 bits.
pub(super) const MOST_SIGNATURE: usize = 1024;
