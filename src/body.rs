//! [`Body`]: what a gate answers with, whatever the service behind it answers with.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
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
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        kind: Kind<B>,
        // What is given back when the body has ended, or is given up.
        held: Option<Box<dyn Any + Send + Sync>>,
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
        Self { kind, held: None }
    }

    /// Holds on to something until the body has ended, or is given up.
    pub(crate) fn hold(&mut self, what: impl Any + Send + Sync) {
        self.held = Some(match self.held.take() {
            Some(held) => Box::new((held, what)),
            None => Box::new(what),
        });
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
        let this = self.project();
        let frame = match this.kind.project() {
            KindProj::Inner { body } => ready!(body.poll_frame(cx))
                .map(|frame| frame.map(|frame| frame.map_data(into_bytes))),
            KindProj::Own { data } => data.take().map(Frame::data).map(Ok),
        };
        if !matches!(frame, Some(Ok(_))) {
            *this.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Own { data } => data.as_ref().is_none_or(Bytes::is_empty),
        }
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

/// `Bytes` gives itself away here; other buffers are copied once.
fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}
