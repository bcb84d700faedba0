//! When keys are fetched: plain functions of what the key server says, of chance, and of
//! `now`.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, HeaderValue};

use crate::clock::Timestamp;

/// How long keys live, between these bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// They live no shorter, whatever the key server says.
    pub(crate) least: Duration,
    /// And no longer.
    pub(crate) most: Duration,
    /// Keys that nobody could confirm for so long are good for nothing.
    pub(crate) max_age: Duration,
}

impl Life {
    /// How long an answer may be used (RFC 9111 §4.2.1): `max-age` less `Age`, and ten
    /// minutes where the key server does not say.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Duration {
        let stated = match max_age(headers) {
            Some(max_age) => max_age.saturating_sub(age(headers)),
            None => UNSTATED,
        };
        stated.clamp(self.least, self.most).min(self.max_age)
    }
}

/// A refresh that is planned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) made_at: Timestamp,
    pub(crate) due_at: Timestamp,
}

impl Plan {
    /// At once.
    pub(crate) const NOW: Self = Self {
        made_at: Timestamp::EPOCH,
        due_at: Timestamp::EPOCH,
    };

    pub(crate) fn after(now: Timestamp, wait: Duration) -> Self {
        Self {
            made_at: now,
            due_at: now.saturating_add(wait),
        }
    }

    /// Keys that live so long: at 80 % of it or, by chance, a little earlier, so that
    /// instances that were started together do not stay together.
    pub(crate) fn refresh(now: Timestamp, life: Duration, chance: Chance) -> Self {
        Self::after(now, life.mul_f64(0.8 - 0.08 * chance.0))
    }

    /// The same, but at `end` if that is earlier.
    pub(crate) fn no_later_than(self, end: Timestamp) -> Self {
        Self {
            due_at: self.due_at.min(end),
            ..self
        }
    }

    /// After so many failures in a row. `Retry-After` counts where it asks for more, up
    /// to an hour, or to five minutes if there are no keys to go on with.
    pub(crate) fn retry(
        now: Timestamp,
        failures: u32,
        retry_after: Option<Duration>,
        has_keys: bool,
        chance: Chance,
    ) -> Self {
        let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let wait = doubled.min(LAST_RETRY).mul_f64(0.5 + 0.5 * chance.0);
        let most = if has_keys {
            MOST_POLITE
        } else {
            MOST_POLITE_WITHOUT
        };
        let asked = retry_after.unwrap_or_default().min(most);
        Self::after(now, wait.max(asked.mul_f64(1.0 + 0.1 * chance.0)))
    }

    /// Whether its time has come; or nobody knows, since the clock was put back.
    pub(crate) fn is_due(self, now: Timestamp) -> bool {
        now >= self.due_at || now.saturating_add(CLOCK_STEP) < self.made_at
    }
}

/// A budget of fetches ahead of time that tokens cause: a bucket of four, and one more every
/// 30 seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    left: u32,
    counted_at: Timestamp,
}

impl Budget {
    pub(crate) const FULL: Self = Self {
        left: MOST_FORCED,
        counted_at: Timestamp::EPOCH,
    };

    /// Whether one is left; it is not any more.
    pub(crate) fn spend(&mut self, now: Timestamp) -> bool {
        let periods = now.since(self.counted_at).as_secs() / FORCED_EVERY.as_secs();
        let earned = u32::try_from(periods).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(earned);
        if left >= MOST_FORCED || now < self.counted_at {
            // Full, or the clock was put back: the next one is earned from here on.
            self.counted_at = now;
            self.left = left.min(MOST_FORCED);
        } else {
            let worth = FORCED_EVERY.saturating_mul(earned);
            self.counted_at = self.counted_at.saturating_add(worth);
            self.left = left;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Returns how long it takes until one can be spent.
    pub(crate) fn wait(&self, now: Timestamp) -> Duration {
        if self.left > 0 || now < self.counted_at {
            return Duration::ZERO;
        }
        FORCED_EVERY.saturating_sub(now.since(self.counted_at))
    }
}

/// A number from 0 up to 1 that nobody can foresee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(pub(crate) f64);

impl Chance {
    pub(crate) fn draw() -> Self {
        // Without randomness it is half: no reason to go without keys.
        getrandom::u32().map_or(Self(0.5), |drawn| Self(f64::from(drawn) / 2_f64.powi(32)))
    }
}

/// How long `Retry-After` asks to wait (RFC 9110 §10.2.3): seconds, or a date.
pub(crate) fn retry_after(value: &HeaderValue, now: Timestamp) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Some(seconds) = seconds(text) {
        return Some(seconds);
    }
    let until: SystemTime = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp::from(until).since(now))
}

