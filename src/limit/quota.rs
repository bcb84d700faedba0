//! [`Quota`]: how much a caller may use, and how much of it at once.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::config::{ConfigError, literal};
use crate::limit::gcra::Rate;

/// So many units in so much time, and so many at once.
///
/// A quota reads as it acts: `Quota::per_minute(600)` admits 600 requests a minute. Units
/// come back one by one, at the rate, and not all at the end of a window. The *burst*, the
/// units that can be used at once, is the count unless set. So in any span of time Δ, no
/// more than `burst + rate · Δ` is admitted: someone who was away uses the burst at once, and
/// the rate from then on.
///
/// # Announcement
/// `RateLimit-Policy` announces the burst and the time in which it comes back, and not the count and
/// the period: `Quota::per_minute(60).burst(50)` is `"minute";q=50;w=50`, since 50 units come back in
/// 50 seconds at one per second. A client that sends at most `q` requests in any
/// `w` seconds is never rejected. Without [`Quota::burst`], `Quota::per_minute(60)` is
/// `"minute";q=60;w=60`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::{Request, Response};
/// use tollgate::{Identity, Quota, RateLimitLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let layer = RateLimitLayer::new([Quota::per_minute(60).burst(50)]);
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// }));
/// let caller = Identity::for_test().build();
/// let response = service.oneshot(Request::get("/").extension(caller).body(())?).await?;
/// assert_eq!(response.headers()["ratelimit-policy"], r#""minute";q=50;w=50"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```
/// use std::time::Duration;
/// use tollgate::limit::Quota;
///
/// let quota = Quota::per_minute(600).burst(50); // 50 at once, then one every 100 ms
/// assert_eq!(quota.count(), 600);
/// assert_eq!(quota.period(), Duration::from_secs(60));
/// assert!(Quota::try_per(0, Duration::from_secs(1)).is_err());
/// ```
#[derive(Clone, Eq, PartialEq)]
pub struct Quota {
    count: u32,
    period: Duration,
    burst: u32,
    name: Cow<'static, str>,
}

