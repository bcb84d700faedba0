//! [`JsonLinesSink`]: a sink that is a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::usage::sink::{Sink, SinkError};

/// A sink that appends a line of JSON for each item to a file.
///
/// A batch counts as delivered when the operating system has it. What a crash in the midst of
/// a batch leaves is a line that does not parse, and the batch again behind it.
///
/// A file that hangs holds one thread for blocking work, however often it is tried. A write
/// that took too long and succeeds after all is not done again: the batch is known by its text
/// when it is offered the next time.
#[derive(Clone)]
pub struct JsonLinesSink(Arc<tokio::sync::Mutex<Writer>>);

struct Writer {
    lines: Arc<Mutex<Lines>>,
    /// What is being written, also if nobody waits for it any more.
    under_way: Option<Writing>,
    /// What was written when nobody waited for it any more.
    unheard: Option<Text>,
}

struct Writing {
    text: Text,
    task: JoinHandle<io::Result<()>>,
}

type Text = Arc<Vec<u8>>;

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
        let writer = Writer {
            lines: Arc::new(Mutex::new(Lines { file, is_torn })),
            under_way: None,
            unheard: None,
        };
        Ok(Self(Arc::new(tokio::sync::Mutex::new(writer))))
    }
}

impl<T: Serialize + Sync> Sink<T> for JsonLinesSink {
    async fn deliver(&self, batch: &[T]) -> Result<(), SinkError> {
        let mut text = Vec::with_capacity(batch.len() * 512);
        for item in batch {
            serde_json::to_writer(&mut text, item).map_err(SinkError::rejected)?;
            text.push(b'\n');
        }
        let mut writer = self.0.lock().await;
        if let Ok(Some(late)) = writer.finish().await {
            writer.unheard = Some(late);
        }
        if writer.unheard.take_if(|late| **late == text).is_some() {
            return Ok(());
        }
        writer.start(text);
        let written = writer.finish().await;
        written.map(drop).map_err(SinkError::unavailable)
    }
}

impl fmt::Debug for JsonLinesSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink").finish_non_exhaustive()
    }
}

impl Writer {
    fn start(&mut self, text: Vec<u8>) {
        let text = Arc::new(text);
        let (lines, written) = (Arc::clone(&self.lines), Arc::clone(&text));
        let task = spawn_blocking(move || lines.lock().write(&written));
        self.under_way = Some(Writing { text, task });
    }

    /// Waits for what is under way, and says what was written.
    async fn finish(&mut self) -> io::Result<Option<Text>> {
        let Some(writing) = &mut self.under_way else {
            return Ok(None);
        };
        let outcome = (&mut writing.task).await;
        let text = self.under_way.take().map(|writing| writing.text);
        outcome??;
        Ok(text)
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
