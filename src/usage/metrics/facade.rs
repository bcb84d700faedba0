//! Measurements for the facade of the crate `metrics`.

use std::sync::Arc;

use metrics::{Key, KeyName, Level, Metadata, Recorder, Unit};
use parking_lot::Mutex;

use crate::usage::metrics::backend::{Backend, Handle};
use crate::usage::metrics::instrument::{Instrument, Kind, Label, Value, WATCHED};
use crate::usage::metrics::watch::{Reading, Watched};

/// A recorder: the one that is installed, if none is given.
pub(super) struct Facade {
    recorder: Option<Box<dyn Recorder + Send + Sync>>,
    /// The handles of what is read, by instrument and name.
    watched: Mutex<Vec<(WatchedKey, Handle)>>,
}

type WatchedKey = (&'static str, Vec<(&'static str, String)>);

impl Facade {
    pub(super) fn new(recorder: Option<Box<dyn Recorder + Send + Sync>>) -> Self {
        Self {
            recorder,
            watched: Mutex::default(),
        }
    }

    fn with_recorder<T>(&self, run: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => run(recorder),
            None => metrics::with_recorder(run),
        }
    }

    /// A handle that sets what it is told, where that of [`Backend::handle`] adds it.
    fn setter(&self, instrument: &'static Instrument, labels: &[Label<'_>]) -> Handle {
        let (key, metadata) = (key(instrument, labels), metadata());
        self.with_recorder(|recorder| -> Handle {
            if instrument.kind == Kind::Counter {
                let counter = recorder.register_counter(&key, &metadata);
                return Box::new(move |value| counter.absolute(value as u64));
            }
            let gauge = recorder.register_gauge(&key, &metadata);
            Box::new(move |value| gauge.set(value))
        })
    }

    fn set(&self, reading: &Reading<'_>) {
        let owned = |(name, value): &Label<'_>| (*name, text(*value));
        let labels: Vec<_> = reading.labels.iter().map(owned).collect();
        let key = (reading.instrument.name, labels);
        let mut watched = self.watched.lock();
        if let Some((_, set)) = watched.iter().find(|(known, _)| *known == key) {
            return set(reading.value);
        }
        let set = self.setter(reading.instrument, reading.labels);
        set(reading.value);
        watched.push((key, set));
    }
}

impl Backend for Facade {
    fn handle(&self, instrument: &'static Instrument, labels: &[Label<'_>]) -> Handle {
        let (key, metadata) = (key(instrument, labels), metadata());
        self.with_recorder(|recorder| -> Handle {
            describe(recorder, instrument);
            match instrument.kind {
                Kind::Counter => {
                    let counter = recorder.register_counter(&key, &metadata);
                    Box::new(move |value| counter.increment(value as u64))
                }
                Kind::Gauge => {
                    let gauge = recorder.register_gauge(&key, &metadata);
                    Box::new(move |value| gauge.increment(value))
                }
                Kind::Times | Kind::ShortTimes | Kind::Sizes => {
                    let histogram = recorder.register_histogram(&key, &metadata);
                    Box::new(move |value| histogram.record(value))
                }
            }
        })
    }

    fn watch(&self, _: &Arc<Watched>) {
        self.with_recorder(|recorder| {
            for instrument in WATCHED {
                describe(recorder, instrument);
            }
        });
    }

    fn refresh(&self, watched: &Watched) {
        watched.read(None, &mut |reading| self.set(&reading));
    }
}

fn describe(recorder: &dyn Recorder, instrument: &'static Instrument) {
    let name = KeyName::from(instrument.prometheus_name());
    let unit = match instrument.unit {
        "s" => Unit::Seconds,
        "By" => Unit::Bytes,
        _ => Unit::Count,
    };
    let text = instrument.description.into();
    match instrument.kind {
        Kind::Counter => recorder.describe_counter(name, Some(unit), text),
        Kind::Gauge => recorder.describe_gauge(name, Some(unit), text),
        Kind::Times | Kind::ShortTimes | Kind::Sizes => {
            recorder.describe_histogram(name, Some(unit), text)
        }
    }
}

fn key(instrument: &Instrument, labels: &[Label<'_>]) -> Key {
    let label = |(name, value): &Label<'_>| {
        // The text format of Prometheus has no dots in names.
        metrics::Label::new(name.replace('.', "_"), text(*value))
    };
    let labels: Vec<_> = labels.iter().map(label).collect();
    Key::from_parts(instrument.prometheus_name(), labels)
}

fn text(value: Value<'_>) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.to_owned(),
        Value::True => "true".to_owned(),
        Value::Unmatched => "unmatched".to_owned(),
        Value::Word(word) => word.to_owned(),
    }
}

const fn metadata() -> Metadata<'static> {
    Metadata::new("tollgate", Level::INFO, Some(module_path!()))
}
