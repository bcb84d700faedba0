//! [`Fields`]: the rate-limit headers of a response.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::gcra::{Rate, Step};
use crate::limit::limiter::{Decision, Verdict};
use crate::limit::quotas::Quotas;
use crate::limit::standing::Standing;

/// The rate-limit headers of a response. Defaults to [`Fields::Draft10`]. gRPC responses get
/// none, because they must not be sent in trailers.
///
/// # Several layers
/// A 429 has the headers of the limit that refused, and of no other. Every other response has
/// those of the tightest limit among the stacked layers: the one that admits the fewest further
/// requests of this cost, and of two that admit the same number, the one that takes longer to
/// refill. Each style that one of the layers uses describes that limit. Layers with
/// [`Fields::Off`] do not take part. If some layers use [`Fields::LegacyDelta`] and others
/// [`Fields::LegacyEpoch`], the style of the innermost is used.
///
/// Headers that the handler set are kept: if a response already has a header of a style, none
/// of that style is added. A 429 of the handler gets none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fields {
    /// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10, with all
    /// quotas of the limit.
    #[default]
    Draft10,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, of the quota with
    /// the least units left. The reset is in seconds from now.
    LegacyDelta,
    /// The same as [`Fields::LegacyDelta`], with the reset in seconds since the Unix epoch.
    LegacyEpoch,
    /// No headers.
    Off,
}

pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
pub(crate) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
pub(crate) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The `RateLimit-Policy` of quotas: what can be used at once, and in what time it comes
/// back.
pub(crate) fn policy(quotas: impl Iterator<Item = (Box<str>, u32, Rate)>) -> HeaderValue {
    let mut text = String::new();
    for (name, burst, rate) in quotas {
        let separator = if text.is_empty() { "" } else { ", " };
        let window = seconds_up(rate.time_of(burst));
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}\"{name}\";q={burst};w={window}");
    }
    // Names are plain, and the rest is numbers.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Fields {
    pub(crate) fn write(self, headers: &mut HeaderMap, standing: Standing<'_>) {
        self.each(standing, |name, value| {
            headers.insert(name, value);
        });
    }

    /// Returns the headers of a rejection.
    pub(crate) fn list(self, standing: Standing<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let mut list = Vec::with_capacity(if self == Self::Draft10 { 2 } else { 3 });
        self.each(standing, |name, value| list.push((name, value)));
        list
    }

    fn each(self, standing: Standing<'_>, mut put: impl FnMut(HeaderName, HeaderValue)) {
        match self {
            Self::Draft10 => {
                put(RATELIMIT_POLICY, standing.quotas.policy().clone());
                put(RATELIMIT, ratelimit(standing.quotas, standing.decision));
            }
            Self::LegacyDelta | Self::LegacyEpoch => self.each_legacy(standing, put),
            Self::Off => {}
        }
    }

    fn each_legacy(self, standing: Standing<'_>, mut put: impl FnMut(HeaderName, HeaderValue)) {
        let Some(tightest) = standing.tightest() else {
            return;
        };
        let reset = match self {
            Self::LegacyEpoch => {
                let at = standing.decision.now.saturating_add(tightest.reset);
                at.unix_nanos().div_ceil(1_000_000_000)
            }
            _ => seconds_up(tightest.reset),
        };
        put(LIMIT, tightest.burst.into());
        put(REMAINING, tightest.remaining.into());
        put(RESET, reset.into());
    }

    /// Returns whether the response has a header of this style already.
    pub(crate) fn is_in(self, headers: &HeaderMap) -> bool {
        let names: &[HeaderName] = match self {
            Self::Draft10 => &[RATELIMIT_POLICY, RATELIMIT],
            Self::LegacyDelta | Self::LegacyEpoch => &[LIMIT, REMAINING, RESET],
            Self::Off => &[],
        };
        names.iter().any(|name| headers.contains_key(name))
    }
}

/// Formats `RateLimit`: the units left of each quota, and the time until there are more. A
/// client that keeps to `r` requests in `t` seconds keeps to the rate.
fn ratelimit(quotas: &Quotas, decision: &Decision) -> HeaderValue {
    let mut text = Text::default();
    let standings = quotas.iter().zip(quotas.rates()).zip(decision.cells);
    for (((quota, rate), cell), at) in standings.zip(0..) {
        let remaining = decision.left(rate, cell);
        let time = match remaining {
            0 => match rate.step(cell, decision.now, 1) {
                Step::Wait(_, wait) => wait,
                _ => rate.time_of(0),
            },
            _ => rate.time_of(remaining),
        };
        let time = match decision.verdict {
            Verdict::Banned { wait } => wait,
            // Not longer than `Retry-After`.
            Verdict::Refused {
                violated,
                wait: Some(wait),
            } if violated & (1 << at) != 0 => time.min(wait),
            _ => time,
        };
        text.push(if at == 0 { "\"" } else { ", \"" });
        text.push(quota.name());
        text.push("\";r=");
        text.push(itoa::Buffer::new().format(remaining));
        text.push(";t=");
        text.push(itoa::Buffer::new().format(seconds_up(time)));
    }
    // Names are plain, and the rest is numbers.
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A text on the stack, as long as it is short.
struct Text {
    short: [u8; 96],
    len: usize,
    long: Vec<u8>,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            short: [0; 96],
            len: 0,
            long: Vec::new(),
        }
    }
}

impl Text {
    fn push(&mut self, part: &str) {
        if self.long.is_empty() {
            if let Some(place) = self.short.get_mut(self.len..self.len + part.len()) {
                place.copy_from_slice(part.as_bytes());
                self.len += part.len();
                return;
            }
            self.long.extend_from_slice(&self.short[..self.len]);
        }
        self.long.extend_from_slice(part.as_bytes());
    }

    fn as_bytes(&self) -> &[u8] {
        match self.long.is_empty() {
            true => &self.short[..self.len],
            false => &self.long,
        }
    }
}

/// A wait in whole seconds: never shorter than it is, never 0.
pub(crate) fn seconds_up(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
