//! Keys, services and stores that tests share.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tollgate::clock::{ManualClock, Timestamp};
use tollgate::keys::{
    Cached, KeyFilter, KeyId, KeyPage, KeyRecord, KeyStore, MemoryKeys, NewKey, Peppers, StoreError,
};
use tollgate::rejection::ExposeRejection;
use tollgate::{ApiKeys, Gate, Identity, Policies, Rejection, Tollgate};
use tower::layer::util::Stack;
use tower::util::{MapRequestLayer, MapResponseLayer, ServiceFn};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tracing::Dispatch;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A pepper that is the same in every run.
pub(crate) fn peppers() -> Peppers {
    Peppers::new(1, [7; 32]).unwrap()
}

pub(crate) fn clock() -> ManualClock {
    ManualClock::new(NOW)
}

/// Keys with the prefix `acme` over any store, at [`NOW`].
pub(crate) fn keys_over<S: KeyStore>(store: S) -> ApiKeys<S> {
    ApiKeys::new(store, peppers()).prefix("acme").clock(clock())
}

/// Keys as one of several nodes has them, each with a cache in front of the same store.
pub(crate) fn node(store: &Scripted, clock: &ManualClock) -> ApiKeys<Cached<Scripted>> {
    ApiKeys::new(Cached::new(store.clone()).clock(clock.clone()), peppers())
        .prefix("acme")
        .clock(clock.clone())
}

pub(crate) async fn issue<S: KeyStore>(keys: &ApiKeys<S>, new: NewKey) -> String {
    keys.issue(new).await.unwrap().key.expose().into()
}

/// The answer to a request, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) rejection: Option<Rejection>,
}

impl Answer {
    pub(crate) async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let rejection = parts.extensions.get::<Rejection>().cloned();
        Self {
            status: parts.status,
            headers: parts.headers,
            body,
            rejection,
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The `code` of the problem document.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().into()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn challenges(&self) -> Vec<&str> {
        let all = self.headers.get_all("www-authenticate").iter();
        all.map(|value| value.to_str().unwrap()).collect()
    }

    /// Status, fields and body: what a client can tell answers apart by.
    pub(crate) fn wire(&self) -> (StatusCode, HeaderMap, Bytes) {
        (self.status, self.headers.clone(), self.body.clone())
    }
}

/// Sends one request as a server does: a clone, readiness, the call, the body.
pub(crate) async fn send<S, Q, B>(service: &S, mut request: Request<Q>) -> Answer
where
    S: Service<Request<Q>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    request.extensions_mut().insert(ExposeRejection);
    Answer::of(service.clone().oneshot(request).await.unwrap()).await
}

/// A service that says whom it has seen, or `nobody`.
pub(crate) fn who()
-> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send {
    tower::service_fn(|request: Request<()>| async move {
        let identity = request.extensions().get::<Identity>();
        let name = identity.map_or("nobody", Identity::subject).to_owned();
        Ok(Response::new(Full::from(name)))
    })
}

pub(crate) fn get() -> Request<()> {
    Request::new(())
}

pub(crate) fn with(name: &'static str, value: impl AsRef<[u8]>) -> Request<()> {
    let mut request = get();
    let value = http::HeaderValue::from_bytes(value.as_ref()).unwrap();
    request.headers_mut().append(name, value);
    request
}

/// What a [`Scripted`] store does when it is asked for a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    /// Answers from memory, at once.
    Now,
    /// Answers from memory, one poll later.
    Later,
    /// Answers with what was in memory when it was asked, so many polls later.
    Slow(usize),
    Fails,
    Hangs,
    Panics,
}

/// A store in memory that does as it is told, and counts. To those who wait it answers as
/// a database does, with a record of its own for each question.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    pub(crate) memory: MemoryKeys,
    pub(crate) script: Script,
    pub(crate) finds: Arc<AtomicUsize>,
    pub(crate) updates: Arc<AtomicUsize>,
    failing: Arc<AtomicBool>,
    hanging: Arc<AtomicBool>,
    failing_finds: Arc<AtomicBool>,
    turned: Arc<Mutex<Option<Script>>>,
    slowness: Arc<AtomicUsize>,
    notes: Arc<AtomicUsize>,
}

