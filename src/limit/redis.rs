//! [`RedisLimiter`]: budgets that many processes share.

mod breaker;
mod denials;
mod failure;
mod fault;
mod link;
mod rights;
mod script;
mod share;
mod status;
mod warm_up;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::{Client, Cmd, FromRedisValue, IntoConnectionInfo, Value};

use crate::clock::Timestamp;
use crate::config::{ConfigError, literal};
use crate::limit::key::LimitKey;
use crate::limit::layer_names::LayerNames;
use crate::limit::limiter::{Decision, Limiter, LimiterUnavailable, Paid, Ticket};
use crate::limit::quotas::Quotas;
use crate::limit::redis::breaker::{Breaker, Pass};
use crate::limit::redis::denials::Denials;
use crate::limit::redis::failure::Failure;
use crate::limit::redis::link::{Connection, Link};
use crate::limit::redis::script::Call;
use crate::limit::redis::share::Local;
use crate::limit::redis::status::Watch;
use crate::pending::Pending;
use crate::timeout::Timer;

pub use crate::limit::redis::fault::RedisFault;
pub use crate::limit::redis::share::WhenDown;
pub use crate::limit::redis::status::{Fallbacks, RedisStatus};
pub use crate::limit::redis::warm_up::WarmUpError;

/// Budgets in Redis or Valkey, for as many processes as ask. One round trip, and one script
/// that decides about all quotas of a caller at once.
///
/// Its verdicts are those of a [`MemoryLimiter`](crate::limit::MemoryLimiter) with the clock
/// of the server, which is the only one that counts: in whole microseconds, and from there on
/// without rounding. Two nodes never admit more together than one of them would alone.
///
/// ```no_run
/// use std::time::Duration;
/// use tollgate::limit::{Quota, RateLimitLayer, RedisLimiter, WhenDown};
///
/// let limiter = RedisLimiter::new("redis://127.0.0.1:6379")?
///     .name("orders")
///     .deadline(Duration::from_millis(30))
///     .when_down(WhenDown::LocalShare { share: 1, of: 4 }); // one of four nodes
/// let layer = RateLimitLayer::new([Quota::per_second(50), Quota::per_day(100_000)])
///     .limiter(limiter.clone());
/// println!("{:?}", limiter.status()); // for a gauge
/// # Ok::<(), tollgate::ConfigError>(())
/// ```
///
/// # When Redis does not answer
/// A call that takes longer than [`deadline`](Self::deadline) is over, and
/// [`when_down`](Self::when_down) decides: a share of the quota in this process, unless set.
/// What was sent is never sent again, or it might be charged twice; only a script that the
/// server says it has not is told it and run, once. After three failures in a row, or when
/// there is no connection to be had, nothing is asked for a tenth of a second, and twice as
/// long after each probe that fails, up to five seconds. [`RedisLimiter::status`] counts all
/// of that.
///
/// Mistakes that an operator has to correct, such as a wrong password, a missing right or an
/// unknown CA, are logged at the level ERROR with the cause and the fix: once, and again if they
/// come back after a minute. The log never has a password, a caller or a key in it. The cause of
/// a TLS error may name the host.
///
/// # What is stored
/// A string for each caller and set of names of quotas, `tg:{digest}:fingerprint`, of 16
/// bytes for each quota, and one for each ban. The digest does not say who it is, but
/// lets itself be guessed; see [`secret`](Self::secret). They expire when the budget has come back, and both are in one slot of a cluster. A plan with
/// other numbers goes on where the last one stood; one with quotas of other names starts
/// anew.
///
/// What is refused is remembered here, for as long as Redis would refuse it and a second at
/// the most, for ten thousand callers: who knocks a thousand times a second is asked about
/// once. A refund, a reset or the end of a ban by another process is seen within that second.
///
/// # Deployment
/// - Redis 5 or later, or Valkey; the primary, and not a replica.
/// - A `maxmemory-policy` of `noeviction` or `volatile-ttl`. What is evicted admits one burst
///   too many.
/// - No Redis Cluster: [`warm_up`](Self::warm_up) rejects a node of one. Without it, the node
///   decides about the budgets in its own slots. The limit of all other callers is enforced in
///   each process apart, as [`when_down`](Self::when_down) says, and an event of the level ERROR
///   names the fix. One caller's budget on another node does not affect other callers.
/// - Call [`warm_up`](Self::warm_up) at start. Otherwise the first requests find no connection,
///   and miss their [`deadline`](Self::deadline) if a TLS handshake takes longer.
/// - The user needs these rights: `~tg:* +evalsha +script|load +get +set +del +time`, and
///   `+select` if the URL names a database other than 0. With `+info`, a cluster is recognized
///   at start.
/// - For `rediss://`, turn on a TLS feature of the crate `redis` in your own `Cargo.toml`:
///   `tokio-rustls-comp`, with the provider of rustls that you use, or
///   `tokio-native-tls-comp`.
///
/// # Cost
/// A round trip, in a box. All requests share one connection, which is opened by
/// [`warm_up`](Self::warm_up) or by the first request, on the runtime of that caller.
#[derive(Clone)]
pub struct RedisLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    link: Link,
    breaker: Breaker,
    denials: Denials,
    local: Local,
    watch: Watch,
    timer: Timer,
    loading: tokio::sync::Mutex<()>,
    /// How often the script was told.
    loads: AtomicU64,
}

