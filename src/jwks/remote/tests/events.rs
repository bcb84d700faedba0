//! The events that a test causes.
#![cfg(test)]

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::dispatcher::Dispatch;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry;

/// All events, as text that starts with the target.
#[derive(Clone, Default)]
pub(super) struct Events(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(format!("{} ", event.metadata().target()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
}

impl Events {
    /// Collects the events of this thread until the guard is dropped.
    pub(super) fn listen() -> (Self, DefaultGuard) {
        // With one subscriber only, tracing caches the interest of the thread that reaches an event
        // first, which may be a thread of another test without a subscriber.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(registry()));
        LazyLock::force(&SECOND);
        let events = Self::default();
        let subscriber = registry().with(events.clone());
        (events, tracing::subscriber::set_default(subscriber))
    }

    pub(super) fn of(&self, target: &str) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let is_of = |event: &&String| event.starts_with(target);
        events.iter().filter(is_of).cloned().collect()
    }
}
