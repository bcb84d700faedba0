//! [`Body`]: what a gate answers with, whatever the service behind it answers with.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response that came through a gate: the inner service's own,
    /// passed through frame by frame, or the gate's.
    ///
    /// Nothing is asked of `B` beyond [`http_body::Body`]; size hints, trailers
    /// and the end of the stream are those of the inner body. Data is handed on as
    /// [`Bytes`]: without a copy where it was [`Bytes`], as it is everywhere in axum,
    /// tonic and hyper.
    pub struct Body<B> {
        #[pin]
        kind: Kind<B>,
        // Who watches it until it has ended, or is given up.
        witness: Option<Box<dyn Witness>>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Own { data: Option<Bytes> },
    }
}

impl<B> Body<B> {
    pub(crate) const fn inner(body: B) -> Self {
        Self::of(Kind::Inner { body })
    }

    pub(crate) const fn full(data: Bytes) -> Self {
        Self::of(Kind::Own { data: Some(data) })
    }

    pub(crate) const fn empty() -> Self {
        Self::of(Kind::Own { data: None })
    }

    const fn of(kind: Kind<B>) -> Self {
        Self {
            kind,
            witness: None,
        }
    }

    /// Holds on to something until the body has ended, or is given up.
    pub(crate) fn hold(&mut self, what: impl Send + Sync + 'static) {
        self.watch(Held(what));
    }

    /// Lets somebody watch.
    pub(crate) fn watch(&mut self, witness: impl Witness) {
        self.watch_boxed(Box::new(witness));
    }

    /// The same, for who is in a box anyway.
    pub(crate) fn watch_boxed(&mut self, witness: Box<dyn Witness>) {
        self.witness = Some(match self.witness.take() {
            Some(first) => Box::new(Both(first, witness)),
            None => witness,
        });
    }
}

/// Watches a body go by.
///
/// Dropped without having seen its end, the body was given up; if that is while a panic
/// unwinds, the body has panicked.
pub(crate) trait Witness: Send + Sync + 'static {
    /// These bytes have gone by. Nothing may follow them: then nobody may ask for it.
    fn data(&mut self, _data: &Bytes, _is_last: bool) {}

    /// These have gone by, and nothing follows.
    fn trailers(&mut self, _trailers: &HeaderMap) {}

    /// The body is at its end.
    fn ended(&mut self) {}

    /// The body has failed.
    fn failed(&mut self) {}
}

/// What only waits for the end.
struct Held<T>(T);

impl<T: Send + Sync + 'static> Witness for Held<T> {}

struct Both(Box<dyn Witness>, Box<dyn Witness>);

impl Witness for Both {
    fn data(&mut self, data: &Bytes, is_last: bool) {
        self.0.data(data, is_last);
        self.1.data(data, is_last);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.0.trailers(trailers);
        self.1.trailers(trailers);
    }

    fn ended(&mut self) {
        self.0.ended();
        self.1.ended();
    }

    fn failed(&mut self) {
        self.0.failed();
        self.1.failed();
    }
}

impl<B: fmt::Debug> fmt::Debug for Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// No data.
impl<B> Default for Body<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B: http_body::Body> http_body::Body for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        // Held here, so that it goes with a panic of the body.
        let mut witness = this.witness.take();
        let polled = match this.kind.as_mut().project() {
            KindProj::Inner { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(into_bytes)))),
            KindProj::Own { data } => Poll::Ready(data.take().map(Frame::data).map(Ok)),
        };
        if let Some(watching) = &mut witness {
            match &polled {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        watching.data(data, this.kind.is_end_stream());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        watching.trailers(trailers);
                    }
                }
                Poll::Ready(Some(Err(_))) => watching.failed(),
                Poll::Ready(None) => watching.ended(),
            }
            if matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
                *this.witness = witness;
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Own { data } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
        }
    }
}

impl<B: http_body::Body> Kind<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { body } => body.is_end_stream(),
            Self::Own { data } => data.as_ref().is_none_or(Bytes::is_empty),
        }
    }
}

/// `Bytes` gives itself away here; other buffers are copied once.
fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}
