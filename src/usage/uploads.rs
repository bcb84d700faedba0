//! Counting what is read of the body of a request, without another type of body: the servers'
//! own can hold any.

#[cfg(any(feature = "axum", feature = "tonic"))]
use crate::drain::DrainBody;
use crate::usage::slot::UsageSlot;

/// The same body, with somebody watching, if it is one of axum's or of tonic's, alone or inside of a
/// [`DrainBody`](crate::drain::DrainBody).
#[cfg_attr(
    not(any(feature = "axum", feature = "tonic")),
    expect(unused_variables, unused_mut, reason = "no body is known")
)]
pub(super) fn count<B: 'static>(slot: &UsageSlot, mut body: B) -> B {
    #[cfg(any(feature = "axum", feature = "tonic"))]
    {
        let any: &mut dyn std::any::Any = &mut body;
        #[cfg(feature = "axum")]
        if let Some(body) = any.downcast_mut::<axum::body::Body>() {
            known::watch(slot, body, axum::body::Body::new);
        }
        #[cfg(feature = "axum")]
        if let Some(body) = any.downcast_mut::<DrainBody<axum::body::Body>>()
            && let Some(body) = body.inner_mut()
        {
            known::watch(slot, body, axum::body::Body::new);
        }
        #[cfg(feature = "tonic")]
        if let Some(body) = any.downcast_mut::<tonic::body::Body>() {
            known::watch(slot, body, tonic::body::Body::new);
        }
        #[cfg(feature = "tonic")]
        if let Some(body) = any.downcast_mut::<DrainBody<tonic::body::Body>>()
            && let Some(body) = body.inner_mut()
        {
            known::watch(slot, body, tonic::body::Body::new);
        }
    }
    body
}

#[cfg(any(feature = "axum", feature = "tonic"))]
mod known {
    use std::mem;

    use bytes::Bytes;

    use crate::body::{Body, Witness};
    use crate::usage::slot::UsageSlot;

    pub(super) fn watch<B>(slot: &UsageSlot, body: &mut B, hide: impl Fn(Body<B>) -> B)
    where
        B: http_body::Body + Default,
    {
        slot.start_reading();
        if body.is_end_stream() {
            return;
        }
        let mut watched = Body::inner(mem::take(body));
        watched.watch(Upload(slot.clone()));
        *body = hide(watched);
    }

    struct Upload(UsageSlot);

    impl Witness for Upload {
        fn data(&mut self, data: &Bytes, _: bool) {
            self.0.read(data.len());
        }
    }
}
