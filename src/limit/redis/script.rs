//! What is sent to Redis, and what its answers mean.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, Script};

use crate::clock::Timestamp;
use crate::limit::gcra::Cell;
use crate::limit::limiter::{Decision, Ticket, Verdict};
use crate::limit::quota::Quota;
use crate::limit::quotas::Quotas;
use crate::limit::redis::fault::RedisFault;

pub(super) const SOURCE: &str = include_str!("gcra.lua");

/// One run of the script.
pub(super) struct Call {
    keys: Keys,
    op: &'static str,
    numbers: Vec<u8>,
}

/// Where the budget of a caller is, and their ban: in one slot of a cluster.
pub(super) struct Keys {
    pub(super) cells: String,
    pub(super) ban: String,
}

impl Keys {
    pub(super) fn of(ticket: Ticket, quotas: &Quotas) -> Self {
        let ticket = ticket.get();
        let fingerprint = fingerprint(quotas);
        Self {
            cells: format!("tg:{{{ticket:032x}}}:{fingerprint:016x}"),
            ban: ban_of(ticket),
        }
    }
}

impl Call {
    pub(super) fn take(ticket: Ticket, quotas: &Quotas, cost: u32) -> Self {
        let op = if cost == 0 { "peek" } else { "take" };
        Self::with_quotas(op, ticket, quotas, cost)
    }

    pub(super) fn settle(ticket: Ticket, quotas: &Quotas, units: i64) -> Self {
        let op = if units < 0 { "refund" } else { "charge" };
        let magnitude = u32::try_from(units.unsigned_abs()).unwrap_or(u32::MAX);
        Self::with_quotas(op, ticket, quotas, magnitude)
    }

    pub(super) fn ban(ticket: Ticket, time: Duration) -> Self {
        let micros = u64::try_from(time.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        let ban = ban_of(ticket.get());
        Self {
            keys: Keys {
                cells: ban.clone(),
                ban,
            },
            op: "ban",
            numbers: micros.min(MOST_MICROS).to_be_bytes().into(),
        }
    }

    fn with_quotas(op: &'static str, ticket: Ticket, quotas: &Quotas, units: u32) -> Self {
        let mut numbers = Vec::with_capacity(40 * quotas.rates().len());
        for quota in quotas.iter() {
            let whole = u64::from(quota.count()) * 1_000;
            let (cost, tolerance) = (time_of(quota, units), time_of(quota, quota.burst_size()));
            for number in [cost.0, cost.1, tolerance.0, tolerance.1, whole] {
                numbers.extend(number.to_be_bytes());
            }
        }
        Self {
            keys: Keys::of(ticket, quotas),
            op,
            numbers,
        }
    }

    pub(super) fn command(&self) -> Cmd {
        static HASH: LazyLock<String> = LazyLock::new(|| Script::new(SOURCE).get_hash().into());
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(HASH.as_str())
            .arg(2)
            .arg(&self.keys.cells)
            .arg(&self.keys.ban)
            .arg(self.op)
            .arg(&self.numbers);
        command
    }
}

pub(super) fn load() -> Cmd {
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(SOURCE);
    command
}

pub(super) fn cluster_info() -> Cmd {
    let mut command = redis::cmd("INFO");
    command.arg("cluster");
    command
}

pub(super) fn reset(ticket: Ticket, quotas: &Quotas) -> Cmd {
    let keys = Keys::of(ticket, quotas);
    let mut command = redis::cmd("DEL");
    command.arg(keys.cells).arg(keys.ban);
    command
}

/// What the answer means. The script and [`Decision::step`] do the same sums: where they do
/// not agree, it was not our script that has answered.
pub(super) fn decision(
    answer: &[i64],
    quotas: &Quotas,
    cost: u32,
    ticket: Ticket,
) -> Result<Decision, RedisFault> {
    let [paid @ (0 | 1), now, banned_until, cells @ ..] = answer else {
        return Err(RedisFault::Malformed);
    };
    let rates = quotas.rates();
    let now = timestamp(*now)?;
    if cells.len() != 2 * rates.len() || now < EARLIEST {
        return Err(RedisFault::Malformed);
    }
    let mut held = [Cell::default(); Quotas::MOST];
    for ((held, quota), cell) in held
        .iter_mut()
        .zip(quotas.iter())
        .zip(cells.chunks_exact(2))
    {
        *held = self::cell(quota, cell[0], cell[1])?;
    }
    let banned_until = timestamp(*banned_until)?;
    if banned_until > now {
        let wait = banned_until.since(now);
        return Ok(Decision {
            verdict: Verdict::Banned { wait },
            ticket,
            now,
            cells: held,
        });
    }
    let decision = Decision::step(rates, held, cost, ticket, now);
    if decision.is_admitted() != (*paid == 1) {
        return Err(RedisFault::Malformed);
    }
    Ok(decision)
}

/// Microseconds and parts of one, of which there are a thousand times as many as the count:
/// so that nothing is rounded.
fn time_of(quota: &Quota, units: u32) -> (u64, u64) {
    let parts = quota.period().as_nanos() * u128::from(units);
    let whole = u128::from(quota.count()) * 1_000;
    let micros = u64::try_from(parts / whole).unwrap_or(u64::MAX);
    // Less than the whole, which is of 42 bits.
    let part = u64::try_from(parts % whole).unwrap_or(0);
    (micros.min(MOST_MICROS), part)
}

fn cell(quota: &Quota, micros: i64, part: i64) -> Result<Cell, RedisFault> {
    let malformed = |_| RedisFault::Malformed;
    let (nanos, part) = (
        timestamp(micros)?.unix_nanos(),
        u64::try_from(part).map_err(malformed)?,
    );
    let count = u64::from(quota.count());
    if part >= count * 1_000 {
        return Err(RedisFault::Malformed);
    }
    let nanos = nanos.saturating_add(part / count);
    let part = u32::try_from(part % count).map_err(malformed)?;
    Ok(Cell::from_parts(nanos, part))
}

fn timestamp(micros: i64) -> Result<Timestamp, RedisFault> {
    let micros = u64::try_from(micros).map_err(|_| RedisFault::Malformed)?;
    let nanos = micros.checked_mul(1_000).ok_or(RedisFault::Malformed)?;
    Ok(Timestamp::EPOCH.saturating_add(Duration::from_nanos(nanos)))
}

fn ban_of(ticket: u128) -> String {
    format!("tg:{{{ticket:032x}}}:ban")
}

/// Of the names, so that a plan with other numbers goes on where the last one stood. FNV-1a,
/// which is the same in every version of every process.
fn fingerprint(quotas: &Quotas) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    add(LAYOUT);
    for quota in quotas.iter() {
        quota.name().bytes().for_each(&mut add);
        add(0);
    }
    hash
}