#[derive(Clone)]
struct Settings {
    client: Client,
    name: Box<str>,
    /// Of the layers that use this limiter and its clones with other settings.
    layers: LayerNames,
    connect_timeout: Duration,
    secret: Box<[u8]>,
    deadline: Duration,
    when_down: WhenDown,
}

impl RedisLimiter {
    /// Budgets there: `redis://[user:password@]host[:port][/database]`.
    ///
    /// # Errors
    /// If this is not the URL of a Redis. Whether there is one is found out later.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let info = url.into_connection_info().map_err(|_| not_a_url())?;
        // A command is one small packet, and must not wait for another.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(|_| not_a_url())?;
        Ok(Self::from_client(client))
    }

    /// Budgets where a client of the crate `redis` connects to: for certificates of your own,
    /// or a Unix socket.
    #[must_use]
    pub fn from_client(client: Client) -> Self {
        Self::with(Settings {
            client,
            name: "".into(),
            layers: LayerNames::new(),
            connect_timeout: Duration::from_secs(1),
            secret: Box::default(),
            deadline: Duration::from_millis(50),
            when_down: WhenDown::default(),
        })
    }

    /// Sets a name for the budgets of this limiter. Defaults to the empty name. Limiters with the
    /// same name, of any process, share their budgets; in one process, clones that serve several
    /// layers also need a [`RateLimitLayer::name`](crate::limit::RateLimitLayer::name) for each.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.set(|settings| settings.name = name.into())
    }

    /// Mixes a secret into the digests that callers are known by, the same in all processes.
    /// Without one, who can read this Redis can find out by guessing whether a caller is in it.
    #[must_use]
    pub fn secret(self, secret: &[u8]) -> Self {
        self.set(|settings| settings.secret = secret.into())
    }

    /// Sets how long opening a connection may take, including the TLS handshake and `AUTH`.
    /// Defaults to 1 second. Clamped to 1 millisecond to 60 seconds.
    ///
    /// Requests do not wait that long: see [`deadline`](Self::deadline). A request that gives up
    /// waiting leaves the connection to be opened for those after it. Use
    /// [`warm_up`](Self::warm_up) to open it before the first request.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        let timeout = timeout.clamp(Duration::from_millis(1), Duration::from_secs(60));
        self.set(|settings| settings.connect_timeout = timeout)
    }

    /// Sets how long a request waits for Redis, including for a connection that is being opened.
    /// Defaults to 50 milliseconds. Clamped to 1 millisecond to 10 seconds.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        let deadline = deadline.clamp(Duration::from_millis(1), Duration::from_secs(10));
        self.set(|settings| settings.deadline = deadline)
    }

    /// Sets what is done while Redis cannot be asked.
    ///
    /// # Panics
    /// If a share is nothing, or more than the whole.
    #[must_use]
    #[track_caller]
    pub fn when_down(self, when_down: WhenDown) -> Self {
        literal(self.try_when_down(when_down))
    }

    /// As [`RedisLimiter::when_down`], for what comes from configuration.
    ///
    /// # Errors
    /// Where `when_down` panics.
    pub fn try_when_down(self, when_down: WhenDown) -> Result<Self, ConfigError> {
        match when_down {
            WhenDown::LocalShare { share, of } if share == 0 || share > of => {
                Err(ConfigError::new(format!(
                    "`RedisLimiter::when_down(LocalShare {{ share: {share}, of: {of} }})`: the \
                     share must be at least 1 and at most `of`; for one of four nodes, use \
                     `LocalShare {{ share: 1, of: 4 }}`"
                )))
            }
            _ => Ok(self.set(|settings| settings.when_down = when_down)),
        }
    }

    /// How things stand with Redis, and what has happened so far.
    #[must_use]
    pub fn status(&self) -> RedisStatus {
        self.inner.watch.status(self.inner.breaker.is_open())
    }

    fn with(mut settings: Settings) -> Self {
        // Clones share budgets if they have the same digests.
        let space = LimitKey::default().digest(&settings.secret, &settings.name);
        settings.layers = settings.layers.in_space(space);
        Self {
            inner: Arc::new(Inner {
                link: Link::new(settings.client.clone(), settings.connect_timeout),
                breaker: Breaker::default(),
                denials: Denials::new(),
                local: Local::new(settings.when_down),
                watch: Watch::default(),
                timer: Timer::default(),
                loading: tokio::sync::Mutex::default(),
                loads: AtomicU64::new(0),
                settings,
            }),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.inner.settings.clone();
        change(&mut settings);
        Self::with(settings)
    }

    /// Sends what nobody waits to be decided.
    fn tell(&self, ticket: Ticket, command: Cmd) -> Pending<()> {
        let Some(permit) = Permit::of(&self.inner) else {
            self.inner.denials.forget(ticket);
            self.inner.watch.lost.add();
            return Pending::Ready(());
        };
        let telling = Telling {
            inner: Arc::clone(&self.inner),
            ticket,
            has_arrived: false,
        };
        Pending::later(async move {
            // All of it, and not a copy of its field.
            let mut telling = telling;
            let told = telling.inner.send::<Value>(&command).await;
            telling.has_arrived = told.is_ok();
            permit.conclude(told.as_ref().err());
        })
    }
}

