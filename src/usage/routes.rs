//! Which paths of calls are methods: those that a service has answered.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::RwLock;

/// The methods of gRPC services that are known to be there. A stranger can ask for as many as
/// they like, so that a path is no name of a route until a service has said that it has it.
#[derive(Default)]
pub(super) struct Routes {
    known: RwLock<HashSet<Arc<str>, RandomState>>,
}

impl Routes {
    pub(super) fn known(&self, path: &str) -> Option<Arc<str>> {
        self.known.read().get(path).cloned()
    }

    /// Notes a path that a service has answered for.
    pub(super) fn learn(&self, path: &str) -> Option<Arc<str>> {
        let mut known = self.known.write();
        if let Some(path) = known.get(path) {
            return Some(Arc::clone(path));
        }
        if known.len() >= CAPACITY {
            return None;
        }
        let path: Arc<str> = path.into();
        known.insert(Arc::clone(&path));
        Some(path)
    }
}

/// More than a server has, and not more than it can bear.
const CAPACITY: usize = 4_096;
