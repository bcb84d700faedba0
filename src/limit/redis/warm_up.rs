//! [`RedisLimiter::warm_up`]: finds mistakes at start, and opens the connection.

use std::error::Error;
use std::fmt;
use std::sync::atomic::Ordering;

use redis::Value;

use crate::limit::key::LimitKey;
use crate::limit::limiter::Ticket;
use crate::limit::quota::Quota;
use crate::limit::quotas::Quotas;
use crate::limit::redis::failure::Failure;
use crate::limit::redis::fault::RedisFault;
use crate::limit::redis::script::{self, Call};
use crate::limit::redis::{Inner, RedisLimiter};

impl RedisLimiter {
    /// Opens the connection, loads the script and checks that the user has all rights, so that
    /// mistakes are found at start and the first request does not wait for a handshake.
    ///
    /// ```no_run
    /// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::limit::RedisLimiter;
    ///
    /// let limiter = RedisLimiter::new("rediss://limits.internal:6380")?;
    /// limiter.warm_up().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Waits for at most twice the [`connect_timeout`](Self::connect_timeout). It may be called
    /// again, for instance in a loop until Redis is available. A limiter that was not warmed up,
    /// or could not be, connects at the first request.
    ///
    /// # Errors
    /// Returns `Err` if Redis cannot be used for rate limits, and says why: there is no
    /// connection, the TLS handshake failed, the user lacks a right, the server is a replica or
    /// has no memory left. A node of a Redis Cluster is rejected with [`RedisFault::Cluster`], as
    /// clusters are not supported; it is recognized by `INFO cluster` if the server answers that.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the connection to be opened.
    pub async fn warm_up(&self) -> Result<(), WarmUpError> {
        let inner = &*self.inner;
        let limit = 2 * inner.settings.connect_timeout;
        let warmed = inner.timer.within(limit, inner.prepare()).await;
        warmed
            .unwrap_or_else(|| Err(Failure::new(RedisFault::TimedOut)))
            .map_err(WarmUpError)
    }
}

impl Inner {
    /// Does once all that the limiter ever does, with a key of its own.
    async fn prepare(&self) -> Result<(), Failure> {
        let mut connection = self.link.connection().await?;
        let info = script::cluster_info();
        match self.send_once::<String>(&mut connection, &info).await {
            Ok(info) if info.contains("cluster_enabled:1") => {
                return Err(Failure::new(RedisFault::Cluster));
            }
            Ok(_) => {}
            Err(failure) if is_fatal(failure.fault) => return Err(failure),
            // Limits do not need `INFO`. Servers may have renamed it, and proxies may not know it.
            // The connection may have been given up because of the answer.
            Err(_) => connection = self.link.connection().await?,
        }
        let loads = self.loads.load(Ordering::Acquire);
        self.load(&mut connection, loads).await?;
        let digest = LimitKey::default().digest(&self.settings.secret, &self.settings.name);
        let ticket = Ticket::new(u128::from_be_bytes(digest));
        let quotas = Quotas::from(Quota::per_second(1_000));
        let charge = Call::settle(ticket, &quotas, 1).command();
        self.send_once::<Value>(&mut connection, &charge).await?;
        let reset = script::reset(ticket, &quotas);
        self.send_once::<Value>(&mut connection, &reset).await?;
        Ok(())
    }
}

/// Returns whether the server cannot be used, whatever the command was.
const fn is_fatal(fault: RedisFault) -> bool {
    use RedisFault::{Cluster, NoRuntime, TimedOut, Tls, Unreachable};
    matches!(fault, Cluster | NoRuntime | TimedOut | Tls | Unreachable)
}

/// Error of [`RedisLimiter::warm_up`](crate::limit::RedisLimiter::warm_up): the server cannot be
/// used for rate limits.
#[derive(Clone, Debug)]
pub struct WarmUpError(Failure);

impl WarmUpError {
    /// Returns the reason.
    #[must_use]
    pub const fn fault(&self) -> RedisFault {
        self.0.fault
    }
}

impl fmt::Display for WarmUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { fault, detail, .. } = &self.0;
        write!(f, "`RedisLimiter::warm_up`: {fault}")?;
        if let Some(detail) = detail {
            write!(f, " ({detail})")?;
        }
        match fault.fix() {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}

impl Error for WarmUpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}