impl Limiter for RedisLimiter {
    fn take(
        &self,
        key: &LimitKey<'_>,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Pending<Result<Decision, LimiterUnavailable>> {
        let (inner, ticket) = (&self.inner, self.ticket(key));
        let denied = inner.denials.find(ticket, quotas, cost, Instant::now());
        if let Some(denied) = denied {
            inner.watch.denied_locally.add();
            return Ok(denied).into();
        }
        let Some(permit) = Permit::of(inner) else {
            return inner.fall_back(ticket, quotas, cost, now).into();
        };
        Pending::later(ask(permit, ticket, quotas.clone(), cost, now))
    }

    fn settle(&self, ticket: Ticket, quotas: &Quotas, units: i64, now: Timestamp) -> Pending<()> {
        self.inner.local.settle(ticket, quotas, units, now);
        if ticket.paid == Paid::Here {
            return Pending::Ready(());
        }
        self.tell(ticket, Call::settle(ticket, quotas, units).command())
    }

    fn ban(&self, ticket: Ticket, until: Timestamp, now: Timestamp) -> Pending<()> {
        self.inner.local.ban(ticket, until, now);
        self.tell(ticket, Call::ban(ticket, until.since(now)).command())
    }

    fn reset(&self, ticket: Ticket, quotas: &Quotas) -> Pending<()> {
        self.inner.local.reset(ticket, quotas);
        self.tell(ticket, script::reset(ticket, quotas))
    }

    fn ticket(&self, key: &LimitKey<'_>) -> Ticket {
        let digest = key.digest(&self.inner.settings.secret, &self.inner.settings.name);
        Ticket::new(u128::from_be_bytes(digest))
    }

    fn layer_names(&self) -> Option<&LayerNames> {
        Some(&self.inner.settings.layers)
    }
}

async fn ask(
    permit: Permit,
    ticket: Ticket,
    quotas: Quotas,
    cost: u32,
    now: Timestamp,
) -> Result<Decision, LimiterUnavailable> {
    let inner = Arc::clone(&permit.inner);
    let asked = Instant::now();
    let answer = inner
        .send(&Call::take(ticket, &quotas, cost).command())
        .await;
    let decided = answer.and_then(|answer: Vec<i64>| {
        let decided = script::decision(&answer, &quotas, cost, ticket);
        decided.map_err(|fault| {
            inner.link.discard_open();
            Failure::new(fault)
        })
    });
    permit.conclude(decided.as_ref().err());
    let Ok(mut decision) = decided else {
        return inner.fall_back(ticket, &quotas, cost, now);
    };
    if decision.is_admitted() {
        // What is remembered would tell them to wait for too short a time.
        inner.denials.forget(ticket);
        let paid = inner.local.follow(ticket, &quotas, cost, now);
        decision.ticket = ticket.paid(paid);
    } else {
        inner
            .denials
            .keep(&decision, &quotas, asked, Instant::now());
    }
    Ok(decision)
}

