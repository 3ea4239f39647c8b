//! Chunks in the making: batch after batch, until one does not fit.

use std::sync::Arc;

use bytes::Bytes;

use crate::decode::MAX_BUFFER_BYTES;
use crate::error::DecodeError;
use crate::record::{Chunk, RecordSpan, TimestampType};
use crate::recycle::Recycler;

thread_local! {
    /// A fetch thread's chunks are dropped by the user's thread, and their memory comes back here.
    static RECYCLER: Arc<Recycler> = Arc::default();
}

/// What all batches of a chunk have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub compressed: bool,
    pub leader_epoch: i32,
    pub timestamp_type: TimestampType,
    pub has_headers: bool,
}

/// Where a chunk stood before a batch was tried.
pub(crate) struct Mark {
    spans: usize,
    buffer: usize,
}

/// A chunk in the making.
pub(crate) struct ChunkBuild {
    recycler: Arc<Recycler>,
    kind: Option<Kind>,
    pub spans: Vec<RecordSpan>,
    /// Uncompressed: where the chunk begins and ends in the record set.
    pub start: usize,
    end: usize,
    /// Compressed: the decompressed batches.
    pub buffer: Vec<u8>,
    /// What the last batch became in memory, as the best guess at the next one.
    last_batch_bytes: usize,
}

impl ChunkBuild {
    pub fn new() -> Self {
        let recycler = RECYCLER.with(Arc::clone);
        Self {
            kind: None,
            spans: recycler.spans(),
            start: 0,
            end: 0,
            buffer: Vec::new(),
            last_batch_bytes: 0,
            recycler,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn memory_bytes(&self) -> usize {
        let held = if self.buffer.is_empty() {
            self.end - self.start
        } else {
            self.buffer.len()
        };
        held + self.spans.len() * size_of::<RecordSpan>()
    }

    pub fn accepts(
        &self,
        kind: Kind,
        size: usize,
        soft_limit_bytes: usize,
        max_batch_bytes: usize,
    ) -> bool {
        let expected = self.memory_bytes() + size.max(self.last_batch_bytes);
        let addressable = self.buffer.len() + max_batch_bytes <= MAX_BUFFER_BYTES;
        self.is_empty() || (self.kind == Some(kind) && expected <= soft_limit_bytes && addressable)
    }

    pub fn mark(&mut self, kind: Kind, position: usize) -> Mark {
        if self.is_empty() {
            self.kind = Some(kind);
            self.start = position;
            self.end = position;
            self.buffer.clear();
            if kind.compressed && self.buffer.capacity() == 0 {
                self.buffer = self.recycler.buffer();
            }
        }
        Mark {
            spans: self.spans.len(),
            buffer: self.buffer.len(),
        }
    }

    /// Keeps what a batch has added, or takes it back if it failed or gave no record.
    pub fn settle(
        &mut self,
        mark: Mark,
        end: usize,
        result: Result<(), DecodeError>,
    ) -> Result<bool, DecodeError> {
        let added = self.spans.len() - mark.spans;
        if result.is_err() || added == 0 {
            self.spans.truncate(mark.spans);
            self.buffer.truncate(mark.buffer);
            return result.map(|()| true);
        }
        let before = self.end;
        self.end = end;
        let grown = if self.buffer.is_empty() {
            end - before
        } else {
            self.buffer.len() - mark.buffer
        };
        self.last_batch_bytes = grown + added * size_of::<RecordSpan>();
        Ok(true)
    }

    pub fn finish(self, record_set: &Bytes) -> Option<Chunk> {
        let Some(kind) = self.kind.filter(|_| !self.spans.is_empty()) else {
            self.recycler.give_spans(self.spans);
            return None;
        };
        let (bytes, retained_bytes) = if kind.compressed {
            self.recycler.share(self.buffer)
        } else {
            let bytes = record_set.slice(self.start..self.end);
            let retained = bytes.len();
            (bytes, retained)
        };
        Some(Chunk {
            bytes,
            spans: self.recycler.fit_spans(self.spans),
            recycler: Arc::downgrade(&self.recycler),
            leader_epoch: kind.leader_epoch,
            timestamp_type: kind.timestamp_type,
            has_headers: kind.has_headers,
            retained_bytes,
        })
    }
}
