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
        Self::per(count, Duration::from_secs(1)).named("second")
    }

    /// So many a minute.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_minute(count: u32) -> Self {
        Self::per(count, Duration::from_secs(60)).named("minute")
    }

    /// So many an hour.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_hour(count: u32) -> Self {
        Self::per(count, Duration::from_secs(3_600)).named("hour")
    }

    /// So many a day. Keys of a limit are remembered for as long as they have not paid, so
    /// count callers like that who are known, and not every network on earth.
    ///
    /// # Panics
    /// See [`Quota::per`].
    #[must_use]
    #[track_caller]
    pub fn per_day(count: u32) -> Self {
        Self::per(count, Duration::from_secs(86_400)).named("day")
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
        let quota = Self {
            count,
            period,
            burst: count,
            name: "default".into(),
        };
        quota.checked()
    }

    /// Sets how many may be used at once: the count unless set.
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
        .checked()
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
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            return Err(ConfigError::new(
                "the name of a quota is made of letters, digits, `-`, `_` and `.`",
            ));
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

    fn checked(self) -> Result<Self, ConfigError> {
        let mistake = if self.count == 0 || self.count > MOST || self.burst > MOST {
            "a quota is of 1 to a billion units"
        } else if self.burst == 0 {
            "a quota without a burst would admit nothing"
        } else if self.period < Duration::from_millis(1) || self.period > YEAR {
            "the period of a quota is a millisecond to 366 days"
        } else if self.period.as_secs_f64() * f64::from(self.burst) / f64::from(self.count)
            > 10.0 * YEAR.as_secs_f64()
        {
            "the burst of a quota comes back within ten years"
        } else {
            return Ok(self);
        };
        Err(ConfigError::new(mistake))
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
const YEAR: Duration = Duration::from_secs(366 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_when_it_is_made() {
        let second = Duration::from_secs(1);
        for (count, period) in [
            (0, second),
            (u32::MAX, second),
            (1, Duration::ZERO),
            (1, Duration::from_nanos(1)),
            (1, Duration::MAX),
            (1, Duration::from_secs(400 * 366 * 86_400)),
        ] {
            assert!(
                Quota::try_per(count, period).is_err(),
                "{count} per {period:?}"
            );
        }
        let quota = Quota::per_day(1);
        assert!(quota.clone().try_burst(0).is_err());
        assert!(quota.clone().try_burst(3_000).is_ok());
        assert!(quota.clone().try_burst(4_000).is_err());
        for name in ["", "a b", "a\"", "é", "a\n"] {
            assert!(quota.clone().try_named(name).is_err(), "{name:?}");
        }
    }
}
