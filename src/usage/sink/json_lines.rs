//! [`JsonLinesSink`]: a sink that is a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::usage::sink::{Sink, SinkError};

/// A sink that appends a line of JSON for each item to a file.
///
/// A batch counts as delivered when the operating system has it. What a crash in the midst of
/// a batch leaves is a line that does not parse, and the batch again behind it.
#[derive(Clone, Debug)]
pub struct JsonLinesSink(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    file: File,
    /// The last line may not have its end.
    is_torn: bool,
}

impl JsonLinesSink {
    /// Appends to a file, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn append(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let is_torn = file.metadata()?.len() > 0;
        Ok(Self(Arc::new(Mutex::new(Lines { file, is_torn }))))
    }
}

impl<T: Serialize + Sync> Sink<T> for JsonLinesSink {
    async fn deliver(&self, batch: &[T]) -> Result<(), SinkError> {
        let mut text = Vec::with_capacity(batch.len() * 512);
        for item in batch {
            serde_json::to_writer(&mut text, item).map_err(SinkError::rejected)?;
            text.push(b'\n');
        }
        let lines = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || lines.lock().write(&text)).await;
        let written = written.map_err(SinkError::unavailable)?;
        written.map_err(SinkError::unavailable)
    }
}

impl Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.is_torn {
            // An empty line is none; without it, a torn one would take ours with it.
            self.file.write_all(b"\n")?;
        }
        self.is_torn = true;
        self.file.write_all(text)?;
        self.is_torn = false;
        Ok(())
    }
}