impl Inner {
    fn fall_back(
        &self,
        ticket: Ticket,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Result<Decision, LimiterUnavailable> {
        self.watch.fell_back(self.settings.when_down);
        self.local.decide(ticket, quotas, cost, now)
    }

    /// Sends a command, within the deadline.
    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        let sent = self
            .timer
            .within(self.settings.deadline, self.exchange(command));
        sent.await
            .unwrap_or_else(|| Err(Failure::new(RedisFault::TimedOut)))
    }

    async fn exchange<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        let opened = self.link.connection().await;
        let mut connection = opened.map_err(|failure| failure.weighing(breaker::TRIPS))?;
        let loads = self.loads.load(Ordering::Acquire);
        match self.send_once(&mut connection, command).await {
            // The one error that says that nothing has happened.
            Err(failure) if failure.fault == RedisFault::ScriptLost => {}
            sent => return sent,
        }
        self.load(&mut connection, loads).await?;
        self.send_once(&mut connection, command).await
    }

    /// Tells the script, unless another call has done so in the meantime.
    async fn load(&self, connection: &mut Connection, loads: u64) -> Result<(), Failure> {
        let _loading = self.loading.lock().await;
        if self.loads.load(Ordering::Acquire) != loads {
            return Ok(());
        }
        self.watch.reloads.add();
        self.send_once::<Value>(connection, &script::load()).await?;
        self.loads.store(loads + 1, Ordering::Release);
        Ok(())
    }

    async fn send_once<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
        command: &Cmd,
    ) -> Result<T, Failure> {
        self.watch.round_trips.add();
        let sent = command.query_async(&mut connection.redis).await;
        sent.map_err(|error| {
            let failure = Failure::of(error);
            let fault = failure.fault;
            let is_first = fault.ends_connection() && self.link.discard(connection);
            // However many were on a connection that is cut, it is cut once.
            let weight = u32::from(is_first || fault != RedisFault::Unreachable);
            failure.weighing(weight)
        })
    }
}

/// What nobody waits to be decided, on its way, whether or not it is waited for.
struct Telling {
    inner: Arc<Inner>,
    ticket: Ticket,
    has_arrived: bool,
}

impl Drop for Telling {
    fn drop(&mut self) {
        if !self.has_arrived {
            self.inner.watch.lost.add();
        }
        // It may be told otherwise from now on.
        self.inner.denials.forget(self.ticket);
    }
}

/// To ask Redis once.
struct Permit {
    inner: Arc<Inner>,
    pass: Pass,
    is_concluded: bool,
}

impl Permit {
    fn of(inner: &Arc<Inner>) -> Option<Self> {
        Some(Self {
            pass: inner.breaker.pass(Instant::now())?,
            inner: Arc::clone(inner),
            is_concluded: false,
        })
    }

    fn conclude(mut self, failure: Option<&Failure>) {
        self.is_concluded = true;
        let Inner {
            breaker,
            link,
            watch,
            ..
        } = &*self.inner;
        let now = Instant::now();
        match failure {
            Some(failure) if !failure.is_of_one_key => {
                let is_outage = breaker.failed(self.pass, failure.weight, now);
                watch.failed(failure, is_outage, now);
                if is_outage {
                    // It may have fallen silent: the probe tries another one.
                    link.discard_open();
                }
                return;
            }
            // The server has answered: it decides about other budgets.
            Some(failure) => {
                watch.failed(failure, failure.fault == RedisFault::ClusterDown, now);
            }
            None => {}
        }
        if breaker.succeeded(self.pass) {
            watch.recovered();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_concluded {
            self.inner.breaker.abandoned(self.pass);
        }
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.inner.settings;
        f.debug_struct("RedisLimiter")
            .field("name", &settings.name)
            .field("deadline", &settings.deadline)
            .field("when_down", &settings.when_down)
            .finish_non_exhaustive()
    }
}

/// Does not repeat the URL, because it may contain a password.
fn not_a_url() -> ConfigError {
    ConfigError::new(
        "`RedisLimiter::new`: the URL cannot be used; write it as \
         `redis://[user:password@]host[:port][/database]`, or with `rediss://` and a TLS feature \
         of the crate `redis`",
    )
}