impl Scripted {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            memory: MemoryKeys::new(),
            script,
            finds: Arc::default(),
            updates: Arc::default(),
            failing: Arc::default(),
            hanging: Arc::default(),
            failing_finds: Arc::default(),
            turned: Arc::default(),
            slowness: Arc::default(),
            notes: Arc::default(),
        }
    }

    pub(crate) fn fail_updates(&self, fail: bool) {
        self.failing.store(fail, Ordering::SeqCst);
    }

    pub(crate) fn hang_updates(&self, hang: bool) {
        self.hanging.store(hang, Ordering::SeqCst);
    }

    pub(crate) fn fail_finds(&self, fail: bool) {
        self.failing_finds.store(fail, Ordering::SeqCst);
    }

    /// Makes it follow another script from now on, for those who wait.
    pub(crate) fn turn(&self, script: Script) {
        *self.turned.lock().unwrap() = Some(script);
    }

    /// What is in memory, in a record of its own for each question.
    async fn read(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        let found = self.memory.find(id).await?;
        Ok(found.map(|record| Arc::new(KeyRecord::clone(&record))))
    }

    /// Makes it take so many polls from now on.
    pub(crate) fn become_slow(&self, polls: usize) {
        self.slowness.store(polls, Ordering::SeqCst);
    }

    /// How often it was told when keys were used.
    pub(crate) fn notes(&self) -> usize {
        self.notes.load(Ordering::SeqCst)
    }

    /// How many hold it.
    pub(crate) fn owners(&self) -> usize {
        Arc::strong_count(&self.notes)
    }

    pub(crate) fn finds(&self) -> usize {
        self.finds.load(Ordering::SeqCst)
    }
}

impl KeyStore for Scripted {
    async fn find(&self, id: KeyId) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        if self.failing_finds.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("gone"));
        }
        for _ in 0..self.slowness.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let turned = *self.turned.lock().unwrap();
        match turned.unwrap_or(self.script) {
            Script::Now => {}
            Script::Later => tokio::task::yield_now().await,
            Script::Slow(polls) => {
                let found = self.read(id).await;
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
                return found;
            }
            Script::Fails => return Err(StoreError::unavailable("connection refused")),
            Script::Hangs => tokio::time::sleep(Duration::from_secs(3600)).await,
            Script::Panics => panic!("a store that panics"),
        }
        self.read(id).await
    }

    fn find_now(
        &self,
        id: KeyId,
        now: Timestamp,
    ) -> Option<Result<Option<Arc<KeyRecord>>, StoreError>> {
        let is_turned = self.turned.lock().unwrap().is_some();
        (matches!(self.script, Script::Now) && !is_turned).then(|| {
            self.finds.fetch_add(1, Ordering::SeqCst);
            self.memory.find_now(id, now).unwrap()
        })
    }

    async fn insert(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.memory.insert(record).await
    }

    async fn update(&self, record: KeyRecord) -> Result<bool, StoreError> {
        self.updates.fetch_add(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("read only"));
        }
        let updated = self.memory.update(record).await;
        if self.hanging.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        updated
    }

    async fn remove(&self, id: KeyId) -> Result<(), StoreError> {
        self.memory.remove(id).await
    }

    fn keeps_uses(&self) -> bool {
        true
    }

    async fn note_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.notes.fetch_add(1, Ordering::SeqCst);
        for (id, at) in uses {
            if let Some(record) = self.memory.find(id).await? {
                record.last_used.note(at, Duration::ZERO);
            }
        }
        Ok(())
    }

    async fn list(&self, filter: KeyFilter) -> Result<KeyPage, StoreError> {
        self.memory.list(filter).await
    }
}

/// The project's own vectors.
pub(crate) fn vectors(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Standard base64, for the vectors.
pub(crate) fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = (0_u32, 0);
    let mut out = Vec::new();
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|held| *held == digit).unwrap();
        bits = (bits.0 << 6 | u32::try_from(value).unwrap(), bits.1 + 6);
        if bits.1 >= 8 {
            bits.1 -= 8;
            out.push((bits.0 >> bits.1 & 0xff) as u8);
        }
    }
    out
}