impl Quota {
    /// So many a second.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_second(count: u32) -> Self {
        literal(Self::of("per_second", count, Duration::from_secs(1))).named("second")
    }

    /// So many a minute.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_minute(count: u32) -> Self {
        literal(Self::of("per_minute", count, Duration::from_secs(60))).named("minute")
    }

    /// So many an hour.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_hour(count: u32) -> Self {
        literal(Self::of("per_hour", count, Duration::from_secs(3_600))).named("hour")
    }

    /// So many a day. Keys of a limit are remembered for as long as they have not paid, so
    /// count callers like that who are known, and not every network on earth.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_day(count: u32) -> Self {
        literal(Self::of("per_day", count, Duration::from_secs(86_400))).named("day")
    }

    /// So many in that time.
    ///
    /// # Panics
    /// If the count is 0 or over a billion, the time is under a millisecond or over 366
    /// days, or the burst would take more than ten years to come back.
    #[must_use]
    #[track_caller]
    pub fn per(count: u32, period: Duration) -> Self {
        literal(Self::try_per(count, period))
    }

    /// As [`Quota::per`], for numbers from configuration.
    ///
    /// # Errors
    /// Where `per` panics.
    pub fn try_per(count: u32, period: Duration) -> Result<Self, ConfigError> {
        Self::of("per", count, period)
    }

    fn of(constructor: &str, count: u32, period: Duration) -> Result<Self, ConfigError> {
        let quota = Self {
            count,
            period,
            burst: count,
            name: "default".into(),
        };
        quota.checked(constructor)
    }

    /// Sets how many may be used at once: the count unless set.
    ///
    /// The rate stays the same. `RateLimit-Policy` announces the burst as `q`, and the time in which it
    /// comes back as `w`: see [`Quota`](Self#announcement).
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn burst(self, units: u32) -> Self {
        literal(self.try_burst(units))
    }

    /// As [`Quota::burst`], for a number from configuration.
    ///
    /// # Errors
    /// Where `burst` panics.
    pub fn try_burst(self, units: u32) -> Result<Self, ConfigError> {
        Self {
            burst: units,
            ..self
        }
        .checked("burst")
    }

    /// Names the quota: clients see it in `RateLimit-Policy`. It is `second`, `minute`,
    /// `hour`, `day` or `default` unless set.
    ///
    /// # Panics
    /// If it is empty, or has characters other than letters, digits, `-`, `_` and `.`.
    #[must_use]
    #[track_caller]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        literal(self.try_named(name))
    }

    /// As [`Quota::named`], for a name from configuration.
    ///
    /// # Errors
    /// Where `named` panics.
    pub fn try_named(self, name: impl Into<Cow<'static, str>>) -> Result<Self, ConfigError> {
        let name = name.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            return Err(ConfigError::new(format!(
                "`Quota::named({name:?})`: this is not a quota name; use 1 to {LONGEST_NAME} ASCII \
                 letters, digits, `-`, `_` and `.`"
            )));
        }
        Ok(Self { name, ..self })
    }

    /// How many units come back in a period.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The time in which they do.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// How many units can be used at once.
    #[must_use]
    pub const fn burst_size(&self) -> u32 {
        self.burst
    }

    /// The name that clients see.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rate(&self) -> Rate {
        Rate::new(self.count, self.period, self.burst)
    }

    /// A share of it, of one unit at least: rounded down.
    #[cfg(feature = "redis")]
    pub(crate) fn share(&self, share: u32, of: u32) -> Self {
        let (share, of) = (u128::from(share.max(1)), u128::from(of.max(1)));
        let nanos = (self.period.as_nanos() * of).div_ceil(share);
        let burst = u128::from(self.burst) * share / of;
        Self {
            count: self.count,
            period: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            burst: u32::try_from(burst).unwrap_or(self.burst).max(1),
            name: self.name.clone(),
        }
    }

    fn checked(self, function: &str) -> Result<Self, ConfigError> {
        let Self {
            count,
            period,
            burst,
            name,
        } = &self;
        let refill = period.as_secs_f64() * f64::from(*burst) / f64::from(*count);
        let mistake = if *count == 0 || *count > MOST {
            format!("the count is {count}; use 1 to {MOST}")
        } else if *burst == 0 || *burst > MOST {
            format!("the burst of the quota `{name}` is {burst}; use 1 to {MOST}")
        } else if *period < Duration::from_millis(1) || *period > YEAR {
            format!("the period is {period:?}; use 1 ms to 366 days")
        } else if refill > 10.0 * YEAR.as_secs_f64() {
            format!(
                "a burst of {burst} at {count} per {period:?} takes more than ten years to refill; \
                 use a smaller burst or a higher rate"
            )
        } else {
            return Ok(self);
        };
        Err(ConfigError::new(format!("`Quota::{function}`: {mistake}")))
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            period,
            burst,
            name,
        } = self;
        write!(f, "{name}: {count} per {period:?}, {burst} at once")
    }
}

const MOST: u32 = 1_000_000_000;
const LONGEST_NAME: usize = 64;
const YEAR: Duration = Duration::from_secs(366 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_setting_the_value_and_the_fix() {
        let second = Duration::from_secs(1);
        let per = |count, period| Quota::try_per(count, period).map(|_| ());
        let burst = |burst| Quota::per_day(1).try_burst(burst).map(|_| ());
        let named = |name: &'static str| Quota::per_day(1).try_named(name).map(|_| ());
        for (made, expected) in [
            (
                per(0, second),
                "`Quota::per`: the count is 0; use 1 to 1000000000",
            ),
            (per(u32::MAX, second), "the count is 4294967295; use"),
            (per(1, Duration::ZERO), "the period is 0ns; use 1 ms"),
            (per(1, Duration::from_nanos(1)), "the period is 1ns; use"),
            (per(1, Duration::MAX), "the period is 18446744073709551615"),
            (
                per(1, Duration::from_secs(400 * 366 * 86_400)),
                "the period is 12648960000s; use 1 ms to 366 days",
            ),
            (burst(0), "the burst of the quota `day` is 0; use 1 to"),
            (
                burst(u32::MAX),
                "the burst of the quota `day` is 4294967295",
            ),
            (
                burst(4_000),
                "a burst of 4000 at 1 per 86400s takes more than ten years",
            ),
            (
                named(""),
                "`Quota::named(\"\")`: this is not a quota name; use",
            ),
            (named("a b"), "\"a b\""),
            (named("a\""), r#"a\""#),
            (named("é"), "é"),
            (named("a\n"), r"a\n"),
        ] {
            let text = made.unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(burst(3_000), Ok(()));
    }
}
