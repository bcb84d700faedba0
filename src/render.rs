//! [`Voice`]: renders a [`Rejection`] as a response.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use equivalent::Equivalent;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use serde::Serialize;

use crate::body::Body;
use crate::credential::Scheme;
use crate::grpc::{self, Dialect};
use crate::rejection::{Reason, Rejection};
use crate::respond::{Respond, Restyled};
use crate::scope::ScopeSet;

/// Renders rejections: what is configured about them, and what is prepared from it.
#[derive(Clone)]
pub struct Voice {
    settings: Settings,
    /// By reason and scheme; made at first use.
    prepared: Vec<OnceLock<Prepared>>,
    /// Those that depend on a text, too: made at first use, and read without a lock.
    named: Arc<papaya::HashMap<Name, Prepared>>,
}

/// The place of a prepared response, and the scopes or quotas in it.
#[derive(Debug, Eq, PartialEq)]
struct Name {
    place: usize,
    text: Box<str>,
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.place, &*self.text).hash(hasher);
    }
}

#[derive(Hash)]
struct NameRef<'a>(usize, &'a str);

impl Equivalent<Name> for NameRef<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        self.0 == name.place && *self.1 == *name.text
    }
}

/// The number of texts that responses are kept for. They are written by the operator; only
/// expressions with many conditions make more of them.
const MOST_NAMED: usize = 1_024;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) realm: Arc<str>,
    pub(crate) resource_metadata: Option<Box<str>>,
    pub(crate) challenge_scopes: ScopeSet,
    pub(crate) schemes: Vec<Scheme>,
    /// The ways to send a credential, in words, for clients that sent none.
    pub(crate) carriers: Box<str>,
    pub(crate) problem_base: Box<str>,
    pub(crate) respond: Option<Arc<dyn Respond>>,
}

#[derive(Clone)]
struct Prepared {
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Prepared {
    /// The headers of one rejection, with room for those of the rejection and of the layers that it
    /// goes out through.
    fn headers(&self, more: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + more + 2);
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        headers
    }
}

impl Default for Voice {
    fn default() -> Self {
        Self::new(Settings {
            realm: "api".into(),
            resource_metadata: None,
            challenge_scopes: ScopeSet::default(),
            schemes: Scheme::ALL.into(),
            carriers: Box::default(),
            problem_base: "https://docs.rs/tollgate/latest/tollgate/problem/#".into(),
            respond: None,
        })
    }
}