/// Of what is stored: another one is another key.
const LAYOUT: u8 = 1;
/// More than any quota or ban is about, and little enough that sums are exact in Lua.
const MOST_MICROS: u64 = 4_000_000_000_000_000;
/// No server has a clock that is further back.
const EARLIEST: Timestamp = Timestamp::from_unix_seconds(1_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000_000;

    fn decide(answer: &[i64], quotas: &Quotas) -> Result<Decision, RedisFault> {
        decision(answer, quotas, 1, Ticket::new(1))
    }

    #[test]
    fn an_answer_is_believed_only_if_it_makes_sense() {
        let quotas = Quotas::from([Quota::per_second(10), Quota::per_minute(7)]);
        let ahead = NOW + 1_000_000;
        assert!(decide(&[1, NOW, 0, NOW, 0, NOW, 6_999], &quotas).is_ok_and(|d| d.is_admitted()));
        assert!(decide(&[0, NOW, 0, ahead, 0, NOW, 0], &quotas).is_ok_and(|d| !d.is_admitted()));
        for garbage in [
            &[][..],
            &[1],
            &[1, NOW, 0],
            &[1, NOW, 0, NOW, 0, NOW],
            &[1, NOW, 0, NOW, 0, NOW, 0, 0],
            &[2, NOW, 0, NOW, 0, NOW, 0],
            &[1, -NOW, 0, NOW, 0, NOW, 0],
            &[1, 0, 0, 0, 0, 0, 0],
            &[1, NOW, -1, NOW, 0, NOW, 0],
            &[1, NOW, 0, NOW, 0, NOW, 7_000],
            &[1, NOW, 0, NOW, -1, NOW, 0],
            &[1, NOW, 0, i64::MAX, 0, NOW, 0],
            &[1, NOW, 0, ahead, 0, NOW, 0],
            &[0, NOW, 0, NOW, 0, NOW, 0],
        ] {
            let fault = decide(garbage, &quotas).err();
            assert_eq!(fault, Some(RedisFault::Malformed), "{garbage:?}");
        }
    }

    #[test]
    fn a_key_gives_nothing_away_and_stays_in_its_slot() {
        let quotas = |name: &'static str| Quotas::from(Quota::per_second(1).named(name));
        let keys = Keys::of(Ticket::new(0xab), &quotas("a"));
        let tag = format!("tg:{{{}ab}}:", "0".repeat(30));
        assert!(keys.cells.starts_with(&tag) && keys.ban == format!("{tag}ban"));
        let same = Keys::of(Ticket::new(0xab), &Quota::per_day(2).named("a").into());
        assert_eq!(keys.cells, same.cells);
        assert_eq!(
            keys.cells,
            format!("{tag}d113bd1867867955"),
            "in every version"
        );
        assert_ne!(keys.cells, Keys::of(Ticket::new(0xab), &quotas("b")).cells);
    }

    #[test]
    fn no_number_is_too_large_for_lua() {
        let largest = Quota::per(1, Duration::from_secs(366 * 86_400)).burst(10);
        for units in [0, 1, u32::MAX] {
            assert!(time_of(&largest, units).0 <= MOST_MICROS);
        }
        let now = u64::try_from(NOW).unwrap();
        let tolerance = time_of(&largest, 10).0;
        assert!(now + 2 * tolerance + MOST_MICROS + 2 < 1 << 53);
    }
}
