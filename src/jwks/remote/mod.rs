//! [`RemoteKeys`]: the keys of an issuer, from its URL.
//!
//! When is decided in `schedule`, where from in `address` and `discovery`. `fetch` reads a
//! document, `question` makes keys of it, `flight` sees to it that there are some, and
//! `engine` is what requests see of all that.

mod address;
#[cfg(feature = "jwks")]
mod by_reqwest;
mod discovery;
mod engine;
mod fetch;
mod flight;
mod question;
mod schedule;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;

use crate::clock::{Clock, SystemClock};
use crate::config::ConfigError;
use crate::jwks::remote::address::{Address, PlainHttp, Refused, shown};
use crate::jwks::remote::fetch::{Client, Erased};
use crate::jwks::remote::question::Source;
use crate::jwks::remote::schedule::Life;

pub(crate) use engine::{LookUp, Remote, Wanted};
pub use status::{FetchError, KeyFetchError, KeyStatus};

/// Where the keys of an issuer are fetched from, and how.
///
/// Nothing is fetched when it is built. At the first request the keys are asked for, and
/// from then on before they get old, whether requests come or not; until the last of the
/// layers that use them is dropped. Requests wait only for the first keys, and for a key
/// that is not known, in either case no longer than [`RemoteKeys::wait`].
///
/// - The keys are asked for again at 80 % of what `Cache-Control` gives them, within
///   [`RemoteKeys::refresh_between`], or of ten minutes if it does not say. With an `ETag`,
///   only changes are sent.
/// - When the key server fails, the last keys stay for [`RemoteKeys::max_age`]. It is asked
///   again after one or two seconds, then ever later, up to a minute; `Retry-After` is
///   honoured up to an hour, or to five minutes while there are no keys. A document without usable keys is a failure. A key that a
///   good document has no more is gone at once, and so is what was verified with it.
/// - A token with an unknown `kid` has the keys fetched ahead of time: four times, and once
///   more every 30 seconds, whatever is sent. It is answered with 401 once a set that was
///   fetched after it came does not have its key, and with 503 and `Retry-After` if no such
///   set could be fetched. An id that the issuer did not know is not asked for again for 30
///   seconds; a thousand such ids are remembered.
/// - A token whose signature fails, though its `kid` is known, has the keys fetched ahead of
///   time too, since some issuers replace a key under its `kid`. It has as many fetches, of
///   its own. It is verified again if the key has changed, and is answered with 401 else.
/// - Only `https` is spoken unless [`RemoteKeys::allow_loopback_http`] or
///   [`RemoteKeys::dangerous_allow_http_hosts`] say otherwise, redirects are followed within their origin and five times,
///   and documents end at [`RemoteKeys::max_document_len`] and
///   [`RemoteKeys::fetch_timeout`]. The content type is not looked at, since key servers
///   err in it.
///
/// ```
/// use std::time::Duration;
/// use tollgate::jwks::RemoteKeys;
///
/// let keys = RemoteKeys::at("https://id.example.com/jwks.json")
///     .max_age(Duration::from_secs(6 * 3600));
/// let keys = RemoteKeys::discover(); // asks the issuer where its keys are
/// ```
///
/// # Deployment
/// It takes a tokio runtime to fetch keys in the background. One without timers keeps no
/// deadlines, and refreshes keys only when requests come. Outside of tokio, keys are
/// fetched when a request has to wait for them.
///
/// The client decides whom it trusts with TLS, and which proxy it uses. Without a client of
/// your own it is [reqwest](https://docs.rs/reqwest) (feature `jwks`), with the roots and
/// the proxies of the system.
#[derive(Clone)]
pub struct RemoteKeys {
    place: Place,
    client: Option<Arc<dyn Client>>,
    fetch_timeout: Duration,
    wait: Duration,
    life: Life,
    max_document_len: usize,
    loopback_http: bool,
    http_hosts: Vec<Box<str>>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone)]
enum Place {
    At(String),
    Discovered,
}

impl RemoteKeys {
    /// Keys of the JWK Set at this URL.
    pub fn at(url: impl Into<String>) -> Self {
        Self::of(Place::At(url.into()))
    }

    /// Keys of the JWK Set that the metadata of the issuer names, which stands under
    /// `/.well-known/openid-configuration` behind the URL of the issuer (OpenID Connect),
    /// or else under `/.well-known/oauth-authorization-server` before its path (RFC 8414).
    /// Its `issuer` must be the issuer, byte for byte. Its `jwks_uri` must not lead to an
    /// address that is not one of the Internet, unless the issuer is at that host too. A
    /// name that resolves to such an address is not noticed: an issuer whom you do not trust
    /// with that needs a client of yours that looks at what it connects to.
    #[must_use]
    pub fn discover() -> Self {
        Self::of(Place::Discovered)
    }