impl Voice {
    /// The voice of gates that nothing was configured for. What it prepares is the same
    /// for all of them.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: LazyLock<Voice> = LazyLock::new(Voice::default);
        &STANDARD
    }

    fn new(settings: Settings) -> Self {
        let places = Reason::ALL.len() * Scheme::ALL.len();
        Self {
            settings,
            prepared: (0..places).map(|_| OnceLock::new()).collect(),
            named: Arc::default(),
        }
    }

    /// Changes the settings, and forgets what followed from them.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        *self = Self::new(self.settings.clone());
    }

    pub(crate) fn realm(&self) -> &Arc<str> {
        &self.settings.realm
    }

    /// Renders a rejection, whose headers are moved into the response.
    pub(crate) fn answer(&self, rejection: &mut Rejection) -> Response<Bytes> {
        let (headers, body) = match rejection.dialect {
            Dialect::Http => self.document(rejection),
            Dialect::Grpc(media_type) => {
                let domain = &self.settings.realm;
                let detail = self.detail(rejection.reason());
                let headers = grpc::trailers_only(rejection, media_type, &detail, domain);
                (headers, Bytes::new())
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = rejection.wire_status();
        *response.headers_mut() = headers;
        response
    }

    fn document(&self, rejection: &mut Rejection) -> (HeaderMap, Bytes) {
        let fields = rejection.take_fields();
        let more = fields.len() + usize::from(rejection.wait().is_some());
        let (mut headers, mut body) = self.prepared_for(rejection, more);
        if let Some(wait) = rejection.wait() {
            headers.insert(RETRY_AFTER, whole_seconds_up(wait).into());
        }
        for (name, value) in fields {
            headers.append(name, value);
        }
        if let Some(restyled) = self.restyled(rejection) {
            body = restyled.body;
            headers.insert(CONTENT_TYPE, restyled.content_type);
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        (headers, body)
    }

    /// Says at the door what a gate inside of it has refused: with the door's realm and
    /// style, in the scheme that the client used.
    pub(crate) fn speak_for_inner<B>(
        &self,
        response: &mut Response<Body<B>>,
        scheme: Option<Scheme>,
        request_id: Option<Arc<str>>,
        head: bool,
    ) {
        let Some(rejection) = response.extensions().get::<Rejection>() else {
            return;
        };
        // A layer between that answers otherwise has made the answer its own.
        if rejection.said || !is_answered_by(response, rejection) {
            return;
        }
        if request_id.is_none() && self.has_nothing_to_add(rejection) {
            return;
        }
        let mut rejection = rejection.clone().with_request_id(request_id);
        // They stand in the response, beside those of layers between.
        rejection.take_fields();
        rejection.scheme = scheme.or(rejection.scheme);
        rejection.said = true;
        let (parts, body) = self.answer(&mut rejection).into_parts();
        // What a layer between has said of the body that is replaced here.
        for stale in [WWW_AUTHENTICATE, CONTENT_ENCODING] {
            response.headers_mut().remove(stale);
        }
        // A map handed over whole names a field once for all its values.
        let mut last = None;
        for (name, value) in parts.headers {
            match (name, &last) {
                (Some(name), _) => {
                    response.headers_mut().insert(name.clone(), value);
                    last = Some(name);
                }
                (None, Some(name)) => {
                    response.headers_mut().append(name.clone(), value);
                }
                (None, None) => {}
            }
        }
        response.extensions_mut().insert(rejection);
        *response.body_mut() = if head {
            Body::empty()
        } else {
            Body::full(body)
        };
    }

    /// Returns whether all `AuthLayer`s would render the same.
    fn has_nothing_to_add(&self, rejection: &Rejection) -> bool {
        let reason = rejection.reason();
        self.settings.respond.is_none()
            && rejection.dialect == Dialect::Http
            && reason.registered_type().is_some()
            && reason.status() != http::StatusCode::UNAUTHORIZED
            && reason.challenge_error().is_none()
    }

    fn prepared(&self, reason: Reason, scheme: Scheme) -> &Prepared {
        let slot = &self.prepared[place(reason, scheme)];
        slot.get_or_init(|| {
            let rejection = Rejection::new(reason, crate::rejection::Cause::Other);
            self.prepare(&rejection, scheme)
        })
    }

    fn prepare(&self, rejection: &Rejection, scheme: Scheme) -> Prepared {
        let body = self.problem(rejection);
        let mut headers = vec![
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            ),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (CONTENT_LENGTH, body.len().into()),
        ];
        self.challenge(rejection, scheme, &mut headers);
        Prepared { headers, body }
    }

    /// Returns the headers of a rejection, with room for `more`, and its problem document.
    fn prepared_for(&self, rejection: &Rejection, more: usize) -> (HeaderMap, Bytes) {
        let scheme = rejection.scheme.unwrap_or(Scheme::Bearer);
        let of = |prepared: &Prepared| (prepared.headers(more), prepared.body.clone());
        if !rejection.has_particulars() {
            return of(self.prepared(rejection.reason(), scheme));
        }
        let Some(text) = rejection.only_text() else {
            return of(&self.prepare(rejection, scheme));
        };
        let place = place(rejection.reason(), scheme);
        let named = self.named.pin();
        if let Some(known) = named.get(&NameRef(place, text)) {
            return of(known);
        }
        let prepared = self.prepare(rejection, scheme);
        let rendered = of(&prepared);
        if named.len() < MOST_NAMED {
            let text = text.into();
            named.insert(Name { place, text }, prepared);
        }
        rendered
    }

    /// Adds the challenges of RFC 9110 §11.6.1 that this answer must have: the
    /// scheme that the client used first, with the error; the others plain.
    fn challenge(
        &self,
        rejection: &Rejection,
        used: Scheme,
        headers: &mut Vec<(HeaderName, HeaderValue)>,
    ) {
        let settings = &self.settings;
        let reason = rejection.reason();
        let error = reason.challenge_error();
        let status = reason.status();
        if error.is_none() && status != http::StatusCode::UNAUTHORIZED {
            return;
        }
        let used = if error.is_none() || settings.schemes.contains(&used) {
            Some(used)
        } else {
            settings.schemes.first().copied()
        };
        // A client whose token has ended asks for a new one from this challenge, so every 401 says
        // which scopes to ask for (RFC 6750 §3).
        let scopes = match reason {
            Reason::InsufficientScope => rejection.required_scopes(),
            _ if status == http::StatusCode::UNAUTHORIZED => rejection
                .required_scopes()
                .or(Some(&settings.challenge_scopes)),
            _ => None,
        };
        let scopes = scopes.filter(|scopes| !scopes.is_empty());
        let line = |scheme: Scheme, error: Option<&str>| {
            let mut line = format!("{} realm=\"{}\"", scheme.as_str(), settings.realm);
            if let Some(error) = error {
                line += &format!(", error=\"{error}\"");
                if let Some(description) = reason.challenge_description() {
                    line += &format!(", error_description=\"{description}\"");
                }
            }
            if let Some(scopes) = scopes
                && (scheme == Scheme::Bearer || reason == Reason::InsufficientScope)
            {
                line += &format!(", scope=\"{scopes}\"");
            }
            if let Some(url) = settings
                .resource_metadata
                .as_ref()
                .filter(|_| scheme == Scheme::Bearer || reason == Reason::InsufficientScope)
            {
                line += &format!(", resource_metadata=\"{url}\"");
            }
            HeaderValue::try_from(line).ok()
        };
        let first = used.filter(|_| error.is_some());
        let others = (status == http::StatusCode::UNAUTHORIZED).then(|| {
            settings
                .schemes
                .iter()
                .copied()
                .filter(|scheme| Some(*scheme) != first)
        });
        for line in first
            .map(|scheme| line(scheme, error))
            .into_iter()
            .chain(
                others
                    .into_iter()
                    .flatten()
                    .map(|scheme| line(scheme, None)),
            )
            .flatten()
        {
            headers.push((WWW_AUTHENTICATE, line));
        }
    }

    /// The problem document of RFC 9457.
    fn problem(&self, rejection: &Rejection) -> Bytes {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: Cow<'static, str>,
            title: &'static str,
            status: u16,
            detail: Cow<'static, str>,
            code: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            required_scopes: Option<Vec<&'a str>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            policy: Option<&'a str>,
            #[serde(rename = "violated-policies", skip_serializing_if = "Vec::is_empty")]
            violated_policies: Vec<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
        }
        let reason = rejection.reason();
        let problem = Problem {
            r#type: match reason.registered_type() {
                Some(registered) => registered.into(),
                None => format!("{}{}", self.settings.problem_base, reason.code()).into(),
            },
            title: reason.status().canonical_reason().unwrap_or_default(),
            status: reason.status().as_u16(),
            detail: self.detail(reason),
            code: reason.code(),
            required_scopes: rejection
                .required_scopes()
                .filter(|_| reason == Reason::InsufficientScope)
                .map(|scopes| scopes.iter().collect()),
            policy: rejection.policy(),
            violated_policies: rejection.violated_quotas().collect(),
            request_id: rejection.request_id(),
        };
        // Strings and numbers: there is nothing in it that could fail.
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }

    /// The text for people: the same for all requests that are rejected for this reason.
    fn detail(&self, reason: Reason) -> Cow<'static, str> {
        match (reason, &*self.settings.carriers) {
            (_, "") => reason.detail().into(),
            (Reason::CredentialsMissing, carriers) => {
                format!("{} Send one as {carriers}.", reason.detail()).into()
            }
            _ => reason.detail().into(),
        }
    }

    fn restyled(&self, rejection: &Rejection) -> Option<Restyled> {
        let respond = self.settings.respond.as_ref()?;
        let restyle = std::panic::AssertUnwindSafe(|| respond.restyle(rejection));
        std::panic::catch_unwind(restyle)
            .inspect_err(|_| {
                tracing::error!(target: "tollgate", "the hook that restyles refusals panicked");
            })
            .ok()
    }
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Voice")
            .field("realm", &self.settings.realm)
            .finish_non_exhaustive()
    }
}

