//! [`Fields`]: what a client is told about its budget.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::gcra::{Rate, Step};
use crate::limit::limiter::{Decision, Verdict};
use crate::limit::quotas::Quotas;

/// The response fields that tell a client about its budget. Over gRPC there are none: they
/// must not stand in trailers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fields {
    /// `RateLimit-Policy` and `RateLimit` of revision 10 of the draft of the IETF
    /// (draft-ietf-httpapi-ratelimit-headers-10), with all quotas. They are appended, so
    /// that the limits of several layers are all told.
    #[default]
    Draft10,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, of the quota
    /// that has least left; the reset in seconds from now.
    LegacyDelta,
    /// The same, with the reset in seconds since the Unix epoch.
    LegacyEpoch,
    /// None.
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
    pub(crate) fn write(self, headers: &mut HeaderMap, quotas: &Quotas, decision: &Decision) {
        match self {
            Self::Draft10 => {
                headers.append(RATELIMIT_POLICY, quotas.policy().clone());
                headers.append(RATELIMIT, standing(quotas, decision));
            }
            Self::LegacyDelta | Self::LegacyEpoch => self.write_legacy(headers, quotas, decision),
            Self::Off => {}
        }
    }

    fn write_legacy(self, headers: &mut HeaderMap, quotas: &Quotas, decision: &Decision) {
        let standing = quotas.iter().zip(quotas.rates()).zip(decision.cells);
        let least = standing.min_by_key(|((_, rate), cell)| rate.remaining(*cell, decision.now));
        let Some(((quota, rate), cell)) = least else {
            return;
        };
        let reset = rate.until_full(cell, decision.now);
        let reset = match self {
            Self::LegacyEpoch => {
                let at = decision.now.saturating_add(reset);
                at.unix_nanos().div_ceil(1_000_000_000)
            }
            _ => seconds_up(reset),
        };
        headers.insert(LIMIT, quota.burst_size().into());
        headers.insert(REMAINING, rate.remaining(cell, decision.now).into());
        headers.insert(RESET, reset.into());
    }
}

/// The `RateLimit` of quotas as they stand: what is left, and when there will be more. A
/// client that keeps to `r` in `t` seconds keeps to the rate.
fn standing(quotas: &Quotas, decision: &Decision) -> HeaderValue {
    let mut numbers = [(itoa::Buffer::new(), itoa::Buffer::new()); Quotas::MOST];
    let mut parts = [("", "", ""); Quotas::MOST];
    let standings = quotas.iter().zip(quotas.rates()).zip(decision.cells);
    let mut len = 0;
    for (((part, (left, wait)), ((quota, rate), cell)), at) in
        parts.iter_mut().zip(&mut numbers).zip(standings).zip(0..)
    {
        let remaining = rate.remaining(cell, decision.now);
        let time = match rate.step(cell, decision.now, 1) {
            Step::Wait(_, wait) => wait,
            _ => rate.time_of(remaining),
        };
        // What refused it tells nobody to wait for longer than `Retry-After` does.
        let time = match decision.verdict {
            Verdict::Refused {
                violated,
                wait: Some(wait),
            } if violated & (1 << at) != 0 => time.min(wait),
            _ => time,
        };
        *part = (
            quota.name(),
            left.format(remaining),
            wait.format(seconds_up(time)),
        );
        let separator = if at == 0 { 0 } else { SEPARATOR.len() };
        len += part.0.len() + part.1.len() + part.2.len() + OVERHEAD + separator;
    }
    // To the byte: what is too long would be copied.
    let mut text = String::with_capacity(len);
    for (at, (name, left, wait)) in parts[..quotas.rates().len()].iter().enumerate() {
        for part in [
            if at == 0 { "" } else { SEPARATOR },
            "\"",
            name,
            "\";r=",
            left,
            ";t=",
            wait,
        ] {
            text.push_str(part);
        }
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

const SEPARATOR: &str = ", ";
/// Of what stands around the name and the numbers.
const OVERHEAD: usize = "\"\";r=;t=".len();

/// A wait in whole seconds: never shorter than it is, never 0.
pub(crate) fn seconds_up(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
