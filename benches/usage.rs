//! What counting costs: `cargo bench --bench usage`. Compare within one run only.
//!
//! `bare` is the service without the layer: the goal for the layer is 250 ns beyond it.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use divan::Bencher;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tollgate::usage::{Buffer, Record, Sink, SinkError, Usage};
use tollgate::{Identity, UsageLayer};
use tower::{Layer, Service};

fn main() {
    divan::main();
}

/// Five bytes.
#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Full::from("hello"))))
    }
}

/// Takes everything.
struct Void;

impl Sink<Record> for Void {
    async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
        black_box(batch);
        Ok(())
    }
}

/// A request of one of so many callers, and its body to the end.
fn run<S, B>(bencher: Bencher<'_, '_>, service: &S, callers: usize)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Sync,
    B: Body,
{
    let identities: Vec<_> = (0..callers)
        .map(|n| Identity::for_test().subject(format!("caller {n}")).build())
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher
        .with_inputs(|| {
            let n = next.fetch_add(7, std::sync::atomic::Ordering::Relaxed);
            let mut request = Request::new(());
            let identity = identities[n % callers].clone();
            request.extensions_mut().insert(identity);
            (service.clone(), request)
        })
        .bench_values(|(mut service, request)| {
            let mut cx = Context::from_waker(Waker::noop());
            let call = pin!(service.call(request));
            let Poll::Ready(Ok(response)) = call.poll(&mut cx) else {
                panic!("nothing waits");
            };
            let mut body = pin!(response.into_body());
            while !body.is_end_stream() {
                if black_box(body.as_mut().poll_frame(&mut cx)).is_pending() {
                    panic!("nothing waits");
                }
            }
        });
}

#[divan::bench(sample_size = 500)]
fn bare(bencher: Bencher<'_, '_>) {
    run(bencher, &Inner, 1);
}

#[divan::bench(args = [1, 100, 10_000], threads = [1, 2], sample_size = 500)]
fn layer(bencher: Bencher<'_, '_>, callers: usize) {
    let usage = Usage::builder().callers(20_000).build();
    run(bencher, &UsageLayer::new(usage).layer(Inner), callers);
}

/// More callers than there is room for: each makes room.
#[divan::bench(sample_size = 500)]
fn layer_full(bencher: Bencher<'_, '_>) {
    let usage = Usage::builder().callers(1_000).build();
    run(bencher, &UsageLayer::new(usage).layer(Inner), 10_000);
}

/// With so many sinks, which nobody empties: there is no runtime.
#[divan::bench(args = [1, 2], sample_size = 500)]
fn with_sinks(bencher: Bencher<'_, '_>, sinks: usize) {
    let buffer = Buffer::new().capacity(1_000);
    let builder = (0..sinks).fold(Usage::builder(), |builder, _| {
        builder.sink_with(buffer, Void)
    });
    run(bencher, &UsageLayer::new(builder.build()).layer(Inner), 100);
}

/// Without the readings of the clock.
#[divan::bench(sample_size = 500)]
fn without_clock(bencher: Bencher<'_, '_>) {
    use tollgate::clock::{ManualClock, Timestamp};
    let usage = Usage::builder()
        .ticks(|| std::time::Duration::ZERO)
        .clock(ManualClock::new(Timestamp::EPOCH))
        .build();
    run(bencher, &UsageLayer::new(usage).layer(Inner), 1);
}