    fn of(place: Place) -> Self {
        Self {
            place,
            client: None,
            fetch_timeout: Duration::from_secs(5),
            wait: Duration::from_secs(1),
            life: Life {
                least: Duration::from_secs(60),
                most: Duration::from_secs(24 * 3600),
                max_age: Duration::from_secs(24 * 3600),
            },
            max_document_len: 256 * 1024,
            loopback_http: false,
            http_hosts: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the HTTP client: a client of hyper-util, or any other service. It should
    /// follow no redirects: where they may lead is decided here.
    #[must_use]
    pub fn client<S, B>(mut self, service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
    {
        self.client = Some(Arc::new(Erased(service)));
        self
    }

    /// Sets how long a fetch may take in all, its redirects included: 5 s unless set.
    #[must_use]
    pub const fn fetch_timeout(mut self, limit: Duration) -> Self {
        self.fetch_timeout = limit;
        self
    }

    /// Sets how long a request may wait for keys: 1 s unless set. The fetch goes on when
    /// it is over.
    #[must_use]
    pub const fn wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Sets within which bounds the key server may say how long its keys live: from one
    /// minute to 24 hours unless set. A withdrawn key is accepted for that long.
    #[must_use]
    pub const fn refresh_between(mut self, least: Duration, most: Duration) -> Self {
        self.life.least = least;
        self.life.most = most;
        self
    }

    /// Sets for how long keys are good that nobody can confirm: 24 h unless set. After
    /// that, tokens are answered with 503.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.life.max_age = age;
        self
    }

    /// Sets how long a document may be: 256 KiB unless set.
    #[must_use]
    pub const fn max_document_len(mut self, bytes: usize) -> Self {
        self.max_document_len = bytes;
        self
    }

    /// Allows `http` without TLS to this very machine: `localhost`, 127.0.0.0/8, `::1`.
    #[must_use]
    pub const fn allow_loopback_http(mut self) -> Self {
        self.loopback_http = true;
        self
    }

    /// Allows `http` without TLS to these hosts: a key server inside a cluster, such as
    /// `http://keycloak:8080` in a Docker network. May be called several times.
    ///
    /// An attacker who can answer in place of one of these hosts, or change its responses, can
    /// sign tokens for any subject. A host is a name or an IP address, without scheme and port, and
    /// matches itself only. Private addresses in the metadata of an issuer are refused as
    /// before, unless the issuer is there too.
    ///
    /// ```
    /// use tollgate::Jwt;
    /// use tollgate::jwks::RemoteKeys;
    ///
    /// # #[cfg(feature = "jwks")]
    /// let jwt = Jwt::issuer("http://keycloak:8080/realms/shop")
    ///     .audience("https://api.example.com")
    ///     .keys(RemoteKeys::discover().dangerous_allow_http_hosts(["keycloak"]))
    ///     .build()?;
    /// # Ok::<(), tollgate::ConfigError>(())
    /// ```
    #[must_use]
    pub fn dangerous_allow_http_hosts<I>(mut self, hosts: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let hosts = hosts.into_iter().map(|host| Box::from(host.as_ref()));
        self.http_hosts.extend(hosts);
        self
    }

    /// Sets the clock that keys age by. It must be the one of the layer.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where that is, for this issuer.
    fn source(&self, issuer: &str) -> Result<Source, ConfigError> {
        let refused = |reason: Refused| {
            let text = match &self.place {
                Place::At(url) => {
                    format!("`RemoteKeys::at({:?})`: the URL of the keys", shown(url))
                }
                Place::Discovered => format!(
                    "Jwt::issuer({:?}): its keys are discovered, and the URL of the issuer",
                    shown(issuer),
                ),
            };
            let fix = self.fix(&reason);
            ConfigError::new(format!("{text} cannot be used: {reason}{fix}"))
        };
        let text = match &self.place {
            Place::At(url) => url,
            Place::Discovered => issuer,
        };
        let address = Address::parse(text, &self.plain_http()?).map_err(refused)?;
        Ok(match &self.place {
            Place::At(_) => Source::At(address),
            Place::Discovered => {
                let places = discovery::well_known(&address).map_err(refused)?;
                Source::Metadata(places)
            }
        })
    }

    /// Returns the end of an error text that says what to do, or an empty text.
    fn fix(&self, reason: &Refused) -> String {
        let Refused::PlainHttp { host, is_loopback } = reason else {
            return String::new();
        };
        let constructor = match &self.place {
            Place::At(_) => "at(..)",
            Place::Discovered => "discover()",
        };
        let (server, setting) = if *is_loopback {
            ("on this machine", "allow_loopback_http()".to_owned())
        } else {
            let setting = format!("dangerous_allow_http_hosts([{host:?}])");
            ("inside a cluster", setting)
        };
        format!(
            "; use https, or for a key server {server} call \
             `.keys(RemoteKeys::{constructor}.{setting})`"
        )
    }

    /// The hosts that are allowed without TLS.
    fn plain_http(&self) -> Result<PlainHttp, ConfigError> {
        let mut plain = PlainHttp::new(self.loopback_http);
        for host in &self.http_hosts {
            plain.add(host)?;
        }
        Ok(plain)
    }

    /// The client that was set, or else the one that comes with a feature.
    fn client_or_default(&self) -> Result<Arc<dyn Client>, ConfigError> {
        if let Some(client) = &self.client {
            return Ok(Arc::clone(client));
        }
        #[cfg(feature = "jwks")]
        return Ok(Arc::new(by_reqwest::Reqwest::default()));
        #[cfg(not(feature = "jwks"))]
        Err(ConfigError::new(
            "there is no HTTP client to fetch keys with: turn on feature `jwks` of tollgate, \
             or bring one with `RemoteKeys::client`",
        ))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Life {
            least,
            most,
            max_age,
        } = self.life;
        let reason = if self.fetch_timeout.is_zero() {
            "the timeout of a fetch is zero"
        } else if least < SHORTEST_LIFE {
            "keys would be fetched more often than once a second"
        } else if least > most {
            "the least time between two fetches is more than the most"
        } else if max_age < SHORTEST_LIFE {
            "keys would be good for less than a second"
        } else if self.max_document_len == 0 {
            "no document is as short as that"
        } else {
            return Ok(());
        };
        Err(ConfigError::new(reason))
    }
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may have a secret in its query.
        f.debug_struct("RemoteKeys")
            .field("fetch_timeout", &self.fetch_timeout)
            .field("wait", &self.wait)
            .field("max_age", &self.life.max_age)
            .finish_non_exhaustive()
    }
}

const SHORTEST_LIFE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
