//! [`DrainLayer`] and its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower_layer::Layer;

use crate::drain::counters::{AbandonReason, DrainCounters, Shared};
use crate::drain::service::Drain;
use crate::network::{ClientIp, ClientSetting};

/// A layer that reads the rest of a request body which the inner service has dropped unread: see the
/// [module](crate::drain).
///
/// Clones share counters and the bounds on concurrency.
#[derive(Clone, Default)]
pub struct DrainLayer {
    pub(super) settings: Arc<Settings>,
    pub(super) shared: Arc<Shared>,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) max_bytes: u64,
    pub(super) timeout: Duration,
    /// In bytes per second.
    pub(super) min_rate: u32,
    pub(super) max_concurrent: usize,
    pub(super) max_concurrent_per_network: usize,
    statuses: Option<Arc<SelectsStatus>>,
    pub(super) clients: ClientSetting,
}

type SelectsStatus = dyn Fn(StatusCode) -> bool + Send + Sync;

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 20,
            timeout: Duration::from_secs(5),
            min_rate: 16 << 10,
            max_concurrent: 256,
            max_concurrent_per_network: 32,
            statuses: None,
            clients: ClientSetting::default(),
        }
    }
}

impl DrainLayer {
    /// Creates a layer with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of bytes that are read of one body at most. Defaults to 8 MiB.
    ///
    /// A body that is known to be longer is not read at all. The first body that was too long is
    /// logged as a warning.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.set(|settings| settings.max_bytes = bytes)
    }

    /// Sets for how long one body is read at most. Defaults to 5 seconds.
    ///
    /// Needs the timer of a tokio runtime. Without one nothing is read
    /// ([`AbandonReason::NoTimer`](crate::drain::AbandonReason::NoTimer)).
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.timeout = timeout)
    }

    /// Sets the average number of bytes per second that a client must send. Defaults to 16 KiB/s.
    ///
    /// The first second is free: after `n` bytes, a client has one second and `n / min_rate` seconds
    /// to send more. 0 switches the check off.
    #[must_use]
    pub fn min_rate(self, bytes_per_second: u32) -> Self {
        self.set(|settings| settings.min_rate = bytes_per_second)
    }

    /// Sets the number of bodies that are read at a time. Defaults to 256.
    #[must_use]
    pub fn max_concurrent(self, bodies: usize) -> Self {
        self.set(|settings| settings.max_concurrent = bodies)
    }

    /// Sets the number of bodies of one client network that are read at a time. Defaults to 32.
    ///
    /// The network is that of the client as [`DrainLayer::client_ip`] resolves it. Requests without
    /// a client address count as one network.
    #[must_use]
    pub fn max_concurrent_per_network(self, bodies: usize) -> Self {
        self.set(|settings| settings.max_concurrent_per_network = bodies)
    }

    /// Selects the responses before which the rest of the body is read. Defaults to all.
    ///
    /// ```
    /// use tollgate::drain::DrainLayer;
    ///
    /// let layer = DrainLayer::new().statuses(|status| status.is_client_error());
    /// # use http::{Request, Response};
    /// # use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// # let counters = layer.counters();
    /// # let service = ServiceBuilder::new().layer(layer).service(service_fn(|_: Request<_>| async {
    /// #     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
    /// # }));
    /// # let request = Request::post("/").body("an upload".to_owned())?;
    /// # assert_eq!(service.oneshot(request).await?.status(), 200);
    /// # assert_eq!(counters.drained(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn statuses(self, select: impl Fn(StatusCode) -> bool + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.statuses = Some(Arc::new(select)))
    }

    /// Sets how the client address and the transport are resolved, for this layer and the layers
    /// inside.
    ///
    /// Defaults to what the nearest layer outside has resolved, else to the peer of the connection.
    #[must_use]
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.set(|settings| settings.clients.set(client_ip))
    }

    /// Returns a handle to the counters of this layer, its clones and its services.
    #[must_use]
    pub fn counters(&self) -> DrainCounters {
        DrainCounters::new(Arc::clone(&self.shared))
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

impl Settings {
    /// Returns the limit that was reached, and what to do, or `None` if no setting helps.
    pub(super) fn remedy(&self, reason: AbandonReason) -> Option<(u64, &'static str)> {
        match reason {
            AbandonReason::TooLarge => Some((
                self.max_bytes,
                "call `DrainLayer::max_bytes` with at least the largest body that the proxy passes \
                 on, or lower the limit of the proxy (`client_max_body_size` of nginx)",
            )),
            AbandonReason::Busy => Some((
                self.max_concurrent as u64,
                "call `DrainLayer::max_concurrent` with more",
            )),
            AbandonReason::NetworkBusy => Some((
                self.max_concurrent_per_network as u64,
                "call `DrainLayer::client_ip` if a proxy is in front, or \
                 `DrainLayer::max_concurrent_per_network` with more",
            )),
            AbandonReason::NoTimer => {
                Some((0, "run the server in a tokio runtime with `enable_time`"))
            }
            AbandonReason::Timeout | AbandonReason::TooSlow | AbandonReason::ClientGone => None,
        }
    }

    pub(super) fn selects(&self, status: StatusCode) -> bool {
        match &self.statuses {
            Some(select) => select(status),
            None => true,
        }
    }
}

impl fmt::Debug for DrainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainLayer")
            .field("max_bytes", &self.max_bytes)
            .field("timeout", &self.timeout)
            .field("min_rate", &self.min_rate)
            .field("max_concurrent", &self.max_concurrent)
            .field(
                "max_concurrent_per_network",
                &self.max_concurrent_per_network,
            )
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Drain<S>;

    fn layer(&self, inner: S) -> Drain<S> {
        Drain {
            inner,
            layer: self.clone(),
        }
    }
}