/// The `max-age` of the first line that has one; zero if the answer is not to be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(CACHE_CONTROL).into_iter();
    let directives = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|directive| directive.split_once('=').unwrap_or((directive, "")));
    let mut stated = None;
    for (name, value) in directives {
        let name = name.trim();
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if stated.is_none() && name.eq_ignore_ascii_case("max-age") {
            stated = seconds(value.trim().trim_matches('"'));
        }
    }
    stated
}

/// How old the answer was when it left the cache that it comes from. What is no number,
/// or less than nothing, is as if it were not there.
fn age(headers: &HeaderMap) -> Duration {
    let age = headers.get(AGE).and_then(|value| value.to_str().ok());
    age.and_then(|text| seconds(text.trim()))
        .unwrap_or_default()
}

/// Whole seconds (RFC 9111 §1.2.2): more than can be counted is as much as can be.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

/// How long keys live if their server does not say.
const UNSTATED: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// For how long `Retry-After` is honoured at the most.
const MOST_POLITE: Duration = Duration::from_secs(3600);
const MOST_POLITE_WITHOUT: Duration = Duration::from_secs(300);
/// How far a clock may be behind another reading of it and count as the same.
const CLOCK_STEP: Duration = Duration::from_secs(60);

const MOST_FORCED: u32 = 4;
const FORCED_EVERY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const LIFE: Life = Life {
        least: Duration::from_secs(60),
        most: Duration::from_secs(86_400),
        max_age: Duration::from_secs(86_400),
    };

    fn life(fields: &[(&'static str, &str)]) -> u64 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        LIFE.of(&headers).as_secs()
    }

    #[test]
    fn life_is_what_the_server_says_within_bounds() {
        let ten_years = "max-age=315360000";
        let table: &[(&[(&str, &str)], u64)] = &[
            (&[], 600),
            (&[("cache-control", "public, max-age=3600")], 3600),
            (&[("cache-control", "MAX-AGE=\"3600\"")], 3600),
            (&[("cache-control", "max-age=3600"), ("age", "600")], 3000),
            (&[("cache-control", "max-age=3600"), ("age", "9999")], 60),
            (&[("cache-control", "max-age=3600"), ("age", "-600")], 3600),
            (&[("cache-control", "max-age=3600"), ("age", "old")], 3600),
            (&[("cache-control", "max-age=0")], 60),
            (&[("cache-control", "max-age=-1")], 600),
            (&[("cache-control", ten_years)], 86_400),
            (
                &[("cache-control", "max-age=99999999999999999999999")],
                86_400,
            ),
            (&[("cache-control", "max-age=3600, no-cache")], 60),
            (&[("cache-control", "no-store")], 60),
            (&[("cache-control", "max-age=")], 600),
            (
                &[("cache-control", "public"), ("cache-control", "max-age=90")],
                90,
            ),
        ];
        for (fields, seconds) in table {
            assert_eq!(life(fields), *seconds, "{fields:?}");
        }
    }

    #[test]
    fn keys_that_must_be_young_are_asked_for_sooner() {
        let young = Life {
            max_age: Duration::from_secs(100),
            ..LIFE
        };
        assert_eq!(young.of(&HeaderMap::new()).as_secs(), 100);
    }

    #[test]
    fn a_refresh_is_due_at_80_percent_or_a_little_earlier() {
        let due = |chance| {
            let plan = Plan::refresh(NOW, Duration::from_secs(1000), Chance(chance));
            plan.due_at.since(NOW).as_secs()
        };
        assert_eq!(due(0.0), 800);
        assert_eq!(due(0.999_999), 720);
        let plan = Plan::refresh(NOW, Duration::from_secs(1000), Chance(0.0));
        assert!(!plan.is_due(NOW.saturating_add(Duration::from_secs(799))));
        assert!(plan.is_due(NOW.saturating_add(Duration::from_secs(800))));
    }

    #[test]
    fn a_clock_that_was_put_back_makes_it_due_and_one_that_lags_does_not() {
        let plan = Plan::after(NOW, Duration::from_secs(1000));
        assert!(!plan.is_due(NOW.saturating_sub(Duration::from_secs(60))));
        assert!(plan.is_due(NOW.saturating_sub(Duration::from_secs(3600))));
    }

    #[test]
    fn failures_make_the_wait_longer_up_to_a_minute() {
        let wait = |failures, chance| {
            let plan = Plan::retry(NOW, failures, None, true, Chance(chance));
            plan.due_at.since(NOW).as_millis()
        };
        assert_eq!(wait(1, 0.0), 1000);
        assert_eq!(wait(1, 1.0), 2000);
        assert_eq!(wait(2, 1.0), 4000);
        assert_eq!(wait(5, 1.0), 32_000);
        assert_eq!(wait(6, 1.0), 60_000);
        assert_eq!(wait(u32::MAX, 0.0), 30_000);
    }

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        let wait = |value: &'static str, has_keys| {
            let asked = retry_after(&HeaderValue::from_static(value), NOW);
            let plan = Plan::retry(NOW, 1, asked, has_keys, Chance(0.0));
            plan.due_at.since(NOW).as_secs()
        };
        assert_eq!(wait("120", true), 120);
        assert_eq!(wait("0", true), 1);
        assert_eq!(wait("-5", true), 1);
        assert_eq!(wait("soon", true), 1);
        assert_eq!(wait("99999999999999999999", true), 3600);
        assert_eq!(wait("3600", false), 300);
        // 2027-01-15 08:00:00 is `NOW`.
        assert_eq!(wait("Fri, 15 Jan 2027 08:02:00 GMT", true), 120);
        assert_eq!(wait("Fri, 15 Jan 2021 08:02:00 GMT", true), 1);
    }

    #[test]
    fn four_are_forced_at_once_and_one_more_every_30_seconds() {
        let mut budget = Budget::FULL;
        let mut now = NOW;
        let spend = |budget: &mut Budget, now| (0..10).filter(|_| budget.spend(now)).count();
        assert_eq!(spend(&mut budget, now), 4);
        now = now.saturating_add(Duration::from_secs(29));
        assert_eq!(spend(&mut budget, now), 0);
        now = now.saturating_add(Duration::from_secs(1));
        assert_eq!(spend(&mut budget, now), 1);
        // What was asked for in vain does not put off the next one.
        for _ in 0..30 {
            now = now.saturating_add(Duration::from_secs(1));
            budget.spend(now);
        }
        assert_eq!(spend(&mut budget, now), 0);
        now = now.saturating_add(Duration::from_secs(45));
        assert_eq!(spend(&mut budget, now), 1);
        now = now.saturating_add(Duration::from_secs(15));
        assert_eq!(spend(&mut budget, now), 1);
        now = now.saturating_add(Duration::from_secs(86_400));
        assert_eq!(spend(&mut budget, now), 4);
    }

    #[test]
    fn spent_budget_says_when_the_next_fetch_is() {
        let mut budget = Budget::FULL;
        let later = |seconds| NOW.saturating_add(Duration::from_secs(seconds));
        while budget.spend(NOW) {
            let wait = budget.wait(NOW);
            let is_spent = budget.left == 0;
            assert_eq!(wait, Duration::from_secs(if is_spent { 30 } else { 0 }));
        }
        assert_eq!(budget.wait(later(12)), Duration::from_secs(18));
        assert_eq!(budget.wait(later(30)), Duration::ZERO);
        assert_eq!(budget.wait(later(3600)), Duration::ZERO);
        assert!(budget.spend(later(45)));
        assert_eq!(budget.wait(later(45)), Duration::from_secs(15));
    }

    #[test]
    fn a_flood_of_an_hour_forces_124_fetches() {
        let mut budget = Budget::FULL;
        let spent = (0..=36_000_u32).filter(|tenth| {
            let elapsed = Duration::from_millis(100).saturating_mul(*tenth);
            budget.spend(NOW.saturating_add(elapsed))
        });
        assert_eq!(spent.count(), 4 + 3600 / 30);
    }

    #[test]
    fn a_clock_that_was_put_back_gives_nothing_away_and_stops_nothing() {
        let mut budget = Budget::FULL;
        while budget.spend(NOW) {}
        let earlier = NOW.saturating_sub(Duration::from_secs(3600));
        assert!(!budget.spend(earlier));
        assert!(budget.spend(earlier.saturating_add(Duration::from_secs(30))));
    }
}