pub(crate) type Seen = Arc<Mutex<Vec<Identity>>>;

/// A service, and the identities that it has seen.
pub(crate) fn identities() -> (
    Seen,
    impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
    + Clone,
) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<()>| {
        let identity = request.extensions().get::<Identity>().cloned();
        noted.lock().unwrap().extend(identity);
        async { Ok(Response::new(Full::default())) }
    });
    (seen, service)
}

/// The other signature of the same token that every ECDSA key has made: (r, n - s).
pub(crate) fn twin_of_es256(token: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for (s, n) in signature[32..].iter_mut().zip(ORDER).rev() {
        let difference = i16::from(n) - i16::from(*s) - borrow;
        borrow = i16::from(difference < 0);
        *s = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// All events, as text.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
}

impl Events {
    /// Collects the events of this thread until the guard is dropped.
    pub(crate) fn listen() -> (Self, DefaultGuard) {
        // While there is one subscriber only, tracing caches what the thread that reaches an
        // event first thinks of it, which may be a thread of another test without a subscriber.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(registry()));
        LazyLock::force(&SECOND);
        let events = Self::default();
        let subscriber = registry().with(events.clone());
        (events, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub(crate) fn of(&self, level: &str) -> Vec<String> {
        let events = self.0.lock().unwrap();
        events
            .iter()
            .filter(|event| event.starts_with(level))
            .cloned()
            .collect()
    }
}

/// Builds a [`Tollgate`] as a `tower::ServiceBuilder` builds nested layers.
#[derive(Clone, Debug)]
pub(crate) struct StackBuilder<O, P> {
    outer: O,
    policies: P,
}

impl StackBuilder<(), ()> {
    pub(crate) const fn new() -> Self {
        Self {
            outer: (),
            policies: (),
        }
    }
}

impl<O, P> StackBuilder<O, P> {
    /// Adds a layer of this crate.
    pub(crate) fn layer<L>(self, layer: L) -> StackBuilder<O, (P, L)> {
        StackBuilder {
            outer: self.outer,
            policies: (self.policies, layer),
        }
    }

    pub(crate) fn map_request<F>(self, map: F) -> <Self as Foreign<MapRequestLayer<F>>>::With
    where
        P: Policies,
    {
        self.foreign(MapRequestLayer::new(map))
    }

    pub(crate) fn map_response<F>(self, map: F) -> <Self as Foreign<MapResponseLayer<F>>>::With
    where
        P: Policies,
    {
        self.foreign(MapResponseLayer::new(map))
    }

    #[cfg(feature = "tonic")]
    pub(crate) fn into_inner(self) -> Self {
        self
    }

    pub(crate) fn service_fn<F>(self, inner: F) -> O::Service
    where
        O: Layer<Gate<ServiceFn<F>, P>>,
        P: Policies,
    {
        self.service(tower::service_fn(inner))
    }

    pub(crate) fn service<S>(self, inner: S) -> O::Service
    where
        O: Layer<Gate<S, P>>,
        P: Policies,
    {
        self.outer.layer(Tollgate::new(self.policies).layer(inner))
    }
}

impl<O: Layer<Gate<S, P>>, P: Policies + Clone, S> Layer<S> for StackBuilder<O, P> {
    type Service = O::Service;

    fn layer(&self, inner: S) -> O::Service {
        self.outer
            .layer(Tollgate::new(self.policies.clone()).layer(inner))
    }
}

/// Adds a layer of another crate to a stack of either form.
pub(crate) trait Foreign<L> {
    type With;

    fn foreign(self, layer: L) -> Self::With;
}

impl<O, P: Policies, L> Foreign<L> for StackBuilder<O, P> {
    type With = StackBuilder<((O, Tollgate<P>), L), ()>;

    fn foreign(self, layer: L) -> Self::With {
        StackBuilder {
            outer: ((self.outer, Tollgate::new(self.policies)), layer),
            policies: (),
        }
    }
}

impl<O, L> Foreign<L> for ServiceBuilder<O> {
    type With = ServiceBuilder<Stack<L, O>>;

    fn foreign(self, layer: L) -> Self::With {
        self.layer(layer)
    }
}
