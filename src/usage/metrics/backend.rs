//! [`Backend`]: who takes the measurements.

use std::sync::Arc;

use crate::usage::metrics::instrument::{Instrument, Label};
use crate::usage::metrics::watch::Watched;

/// Takes measurements of one instrument with one set of labels: the value of a histogram, or
/// what is added to a counter or a gauge.
pub(super) type Handle = Box<dyn Fn(f64) + Send + Sync>;

pub(super) trait Backend: Send + Sync {
    /// A handle, to be kept.
    fn handle(&self, instrument: &'static Instrument, labels: &[Label<'_>]) -> Handle;

    /// What there is to read, whenever somebody asks.
    fn watch(&self, watched: &Arc<Watched>);

    /// Reads it now, if nobody asks for it by themselves.
    fn refresh(&self, watched: &Watched);
}
