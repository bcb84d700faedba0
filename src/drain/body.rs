//! [`DrainBody`]: a request body that goes back to the layer if it is dropped before its end.
//!
//! Another design keeps the type of the body and looks at the connection after the response
//! ("peeking"). It needs the server's help, and cannot tell a body that was dropped from one that a
//! task still reads. Only the body itself knows when it is dropped.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

pin_project! {
    /// The request body that a [`DrainLayer`](crate::drain::DrainLayer) hands to the inner service:
    /// the body of the server, frame by frame.
    pub struct DrainBody<B> {
        #[pin]
        kind: Kind<B>,
    }

    impl<B> PinnedDrop for DrainBody<B> {
        fn drop(this: Pin<&mut Self>) {
            if let KindProj::Returned { body, back, is_started } = this.project().kind.project()
                && let (Some(body), Some(back)) = (body.take(), back.take())
            {
                // If the layer no longer waits, the body is dropped as it would be without it.
                let _ = back.send(Unread { body, is_started: *is_started });
            }
        }
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Plain { #[pin] body: B },
        // Boxed: a body that was polled must not move, and this one changes its owner.
        Returned {
            body: Option<Pin<Box<B>>>,
            // `None` once the body is at its end.
            back: Option<oneshot::Sender<Unread<B>>>,
            is_started: bool,
        },
    }
}

/// A body that was dropped before its end.
pub(super) struct Unread<B> {
    pub(super) body: Pin<Box<B>>,
    /// Set once the body was polled.
    pub(super) is_started: bool,
}

/// Receives the body if it is dropped before its end.
pub(super) type Return<B> = oneshot::Receiver<Unread<B>>;

impl<B> DrainBody<B> {
    pub(super) const fn plain(body: B) -> Self {
        Self {
            kind: Kind::Plain { body },
        }
    }

    pub(super) fn returned(body: B) -> (Self, Return<B>) {
        let (back, unread) = oneshot::channel();
        let kind = Kind::Returned {
            body: Some(Box::pin(body)),
            back: Some(back),
            is_started: false,
        };
        (Self { kind }, unread)
    }

    /// The body of the server, where it may be replaced.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(crate) fn inner_mut(&mut self) -> Option<&mut B>
    where
        B: Unpin,
    {
        match &mut self.kind {
            Kind::Plain { body } => Some(body),
            Kind::Returned { body, .. } => body.as_mut().map(|body| &mut **body),
        }
    }
}

impl<B: http_body::Body> http_body::Body for DrainBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Plain { body } => body.poll_frame(cx),
            KindProj::Returned {
                body: Some(body),
                back,
                is_started,
            } => {
                *is_started = true;
                let polled = body.as_mut().poll_frame(cx);
                // A body that has failed has nothing left to read.
                let is_over = matches!(polled, Poll::Ready(None | Some(Err(_))));
                if is_over || (polled.is_ready() && body.is_end_stream()) {
                    *back = None;
                }
                polled
            }
            KindProj::Returned { body: None, .. } => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { body } => body.is_end_stream(),
            Kind::Returned { body, .. } => body.as_ref().is_none_or(|body| body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { body } => body.size_hint(),
            Kind::Returned { body, .. } => match body {
                Some(body) => body.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

impl<B> fmt::Debug for DrainBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainBody").finish_non_exhaustive()
    }
}
