//! What read_committed leaves out. Source: KIP-98.

use std::collections::HashSet;

use crate::batch::{self, BatchHeader, V2_HEADER_BYTES};
use crate::compression::Compression;
use crate::varint::{Cursor, Flaw};

/// An aborted transaction in a partition's fetch response, under read_committed. Source: KIP-98.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose transaction it was.
    pub producer_id: i64,
    /// Its first offset.
    pub first_offset: i64,
}

/// Which producers are inside an aborted transaction as the decoder walks through the log.
#[derive(Debug)]
pub(crate) struct AbortedTransactions {
    /// Not begun yet, the latest first. Brokers do not promise an order.
    pending: Vec<Aborted>,
    open: HashSet<i64>,
}

impl AbortedTransactions {
    pub fn new(mut pending: Vec<Aborted>) -> Self {
        pending.sort_unstable_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        Self {
            pending,
            open: HashSet::new(),
        }
    }

    /// True for a batch that is not for the user: a control batch, or one of an aborted transaction. Batches come in the
    /// order of the log; the same one twice in a row is harmless.
    pub fn withhold(&mut self, header: &BatchHeader, whole: &[u8]) -> Result<bool, Flaw> {
        self.advance_to(
            header
                .base_offset
                .saturating_add(i64::from(header.last_offset_delta)),
        );
        if header.is_control() {
            // Either marker ends the producer's transaction: what it writes next belongs to another one, which has an
            // entry of its own if it was aborted. A marker without an entry, or a second one, finds nothing to remove.
            if is_end_marker(header, whole)? {
                self.open.remove(&header.producer_id);
            }
            return Ok(true);
        }
        Ok(header.is_transactional() && self.open.contains(&header.producer_id))
    }

    fn advance_to(&mut self, last_offset: i64) {
        while self
            .pending
            .last()
            .is_some_and(|aborted| aborted.first_offset <= last_offset)
        {
            self.open
                .extend(self.pending.pop().map(|aborted| aborted.producer_id));
        }
    }
}

/// Whether a control batch ends a transaction: its record's key is (version: int16, type: int16), type 0 for abort and 1
/// for commit. Compaction may have left it empty. Source: KIP-98.
fn is_end_marker(header: &BatchHeader, whole: &[u8]) -> Result<bool, Flaw> {
    if header.record_count == 0
        || Compression::of_attributes(header.attributes) != Some(Compression::None)
    {
        return Ok(false);
    }
    let mut cursor = Cursor::new(whole, V2_HEADER_BYTES);
    cursor.varint()?; // The record's length; its end is that of the batch.
    cursor.skip(1)?;
    cursor.varlong()?;
    cursor.varint()?;
    let (start, len) = cursor.nullable_span()?;
    if len < 4 {
        return Err("a control record without a type");
    }
    Ok(matches!(
        batch::i16_at(whole, start as usize + 2),
        Some(0 | 1)
    ))
}
