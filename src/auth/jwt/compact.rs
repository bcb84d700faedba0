//! The compact serialization of a signed token (RFC 7515 §3.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memchr_iter;

use crate::auth::jwt::policy::Mistake;
use crate::rejection::Cause;

/// Three segments, still encoded.
pub(super) struct Compact<'t> {
    /// Still encoded.
    pub(super) header: &'t [u8],
    payload: &'t [u8],
    signature: &'t [u8],
    /// What the signature is of: the first two segments and the dot between them.
    pub(super) signed: &'t [u8],
}

impl<'t> Compact<'t> {
    /// Exactly three segments. Five are an encrypted token, which nothing here can read.
    pub(super) fn split(token: &'t [u8]) -> Result<Self, Mistake> {
        let mut dots = memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err((Cause::TokenStructure, "token"));
        };
        let compact = Self {
            header: &token[..first],
            payload: &token[first + 1..second],
            signature: &token[second + 1..],
            signed: &token[..second],
        };
        if compact.header.is_empty() || compact.signature.is_empty() {
            return Err((Cause::TokenStructure, "token"));
        }
        Ok(compact)
    }

    /// The bytes that are signed for.
    pub(super) fn payload(&self) -> Result<Box<[u8]>, Mistake> {
        // As many as there are: what is left over is an error of the encoding.
        let mut payload = vec![0; self.payload.len() * 3 / 4].into_boxed_slice();
        let len = decode("payload", self.payload, &mut payload)?;
        debug_assert_eq!(len, payload.len());
        Ok(payload)
    }

    /// The signature, decoded into `buffer`.
    pub(super) fn signature<'b>(
        &self,
        buffer: &'b mut [u8; MOST_SIGNATURE],
    ) -> Result<&'b [u8], Mistake> {
        let len = decode("signature", self.signature, buffer)?;
        Ok(&buffer[..len])
    }
}

/// Decodes a segment: base64url without padding, in its one canonical spelling (RFC 7515 §2).
pub(super) fn decode(
    name: &'static str,
    segment: &[u8],
    buffer: &mut [u8],
) -> Result<usize, Mistake> {
    URL_SAFE_NO_PAD
        .decode_slice(segment, buffer)
        .map_err(|_| (Cause::TokenStructure, name))
}

/// The most bytes of a signature: one of RSA with 8192 bits.
pub(super) const MOST_SIGNATURE: usize = 1024;
