//! Measurements for OpenTelemetry.

use std::sync::{Arc, Weak};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use crate::usage::metrics::backend::{Backend, Handle};
use crate::usage::metrics::instrument::{Instrument, Kind, Label, Value, WATCHED};
use crate::usage::metrics::watch::Watched;
use crate::usage::metrics::{SIZE_BUCKETS, STORE_TIME_BUCKETS, TIME_BUCKETS};

pub(super) struct Otel(Meter);

impl Otel {
    pub(super) const fn new(meter: Meter) -> Self {
        Self(meter)
    }
}

impl Backend for Otel {
    fn handle(&self, instrument: &'static Instrument, labels: &[Label<'_>]) -> Handle {
        let (meter, attributes) = (&self.0, attributes(labels));
        let (name, unit) = (instrument.name, instrument.unit);
        let description = instrument.description;
        match instrument.kind {
            Kind::Counter => {
                let counter = meter.u64_counter(name).with_unit(unit);
                let counter = counter.with_description(description).build();
                Box::new(move |value| counter.add(value as u64, &attributes))
            }
            Kind::Gauge => {
                let gauge = meter.i64_up_down_counter(name).with_unit(unit);
                let gauge = gauge.with_description(description).build();
                Box::new(move |value| gauge.add(value as i64, &attributes))
            }
            Kind::Times | Kind::ShortTimes => {
                let buckets = match instrument.kind {
                    Kind::Times => TIME_BUCKETS,
                    _ => STORE_TIME_BUCKETS,
                };
                let times = meter.f64_histogram(name).with_unit(unit);
                let times = times.with_boundaries(buckets.to_vec());
                let times = times.with_description(description).build();
                Box::new(move |value| times.record(value, &attributes))
            }
            Kind::Sizes => {
                let sizes = meter.u64_histogram(name).with_unit(unit);
                let sizes = sizes.with_boundaries(SIZE_BUCKETS.to_vec());
                let sizes = sizes.with_description(description).build();
                Box::new(move |value| sizes.record(value as u64, &attributes))
            }
        }
    }

    fn watch(&self, watched: &Arc<Watched>) {
        for instrument in WATCHED {
            let (name, unit) = (instrument.name, instrument.unit);
            // What is watched may hold this meter.
            let watched = Arc::downgrade(watched);
            if instrument.kind == Kind::Counter {
                let counter = self.0.u64_observable_counter(name).with_unit(unit);
                let counter = counter.with_description(instrument.description);
                let read = move |to: &dyn AsyncInstrument<u64>| {
                    observe(&watched, instrument, to, |value| value as u64);
                };
                let _ = counter.with_callback(read).build();
            } else {
                let gauge = self.0.f64_observable_gauge(name).with_unit(unit);
                let gauge = gauge.with_description(instrument.description);
                let read = move |to: &dyn AsyncInstrument<f64>| {
                    observe(&watched, instrument, to, |value| value);
                };
                let _ = gauge.with_callback(read).build();
            }
        }
    }

    /// Readers ask by themselves.
    fn refresh(&self, _: &Watched) {}
}

fn observe<T>(
    watched: &Weak<Watched>,
    instrument: &'static Instrument,
    to: &dyn AsyncInstrument<T>,
    value: impl Fn(f64) -> T,
) {
    let Some(watched) = watched.upgrade() else {
        return;
    };
    watched.read(Some(instrument), &mut |reading| {
        to.observe(value(reading.value), &attributes(reading.labels));
    });
}

fn attributes(labels: &[Label<'_>]) -> Box<[KeyValue]> {
    let attribute = |(name, value): &Label<'_>| match value {
        Value::Number(number) => Some(KeyValue::new(*name, i64::from(*number))),
        Value::Text(text) => Some(KeyValue::new(*name, (*text).to_owned())),
        Value::True => Some(KeyValue::new(*name, true)),
        Value::Unmatched => None,
        Value::Word(word) => Some(KeyValue::new(*name, *word)),
    };
    labels.iter().filter_map(attribute).collect()
}
