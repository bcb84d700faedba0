//! [`Header`]: what a token says of how it is signed.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::{Error, MapAccess};

use crate::auth::jwt::compact::decode;
use crate::auth::jwt::policy::Mistake;
use crate::json::{Members, Text, read_object};
use crate::jwks::{Algorithm, MOST_KID};
use crate::rejection::Cause;

/// The parameters that decide something. Those that carry keys, or say where keys are, are
/// read over: `jwk`, `jku`, `x5u`, `x5c`.
#[derive(Debug)]
pub(super) struct Header {
    /// What it was read from.
    encoded: Box<[u8]>,
    /// The algorithm, if it is one of ours. `none` is nobody's.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) kid: Option<Box<str>>,
    pub(super) typ: Option<Box<str>>,
}

impl Header {
    /// Returns whether a segment decodes to a JOSE header (RFC 7515 §4): an object that names an
    /// algorithm, whichever it is.
    pub(super) fn is_jose(encoded: &[u8]) -> bool {
        let mut buffer = [0; MOST_HEADER];
        let text = decode("header", encoded, &mut buffer)
            .ok()
            .and_then(|len| str::from_utf8(&buffer[..len]).ok());
        let mut parameters = Parameters::default();
        text.is_some_and(|text| read_object(text, &mut parameters).is_ok())
            && parameters.alg.is_some()
    }

    fn read(encoded: &[u8]) -> Result<Self, Mistake> {
        let mut buffer = [0; MOST_HEADER];
        let len = decode("header", encoded, &mut buffer)?;
        let text = str::from_utf8(&buffer[..len]);
        let text = text.map_err(|_| (Cause::TokenHeader, "header"))?;
        let mut parameters = Parameters::default();
        let read = read_object(text, &mut parameters);
        read.map_err(|_| (Cause::TokenHeader, parameters.reading.unwrap_or("header")))?;
        if let Some(name) = parameters.refused {
            return Err((Cause::TokenHeader, name));
        }
        Ok(Self {
            encoded: encoded.into(),
            algorithm: parameters.alg.as_deref().and_then(Algorithm::named),
            kid: parameters.kid.map(Box::from),
            typ: parameters.typ.map(Box::from),
        })
    }
}

/// Headers of good tokens. An issuer has as many as keys that sign, so the few that come
/// all the time need not be read again.
#[derive(Debug, Default)]
pub(super) struct Headers {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    headers: [Option<Arc<Header>>; 4],
    next: usize,
}

impl Headers {
    /// What the header of a token says.
    pub(super) fn read(&self, encoded: &[u8]) -> Result<Arc<Header>, Mistake> {
        if let Some(header) = self.lock().find(encoded) {
            return Ok(Arc::clone(header));
        }
        Header::read(encoded).map(Arc::new)
    }

    /// Remembers the header of a token that was good, in the place of the oldest.
    pub(super) fn remember(&self, header: &Arc<Header>) {
        // Another hand holds what is known.
        if Arc::strong_count(header) > 1 {
            return;
        }
        let mut known = self.lock();
        if known.find(&header.encoded).is_none() {
            let place = known.next;
            known.headers[place] = Some(Arc::clone(header));
            known.next = (place + 1) % known.headers.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&self, encoded: &[u8]) -> Option<&Arc<Header>> {
        let mut headers = self.headers.iter().flatten();
        headers.find(|header| *header.encoded == *encoded)
    }
}

#[derive(Default)]
struct Parameters<'b> {
    alg: Option<Cow<'b, str>>,
    kid: Option<Cow<'b, str>>,
    typ: Option<Cow<'b, str>>,
    /// The extension that is not supported.
    refused: Option<&'static str>,
    /// The parameter that is being read.
    reading: Option<&'static str>,
}

impl<'b> Members<'b> for Parameters<'b> {
    fn member<A: MapAccess<'b>>(
        &mut self,
        name: &str,
        map: &mut A,
    ) -> Result<Option<u32>, A::Error> {
        let text = |map: &mut A| map.next_value().map(|Text(text)| Some(text));
        const NAMES: [&str; 6] = ["alg", "typ", "kid", "crit", "b64", "zip"];
        self.reading = NAMES.into_iter().find(|known| *known == name);
        let number = match name {
            "alg" => {
                self.alg = text(map)?;
                0
            }
            "typ" => {
                self.typ = text(map)?;
                1
            }
            "kid" => {
                self.kid = text(map)?;
                if self.kid.as_ref().is_some_and(|kid| kid.len() > MOST_KID) {
                    return Err(A::Error::custom("kid is too long"));
                }
                2
            }
            // RFC 7515 §4.1.11: who does not know an extension must refuse it, and none
            // is known here. RFC 7797 and RFC 7516 §4.1.3 change what is signed.
            "crit" | "b64" | "zip" => {
                self.refused = self.reading.take();
                return Ok(None);
            }
            _ => return Ok(None),
        };
        self.reading = None;
        Ok(Some(number))
    }
}

/// The most bytes of a decoded header.
const MOST_HEADER: usize = 1024;