/// Where answers of that kind are kept.
const fn place(reason: Reason, scheme: Scheme) -> usize {
    reason.index() * Scheme::ALL.len() + scheme as usize
}

/// Returns whether the response still has the status of the rejection.
pub(crate) fn is_answered_by<B>(response: &Response<B>, rejection: &Rejection) -> bool {
    let code = match rejection.dialect {
        Dialect::Http => return response.status() == rejection.reason().status(),
        Dialect::Grpc(_) => rejection.reason().grpc_code(),
    };
    let said = response.headers().get(grpc::GRPC_STATUS);
    said.is_some_and(|said| *said == HeaderValue::from(code as u16))
}

/// A wait in the whole seconds of `Retry-After`: never shorter than it is, never 0.
fn whole_seconds_up(wait: Duration) -> u64 {
    let begun = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(begun).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::Cause;

    #[test]
    fn every_401_has_a_challenge() {
        let mut voice = Voice::default();
        for schemes in [
            vec![Scheme::Bearer],
            vec![Scheme::ApiKey],
            Scheme::ALL.to_vec(),
        ] {
            voice.set(|settings| settings.schemes = schemes);
            for reason in Reason::ALL.iter().filter(|reason| reason.status() == 401) {
                for scheme in Scheme::ALL {
                    let mut rejection = Rejection::new(*reason, Cause::Other);
                    rejection.scheme = Some(scheme);
                    let answer = voice.answer(&mut rejection);
                    assert!(
                        answer.headers().contains_key(WWW_AUTHENTICATE),
                        "{reason:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn answers_are_kept_for_a_bounded_number_of_scopes() {
        let voice = Voice::default();
        for i in 0..2 * MOST_NAMED {
            let scopes = ScopeSet::try_new([format!("scope-{i}")]).unwrap();
            let rejection = Rejection::new(Reason::InsufficientScope, Cause::ScopeMissing);
            let answer = voice.answer(&mut rejection.with_required_scopes(scopes));
            let challenge = answer.headers()[WWW_AUTHENTICATE].to_str().unwrap();
            assert!(challenge.contains(&format!("scope=\"scope-{i}\"")));
        }
        assert_eq!(voice.named.len(), MOST_NAMED);
    }

    #[test]
    fn waits_are_rounded_up_and_never_zero() {
        assert_eq!(whole_seconds_up(Duration::ZERO), 1);
        assert_eq!(whole_seconds_up(Duration::from_millis(900)), 1);
        assert_eq!(whole_seconds_up(Duration::from_millis(1001)), 2);
        assert_eq!(whole_seconds_up(Duration::MAX), u64::MAX);
    }
}
